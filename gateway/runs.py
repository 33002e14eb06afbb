"""Runs: the event log of each turn, who reads it, and how long it is kept.

A run writes its events to a log and never waits for a reader; readers follow the log at their
own pace, from any position. So a slow reader costs at most one answer's bytes, delays nobody,
and does not hold the provider's connection; a dropped reader can come back with its token.
"""

import asyncio
import hashlib
import secrets
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from gateway.settings import GatewaySettings
from mesh.clock import Clock
from mesh.errors import (
    Cancelled,
    Internal,
    InvalidArgument,
    Reason,
    ResourceExhausted,
    to_failure,
)
from mesh.logs import Log
from plexus.gateway.v1 import gateway_service_pb2 as pb

log = Log("runs")

_EVENT_OVERHEAD_BYTES = 200
"""What one event costs in memory beyond its text, roughly."""


class Run:
    """One turn's events. Owned by `RunRegistry`."""

    def __init__(
        self, run_id: str, tenant: str, *, resume_window_s: float, execution: str = ""
    ) -> None:
        self.id = run_id
        self.tenant = tenant
        self.booking_id = execution or secrets.token_hex(16)
        """The id of this execution, also in the ledger; `id` may follow from a key."""
        self.resume_token = f"{self.booking_id}.{secrets.token_urlsafe(12)}"
        self.resume_window_s = resume_window_s
        self.key: tuple[str, str] | None = None
        self.fingerprint = b""
        self.size_bytes = 0
        self.ended = False
        self.settling = False
        """Set once it is broken off: nothing but its booking is left to do, and that is not to be
        interrupted."""
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.Task[None] | None = None
        """Cancels the run at the end of its resume window; only while nobody reads."""
        self.reader_count = 0
        self._events: list[pb.ChatResponse] = []
        self._waiters: set[asyncio.Event] = set()

    @property
    def sequence(self) -> int:
        """The sequence number of the last event; 0 before the first."""
        return len(self._events)

    @property
    def is_lost(self) -> bool:
        """Whether it has failed, or is about to: a repeat of its turn runs anew."""
        return self._events[-1].HasField("failed") if self.ended else self.settling

    def append(self, event: pb.ChatResponse) -> None:
        """Add an event; it gets the next sequence number. Nothing follows a terminal event."""
        if self.ended:
            return
        event.sequence = len(self._events) + 1
        self._events.append(event)
        self.size_bytes += _EVENT_OVERHEAD_BYTES + event.ByteSize()
        self.ended = event.WhichOneof("event") in ("completed", "failed")
        for waiter in self._waiters:
            waiter.set()

    async def follow(self, after: int = 0) -> AsyncGenerator[pb.ChatResponse]:
        """Yield the events after sequence number `after`, then new ones, to the terminal one."""
        position = after
        grown = asyncio.Event()
        self._waiters.add(grown)
        try:
            while True:
                while position < len(self._events):
                    position += 1
                    yield self._events[position - 1]
                if self.ended:
                    return
                grown.clear()
                await grown.wait()
        finally:
            self._waiters.discard(grown)

    def cancel(self) -> bool:
        """Cancel the run and return whether it was still going; it settles before it ends.

        A run that settles already is left to it: interrupted, it would not be booked.
        """
        if self.task is None or self.ended:
            return False
        if not self.settling:
            self.settling = True
            self.task.cancel()
        return True


@dataclass(frozen=True, slots=True)
class RunStatistics:
    """A snapshot."""

    live: int
    retained: int
    retained_bytes: int


