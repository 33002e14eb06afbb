"""Runs: gapless logs, readers at any pace, cancellation, resume and retention."""

import asyncio
import gc

import pytest

from gateway.runs import Run, RunRegistry
from gateway.settings import GatewaySettings
from mesh.errors import InvalidArgument, Reason, ResourceExhausted
from mesh.testing.clock import ManualClock
from plexus.common.v1 import error_pb2, message_pb2
from plexus.gateway.v1 import gateway_service_pb2 as pb


def text(piece: str) -> pb.ChatResponse:
    return pb.ChatResponse(text=piece)


def completed() -> pb.ChatResponse:
    return pb.ChatResponse(completed=pb.Completed())


async def say_hello(run: Run) -> None:
    run.append(text("hel"))
    run.append(text("lo"))
    run.append(completed())


def registry(clock: ManualClock, **settings: int) -> RunRegistry:
    return RunRegistry(GatewaySettings(**settings), clock)  # pyright: ignore[reportArgumentType]


async def read(run: Run, after: int = 0) -> list[tuple[int, str]]:
    return [(event.sequence, event.text) async for event in run.follow(after)]


async def test_every_reader_sees_the_same_gapless_events() -> None:
    runs = registry(ManualClock())
    run = runs.start("acme", pb.Turn(), say_hello)
    first, second = await asyncio.gather(read(run), read(run))
    assert first == second == [(1, "hel"), (2, "lo"), (3, "")]


async def test_a_reader_can_start_after_any_event() -> None:
    runs = registry(ManualClock())
    run = runs.start("acme", pb.Turn(), say_hello)
    assert await read(run, 1) == [(2, "lo"), (3, "")]
    assert await read(run, 3) == []


async def test_nothing_follows_a_terminal_event() -> None:
    run = Run("r", "acme", resume_window_s=0)
    run.append(pb.ChatResponse(failed=error_pb2.Failure(code=14)))
    run.append(completed())
    assert [event.WhichOneof("event") async for event in run.follow()] == ["failed"]


async def run_until_cancelled(run: Run) -> None:
    try:
        await asyncio.get_running_loop().create_future()
    except asyncio.CancelledError:
        run.append(pb.ChatResponse(failed=error_pb2.Failure(code=1)))


async def test_a_run_that_loses_its_reader_is_cancelled_at_once() -> None:
    runs = registry(ManualClock())
    run = runs.start("acme", pb.Turn(), run_until_cancelled)
    runs.attach(run)
    runs.detach(run)
    assert [event.failed.code async for event in run.follow()] == [1]
    assert runs.statistics().live == 0


async def test_a_run_with_a_resume_window_waits_for_its_reader() -> None:
    clock = ManualClock()
    runs = registry(clock)
    run = runs.start("acme", pb.Turn(resume_window_ms=2_000), run_until_cancelled)
    runs.attach(run)
    runs.detach(run)
    await clock.wait_for_sleepers()
    await clock.advance(1.9)
    assert not run.ended
    await clock.advance(0.2)
    assert [event.failed.code async for event in run.follow()] == [1]


async def test_a_reader_that_comes_back_in_time_keeps_the_run() -> None:
    clock = ManualClock()
    runs = registry(clock)
    run = runs.start("acme", pb.Turn(resume_window_ms=2_000), run_until_cancelled)
    runs.attach(run)
    runs.detach(run)
    await clock.wait_for_sleepers()
    found = runs.find("acme", run.resume_token)
    runs.attach(found)
    await clock.advance(5)
    assert not run.ended
    await runs.close()
    assert run.ended


async def test_tokens_of_other_tenants_and_made_up_tokens_are_refused() -> None:
    runs = registry(ManualClock())
    run = runs.start("acme", pb.Turn(), say_hello)
    for tenant, token in (
        ("rival", run.resume_token),
        ("acme", run.id),
        ("acme", run.id + ".guess"),
        ("acme", ""),
    ):
        with pytest.raises(InvalidArgument) as raised:
            runs.find(tenant, token)
        assert raised.value.reason == Reason.INVALID_RESUME_TOKEN
    assert runs.find("acme", run.resume_token) is run


async def test_the_same_key_is_the_same_run_and_another_turn_is_refused() -> None:
    runs = registry(ManualClock())
    turn = pb.Turn(idempotency_key="k")
    run = runs.start("acme", turn, say_hello)
    assert runs.start("acme", turn, say_hello) is run
    assert runs.start("rival", turn, say_hello) is not run
    with pytest.raises(InvalidArgument) as raised:
        runs.start("acme", pb.Turn(idempotency_key="k", quiet=True), say_hello)
    assert raised.value.reason == Reason.IDEMPOTENCY_KEY_REUSED


