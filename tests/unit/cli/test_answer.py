"""A turn's events, folded."""

import grpc

from cli.answer import Answer, user_turn
from plexus.cache.v1 import cache_service_pb2 as cache_pb
from plexus.common.v1 import error_pb2
from plexus.gateway.v1 import gateway_service_pb2 as pb


def fold(*events: pb.ChatResponse) -> Answer:
    answer = Answer()
    for sequence, event in enumerate(events, 1):
        event.sequence = sequence
        answer.add(event)
    return answer


def text(piece: str) -> pb.ChatResponse:
    return pb.ChatResponse(text=piece)


def test_pieces_of_text_and_refusals_are_the_answer() -> None:
    answer = fold(text("Hel"), text("lo"), pb.ChatResponse(refusal="."))
    assert answer.text == "Hello."
    assert answer.sequence == 3


def test_a_reset_drops_what_came_after_the_point_it_names() -> None:
    reset = pb.ChatResponse(reset=pb.Reset(after_sequence=1, why="the stream broke"))
    assert fold(text("kept "), text("void"), text("void"), reset, text("new")).text == "kept new"


def test_the_ids_of_a_run_are_those_of_its_start() -> None:
    started = pb.Started(request_id="r", conversation_id="c", resume_token="t")
    answer = fold(pb.ChatResponse(started=started), text("x"))
    assert (answer.request_id, answer.conversation_id, answer.resume_token) == ("r", "c", "t")


def test_why_is_that_of_the_last_attempt_begun() -> None:
    failed = pb.Attempt(number=1, deployment="a/b", why="first choice")
    failed.failure.message = "503"
    answer = fold(
        pb.ChatResponse(attempt=pb.Attempt(number=1, deployment="a/b", why="first choice")),
        pb.ChatResponse(attempt=failed),
        pb.ChatResponse(attempt=pb.Attempt(number=2, deployment="c/d", why="next in the group")),
    )
    assert answer.why == "next in the group"


def test_a_hit_is_a_hit_of_any_kind_and_a_miss_is_none() -> None:
    verdicts = {
        cache_pb.VERDICT_EXACT_HIT: True,
        cache_pb.VERDICT_JOINED_HIT: True,
        cache_pb.VERDICT_SEMANTIC_HIT: True,
        cache_pb.VERDICT_MISS: False,
        cache_pb.VERDICT_UNAVAILABLE: False,
    }
    for verdict, is_hit in verdicts.items():
        answer = fold(pb.ChatResponse(completed=pb.Completed(cache_verdict=verdict)))
        assert answer.is_cached is is_hit
        assert answer.cache_words != "unknown"


def test_every_verdict_of_the_contract_has_words() -> None:
    for name in list(cache_pb.Verdict.keys()):
        answer = fold(pb.ChatResponse(completed=pb.Completed(cache_verdict=name)))
        assert (answer.cache_words == "unknown") is (name == "VERDICT_UNSPECIFIED")


def test_a_failure_keeps_its_code_and_reason() -> None:
    failure = error_pb2.Failure(code=14, reason="UPSTREAM_UNAVAILABLE", message="nobody answered")
    answer = fold(pb.ChatResponse(failed=failure))
    assert answer.failure is not None
    assert answer.failure.code is grpc.StatusCode.UNAVAILABLE
    assert answer.failure.reason == "UPSTREAM_UNAVAILABLE"
    assert answer.completed is None


def test_a_turn_can_do_without_memory_and_cache() -> None:
    turn = user_turn("Hi.", recall=False, remember=False, use_cache=False)
    assert turn.memory.no_recall
    assert turn.memory.no_remember
    assert turn.cache.no_cache
    assert turn.cache.no_store
    assert turn.resume_window_ms > 0
