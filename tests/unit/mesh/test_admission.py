"""Admission: the limit holds, places are never lost, and the most urgent goes first."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.admission import Admission, AdmissionStatistics
from mesh.errors import DeadlineExceeded, PlexusError, Reason, ResourceExhausted
from mesh.testing.clock import ManualClock

START_S = 1_000.0
"""Where a `ManualClock` begins."""


async def settle() -> None:
    """Let everything that can run do so."""
    for _ in range(12):
        await asyncio.sleep(0)


@dataclass
class Caller:
    """One call through admission: what it asked for and what became of it."""

    order: int
    priority: int
    deadline_s: float | None
    leave: asyncio.Event = field(default_factory=asyncio.Event)
    outcome: str = "waiting"
    task: asyncio.Task[None] | None = None

    @property
    def urgency(self) -> tuple[int, float, int]:
        at_s = float("inf") if self.deadline_s is None else self.deadline_s
        return self.priority, at_s, self.order

    async def run(self, admission: Admission) -> None:
        try:
            await admission.acquire(deadline_s=self.deadline_s, priority=self.priority)
        except PlexusError as error:
            self.outcome = type(error).__name__
            return
        except asyncio.CancelledError:
            self.outcome = "cancelled"
            raise
        self.outcome = "running"
        try:
            await self.leave.wait()
        finally:
            self.outcome = "left"
            admission.release()


class World:
    """Admission beside the simplest model of it: a sorted list."""

    def __init__(self, limit: int, queue_limit: int) -> None:
        self.clock = ManualClock()
        self.admission = Admission(self.clock, limit=limit, queue_limit=queue_limit)
        self.limit, self.queue_limit = limit, queue_limit
        self.callers: list[Caller] = []
        self.expected: dict[int, str] = {}
        self.shed_count = 0

    def those(self, outcome: str) -> list[Caller]:
        return [c for c in self.callers if self.expected[c.order] == outcome]

    def arrive(self, priority: int, patience_s: int) -> None:
        deadline_s = self.clock.monotonic_s() + patience_s if patience_s else None
        caller = Caller(len(self.callers), priority, deadline_s)
        caller.task = asyncio.create_task(caller.run(self.admission))
        if len(self.those("running")) < self.limit:
            self.expected[caller.order] = "running"
        elif len(self.those("waiting")) < self.queue_limit:
            self.expected[caller.order] = "waiting"
        else:
            self.expected[caller.order] = "ResourceExhausted"
            self.shed_count += 1
        self.callers.append(caller)

    def depart(self, which: int) -> None:
        if running := self.those("running"):
            leaving = running[which % len(running)]
            leaving.leave.set()
            self.expected[leaving.order] = "left"
            self._admit_next()

    def cancel(self, which: int) -> None:
        present = [*self.those("running"), *self.those("waiting")]
        if not present:
            return
        caller = present[which % len(present)]
        assert caller.task is not None
        caller.task.cancel()
        if self.expected[caller.order] == "running":
            self.expected[caller.order] = "left"
            self._admit_next()
        else:
            self.expected[caller.order] = "cancelled"

    async def advance(self, delay_s: int) -> None:
        until_s = self.clock.monotonic_s() + delay_s
        for caller in self.those("waiting"):
            if caller.deadline_s is not None and caller.deadline_s <= until_s:
                self.expected[caller.order] = "DeadlineExceeded"
                self.shed_count += 1
        await self.clock.advance(delay_s)

    def _admit_next(self) -> None:
        if waiting := self.those("waiting"):
            first = min(waiting, key=lambda caller: caller.urgency)
            self.expected[first.order] = "running"

    def check(self) -> None:
        assert {c.order: c.outcome for c in self.callers} == self.expected
        running, waiting = len(self.those("running")), len(self.those("waiting"))
        assert running <= self.limit
        assert waiting <= self.queue_limit
        assert self.admission.statistics() == AdmissionStatistics(running, waiting, self.shed_count)

    async def close(self) -> None:
        for caller in self.callers:
            if caller.task is not None:
                caller.task.cancel()
        await settle()
        assert self.admission.statistics().running == 0
        assert self.admission.statistics().queued == 0


steps = st.lists(
    st.one_of(
        st.tuples(st.just("arrive"), st.integers(0, 2), st.integers(0, 5)),
        st.tuples(st.just("depart"), st.integers(0, 9), st.just(0)),
        st.tuples(st.just("cancel"), st.integers(0, 9), st.just(0)),
        st.tuples(st.just("advance"), st.integers(1, 3), st.just(0)),
    ),
    max_size=40,
)


@given(steps, st.integers(1, 3), st.integers(0, 4))
def test_admission_does_what_a_sorted_list_would(
    steps: Sequence[tuple[str, int, int]], limit: int, queue_limit: int
) -> None:
    async def run() -> None:
        world = World(limit, queue_limit)
        for action, a, b in steps:
            match action:
                case "arrive":
                    world.arrive(a, b)
                case "depart":
                    world.depart(a)
                case "cancel":
                    world.cancel(a)
                case _:
                    await world.advance(a)
            await settle()
            world.check()
        await world.close()

    asyncio.run(run())


@given(
    st.lists(st.tuples(st.integers(0, 11), st.sampled_from("lc"), st.integers(0, 3)), max_size=30)
)
def test_no_place_is_lost_when_things_happen_at_once(
    steps: Sequence[tuple[int, str, int]],
) -> None:
    """Leaving and cancelling interleave with the loop's turns in every way."""

    async def run() -> None:
        admission = Admission(ManualClock(), limit=2, queue_limit=10)
        callers = [Caller(n, 1, START_S + 5 if n % 2 else None) for n in range(12)]
        tasks = [asyncio.create_task(caller.run(admission)) for caller in callers]
        await settle()
        for who, action, turns in steps:
            if action == "l":
                callers[who].leave.set()
            else:
                tasks[who].cancel()
            for _ in range(turns):
                await asyncio.sleep(0)
                assert sum(caller.outcome == "running" for caller in callers) <= 2
        for caller in callers:
            caller.leave.set()
        await asyncio.wait(tasks)
        assert admission.statistics().running == 0
        assert admission.statistics().queued == 0
        await admission.acquire()
        await admission.acquire()
        assert admission.statistics().running == 2

    asyncio.run(run())


