"""Turns against components that fail on purpose: one end, one bill, nothing acknowledged lost."""

import asyncio

import grpc.aio
import pytest

from mesh.call import outgoing_call
from mesh.errors import InvalidArgument, Reason, Unavailable, from_rpc_error, to_failure
from plexus.cache.v1 import cache_service_pb2 as cache_pb
from plexus.common.v1 import message_pb2, model_pb2, scope_pb2
from plexus.gateway.v1 import gateway_service_pb2 as pb
from plexus.memory.v1 import memory_service_pb2 as memory_pb
from plexus.metrics.v1 import metrics_service_pb2 as metrics_pb
from plexus.router.v1 import router_service_pb2 as router_pb
from tests.unit.gateway.conftest import (
    ACME,
    ANSWER,
    LEASE,
    Rig,
    attempt,
    checked,
    finished,
    kinds,
    piece,
    read_until,
    turn,
    until,
    user,
)

REQUIRE = pb.MemoryOptions(policy=pb.MEMORY_POLICY_REQUIRE)
DOWN = Unavailable("down")
WINDOW_MS = 60_000


def never() -> asyncio.Event:
    return asyncio.Event()


def is_text(event: pb.ChatResponse) -> bool:
    return event.WhichOneof("event") == "text"


def bills(rig: Rig) -> list[tuple[int, int, int, bool]]:
    """Return outcome, input, output and whether it was estimated of all that is booked."""
    return [
        (e.outcome, e.usage.input_tokens, e.usage.output_tokens, e.usage.estimated)
        for e in rig.metrics.booked.values()
    ]


async def test_completed_comes_after_both_messages_and_the_bill(rig: Rig) -> None:
    await rig.open()
    events = await rig.chat(turn())
    assert kinds(events)[-2:] == ["usage", "completed"]
    assert rig.memory.texts() == ["Hi.", "Hello."]
    assert bills(rig) == [(metrics_pb.OUTCOME_COMPLETED, 7, 9, False)]
    assert [stored.lease for stored in rig.cache.stored] == [LEASE]


async def test_a_second_cancel_does_not_interrupt_the_booking_of_the_first(rig: Rig) -> None:
    await rig.open()
    rig.router.steps = (attempt(), piece("Hello"), never())
    rig.metrics.wait_for = asyncio.Event()
    with outgoing_call(ACME):
        call = rig.stub.Chat(pb.ChatRequest(turn=turn(resume_window_ms=WINDOW_MS)))
        events = await read_until(call, is_text)
    token = events[0].started.resume_token
    assert await rig.cancel(token)
    await rig.metrics.asked.wait()
    assert await rig.cancel(token)
    rig.metrics.wait_for.set()
    events = await checked(call, events)
    assert events[-1].failed.reason == Reason.CANCELLED
    assert bills(rig) == [(metrics_pb.OUTCOME_CANCELLED, 5, 2, True)]
    assert rig.cache.released == [LEASE]
    assert not await rig.cancel(token)


async def test_a_reader_that_leaves_a_failed_turn_does_not_interrupt_its_booking(rig: Rig) -> None:
    await rig.open()
    rig.router.steps = (attempt(), piece("Hello"), InvalidArgument("refused"))
    rig.metrics.wait_for = asyncio.Event()
    with outgoing_call(ACME):
        call = rig.stub.Chat(pb.ChatRequest(turn=turn()))
        await rig.metrics.asked.wait()
        call.cancel()
        await asyncio.gather(call.read(), return_exceptions=True)
    rig.metrics.wait_for.set()
    await until(lambda: bool(rig.metrics.booked))
    assert bills(rig) == [(metrics_pb.OUTCOME_FAILED, 5, 2, True)]


async def test_closing_the_gateway_lets_what_settles_be_booked(rig: Rig) -> None:
    gateway = await rig.open()
    rig.router.steps = (attempt(), piece("Hello"), never())
    rig.metrics.wait_for = asyncio.Event()
    with outgoing_call(ACME):
        call = rig.stub.Chat(pb.ChatRequest(turn=turn(resume_window_ms=WINDOW_MS)))
        events = await read_until(call, is_text)
    await rig.cancel(events[0].started.resume_token)
    await rig.metrics.asked.wait()
    closing = asyncio.create_task(gateway.runs.close())
    await asyncio.sleep(0)
    rig.metrics.wait_for.set()
    await closing
    await checked(call, events)
    assert bills(rig) == [(metrics_pb.OUTCOME_CANCELLED, 5, 2, True)]


