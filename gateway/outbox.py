"""The outbox: writes that a turn promised while memory or the ledger was down.

One file per write, made by rename, so a crash leaves it whole or not at all; removed once the
component has acknowledged it. Both components know the writes by id, so a crash between the two
repeats nothing. What a component refuses for good is moved aside, never dropped.
"""

import asyncio
import os
import secrets
from pathlib import Path

import grpc.aio

from gateway.clients import Clients
from gateway.settings import GatewaySettings
from mesh import metrics
from mesh.call import Identity, outgoing_call
from mesh.clock import Clock
from mesh.errors import (
    FailedPrecondition,
    PlexusError,
    Reason,
    ResourceExhausted,
    Unavailable,
    from_rpc_error,
)
from mesh.logs import Log
from plexus.memory.v1 import memory_service_pb2 as memory_pb
from plexus.metrics.v1 import metrics_service_pb2 as metrics_pb

SEND_TIMEOUT_S = 10.0
_MEMORY = ".memory"
_USAGE = ".usage"
_REFUSED = "refused"

log = Log("outbox")


class Outbox:
    """A bounded, durable queue in one folder; one owner at a time."""

    def __init__(
        self, folder: Path, clients: Clients, settings: GatewaySettings, clock: Clock
    ) -> None:
        self._folder = folder
        self._clients = clients
        self._limit = settings.outbox_limit
        self._retry_s = settings.outbox_retry_s
        self._clock = clock
        self._count = 0
        self._filled = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def pending_count(self) -> int:
        """How many writes wait."""
        return self._count

    async def start(self) -> None:
        """Make the folder, find what an earlier process left, and begin to send it."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FailedPrecondition(
                f"cannot write to {self._folder}: {error.strerror}; set PLEXUS_DATA_DIR to a "
                "folder you may write to",
                reason=Reason.INVALID_SETTINGS,
            ) from error
        self._set_count(len(self._pending()))
        if self._count:
            self._filled.set()
        self._task = asyncio.get_running_loop().create_task(self._drain_forever())

    async def close(self) -> None:
        """Stop sending; what waits stays on disk."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def put_memory(self, identity: Identity, request: memory_pb.WriteMemoriesRequest) -> None:
        """Return once the write is on disk; raise ResourceExhausted when the outbox is full."""
        await self._put(identity, _MEMORY, request.SerializeToString())

    async def put_usage(self, identity: Identity, request: metrics_pb.RecordUsageRequest) -> None:
        """Return once the booking is on disk; raise ResourceExhausted when the outbox is full."""
        await self._put(identity, _USAGE, request.SerializeToString())

    async def _put(self, identity: Identity, suffix: str, body: bytes) -> None:
        if self._count >= self._limit:
            raise ResourceExhausted("the outbox is full", reason=Reason.OVERLOADED)
        self._set_count(self._count + 1)
        name = f"{self._clock.time_ns():020d}-{secrets.token_hex(4)}{suffix}"
        tenant = identity.tenant.encode()
        data = len(tenant).to_bytes(2, "big") + tenant + body
        try:
            await asyncio.to_thread(_write_whole, self._folder / name, data)
        except OSError as error:
            self._set_count(self._count - 1)
            raise Unavailable(
                f"the outbox cannot be written: {error.strerror}", reason=Reason.INTERNAL
            ) from error
        self._filled.set()

    async def _drain_forever(self) -> None:
        while True:
            await self._filled.wait()
            self._filled.clear()
            while not await self._drain():
                await self._clock.sleep(self._retry_s)

    async def _drain(self) -> bool:
        """Send what waits, oldest first; return whether all of it went."""
        blocked: set[str] = set()
        for path in await asyncio.to_thread(self._pending):
            if path.suffix in blocked:
                continue
            try:
                await self._send(path)
            except PlexusError as error:
                if error.code in _PERMANENT:
                    log.warning("refused", file=path.name, reason=error.reason)
                    await asyncio.to_thread(_move_aside, path)
                    self._set_count(self._count - 1)
                else:
                    blocked.add(path.suffix)
                continue
            await asyncio.to_thread(path.unlink, missing_ok=True)
            self._set_count(self._count - 1)
        return not blocked

    async def _send(self, path: Path) -> None:
        data = await asyncio.to_thread(path.read_bytes)
        size = int.from_bytes(data[:2], "big")
        identity = Identity(data[2 : 2 + size].decode(), "outbox")
        body = data[2 + size :]
        try:
            with outgoing_call(identity, timeout_s=SEND_TIMEOUT_S):
                if path.suffix == _MEMORY:
                    write = memory_pb.WriteMemoriesRequest.FromString(body)
                    await self._clients.memory.WriteMemories(write)
                else:
                    booking = metrics_pb.RecordUsageRequest.FromString(body)
                    await self._clients.metrics.RecordUsage(booking)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error

    def _pending(self) -> list[Path]:
        return sorted(p for p in self._folder.iterdir() if p.suffix in (_MEMORY, _USAGE))

    def _set_count(self, count: int) -> None:
        self._count = count
        metrics.OUTBOX_PENDING.set(count)


_PERMANENT = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.FAILED_PRECONDITION,
)


def _write_whole(path: Path, data: bytes) -> None:
    """Write, sync and rename, so that the file exists only when it is whole and durable."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _move_aside(path: Path) -> None:
    refused = path.parent / _REFUSED
    refused.mkdir(exist_ok=True)
    path.rename(refused / path.name)