class RunRegistry:
    """Finds runs by token and key, owns their tasks, and forgets them in time."""

    def __init__(self, settings: GatewaySettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._runs: dict[str, Run] = {}
        self._by_key: dict[tuple[str, str], Run] = {}
        self._ended: OrderedDict[str, tuple[float, Run]] = OrderedDict()
        self._ended_bytes = 0
        self._live = 0
        self._timers: set[asyncio.Task[None]] = set()

    def statistics(self) -> RunStatistics:
        """Return current counts."""
        return RunStatistics(self._live, len(self._ended), self._ended_bytes)

    def start(
        self,
        tenant: str,
        turn: pb.Turn,
        execute: Callable[[Run], Coroutine[Any, Any, None]],
        *,
        execution: str = "",
    ) -> Run:
        """Start a run, or return the one that the turn's idempotency key names, unless it is lost.

        `execution` becomes its `booking_id`; empty draws one.

        Raises InvalidArgument(IDEMPOTENCY_KEY_REUSED) for a key with another turn, and
        ResourceExhausted when as many runs are live as may be.
        """
        if (known := self.known(tenant, turn)) is not None:
            return known
        if self._live >= self._settings.max_live_runs:
            raise ResourceExhausted(
                "too many turns in progress; try again shortly",
                reason=Reason.OVERLOADED,
                retry_after_s=1.0,
            )
        run = self._new(tenant, turn, execution)
        self._live += 1
        run.task = asyncio.ensure_future(execute(run))
        run.task.add_done_callback(lambda task: self._end(run, task))
        return run

    def known(self, tenant: str, turn: pb.Turn) -> Run | None:
        """Return the run that the turn's idempotency key names, unless it is lost.

        Raises InvalidArgument(IDEMPOTENCY_KEY_REUSED) for a key with another turn.
        """
        self._forget_expired()
        run = self._by_key.get((tenant, turn.idempotency_key)) if turn.idempotency_key else None
        if run is None:
            return None
        check_fingerprint(run.fingerprint, turn)
        return None if run.is_lost else run

    def of_execution(self, execution: str) -> Run | None:
        """Return the run with that `booking_id`."""
        return self._runs.get(execution)

    def find(self, tenant: str, resume_token: str) -> Run:
        """Return the run of a resume token; raise InvalidArgument(INVALID_RESUME_TOKEN)."""
        self._forget_expired()
        run = self._runs.get(resume_token.partition(".")[0])
        if run is None or run.tenant != tenant:
            raise invalid_token()
        if not secrets.compare_digest(run.resume_token.encode(), resume_token.encode()):
            raise invalid_token()
        return run

    def attach(self, run: Run) -> None:
        """Count a reader in; the resume window ends."""
        run.reader_count += 1
        _stop_timer(run)

    def detach(self, run: Run) -> None:
        """Count a reader out; a run that nobody reads is cancelled after its resume window."""
        run.reader_count -= 1
        if run.reader_count or run.ended:
            return
        if run.resume_window_s <= 0:
            run.cancel()
            return
        run.timer = asyncio.get_running_loop().create_task(self._cancel_unread(run))
        self._timers.add(run.timer)
        run.timer.add_done_callback(self._timers.discard)

    async def close(self) -> None:
        """Cancel what still runs and wait until it has settled."""
        for timer in self._timers:
            timer.cancel()
        for run in self._runs.values():
            run.cancel()
        tasks = [*self._timers, *(run.task for run in self._runs.values() if run.task)]
        if tasks:
            await asyncio.wait(tasks)

    def _end(self, run: Run, task: "asyncio.Task[None]") -> None:
        if not run.ended:
            # Cancelled before its first step, or a fault: readers must not wait for ever.
            error = Cancelled("the turn was cancelled") if task.cancelled() else Internal("a fault")
            run.append(pb.ChatResponse(failed=to_failure(error)))
        if not task.cancelled() and (fault := task.exception()) is not None:
            # Taken here, or asyncio would log its text.
            log.fault("fault", fault, request_id=run.id)
        self._live -= 1
        _stop_timer(run)
        self._retain(run)

    async def _cancel_unread(self, run: Run) -> None:
        await self._clock.sleep(run.resume_window_s)
        run.cancel()

    def _new(self, tenant: str, turn: pb.Turn, execution: str) -> Run:
        key = turn.idempotency_key
        fingerprint = fingerprint_of(turn) if key else b""
        # The id follows from key and turn, so that a repeat after a restart remembers once, and
        # another turn under a key that is free again is not taken for a repeat.
        run_id = _id_of(tenant, key, fingerprint) if key else secrets.token_hex(16)
        window_s = min(turn.resume_window_ms, self._settings.max_resume_window_ms) / 1000
        run = Run(run_id, tenant, resume_window_s=window_s, execution=execution)
        self._runs[run.booking_id] = run
        if key:
            run.key = (tenant, key)
            run.fingerprint = fingerprint
            self._by_key[run.key] = run
        return run

    def _retain(self, run: Run) -> None:
        until_s = self._clock.monotonic_s() + self._settings.retention_s
        self._ended[run.booking_id] = (until_s, run)
        self._ended_bytes += run.size_bytes
        self._forget_expired()

    def _forget_expired(self) -> None:
        now_s = self._clock.monotonic_s()
        while self._ended:
            booking_id, (until_s, run) = next(iter(self._ended.items()))
            if until_s > now_s and self._ended_bytes <= self._settings.retention_bytes:
                return
            del self._ended[booking_id]
            self._ended_bytes -= run.size_bytes
            self._runs.pop(booking_id, None)
            if run.key is not None and self._by_key.get(run.key) is run:
                del self._by_key[run.key]


def _stop_timer(run: Run) -> None:
    if run.timer is not None:
        run.timer.cancel()
        run.timer = None


def check_fingerprint(fingerprint: bytes, turn: pb.Turn) -> None:
    """Raise InvalidArgument(IDEMPOTENCY_KEY_REUSED) unless it is this turn's."""
    if fingerprint != fingerprint_of(turn):
        raise InvalidArgument(
            "idempotency_key: used before with another turn",
            reason=Reason.IDEMPOTENCY_KEY_REUSED,
        )


def _id_of(tenant: str, key: str, fingerprint: bytes) -> str:
    named = b"\0".join((tenant.encode(), key.encode(), fingerprint))
    return hashlib.blake2b(named, digest_size=16).hexdigest()


def fingerprint_of(turn: pb.Turn) -> bytes:
    """Return what tells one turn from another under the same idempotency key."""
    return hashlib.blake2b(turn.SerializeToString(deterministic=True), digest_size=16).digest()


def invalid_token() -> InvalidArgument:
    """Return the error for a resume token that names no run."""
    return InvalidArgument(
        "resume_token: unknown or expired; start the turn again", reason=Reason.INVALID_RESUME_TOKEN
    )