async def order_of(*asked: tuple[int, float | None]) -> list[int]:
    """Return the order in which callers with these priorities and deadlines are admitted."""
    admission = Admission(ManualClock(), limit=1, queue_limit=len(asked))
    await admission.acquire()
    admitted: list[int] = []

    async def call(number: int, priority: int, deadline_s: float | None) -> None:
        await admission.acquire(priority=priority, deadline_s=deadline_s)
        admitted.append(number)
        admission.release()

    tasks = [asyncio.create_task(call(n, *each)) for n, each in enumerate(asked)]
    await settle()
    admission.release()
    await asyncio.wait(tasks)
    return admitted


async def test_priority_goes_before_deadline_and_deadline_before_arrival() -> None:
    late, soon = START_S + 9, START_S + 1
    assert await order_of((1, None), (1, late), (1, soon), (0, None), (0, late)) == [4, 3, 2, 1, 0]
    assert await order_of((1, late), (1, late), (1, late)) == [0, 1, 2]


async def test_a_full_queue_sheds_at_once_and_says_when_to_return() -> None:
    admission = Admission(ManualClock(), limit=1, queue_limit=0)
    await admission.acquire()
    with pytest.raises(ResourceExhausted) as caught:
        await admission.acquire()
    assert (caught.value.reason, caught.value.retry_after_s) == (Reason.OVERLOADED, 1.0)


async def test_those_who_left_the_queue_free_their_place_in_it() -> None:
    """A cancelled waiter behind a more urgent one must not count as queued."""
    admission = Admission(ManualClock(), limit=1, queue_limit=2)
    await admission.acquire()
    first = asyncio.create_task(admission.acquire(priority=0))
    second = asyncio.create_task(admission.acquire(priority=1))
    await settle()
    second.cancel()
    await settle()
    third = asyncio.create_task(admission.acquire(priority=1))
    await settle()
    assert admission.statistics() == AdmissionStatistics(1, 2, 0)
    admission.release()
    await first
    admission.release()
    await third


async def test_a_deadline_that_has_passed_is_not_queued_for_long() -> None:
    admission = Admission(ManualClock(), limit=1, queue_limit=1)
    await admission.acquire()
    with pytest.raises(DeadlineExceeded):
        await admission.acquire(deadline_s=START_S - 1)
    assert admission.statistics().queued == 0


async def test_waiters_that_come_and_go_take_no_room() -> None:
    clock = ManualClock()
    admission = Admission(clock, limit=1, queue_limit=4)
    await admission.acquire()
    urgent = asyncio.create_task(admission.acquire(priority=0))
    await settle()
    for _ in range(500):
        waiter = asyncio.create_task(admission.acquire(priority=1))
        await settle()
        waiter.cancel()
        await settle()
    assert len(admission._queue) < 50  # pyright: ignore[reportPrivateUsage]
    admission.release()
    await urgent


@pytest.mark.parametrize(
    "make",
    [
        lambda: Admission(ManualClock(), limit=0, queue_limit=1),
        lambda: Admission(ManualClock(), limit=1, queue_limit=-1),
    ],
)
def test_limits_that_admit_nobody_are_refused(make: Callable[[], Admission]) -> None:
    with pytest.raises(ValueError, match="at least"):
        make()
