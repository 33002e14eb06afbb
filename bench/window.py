"""Measured windows: callers that drive a target, and what they saw."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from mesh.clock import SYSTEM_CLOCK

CALL_TIMEOUT_S = 20.0
PATIENCE_S = 6.0
"""How much longer than asked a slow target is driven."""
DRAIN_S = 2.0
"""How long calls that are open at the end may take before they are cancelled."""
FAILURE_PAUSE_S = 0.01
"""After a failed call, so that a target that refuses is not driven into the ground."""
POLL_S = 0.02
MAX_ARRIVED = 512
"""Calls of an open loop in progress; what arrives beyond counts as failed."""


@dataclass(slots=True)
class Timing:
    """One call, in seconds since its start."""

    total_s: float
    first_s: float = 0.0
    """To the first text; for a unary call 0."""
    gaps_s: Sequence[float] = ()
    """Between deliveries of text."""


Call = Callable[[int], Awaitable[Timing | None]]
"""Makes one call as caller number N; None for an answer that failed or was not whole."""


@dataclass(slots=True)
class Window:
    """What was seen while it was open."""

    elapsed_s: float = 0.0
    calls: int = 0
    """All that were made, those outside of the window included."""
    failures: int = 0
    total_s: list[float] = field(default_factory=list[float])
    first_s: list[float] = field(default_factory=list[float])
    gaps_s: list[float] = field(default_factory=list[float])

    @property
    def rate_per_s(self) -> float:
        """Whole answers per second."""
        return len(self.total_s) / self.elapsed_s if self.elapsed_s else 0.0

    def add(self, timing: Timing | None, *, late_s: float = 0.0) -> None:
        """Count a call; `late_s` is how long it had waited before it could start."""
        if timing is None:
            self.failures += 1
            return
        self.total_s.append(timing.total_s + late_s)
        if timing.first_s:
            self.first_s.append(timing.first_s + late_s)
        self.gaps_s.extend(timing.gaps_s)


async def closed_loop(call: Call, *, concurrency: int, warm_up_s: float, window_s: float) -> Window:
    """Call as fast as `concurrency` callers can, each one call at a time.

    Warming up and measuring each last as long as asked, and longer for a slow target: until there
    was a call for each caller, or `PATIENCE_S` are over. What counts ended within the window.
    """
    window = Window()
    loop = _ClosedLoop(call, window)
    callers = [asyncio.create_task(loop.caller(number)) for number in range(concurrency)]
    try:
        await loop.until(concurrency, warm_up_s)
        loop.is_counting, opened_s = True, time.perf_counter()
        await loop.until(concurrency, window_s)
        loop.is_counting, loop.is_over = False, True
        window.elapsed_s = time.perf_counter() - opened_s
        await asyncio.wait(callers, timeout=DRAIN_S)
    finally:
        for task in callers:
            task.cancel()
        ended = await asyncio.gather(*callers, return_exceptions=True)
    for outcome in ended:
        if isinstance(outcome, Exception):
            raise outcome
    return window


class _ClosedLoop:
    """The callers of one closed loop, and how many calls have ended since it was last asked."""

    def __init__(self, call: Call, window: Window) -> None:
        self._call = call
        self._window = window
        self._ended = 0
        self.is_counting = False
        self.is_over = False

    async def caller(self, number: int) -> None:
        """Make calls until it is over."""
        while not self.is_over:
            timing = await guarded(self._call, number)
            self._ended += 1
            self._window.calls += 1
            if self.is_counting:
                self._window.add(timing)
            if timing is None:
                await SYSTEM_CLOCK.sleep(FAILURE_PAUSE_S)

    async def until(self, calls: int, least_s: float) -> None:
        """Wait `least_s`, then until that many calls have ended; at most `PATIENCE_S` more."""
        self._ended = 0
        await SYSTEM_CLOCK.sleep(least_s)
        gives_up_s = time.perf_counter() + PATIENCE_S
        while self._ended < calls and time.perf_counter() < gives_up_s:
            await SYSTEM_CLOCK.sleep(POLL_S)


async def open_loop(call: Call, arrivals_s: Sequence[float]) -> Window:
    """Call at the given times, whether earlier calls have ended or not.

    A call's time counts from when it was due: a target that stalls is charged for those it kept
    from being asked. Returns when the last call has ended.
    """
    window = Window()
    begun_s = time.perf_counter()
    arrived: set[asyncio.Task[None]] = set()

    async def one(number: int, due_s: float) -> None:
        late_s = time.perf_counter() - due_s
        window.add(await guarded(call, number), late_s=late_s)

    async with asyncio.TaskGroup() as group:
        for number, at_s in enumerate(arrivals_s):
            due_s = begun_s + at_s
            if (wait_s := due_s - time.perf_counter()) > 0:
                await SYSTEM_CLOCK.sleep(wait_s)
            if len(arrived) >= MAX_ARRIVED:
                window.failures += 1
                continue
            task = group.create_task(one(number, due_s))
            arrived.add(task)
            task.add_done_callback(arrived.discard)
    window.elapsed_s = time.perf_counter() - begun_s
    return window


async def guarded(call: Call, number: int) -> Timing | None:
    """Make a call; one that takes too long has failed."""
    try:
        async with asyncio.timeout(CALL_TIMEOUT_S):
            return await call(number)
    except TimeoutError:
        return None
