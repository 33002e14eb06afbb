"""The one way to talk to Redis: bounded in time, batched, and behind a breaker.

Commands issued in the same tick of the event loop leave as one write and cost one round trip;
while all connections are busy, what arrives meanwhile gathers into the next write. redis-py does
neither, so its connections are used directly, and its pool, retries and time limits are not.
Nothing is ever sent twice: after a failure nobody here knows what the server has done.

A caller waits at most `timeout_s`, whatever Redis does. Round trips that fail or end in a
timeout, waits for a free connection among them, count against the breaker; while it is open a
call fails at once and costs nothing.
"""

import asyncio
import contextlib
import hashlib
import math
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, Literal, TypeAlias, cast

import hiredis
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError

from mesh.breaker import Breaker, BreakerState, BreakerStatistics
from mesh.clock import SYSTEM_CLOCK, Clock
from mesh.errors import Unavailable
from mesh.logs import Log

log = Log("redis_link")

Argument: TypeAlias = bytes | str | int
Reply: TypeAlias = "bytes | int | list[Reply] | None"
Trouble = Literal["timeout", "connection", "open", "overloaded", "refused", "closed"]

COMMANDS_PER_WRITE: Final = 1000
"""A write takes no further batch once it holds this many commands, so that replies start early."""

# What hiredis declares is a tuple of one.
_pack = cast("Callable[[tuple[Argument, ...]], bytes]", hiredis.pack_command)  # pyright: ignore[reportUnknownMemberType]

MIN_CONNECT_TIMEOUT_S: Final = 1.0
"""A connection over TLS and a busy network may take longer to open than a command may take."""

_SENTENCES: Final[Mapping[Trouble, str]] = {
    "timeout": "Redis did not answer in time.",
    "connection": "Redis cannot be reached.",
    "open": "Redis failed a moment ago and is left alone for now.",
    "overloaded": "Too many Redis commands are waiting.",
    "refused": "Redis refused a command.",
    "closed": "The link to Redis is closed.",
}


class RedisUnavailable(Unavailable):
    """The one error of a link. Whether the command took effect is unknown unless `trouble` is
    `open`, `overloaded` or `closed`: then nothing was sent.
    """

    def __init__(self, trouble: Trouble, *, retry_after_s: float | None = None) -> None:
        super().__init__(_SENTENCES[trouble], retry_after_s=retry_after_s)
        self.trouble: Trouble = trouble


@dataclass(frozen=True)
class Script:
    """A Lua script: atomic, and run by its hash; sent in full when Redis does not know it."""

    text: str

    @cached_property
    def sha1(self) -> str:
        """The name under which Redis keeps it."""
        return hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


@dataclass(frozen=True, kw_only=True)
class RedisLinkSettings:
    """How to reach Redis and how much patience to have."""

    url: str = field(repr=False)
    """redis://, rediss:// or unix:// with credentials and database, as redis clients write it."""
    name: str
    """Whose link it is: seen in the log and in CLIENT LIST."""
    timeout_s: float = 0.05
    """The longest that a caller waits for a reply, waiting for a connection included."""
    connect_timeout_s: float = MIN_CONNECT_TIMEOUT_S
    """The longest that opening a connection may take; goes on while callers give up."""
    connections: int = 2
    """Connections at most; each carries whole batches, so few suffice."""
    max_pending: int = 4096
    """Commands that may be waiting for a reply before further ones are refused."""
    failure_threshold: int = 3
    """Failed round trips in a row that open the breaker."""
    open_s: float = 1.0
    """How long the breaker stays open before it lets a probe through."""


@dataclass(frozen=True, kw_only=True)
class RedisLinkStatistics:
    """A snapshot; counts never go down."""

    pending: int
    commands: int
    round_trips: int
    troubles: Mapping[Trouble, int]
    breaker: BreakerStatistics


class _Batch:
    """What was issued in one tick: packed commands and the futures of their replies."""

    __slots__ = ("commands", "deadline_s", "replies", "timer")

    def __init__(self, deadline_s: float) -> None:
        self.commands: list[bytes] = []
        self.replies: list[asyncio.Future[Reply]] = []
        self.deadline_s = deadline_s
        self.timer: asyncio.TimerHandle | None = None