async def test_a_failed_attempt_is_booked_once_also_when_none_follows(rig: Rig) -> None:
    await rig.open()
    used = model_pb2.Usage(input_tokens=3, output_tokens=4)
    failed = attempt(failure=to_failure(DOWN), usage=used)
    rig.router.steps = (attempt(), piece("Hel"), failed, Unavailable("cut"))
    events = await rig.chat(turn())
    assert events[-1].failed.code == grpc.StatusCode.UNAVAILABLE.value[0]
    assert bills(rig) == [(metrics_pb.OUTCOME_FAILED, 3, 4, False)]


async def test_what_a_reset_voids_is_paid_for_but_neither_remembered_nor_stored(rig: Rig) -> None:
    await rig.open()
    used = model_pb2.Usage(input_tokens=3, output_tokens=4)
    failed = attempt(failure=to_failure(DOWN), usage=used)
    reset = router_pb.GenerateResponse(reset=router_pb.Reset(why="cut"))
    rig.router.steps = (attempt(), piece("Void"), failed, reset, attempt(2), *ANSWER[1:])
    events = await rig.chat(turn())
    assert rig.memory.texts() == ["Hi.", "Hello."]
    assert rig.cache.stored[0].response.message.parts[0].text == "Hello."
    assert sorted(bills(rig)) == [
        (metrics_pb.OUTCOME_COMPLETED, 7, 9, False),
        (metrics_pb.OUTCOME_FAILED, 3, 4, False),
    ]
    (bill,) = (event.usage for event in events if event.HasField("usage"))
    assert bill.cost.nano_usd == 7 + 9 + 3 + 4


async def test_the_pieces_of_a_tool_call_count_when_a_stream_is_cancelled(rig: Rig) -> None:
    await rig.open()
    delta = router_pb.ToolCallDelta(id="c", name="look_up", arguments_json='{"city": "Oslo"')
    rig.router.steps = (attempt(), router_pb.GenerateResponse(tool_call=delta), piece("."), never())
    with outgoing_call(ACME):
        call = rig.stub.Chat(pb.ChatRequest(turn=turn(resume_window_ms=WINDOW_MS)))
        events = await read_until(call, is_text)
        await rig.cancel(events[0].started.resume_token)
        await checked(call, events)
    ((_, _, output_tokens, estimated),) = bills(rig)
    assert estimated
    assert output_tokens > 2


async def test_a_turn_that_requires_memory_fails_without_waiting_for_the_model(rig: Rig) -> None:
    await rig.open()
    rig.memory.failure = DOWN
    rig.router.steps = (attempt(), never())
    events = await rig.chat(turn(memory=REQUIRE), timeout_s=5)
    assert events[-1].failed.reason == Reason.MEMORY_UNAVAILABLE
    assert rig.cache.released == [LEASE]


async def test_reported_usage_is_booked_when_the_turn_ends_before_it_is_remembered(
    rig: Rig,
) -> None:
    await rig.open()
    rig.memory.wait_for = asyncio.Event()
    with outgoing_call(ACME):
        call = rig.stub.Chat(pb.ChatRequest(turn=turn(resume_window_ms=WINDOW_MS)))
        events = await read_until(call, lambda event: event.stage.name == "generate")
        await rig.cancel(events[0].started.resume_token)
        await checked(call, events)
    assert bills(rig) == [(metrics_pb.OUTCOME_CANCELLED, 7, 9, False)]


async def test_a_turn_cancelled_before_the_model_says_anything_frees_its_lease(rig: Rig) -> None:
    await rig.open()
    rig.router.steps = (never(),)
    with outgoing_call(ACME):
        call = rig.stub.Chat(pb.ChatRequest(turn=turn(resume_window_ms=WINDOW_MS)))
        events = await read_until(call, lambda event: event.stage.name == "cache")
        await rig.cancel(events[0].started.resume_token)
        events = await checked(call, events)
    assert kinds(events)[-1] == "failed"
    assert rig.cache.released == [LEASE]
    assert bills(rig) == []


@pytest.mark.parametrize(
    "verdict", [cache_pb.VERDICT_MISS, cache_pb.VERDICT_UNAVAILABLE, cache_pb.VERDICT_BYPASS]
)
async def test_a_lease_is_stored_under_whatever_the_verdict(rig: Rig, verdict: int) -> None:
    await rig.open()
    rig.cache.found.verdict = verdict  # pyright: ignore[reportAttributeAccessIssue]
    await rig.chat(turn())
    assert [stored.lease for stored in rig.cache.stored] == [LEASE]
    assert rig.cache.released == []


async def test_a_lease_whose_store_fails_is_released(rig: Rig) -> None:
    await rig.open()
    rig.cache.failure = DOWN
    events = await rig.chat(turn())
    assert kinds(events)[-1] == "completed"
    assert rig.cache.released == [LEASE]


