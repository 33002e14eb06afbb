"""Single-flight: one leads, the rest wait, and nobody is ever stranded."""

import asyncio

import pytest

from mesh.testing.clock import ManualClock
from services.cache.flights import Flights, Landed, Led

KEY = b"key"
LEASE_S = 60.0

Entered = Landed[str] | Led[str]


def make(clock: ManualClock, *, max_flights: int = 10, max_waiters: int = 10) -> Flights[str]:
    return Flights(clock, lease_s=LEASE_S, max_flights=max_flights, max_waiters=max_waiters)


async def lead(flights: Flights[str], key: bytes = KEY) -> bytes:
    entered = await flights.enter(key, max_wait_s=0)
    assert isinstance(entered, Led)
    assert entered.nonce is not None
    return entered.nonce


async def wait(
    flights: Flights[str], clock: ManualClock, count: int, *, max_wait_s: float = 10.0
) -> list[asyncio.Task[Entered]]:
    tasks = [asyncio.create_task(flights.enter(KEY, max_wait_s=max_wait_s)) for _ in range(count)]
    await clock.wait_for_sleepers(count)
    assert flights.statistics().waiting == count
    return tasks


async def test_those_who_wait_get_the_leaders_answer() -> None:
    clock = ManualClock()
    flights = make(clock)
    nonce = await lead(flights)
    waiting = await wait(flights, clock, 5)
    flights.land(nonce, KEY, "answer")
    assert await asyncio.gather(*waiting) == [Landed("answer")] * 5
    assert await flights.enter(KEY, max_wait_s=1) == Landed("answer"), "until the leader finishes"
    flights.finish(nonce, KEY)
    assert flights.statistics().flights == 0
    await lead(flights)


async def test_a_leader_that_gives_up_hands_over_to_exactly_one() -> None:
    clock = ManualClock()
    flights = make(clock)
    nonce = await lead(flights)
    waiting = await wait(flights, clock, 5)
    flights.finish(nonce, KEY)
    done, pending = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    assert done == {waiting[0]}, "whoever waited longest"
    entered = waiting[0].result()
    assert isinstance(entered, Led)
    assert entered.waited
    assert entered.nonce is not None
    flights.land(entered.nonce, KEY, "answer")
    assert await asyncio.gather(*pending) == [Landed("answer")] * 4


async def test_a_leader_that_vanishes_is_replaced_when_its_lease_ends() -> None:
    clock = ManualClock()
    flights = make(clock)
    nonce = await lead(flights)
    waiting = await wait(flights, clock, 3, max_wait_s=10 * LEASE_S)
    await clock.advance(LEASE_S)
    async with asyncio.timeout(5):
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    assert len(done) == 1
    assert flights.statistics().handovers == 1
    flights.land(nonce, KEY, "too late")
    await clock.wait_for_sleepers(2)
    assert flights.statistics().waiting == 2, "a lost lease gives nothing to anybody"
    for task in waiting:
        task.cancel()


async def test_a_waiter_that_leaves_affects_nobody() -> None:
    clock = ManualClock()
    flights = make(clock)
    nonce = await lead(flights)
    waiting = await wait(flights, clock, 3)
    waiting[1].cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting[1]
    flights.land(nonce, KEY, "answer")
    assert await asyncio.gather(waiting[0], waiting[2]) == [Landed("answer")] * 2


async def test_a_waiter_that_leaves_just_when_it_should_lead_passes_the_lead_on() -> None:
    clock = ManualClock()
    flights = make(clock)
    nonce = await lead(flights)
    waiting = await wait(flights, clock, 3)
    flights.finish(nonce, KEY)
    waiting[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting[0]
    async with asyncio.timeout(5):
        entered = await waiting[1]
    assert isinstance(entered, Led)
    assert flights.statistics().handovers == 2
    waiting[2].cancel()


async def test_who_gives_up_waiting_leads_for_itself_and_its_answer_serves_the_others() -> None:
    clock = ManualClock()
    flights = make(clock)
    await lead(flights)
    impatient = (await wait(flights, clock, 1, max_wait_s=1.0))[0]
    patient = asyncio.create_task(flights.enter(KEY, max_wait_s=30.0))
    await clock.wait_for_sleepers(2)
    await clock.advance(1.0)
    entered = await impatient
    assert isinstance(entered, Led)
    assert entered.nonce is not None
    flights.land(entered.nonce, KEY, "answer")
    assert await patient == Landed("answer")
    flights.finish(entered.nonce, KEY)
    assert flights.statistics().flights == 0, "with the answer there, the first leader has no part"


async def test_who_may_not_wait_leads_at_once() -> None:
    flights = make(ManualClock())
    assert await lead(flights) != await lead(flights)


async def test_finishing_twice_or_with_anothers_name_does_nothing() -> None:
    flights = make(ManualClock())
    nonce = await lead(flights)
    flights.finish(nonce, b"another key")
    assert flights.statistics().flights == 1
    flights.finish(nonce, KEY)
    flights.finish(nonce, KEY)
    assert flights.statistics().flights == 0


async def test_limits_are_visible_and_never_block() -> None:
    clock = ManualClock()
    flights = make(clock, max_flights=2, max_waiters=1)
    first = await lead(flights, b"1")
    await lead(flights, b"2")
    assert await flights.enter(b"3", max_wait_s=1) == Led(None)
    assert flights.statistics().unleased == 1
    waiting = asyncio.create_task(flights.enter(b"1", max_wait_s=1))
    await clock.wait_for_sleepers(1)
    assert isinstance(await flights.enter(b"1", max_wait_s=1), Led)
    flights.land(first, b"1", "answer")
    assert await waiting == Landed("answer")


async def test_flights_whose_leaders_vanished_make_room() -> None:
    clock = ManualClock()
    flights = make(clock, max_flights=2)
    await lead(flights, b"1")
    await lead(flights, b"2")
    await clock.advance(LEASE_S)
    await lead(flights, b"3")
    assert flights.statistics().flights == 1