class RedisLink:
    """Sends commands to one Redis. Belongs to one event loop; connects when first used.

    Cancelling a caller abandons its reply and disturbs nobody else; the command may still run.
    """

    def __init__(self, settings: RedisLinkSettings, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._settings = settings
        self._breaker = Breaker(
            clock,
            failure_threshold=settings.failure_threshold,
            open_s=settings.open_s,
            on_change=self._log_change,
        )
        self._pool = ConnectionPool.from_url(  # pyright: ignore[reportUnknownMemberType]
            settings.url,
            max_connections=settings.connections,
            protocol=2,
            client_name=f"plexus-{settings.name}",
            driver_info=None,
            socket_timeout=None,  # one limit for a whole round trip is set here instead
            socket_connect_timeout=settings.connect_timeout_s,
            retry=Retry(NoBackoff(), 0),
        )
        self._filling: _Batch | None = None
        self._queue: deque[_Batch] = deque()
        self._idle: list[asyncio.Future[None]] = []
        self._lanes: list[asyncio.Task[None]] = []
        self._closed = False
        self._pending = 0
        self._commands = 0
        self._round_trips = 0
        self._troubles: Counter[Trouble] = Counter()
        self._last_failure = ""
        self._refusals_logged: set[str] = set()

    async def execute(self, *command: Argument) -> Reply:
        """Run one command. Raises RedisUnavailable, within `timeout_s`."""
        return await self._submit(command)

    async def execute_many(self, commands: Sequence[Sequence[Argument]]) -> list[Reply]:
        """Run commands in one round trip, in order, not atomically; raises at the first error."""
        if self._pending + len(commands) > self._settings.max_pending:
            raise self._trouble("overloaded")
        return await asyncio.gather(*[self._submit(command) for command in commands])

    async def run(
        self, script: Script, *, keys: Sequence[bytes | str], arguments: Sequence[Argument] = ()
    ) -> Reply:
        """Run a script atomically; keys share one hash tag. Two round trips when Redis is new."""
        tail = (len(keys), *keys, *arguments)
        try:
            return await self._submit(("EVALSHA", script.sha1, *tail))
        except NoScriptError:
            return await self._submit(("EVAL", script.text, *tail))

    async def close(self) -> None:
        """Fail what waits and close the connections; safe to call twice."""
        self._closed = True
        for lane in self._lanes:
            lane.cancel()
        await asyncio.gather(*self._lanes, return_exceptions=True)
        self._lanes.clear()
        self._give_up("closed")

    def statistics(self) -> RedisLinkStatistics:
        """A snapshot."""
        return RedisLinkStatistics(
            pending=self._pending,
            commands=self._commands,
            round_trips=self._round_trips,
            troubles=dict(self._troubles),
            breaker=self._breaker.statistics(),
        )

    def _submit(self, command: Sequence[Argument]) -> asyncio.Future[Reply]:
        if self._closed:
            raise self._trouble("closed")
        if self._pending >= self._settings.max_pending:
            raise self._trouble("overloaded")
        packed = _pack(tuple(command))
        loop = asyncio.get_running_loop()
        batch = self._filling
        if batch is None:
            if not self._breaker.allow():
                raise self._trouble("open")
            batch = self._filling = _Batch(loop.time() + self._settings.timeout_s)
            loop.call_soon(self._flush)
        reply: asyncio.Future[Reply] = loop.create_future()
        batch.commands.append(packed)
        batch.replies.append(reply)
        self._pending += 1
        self._commands += 1
        return reply

    def _flush(self) -> None:
        """The tick is over: queue its batch and find a connection for it."""
        batch, self._filling = self._filling, None
        assert batch is not None
        self._queue.append(batch)
        if self._closed:
            self._fail(self._queue.pop(), "closed")
            return
        loop = asyncio.get_running_loop()
        batch.timer = loop.call_at(batch.deadline_s, self._expire, batch)
        while self._idle:
            waiter = self._idle.pop()
            if not waiter.done():
                waiter.set_result(None)
                return
        if len(self._lanes) < self._settings.connections:
            connection = self._pool.make_connection()
            name = f"redis-{self._settings.name}-{len(self._lanes)}"
            self._lanes.append(loop.create_task(self._serve(connection), name=name))

    def _expire(self, batch: _Batch) -> None:
        """No connection became free in time."""
        self._queue.remove(batch)
        self._last_failure = "no connection became free in time"
        self._fail(batch, "timeout")

    async def _serve(self, connection: AbstractConnection) -> None:
        """One connection's life: take what is queued, exchange it, again."""
        try:
            while True:
                await self._work()
                try:
                    if await self._connect(connection):
                        await self._exchange(connection, self._take())
                except Exception as error:
                    # A fault of ours or of redis-py costs what waits, not the connection's task.
                    log.fault("redis_fault", error, link=self._settings.name)
                    self._give_up("connection")
                    await connection.disconnect(nowait=True)
        finally:
            with contextlib.suppress(RedisError, OSError):
                await connection.disconnect(nowait=True)

    async def _work(self) -> None:
        """Return when a batch is queued."""
        while not self._queue:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._idle.append(waiter)
            await waiter

    async def _connect(self, connection: AbstractConnection) -> bool:
        """Whether the connection is usable, opening it if need be; if not, the queue has failed."""
        try:
            async with asyncio.timeout(self._settings.connect_timeout_s):
                await connection.connect()
                # True also at the end of the stream: Redis has closed it while it was idle.
                if await connection.can_read():
                    await connection.disconnect(nowait=True)
                    await connection.connect()
        except (RedisError, OSError, TimeoutError) as error:
            self._last_failure = type(error).__name__
            self._give_up("connection")
            return False
        return True

    def _take(self) -> list[_Batch]:
        """What goes into the next write."""
        batches: list[_Batch] = []
        commands = 0
        while self._queue and commands < COMMANDS_PER_WRITE:
            batch = self._queue.popleft()
            if batch.timer is not None:
                batch.timer.cancel()
            batches.append(batch)
            commands += len(batch.commands)
        return batches

    async def _exchange(self, connection: AbstractConnection, batches: list[_Batch]) -> None:
        """Write the batches and give each caller its reply; a failure costs the connection."""
        if not batches:
            return
        trouble: Trouble = "closed"
        done = False
        try:
            async with asyncio.timeout_at(min(batch.deadline_s for batch in batches)):
                self._round_trips += 1
                packed = [command for batch in batches for command in batch.commands]
                await connection.send_packed_command(packed, check_health=False)
                for batch in batches:
                    for reply in batch.replies:
                        await self._receive(connection, reply)
            done = True
        except TimeoutError:
            trouble = "timeout"
            self._last_failure = "no reply in time"
        except (RedisError, OSError) as error:
            trouble = "connection"
            self._last_failure = type(error).__name__
        finally:
            if done:
                for batch in batches:
                    self._pending -= len(batch.replies)
                    self._breaker.record_success()
            else:
                for batch in batches:
                    self._fail(batch, trouble)
                with contextlib.suppress(RedisError, OSError):
                    await connection.disconnect(nowait=True)

    async def _receive(self, connection: AbstractConnection, reply: asyncio.Future[Reply]) -> None:
        """Read one reply; an error reply is the caller's, any other error the connection's."""
        try:
            value = cast(
                "Reply", await connection.read_response(disable_decoding=True, timeout=math.inf)
            )
        except NoScriptError as error:
            if not reply.done():
                reply.set_exception(error)
        except ResponseError as error:
            refusal = self._refused(error)
            if not reply.done():
                reply.set_exception(refusal)
        else:
            if not reply.done():
                reply.set_result(value)

    def _give_up(self, trouble: Trouble) -> None:
        """Fail everything that is queued."""
        while self._queue:
            self._fail(self._queue.popleft(), trouble)

    def _fail(self, batch: _Batch, trouble: Trouble) -> None:
        """Fail every caller of a batch that still waits, and tell the breaker."""
        self._pending -= len(batch.replies)
        if batch.timer is not None:
            batch.timer.cancel()
        for reply in batch.replies:
            if not reply.done():
                reply.set_exception(self._trouble(trouble))
        if trouble == "closed":
            self._breaker.abandon()
        else:
            self._breaker.record_failure()

    def _trouble(self, trouble: Trouble) -> RedisUnavailable:
        self._troubles[trouble] += 1
        return RedisUnavailable(trouble, retry_after_s=self._breaker.retry_after_s() or None)

    def _refused(self, error: ResponseError) -> RedisUnavailable:
        """The server works and says no: no memory, read-only, or a fault in a script of ours."""
        code = str(error).partition(" ")[0][:32]
        if code not in self._refusals_logged and len(self._refusals_logged) < 32:
            self._refusals_logged.add(code)
            log.warning("redis_refused", link=self._settings.name, why=error)
        return self._trouble("refused")

    def _log_change(self, before: BreakerState, after: BreakerState) -> None:
        if after is BreakerState.OPEN and before is BreakerState.CLOSED:
            log.warning("redis_down", link=self._settings.name, why=self._last_failure)
        elif after is BreakerState.CLOSED:
            log.warning("redis_up", link=self._settings.name)
