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
from google.protobuf.message import DecodeError

from gateway.clients import Clients
from gateway.settings import GatewaySettings
from mesh import metrics
from mesh.call import Identity, outgoing_call
from mesh.clock import Clock
from mesh.errors import (
    FailedPrecondition,
    InvalidArgument,
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
_UNFINISHED = ".tmp"
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
        self._last_ns = 0
        self._writing: set[asyncio.Task[None]] = set()
        self._filled = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def pending_count(self) -> int:
        """How many writes wait."""
        return self._count

    async def start(self, folder: Path | None = None) -> None:
        """Make the folder (`folder` if given), find what an earlier process left, and send it."""
        self._folder = folder or self._folder
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for unfinished in self._folder.glob(f"*{_UNFINISHED}"):
                unfinished.unlink()
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
        """Stop sending; what waits stays on disk, and what is being written gets there."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task, *self._writing])

    async def put_memory(self, identity: Identity, request: memory_pb.WriteMemoriesRequest) -> None:
        """Return once the write is on disk.

        Raises ResourceExhausted when the outbox is full, Unavailable when the disk refuses it.
        """
        await self._put(identity, _MEMORY, request.SerializeToString())

    async def put_usage(self, identity: Identity, request: metrics_pb.RecordUsageRequest) -> None:
        """Return once the booking is on disk; raises as `put_memory` does."""
        await self._put(identity, _USAGE, request.SerializeToString())

    async def _put(self, identity: Identity, suffix: str, body: bytes) -> None:
        if self._count >= self._limit:
            raise ResourceExhausted("the outbox is full", reason=Reason.OVERLOADED)
        self._set_count(self._count + 1)
        # Names sort in the order of the writes, also of two in one tick of the clock.
        self._last_ns = max(self._clock.time_ns(), self._last_ns + 1)
        name = f"{self._last_ns:020d}-{secrets.token_hex(4)}{suffix}"
        tenant = identity.tenant.encode()
        data = len(tenant).to_bytes(2, "big") + tenant + body
        writing = asyncio.get_running_loop().create_task(self._write(self._folder / name, data))
        self._writing.add(writing)
        writing.add_done_callback(self._writing.discard)
        await asyncio.shield(writing)

    async def _write(self, path: Path, data: bytes) -> None:
        """Put a file that is counted already on disk, whatever becomes of who asked for it."""
        try:
            await asyncio.to_thread(_write_whole, path, data)
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
            while not await self._drained():
                await self._clock.sleep(self._retry_s)

    async def _drained(self) -> bool:
        """Drain; a disk that fails, or a fault of ours, is a reason to try again, not to stop."""
        try:
            return await self._drain()
        except Exception as error:
            log.fault("drain", error)
            return False

    async def _drain(self) -> bool:
        """Send what waits, oldest first; return whether all of it went."""
        all_went = True
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
                    all_went = False
                    if error.code not in _OF_ONE_WRITE:
                        blocked.add(path.suffix)
                continue
            await asyncio.to_thread(path.unlink, missing_ok=True)
            self._set_count(self._count - 1)
        return all_went

    async def _send(self, path: Path) -> None:
        identity, request = _decode(path, await asyncio.to_thread(path.read_bytes))
        try:
            with outgoing_call(identity, timeout_s=SEND_TIMEOUT_S):
                if isinstance(request, memory_pb.WriteMemoriesRequest):
                    await self._clients.memory.WriteMemories(request)
                else:
                    await self._clients.metrics.RecordUsage(request)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error

    def _pending(self) -> list[Path]:
        return sorted(p for p in self._folder.iterdir() if p.suffix in (_MEMORY, _USAGE))

    def _set_count(self, count: int) -> None:
        self._count = count
        metrics.OUTBOX_PENDING.set(count)


_OF_ONE_WRITE = (grpc.StatusCode.INTERNAL, grpc.StatusCode.ABORTED)
"""What says nothing of the component: those behind such a write need not wait for it."""
_PERMANENT = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.FAILED_PRECONDITION,
)


def _decode(
    path: Path, data: bytes
) -> tuple[Identity, memory_pb.WriteMemoriesRequest | metrics_pb.RecordUsageRequest]:
    size = int.from_bytes(data[:2], "big")
    body = data[2 + size :]
    try:
        identity = Identity(data[2 : 2 + size].decode(), "outbox")
        if path.suffix == _MEMORY:
            return identity, memory_pb.WriteMemoriesRequest.FromString(body)
        return identity, metrics_pb.RecordUsageRequest.FromString(body)
    except (UnicodeDecodeError, DecodeError) as error:
        raise InvalidArgument("the file is damaged", reason=Reason.DATA_CORRUPT) from error


def _write_whole(path: Path, data: bytes) -> None:
    """Write, sync and rename, so that the file exists only when it is whole and durable."""
    temporary = path.with_suffix(_UNFINISHED)
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
        _sync_folder(path.parent)
    except OSError:
        # What is not acknowledged must neither fill the disk nor be sent.
        temporary.unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise


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