async def test_a_hit_is_remembered_and_booked_as_cached(rig: Rig) -> None:
    await rig.open()
    parts = [message_pb2.Part(reasoning="Hm."), message_pb2.Part(text="Kept.")]
    rig.cache.found = cache_pb.LookupResponse(
        verdict=cache_pb.VERDICT_EXACT_HIT,
        response=model_pb2.ModelResponse(message=message_pb2.Message(parts=parts)),
    )
    events = await rig.chat(turn(quiet=True))
    assert kinds(events) == ["started", "reasoning", "text", "usage", "completed"]
    assert rig.memory.texts() == ["Hi.", "Kept."]
    assert [event.cached for event in rig.metrics.booked.values()] == [True]
    assert rig.router.requests == []


async def test_a_full_outbox_fails_the_turn_once(rig: Rig) -> None:
    await rig.open(outbox_limit=0)
    rig.memory.failure = DOWN
    rig.metrics.failure = DOWN
    events = await rig.chat(turn())
    assert events[-1].failed.reason == Reason.OVERLOADED


async def test_what_memory_and_ledger_missed_reaches_them_later_once(rig: Rig) -> None:
    gateway = await rig.open()
    rig.memory.failure = rig.metrics.failure = DOWN
    events = await rig.chat(turn())
    reasons = [event.warning.reason for event in events if event.HasField("warning")]
    assert sorted(reasons) == [
        Reason.LEDGER_UNAVAILABLE,
        Reason.MEMORY_UNAVAILABLE,
        Reason.MEMORY_UNAVAILABLE,
    ]
    assert kinds(events)[-1] == "completed"
    rig.memory.failure = rig.metrics.failure = None
    await until(lambda: not gateway.outbox.pending_count)
    assert rig.memory.texts() == ["Hi.", "Hello."]
    assert bills(rig) == [(metrics_pb.OUTCOME_COMPLETED, 7, 9, False)]


async def test_a_deadline_ends_the_turn_once_and_books_what_was_used(rig: Rig) -> None:
    await rig.open()
    rig.router.steps = (attempt(), piece("Hello"), never())
    events = await rig.chat(turn(), timeout_s=0.5)
    assert events[-1].failed.reason == Reason.DEADLINE_EXCEEDED
    await until(lambda: bool(rig.metrics.booked))
    assert bills(rig) == [(metrics_pb.OUTCOME_FAILED, 5, 2, True)]


async def test_an_answer_is_bounded_in_bytes_not_in_characters(rig: Rig) -> None:
    await rig.open(max_answer_bytes=100)
    rig.router.steps = (attempt(), piece("é" * 60), finished())
    events = await rig.chat(turn())
    assert events[-1].failed.reason == Reason.MESSAGE_TOO_LARGE


async def test_tool_calls_without_arguments_are_bounded_too(rig: Rig) -> None:
    await rig.open(max_answer_bytes=10_000)
    deltas = (router_pb.ToolCallDelta(index=at, name="f") for at in range(100))
    calls = (router_pb.GenerateResponse(tool_call=delta) for delta in deltas)
    rig.router.steps = (attempt(), *calls, finished())
    events = await rig.chat(turn())
    assert events[-1].failed.reason == Reason.MESSAGE_TOO_LARGE


async def test_tool_calls_are_put_together_from_their_pieces(rig: Rig) -> None:
    await rig.open()
    deltas = (
        router_pb.ToolCallDelta(index=1, id="b", name="g", arguments_json="{}"),
        router_pb.ToolCallDelta(index=0, id="a", name="f", arguments_json='{"x"'),
        router_pb.ToolCallDelta(index=0, arguments_json=":1}"),
    )
    calls = (router_pb.GenerateResponse(tool_call=delta) for delta in deltas)
    rig.router.steps = (attempt(), *calls, finished(input_tokens=1))
    events = await rig.chat(turn())
    found = [event.tool_call for event in events if event.HasField("tool_call")]
    assert [(c.id, c.name, c.arguments_json) for c in found] == [
        ("a", "f", '{"x":1}'),
        ("b", "g", "{}"),
    ]
    assert kinds(events)[-1] == "completed"
    assert rig.memory.texts() == ["Hi."]
    assert len(bills(rig)) == 1


async def test_a_refusal_is_an_answer_and_is_remembered(rig: Rig) -> None:
    await rig.open()
    rig.router.steps = (attempt(), router_pb.GenerateResponse(refusal="I will not."), finished())
    await rig.chat(turn())
    assert rig.memory.texts() == ["Hi.", "I will not."]