async def test_live_runs_are_bounded() -> None:
    runs = registry(ManualClock(), max_live_runs=1)
    runs.start("acme", pb.Turn(), run_until_cancelled)
    with pytest.raises(ResourceExhausted) as raised:
        runs.start("acme", pb.Turn(), say_hello)
    assert raised.value.retry_after_s
    await runs.close()


async def test_ended_runs_are_forgotten_after_their_time() -> None:
    clock = ManualClock()
    runs = registry(clock)
    run = runs.start("acme", pb.Turn(), say_hello)
    await read(run)
    await asyncio.gather(*([run.task] if run.task else []))
    await clock.advance(59)
    assert runs.find("acme", run.resume_token) is run
    await clock.advance(2)
    with pytest.raises(InvalidArgument):
        runs.find("acme", run.resume_token)
    assert runs.statistics().retained == 0


async def test_ended_runs_hold_a_bounded_number_of_bytes() -> None:
    runs = registry(ManualClock(), retention_bytes=10_000)

    async def long(run: Run) -> None:
        run.append(text("x" * 4_000))
        run.append(completed())

    for _ in range(20):
        run = runs.start("acme", pb.Turn(), long)
        await asyncio.gather(*([run.task] if run.task else []))
    assert runs.statistics().retained_bytes <= 10_000
    assert runs.statistics().retained == 2


async def test_a_reader_that_comes_back_and_leaves_again_begins_a_new_window() -> None:
    clock = ManualClock()
    runs = registry(clock)
    run = runs.start("acme", pb.Turn(resume_window_ms=2_000), run_until_cancelled)
    for _ in range(3):
        runs.attach(run)
        runs.detach(run)
        await clock.wait_for_sleepers()
        await clock.advance(1.5)
    assert not run.ended
    await clock.advance(0.6)
    assert [event.failed.code async for event in run.follow()] == [1]


async def test_one_of_two_readers_that_leaves_changes_nothing() -> None:
    runs = registry(ManualClock())
    run = runs.start("acme", pb.Turn(), run_until_cancelled)
    runs.attach(run)
    runs.attach(run)
    runs.detach(run)
    await asyncio.sleep(0)
    assert not run.ended
    await runs.close()


async def test_a_run_cancelled_before_its_first_step_ends_with_one_failure() -> None:
    runs = registry(ManualClock())
    run = runs.start("acme", pb.Turn(), say_hello)
    assert run.cancel()
    assert [event.WhichOneof("event") async for event in run.follow()] == ["failed"]
    assert not run.cancel()


async def test_a_run_that_falls_over_ends_with_one_failure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fall_over(run: Run) -> None:
        run.append(text("hel"))
        raise RuntimeError("secret")

    runs = registry(ManualClock())
    run = runs.start("acme", pb.Turn(), fall_over)
    events = [event async for event in run.follow()]
    assert [event.WhichOneof("event") for event in events] == ["text", "failed"]
    del run, runs
    gc.collect()
    assert "secret" not in f"{events} {caplog.text}"


async def test_a_cancelled_run_leaves_its_key_to_the_next() -> None:
    clock = ManualClock()
    runs = registry(clock)
    turn = pb.Turn(idempotency_key="k")
    lost = runs.start("acme", turn, run_until_cancelled)
    lost.cancel()
    assert runs.start("acme", turn, say_hello) is not lost
    run = runs.start("acme", turn, say_hello)
    assert run.id == lost.id
    await asyncio.gather(*([run.task] if run.task else []))
    await clock.advance(59)
    assert runs.find("acme", run.resume_token) is run
    assert runs.start("acme", turn, say_hello) is run
    await clock.advance(2)
    assert runs.start("acme", turn, say_hello) is not run
    assert runs.statistics().retained == 0
    assert runs.statistics().retained_bytes == 0


async def test_closing_ends_runs_that_wait_for_a_reader() -> None:
    clock = ManualClock()
    runs = registry(clock)
    run = runs.start("acme", pb.Turn(resume_window_ms=60_000), run_until_cancelled)
    runs.attach(run)
    runs.detach(run)
    await clock.wait_for_sleepers()
    await runs.close()
    assert run.ended
    assert clock.sleeper_count == 0


def test_a_log_weighs_what_it_holds_in_bytes() -> None:
    run = Run("r", "acme", resume_window_s=0)
    run.append(text("日本語" * 1000))
    call = message_pb2.ToolCall(arguments_json="x" * 5000)
    run.append(pb.ChatResponse(tool_call=call))
    run.append(pb.ChatResponse(refusal="x" * 3000))
    assert run.size_bytes > 9000 + 5000 + 3000
