"""Puts the gateway together."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import grpc.aio

from gateway.clients import Clients
from gateway.edges.grpc import GatewayService
from gateway.outbox import Outbox
from gateway.outbox_folder import OutboxFolder
from gateway.pipeline import Pipeline
from gateway.runs import RunRegistry
from gateway.settings import GatewaySettings
from gateway.shared_runs import SharedRuns
from mesh.clock import Clock
from mesh.handlers import ServiceTable
from plexus.gateway.v1 import gateway_service_pb2_grpc


class Gateway:
    """The gateway as a component: its servicer, runs and outbox."""

    name = "gateway"

    def __init__(
        self,
        settings: GatewaySettings,
        *,
        data_dir: Path,
        channel_to: Callable[[str], grpc.aio.Channel],
        clock: Clock,
        redis_url: str = "",
    ) -> None:
        clients = Clients.over(channel_to)
        self.outbox = Outbox(data_dir / "outbox", clients, settings, clock)
        self.runs = SharedRuns(RunRegistry(settings, clock), settings, clock, redis_url=redis_url)
        pipeline = Pipeline(clients, self.outbox, settings, clock)
        self.servicer = GatewayService(pipeline, self.runs, clients, self.outbox, settings, clock)
        self._data_dir = data_dir
        self._folder: OutboxFolder | None = None
        self._ready = False

    def register(self, table: ServiceTable) -> None:
        """Add the servicer to `table`."""
        gateway_service_pb2_grpc.add_GatewayServiceServicer_to_server(self.servicer, table)

    async def start(self) -> None:
        """Open the outbox; turns can run then."""
        self._folder = await asyncio.to_thread(OutboxFolder.own, self._data_dir)
        await self.outbox.start(self._folder.path)
        await self.runs.start()
        self._ready = True

    async def close(self) -> None:
        """Cancel and settle what still runs, then close the outbox."""
        self._ready = False
        await self.runs.close()
        await self.outbox.close()
        if self._folder is not None:
            self._folder.release()

    def readiness(self) -> bool:
        """Whether turns can run."""
        return self._ready
