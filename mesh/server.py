"""Hosts one component: its table of handlers, the wire server, and the drain.

A drain is: readiness falls; for a short hold calls are still accepted, because balancers learn
late; then no new calls, and running ones finish within the grace; then the component closes.
"""

import asyncio
import contextlib
import signal
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2_grpc

from mesh.admission import Admission
from mesh.clock import SYSTEM_CLOCK, Clock
from mesh.component import Component
from mesh.errors import FailedPrecondition, Reason
from mesh.exchange import STREAM_WINDOW_BYTES
from mesh.handlers import ServiceTable
from mesh.health import Health
from mesh.identity import Authenticator
from mesh.inprocess import InProcessChannel
from mesh.interceptors import InFlight, interceptors
from mesh.load_report import LoadReporting
from mesh.logs import Log
from mesh.reflection import add_reflection
from mesh.settings import MeshSettings
from mesh.spread import Spread
from mesh.tls import PeerCertificate, Tls

HARD_METADATA_BYTES = 64 * 1024
"""Above this gRPC refuses a call by itself; up to it ours does, and says why (mesh.identity)."""
LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1", "[::1]")
SETTLE_S = 5.0
"""How long a drain waits for handlers that were cancelled at the end of the grace."""

log = Log("server")


def server_options(settings: MeshSettings, *, shared_port: bool = False) -> list[tuple[str, Any]]:
    """Return the channel arguments of a server, or of one of several workers on a port."""
    return [
        # Two servers that silently share a port are worse than one that says it is taken.
        ("grpc.so_reuseport", int(shared_port)),
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        # Between a lower soft limit and the hard one gRPC would refuse calls at random.
        ("grpc.max_metadata_size", HARD_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", HARD_METADATA_BYTES),
        # Half of the clients' keepalive interval, or their pings would count as abuse.
        ("grpc.http2.min_ping_interval_without_data_ms", 15_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.max_connection_age_ms", 300_000),
        ("grpc.max_connection_age_grace_ms", 600_000),
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.write_buffer_size", STREAM_WINDOW_BYTES),
    ]


class ComponentServer:
    """One component with its interceptors, reachable in process and over the wire."""

    def __init__(
        self,
        component: Component,
        settings: MeshSettings,
        *,
        clock: Clock = SYSTEM_CLOCK,
        tls: Tls | None = None,
    ) -> None:
        """`tls` is what the settings ask for; a host makes it once for all its components."""
        self.component = component
        self._settings = settings
        self._clock = clock
        self._tls = tls or Tls.of(settings, clock=clock)
        self.admission = Admission(
            clock, limit=settings.max_concurrent_calls, queue_limit=settings.max_queued_calls
        )
        self._in_flight = InFlight()
        self.table = ServiceTable(
            (
                self._in_flight,
                LoadReporting(clock, limit=settings.max_concurrent_calls),
                *([PeerCertificate()] if self._tls and self._tls.requires_client else []),
                *interceptors(
                    component.name,
                    clock=clock,
                    authenticator=Authenticator(settings, clock=clock),
                    admission=self.admission,
                    default_deadline_s=settings.default_deadline_s,
                ),
            )
        )
        component.register(self.table)
        self.health = Health(component.readiness)
        names = (*self.table.service_names, "grpc.health.v1.Health")
        # Foreign stubs ask for a grpc server; the table stands in for one (see mesh.handlers).
        foreign: Any = self.table
        health_pb2_grpc.add_HealthServicer_to_server(self.health.servicer, foreign)
        add_reflection(self.table, names)
        self.channel = InProcessChannel(self.table, max_message_bytes=settings.max_message_bytes)
        self._wire: grpc.aio.Server | None = None
        self._finishing = asyncio.Lock()
        self._started = False

    async def start(self) -> None:
        """Start the component and report it ready."""
        await self.health.set_live()
        self._started = True
        await self.component.start()
        await self.health.set_ready(True)

    async def listen(self, port: int, *, socket: str = "", spread: Spread | None = None) -> int:
        """Serve over TCP and return the port; 0 picks a free one.

        `socket` (`unix:/path`) serves other processes of this host as well. With `spread` this
        process is one of several workers on one port, which share the calls.

        Raises FailedPrecondition when the port is taken, or when an open mesh would be
        reachable from other machines.
        """
        host = self._settings.host
        certified = self._tls is not None and self._tls.requires_client
        if self._settings.auth == "open" and not certified and host not in LOOPBACK_HOSTS:
            raise open_to_the_world(host)
        wire = grpc.aio.server(
            options=server_options(self._settings, shared_port=spread is not None)
        )
        handler = self.table.as_generic_handler()
        if socket:
            wire.add_insecure_port(socket)
        if spread is not None and not certified:
            # Who passes a call on could not show the certificate that it came with.
            handler = spread.handler(self.component.name, self.table)
        wire.add_generic_rpc_handlers((handler,))
        try:
            if self._tls is not None and self._tls.serves:
                credentials = self._tls.server_credentials()
                bound = wire.add_secure_port(_address(host, port), credentials)
            else:
                bound = wire.add_insecure_port(_address(host, port))
        except RuntimeError as error:
            raise port_taken(self.component.name, host, port) from error
        await wire.start()
        self._wire = wire
        return bound

    async def drain(self) -> None:
        """Stop serving without breaking a call that ends within the grace; then close.

        Idempotent; safe after a failed start.
        """
        await self.health.set_ready(False)
        if self._wire is not None:
            await self._clock.sleep(self._settings.drain_hold_s)
        await self.finish()

    async def finish(self, grace_s: float | None = None) -> None:
        """The second half of a drain: no new calls, let running ones end, close the component.

        `grace_s` is the settings' unless given: a host shares one grace among its components.
        Idempotent; a component that was never started is not closed.
        """
        async with self._finishing:
            try:
                await self._stop_serving(
                    self._settings.drain_grace_s if grace_s is None else grace_s
                )
            finally:
                if self._started:
                    self._started = False
                    await self.component.close()

    async def _stop_serving(self, grace_s: float) -> None:
        self.health.close()
        stops = [self.channel.close(grace_s)]
        if self._wire is not None:
            stops.append(self._wire.stop(grace_s))
            self._wire = None
        await asyncio.gather(*stops)
        await self._in_flight.settle(SETTLE_S)


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def open_to_the_world(host: str) -> FailedPrecondition:
    """Return the error for an open mesh that other machines could reach."""
    return FailedPrecondition(
        f"listening on {host} needs `auth: keys` (PLEXUS_AUTH=keys and an API key) or client "
        "certificates (PLEXUS_TLS_CLIENT_AUTH=require); an open mesh serves loopback only",
        reason=Reason.INVALID_SETTINGS,
    )


def port_taken(component: str, host: str, port: int) -> FailedPrecondition:
    """Return the error for a port that another program holds."""
    return FailedPrecondition(
        f"{component} cannot listen on {host}:{port}: the port is in use; stop what holds it, "
        f"or choose another with PLEXUS_{component.upper()}_PORT",
        reason=Reason.INVALID_SETTINGS,
    )


def until_signal() -> "asyncio.Future[signal.Signals]":
    """Return a future of the first SIGINT or SIGTERM from now on.

    Call it before you say that you are ready: who reads that may signal at once. A second signal
    takes the default, abrupt, way.
    """
    loop = asyncio.get_running_loop()
    received: asyncio.Future[signal.Signals] = loop.create_future()
    signals = (signal.SIGINT, signal.SIGTERM)

    def let_go() -> None:
        for each in signals:
            with contextlib.suppress(ValueError):
                loop.remove_signal_handler(each)

    def receive(number: signal.Signals) -> None:
        let_go()
        if not received.done():
            received.set_result(number)

    for number in signals:
        loop.add_signal_handler(number, receive, number)
    received.add_done_callback(lambda _: let_go())
    return received
