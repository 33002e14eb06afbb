"""Hosts components in one process and connects each to the others, wherever they are.

Placement is data: a component is either hosted here, and reached in process, or at an address, and
reached over the wire. Nothing else in Plexus knows the topology.
"""

import asyncio
from collections.abc import Mapping
from typing import Protocol

import grpc.aio

from mesh.channel import connect
from mesh.clock import SYSTEM_CLOCK, Clock
from mesh.component import Component
from mesh.logs import Log
from mesh.server import ComponentServer
from mesh.settings import MeshSettings
from mesh.spread import Spread
from mesh.tls import Tls

DEFAULT_PORTS: Mapping[str, int] = {
    "gateway": 50050,
    "memory": 50051,
    "router": 50052,
    "cache": 50053,
    "metrics": 50054,
}
LOCAL = "local"

log = Log("host")


class Edge(Protocol):
    """A server beside gRPC, such as the HTTP edge."""

    async def close(self, grace_s: float, /) -> None:
        """Take nothing new, let what runs end within `grace_s`, then stop."""
        ...


class Host:
    """The components of one process. Add all, then `start`, and `drain` at the end.

    Making it raises FailedPrecondition when certificates are set and no good.
    """

    def __init__(self, settings: MeshSettings, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self.settings = settings
        self.tls = Tls.of(settings, clock=clock)
        self._clock = clock
        self._servers: dict[str, ComponentServer] = {}
        self._remote: dict[str, grpc.aio.Channel] = {}
        self._edges: list[Edge] = []
        self._draining = False
        self._listening = False

    def add(self, component: Component) -> ComponentServer:
        """Host a component here. Those it calls while starting must be added before it."""
        server = ComponentServer(component, self.settings, clock=self._clock, tls=self.tls)
        self._servers[component.name] = server
        return server

    def server(self, component: str) -> ComponentServer:
        """Return the server of a component hosted here."""
        return self._servers[component]

    def channel_to(self, component: str) -> grpc.aio.Channel:
        """Return a channel to a component: in process when hosted here, else over the wire."""
        hosted = self._servers.get(component)
        if hosted is not None:
            return hosted.channel
        if component not in self._remote:
            self._remote[component] = connect(
                self._address_of(component),
                max_message_bytes=self.settings.max_message_bytes,
                mesh_token=self.settings.mesh_token,
                tls=self.tls,
            )
        return self._remote[component]

    def add_edge(self, edge: Edge) -> None:
        """Drain `edge`, another way in to a component hosted here, before the components."""
        self._edges.append(edge)

    def readiness(self) -> bool:
        """Whether every component hosted here takes traffic."""
        servers = self._servers.values()
        return not self._draining and all(s.component.readiness() for s in servers)

    async def start(self) -> None:
        """Start the components in the order they were added; stop those started if one fails."""
        try:
            for server in self._servers.values():
                await server.start()
        except BaseException:
            await self.drain()
            raise

    async def listen(
        self,
        ports: Mapping[str, int],
        *,
        sockets: Mapping[str, str] | None = None,
        spread: Spread | None = None,
    ) -> dict[str, str]:
        """Serve every hosted component over TCP and return the addresses by name.

        `sockets` are addresses `unix:/path` to serve on as well. With `spread` ports and calls are
        shared with the other workers of this host.
        """
        bound: dict[str, str] = {}
        for name, server in self._servers.items():
            port = await server.listen(
                ports.get(name, DEFAULT_PORTS[name]),
                socket=(sockets or {}).get(name, ""),
                spread=spread,
            )
            bound[name] = f"{self.settings.host}:{port}"
            self._listening = True
        return bound

    async def drain(self) -> None:
        """Drain the components in reverse order: callers before those they call.

        The gateway's streams finish first, while what they need still serves. Readiness of all
        falls at once, and the grace is one for all.
        """
        self._draining = True
        await asyncio.gather(*(s.health.set_ready(False) for s in self._servers.values()))
        if self._listening:
            await self._clock.sleep(self.settings.drain_hold_s)
        ends_s = self._clock.monotonic_s() + self.settings.drain_grace_s
        for edge in reversed(self._edges):
            await edge.close(self._left_s(ends_s))
        for server in reversed(self._servers.values()):
            await server.finish(self._left_s(ends_s))
        for channel in self._remote.values():
            await channel.close()
        self._remote.clear()

    def _left_s(self, ends_s: float) -> float:
        return max(0.0, ends_s - self._clock.monotonic_s())

    def _address_of(self, component: str) -> str:
        placed = self.settings.placement.get(component, "")
        if placed and placed != LOCAL:
            return placed
        return f"127.0.0.1:{DEFAULT_PORTS[component]}"