async def test_what_is_excluded_from_recall_is_what_memory_would_have_kept(rig: Rig) -> None:
    await rig.open()
    await rig.chat(turn(user("  Hi. \n")))
    await rig.chat(turn(user("é" * 20_000)))
    padded, long = rig.memory.recalls
    assert padded.query == "Hi."
    assert [*padded.exclude_texts, *long.exclude_texts] == [
        text for text in rig.memory.texts() if text != "Hello."
    ]
    assert len(long.exclude_texts[0].encode()) == 32 * 1024


async def test_a_long_history_is_recalled_for_and_its_questions_are_remembered(rig: Rig) -> None:
    await rig.open()
    said = [f"question {at}" for at in range(600)]
    await rig.chat(turn(*(user(text) for text in said)))
    assert list(rig.memory.recalls[0].exclude_texts) == said[:-201:-1]
    assert max(len(request.writes) for request in rig.memory.written) <= 500
    assert rig.memory.texts() == [*said, "Hello."]


async def test_a_picture_without_words_still_has_its_conversation(rig: Rig) -> None:
    await rig.open()
    image = message_pb2.Part(image=message_pb2.Image(url="https://example.com/cat.png"))
    picture = message_pb2.Message(role=message_pb2.ROLE_USER, parts=[image])
    events = await rig.chat(turn(picture, scope=scope_pb2.Scope(conversation_id="c")))
    assert kinds(events)[-1] == "completed"
    assert [(asked.query, asked.window_turns) for asked in rig.memory.recalls] == [("", 0)]


async def test_a_repeat_after_a_failure_runs_anew_in_the_same_conversation(rig: Rig) -> None:
    await rig.open()
    rig.router.steps = (Unavailable("down"),)
    failed = await rig.chat(turn(idempotency_key="k"))
    rig.router.steps = ANSWER
    second = await rig.chat(turn(idempotency_key="k"))
    third = await rig.chat(turn(idempotency_key="k"))
    assert [kinds(events)[-1] for events in (failed, second, third)] == [
        "failed",
        "completed",
        "completed",
    ]
    assert second == third
    assert failed[0].started.conversation_id == second[0].started.conversation_id
    assert len(bills(rig)) == 1


async def test_another_turn_under_a_key_that_is_free_again_is_remembered(rig: Rig) -> None:
    await rig.open(retention_s=0)
    await rig.chat(turn(idempotency_key="k"))
    await rig.chat(turn(user("Bye."), idempotency_key="k"))
    keys = [request.idempotency_key for request in rig.memory.written]
    assert len(set(keys)) == len(keys) == 4


async def test_equal_turns_at_once_under_one_key_are_one_run(rig: Rig) -> None:
    await rig.open()
    first, second = await asyncio.gather(
        rig.chat(turn(idempotency_key="k")), rig.chat(turn(idempotency_key="k"))
    )
    assert first == second
    assert len(rig.router.requests) == 1


async def test_a_position_past_the_end_is_refused_and_the_end_itself_is_empty(rig: Rig) -> None:
    await rig.open()
    events = await rig.chat(turn())
    token = events[0].started.resume_token
    with outgoing_call(ACME):
        at_end = pb.Resume(resume_token=token, after_sequence=len(events))
        assert [e async for e in rig.stub.Chat(pb.ChatRequest(resume=at_end))] == []
        for after in (len(events) + 1, -1):
            beyond = pb.Resume(resume_token=token, after_sequence=after)
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await rig.stub.Chat(pb.ChatRequest(resume=beyond)).read()
            assert from_rpc_error(raised.value).reason == Reason.INVALID_FIELD


async def test_embeddings_are_booked_at_the_time_they_were_made(rig: Rig) -> None:
    gateway = await rig.open()
    rig.metrics.failure = DOWN
    with outgoing_call(ACME):
        await rig.stub.Embed(pb.EmbedRequest(texts=["a"]))
    rig.metrics.failure = None
    await until(lambda: not gateway.outbox.pending_count)
    (event,) = rig.metrics.booked.values()
    assert event.HasField("event_time")
    assert event.outcome == metrics_pb.OUTCOME_COMPLETED


async def test_only_what_the_model_was_given_counts_as_recalled(rig: Rig) -> None:
    await rig.open(prompt_token_limit=20)
    for token_count in (10, 1000):
        rig.memory.recalled.items.add(
            memory=memory_pb.Memory(text="Known."),
            reason=memory_pb.RECALL_REASON_RELEVANT,
            token_count=token_count,
        )
    events = await rig.chat(turn())
    assert events[-1].completed.recalled_count == 1
