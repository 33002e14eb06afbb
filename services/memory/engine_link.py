"""The service's end of the engine process: starts it, talks to it, starts it again when it dies.

Calls made in one tick of the event loop travel in one frame, and one write of the socket; that is
what makes a call cost microseconds. There is one timer for all calls in flight instead of one
each.

When the engine dies, calls that may be repeated (reads, and writes whose repetition is harmless)
are sent once more to the next engine; the others fail with MEMORY_UNAVAILABLE: they may or may
not have happened. New calls wait for the next engine within their own timeout.
"""

import asyncio
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from mesh.clock import Clock
from mesh.errors import (
    DataLoss,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    PlexusError,
    Reason,
    ResourceExhausted,
    Unavailable,
)
from mesh.logs import Log
from services.memory import shard
from services.memory.engine import FAULT, HELLO
from services.memory.frames import BrokenFrame, FrameReader, Message, encode

FIRST_BACKOFF_S = 0.05
MAX_BACKOFF_S = 2.0
"""Between two starts of an engine that keeps dying."""
TIMER_RESOLUTION_S = 0.05
"""Timeouts are looked at this often."""
STALL_S = 30.0
"""An engine that answers nothing for this long while calls wait is killed."""
CLOSE_GRACE_S = 10.0
"""How long the engine may take to flush and leave before it is killed."""
START_TIMEOUT_S = 30.0
"""How long the engine may take to open its data."""

log = Log("memory.engine")


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkStatistics:
    """A snapshot; the counts never go down."""

    calls: int
    failures: int
    frames: int
    in_flight: int
    restarts: int


@dataclass(slots=True)
class _Pending:
    """A call without an answer yet."""

    message: Message
    answer: "asyncio.Future[Any]"
    due_s: float
    repeatable: bool


class _Connection(asyncio.Protocol):
    """One engine's life: its socket, from the hello to the end."""

    def __init__(self, link: "EngineLink") -> None:
        self._link = link
        self._reader = FrameReader()
        loop = asyncio.get_running_loop()
        self.hello: asyncio.Future[None] = loop.create_future()
        self.lost = asyncio.Event()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        try:
            frames = self._reader.feed(data)
        except BrokenFrame as error:
            log.fault("broken-frame", error)
            self.abort()
            return
        for frame in frames:
            if self.hello.done():
                self._link.receive(frame)
            else:
                self._greet(*frame[0])

    def _greet(self, _hello: int, code: str | None, text: Any) -> None:
        if code is None:
            self.hello.set_result(None)
        else:
            self.hello.set_exception(to_error(code, text))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.hello.done():
            self.hello.set_exception(_unavailable("the memory engine ended while it started"))
        self.lost.set()

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()


