"""What the closed and the open loop count."""

import asyncio

from bench.window import Timing, Window, closed_loop, open_loop


def test_a_call_that_could_not_start_in_time_is_charged_for_it() -> None:
    window = Window()
    window.add(Timing(0.010, first_s=0.004), late_s=0.5)
    assert window.total_s == [0.510]
    assert window.first_s == [0.504]


def test_a_failed_call_counts_as_a_failure_only() -> None:
    window = Window(elapsed_s=1.0)
    window.add(None)
    assert (window.failures, window.total_s, window.rate_per_s) == (1, [], 0.0)


async def test_no_more_callers_than_asked_are_at_work_and_all_of_them_are() -> None:
    busy: set[int] = set()
    seen: set[int] = set()

    async def call(caller: int) -> Timing:
        assert caller not in busy
        busy.add(caller)
        seen.add(caller)
        await asyncio.sleep(0)
        busy.remove(caller)
        return Timing(0.001)

    window = await closed_loop(call, concurrency=3, warm_up_s=0.01, window_s=0.05)
    assert seen == {0, 1, 2}
    assert busy == set()
    assert 0 < len(window.total_s) < window.calls
    assert window.elapsed_s >= 0.05


async def test_a_slow_target_is_given_time_for_one_call_per_caller() -> None:
    release = asyncio.Event()
    asyncio.get_running_loop().call_later(0.1, release.set)

    async def call(_: int) -> Timing:
        await release.wait()
        await asyncio.sleep(0)  # as every real call does: it lets the others run
        return Timing(0.1)

    window = await closed_loop(call, concurrency=2, warm_up_s=0.0, window_s=0.0)
    assert len(window.total_s) >= 2


async def test_arrivals_do_not_wait_for_answers() -> None:
    release = asyncio.Event()
    waiting = 0

    async def call(_: int) -> Timing:
        nonlocal waiting
        waiting += 1
        if waiting == 3:
            release.set()
        await release.wait()
        return Timing(0.0)

    window = await open_loop(call, [0.0, 0.001, 0.002])
    assert len(window.total_s) == 3
    assert window.failures == 0