class EngineLink:
    """One engine process at a time. Belongs to one event loop."""

    def __init__(
        self,
        *,
        folder: Path,
        dimensions: int,
        clock: Clock,
        max_in_flight: int,
        flush_interval_ms: int,
        optimize_idle_s: float,
    ) -> None:
        self._arguments = (
            *("--folder", str(folder), "--dimensions", str(dimensions)),
            *("--flush-interval-ms", str(flush_interval_ms)),
            *("--optimize-idle-s", str(optimize_idle_s)),
        )
        self._clock = clock
        self._max_in_flight = max_in_flight
        self._pending: dict[int, _Pending] = {}
        self._outbox: list[Message] = []
        self._connection: _Connection | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._next_id = HELLO + 1
        self._heard_s = 0.0
        self._fatal: PlexusError | None = None
        self._closing = False
        self._calls = self._failures = self._frames = self._restarts = 0

    @property
    def pid(self) -> int | None:
        """The engine's process id while it runs."""
        return self._process.pid if self._process and self.is_ready() else None

    def is_ready(self) -> bool:
        """Whether an engine answers calls now."""
        return self._connection is not None and not self._closing

    def statistics(self) -> LinkStatistics:
        """Return the counts since the start."""
        return LinkStatistics(
            calls=self._calls,
            failures=self._failures,
            frames=self._frames,
            in_flight=len(self._pending),
            restarts=self._restarts,
        )

    async def start(self) -> None:
        """Start the engine; raise what keeps it from opening its data."""
        connection = await self._spawn()
        self._supervisor = asyncio.create_task(self._supervise(connection))

    async def close(self) -> None:
        """Let the engine flush and leave; bounded; idempotent."""
        self._closing = True
        self._fail_all(_unavailable("the memory store is closed"))
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
            self._supervisor = None
        await self._end_process(CLOSE_GRACE_S)

    def call(
        self, name: str, *arguments: Any, timeout_s: float, repeatable: bool
    ) -> "asyncio.Future[Any]":
        """Send one request; the future holds its result or a PlexusError.

        Cancelling the future forgets the answer, not the effect.
        """
        if self._closing or self._fatal is not None:
            raise self._fatal or _unavailable("the memory store is closed")
        if len(self._pending) >= self._max_in_flight:
            raise ResourceExhausted(
                "the memory store has as many calls in flight as it accepts",
                reason=Reason.OVERLOADED,
                retry_after_s=TIMER_RESOLUTION_S,
            )
        loop = asyncio.get_running_loop()
        number = self._next_id
        self._next_id += 1
        self._calls += 1
        answer: asyncio.Future[Any] = loop.create_future()
        message = (number, name, arguments)
        self._pending[number] = _Pending(message, answer, loop.time() + timeout_s, repeatable)
        self._post(message)
        if self._timer is None:
            self._timer = loop.call_later(TIMER_RESOLUTION_S, self._check_timeouts)
        return answer

    def receive(self, frame: list[Message]) -> None:
        """Hand out one frame of answers."""
        self._heard_s = asyncio.get_running_loop().time()
        for number, code, result in frame:
            pending = self._pending.pop(number, None)
            if pending is None or pending.answer.done():
                continue
            if code is None:
                pending.answer.set_result(result)
            else:
                self._fail(pending, to_error(code, result))

    def _post(self, message: Message) -> None:
        if not self._outbox:
            asyncio.get_running_loop().call_soon(self._send)
        self._outbox.append(message)

    def _send(self) -> None:
        connection = self._connection
        if connection is None or connection.transport is None or not self._outbox:
            return
        messages, self._outbox = self._outbox, []
        self._frames += 1
        connection.transport.write(encode(messages))

    async def _spawn(self) -> _Connection:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours.setblocking(False)
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "services.memory.engine", "--descriptor", str(theirs.fileno())),
                *self._arguments,
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
            )
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_unix_connection(lambda: _Connection(self), sock=ours)
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await connection.hello
        except BaseException:
            connection.abort()
            await self._end_process(0.0)
            raise
        self._heard_s = loop.time()
        self._connection = connection
        # Whoever gave up meanwhile was told that nothing is known of the effect: better none.
        self._outbox = [message for message in self._outbox if message[0] in self._pending]
        self._send()
        return connection

    async def _supervise(self, connection: _Connection) -> None:
        """Wait for the engine's end and start the next one, until closed."""
        while True:
            started_s = self._clock.monotonic_s()
            await connection.lost.wait()
            self._connection = None
            self._settle_after_loss()
            await self._end_process(1.0)
            log.warning("engine-lost", in_flight=len(self._pending))
            lived_s = self._clock.monotonic_s() - started_s
            restarted = await self._restart(FIRST_BACKOFF_S if lived_s > MAX_BACKOFF_S else None)
            if restarted is None:
                return
            connection = restarted

    async def _restart(self, backoff_s: float | None) -> _Connection | None:
        """Try until an engine runs; None when its data cannot be opened at all."""
        delay_s = backoff_s or FIRST_BACKOFF_S
        while True:
            await self._clock.sleep(delay_s)
            self._restarts += 1
            try:
                return await self._spawn()
            except (FailedPrecondition, DataLoss) as error:
                self._fatal = error
                self._fail_all(error)
                log.warning("engine-refused", reason=error.reason)
                return None
            except (PlexusError, OSError, TimeoutError) as error:
                log.warning("engine-not-started", error=type(error).__name__)
                delay_s = min(delay_s * 2, MAX_BACKOFF_S)

    def _settle_after_loss(self) -> None:
        """Fail what may not be sent twice; queue the rest for the next engine, once."""
        unsent = {message[0] for message in self._outbox}
        self._outbox = []
        for number, pending in list(self._pending.items()):
            if number in unsent or pending.repeatable:
                pending.repeatable = pending.repeatable and number in unsent
                self._outbox.append(pending.message)
            else:
                del self._pending[number]
                self._fail(pending, _unavailable("the memory engine ended before it answered"))

    async def _end_process(self, grace_s: float) -> None:
        connection, self._connection = self._connection, None
        process, self._process = self._process, None
        if process is None:
            return
        if connection is not None and connection.transport is not None:
            connection.transport.close()
        try:
            async with asyncio.timeout(grace_s):
                await process.wait()
        except TimeoutError:
            if process.returncode is None:
                process.kill()
            await process.wait()

    def _check_timeouts(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        for number, pending in list(self._pending.items()):
            if pending.answer.done():
                del self._pending[number]
            elif pending.due_s <= now_s:
                del self._pending[number]
                self._fail(pending, _unavailable("the memory engine did not answer in time"))
        if self._pending:
            self._timer = loop.call_later(TIMER_RESOLUTION_S, self._check_timeouts)
            self._kill_when_stalled(now_s)

    def _kill_when_stalled(self, now_s: float) -> None:
        if self.is_ready() and self._process and now_s - self._heard_s > STALL_S:
            log.warning("engine-stalled", in_flight=len(self._pending))
            self._heard_s = now_s
            self._process.kill()

    def _fail_all(self, error: PlexusError) -> None:
        pending, self._pending = self._pending, {}
        self._outbox = []
        for each in pending.values():
            self._fail(each, error)

    def _fail(self, pending: _Pending, error: PlexusError) -> None:
        self._failures += 1
        if not pending.answer.done():
            pending.answer.set_exception(error)


def to_error(code: str, text: Any) -> PlexusError:
    """Return what a code of the engine means to a caller."""
    match code:
        case shard.IN_USE:
            return FailedPrecondition(str(text), reason=Reason.DATA_IN_USE)
        case shard.DIMENSIONS:
            return FailedPrecondition(str(text), reason=Reason.DIMENSION_MISMATCH)
        case shard.CORRUPT:
            return DataLoss(str(text), reason=Reason.DATA_CORRUPT)
        case shard.REUSED:
            return key_reused()
        case _:
            if code != FAULT:
                return Internal("the memory engine gave an unknown answer")
            log.warning("engine-fault", what=str(text))
            return Internal("the memory engine failed on this call")


def key_reused() -> InvalidArgument:
    """Return the error for an idempotency key that stands for another request."""
    return InvalidArgument(
        "this idempotency key was used for a different request; use a fresh key",
        reason=Reason.IDEMPOTENCY_KEY_REUSED,
    )


def _unavailable(why: str) -> Unavailable:
    return Unavailable(why, reason=Reason.MEMORY_UNAVAILABLE)
