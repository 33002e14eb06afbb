"""Outcomes and events as OpenAI says them."""

import struct
from base64 import b64decode
from typing import Any, cast

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.edges.http_errors import (
    error_headers,
    error_json,
    error_record,
    http_status,
    should_retry,
)
from gateway.edges.openai_response import (
    CACHE_WORDS,
    answer_headers,
    completion_json,
    finish_reason,
    packed,
    plexus_json,
    usage_json,
)
from gateway.edges.openai_stream import DONE, ChunkStream
from gateway.edges.origin import OriginPolicy
from mesh import errors
from mesh.errors import PermissionDenied, PlexusError, Reason, Unavailable
from plexus.cache.v1 import cache_service_pb2 as cache_pb
from plexus.common.v1 import message_pb2, model_pb2
from plexus.gateway.v1 import gateway_service_pb2 as pb

CREATED_S = 1_700_000_000


def records_of(data: bytes) -> list[Any]:
    """The JSON of each record; the end mark stays bytes."""
    assert not data or data.endswith(b"\n\n")
    bodies = [record.removeprefix(b"data: ") for record in data.split(b"\n\n")[:-1]]
    return [body if body == b"[DONE]" else orjson.loads(body) for body in bodies]


def stream(*, include_usage: bool = False, asked_model: str = "m") -> ChunkStream:
    return ChunkStream(asked_model=asked_model, created_s=CREATED_S, include_usage=include_usage)


def event(sequence: int, **kind: Any) -> pb.ChatResponse:
    return pb.ChatResponse(sequence=sequence, **kind)


STARTED = event(1, started=pb.Started(request_id="r", conversation_id="c"))
KINDS = {"text": "content", "reasoning": "reasoning_content", "refusal": "refusal"}


@given(st.lists(st.tuples(st.sampled_from(sorted(KINDS)), st.text(min_size=1))), st.booleans())
def test_what_goes_in_as_pieces_comes_out_as_deltas(
    pieces: list[tuple[str, str]], include_usage: bool
) -> None:
    chunks = stream(include_usage=include_usage)
    sent = chunks.feed(STARTED)
    for index, (kind, piece) in enumerate(pieces):
        out = chunks.feed(event(index + 2, **{kind: piece}))
        assert len(records_of(out)) == 1
        sent += out
    sent += chunks.feed(event(len(pieces) + 2, completed=pb.Completed()))
    assert sent.endswith(DONE)
    records = records_of(sent)[:-1]
    if include_usage:
        assert records.pop()["choices"] == []
    deltas = [record["choices"][0]["delta"] for record in records]
    for kind, name in KINDS.items():
        expected = "".join(piece for k, piece in pieces if k == kind)
        assert "".join(delta.get(name) or "" for delta in deltas) == expected
    assert [delta.get("role") for delta in deltas if "role" in delta] == ["assistant"]
    assert deltas[0]["role"] == "assistant"
    assert [r["choices"][0]["finish_reason"] for r in records] == [None] * len(pieces) + ["stop"]
    assert all(("usage" in record) == include_usage for record in records)
    assert len({(r["id"], r["created"], r["model"], r["object"]) for r in records}) == 1


def test_an_empty_answer_is_still_a_message() -> None:
    chunks = stream()
    chunks.feed(STARTED)
    [last, _] = records_of(chunks.feed(event(2, completed=pb.Completed())))
    assert last["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert chunks.ended


def test_the_model_stays_that_of_the_first_output() -> None:
    chunks = stream(asked_model="group")
    chunks.feed(STARTED)
    chunks.feed(event(2, attempt=pb.Attempt(number=1, deployment="acme/small")))
    failure = errors.to_failure(Unavailable("down"))
    chunks.feed(event(3, attempt=pb.Attempt(number=1, deployment="acme/small", failure=failure)))
    chunks.feed(event(4, attempt=pb.Attempt(number=2, deployment="other/org/big")))
    assert records_of(chunks.feed(event(5, text="a")))[0]["model"] == "org/big"
    chunks.feed(event(6, attempt=pb.Attempt(number=3, deployment="third/x")))
    assert records_of(chunks.feed(event(7, text="b")))[0]["model"] == "org/big"


@pytest.mark.parametrize(("after", "raises"), [(1, True), (2, True), (3, False), (4, False)])
def test_a_reset_breaks_the_stream_only_when_it_voids_what_was_sent(
    after: int, raises: bool
) -> None:
    chunks = stream()
    for fed in (STARTED, event(2, stage=pb.Stage(name="recall")), event(3, text="a")):
        chunks.feed(fed)
    voided = event(4, reset=pb.Reset(after_sequence=after))
    if raises:
        with pytest.raises(Unavailable) as raised:
            chunks.feed(voided)
        assert raised.value.reason == Reason.STREAM_INTERRUPTED
    else:
        assert chunks.feed(voided) == b""


def test_a_failed_run_raises_what_it_failed_with() -> None:
    chunks = stream()
    chunks.feed(STARTED)
    failure = errors.to_failure(errors.NotFound("no", reason=Reason.MODEL_NOT_FOUND))
    with pytest.raises(errors.NotFound) as raised:
        chunks.feed(event(2, failed=failure))
    assert raised.value.reason == "MODEL_NOT_FOUND"
    assert not chunks.ended


@pytest.mark.parametrize("name", ["evil\r\nx-injected: 1", "modèle", ""])
def test_what_cannot_stand_in_a_header_is_left_out(name: str) -> None:
    chunks = stream()
    chunks.feed(event(1, attempt=pb.Attempt(deployment=name)))
    assert chunks.headers == {}
    whole = pb.CompleteResponse(completed=pb.Completed(model=name))
    assert "x-plexus-model" not in answer_headers(whole)


def test_every_finish_reason_and_verdict_has_a_word() -> None:
    words = {
        finish_reason(cast("model_pb2.FinishReason", reason), has_tool_calls=False)
        for reason in model_pb2.FinishReason.values()
    }
    assert words == {"stop", "length", "tool_calls", "content_filter"}
    assert finish_reason(model_pb2.FINISH_REASON_UNSPECIFIED, has_tool_calls=True) == "tool_calls"
    verdicts = set(cache_pb.Verdict.values())
    assert set(CACHE_WORDS) == verdicts - {cache_pb.VERDICT_UNSPECIFIED}


def test_money_that_is_not_known_is_absent_and_nought_is_not() -> None:
    unknown = plexus_json(pb.CompleteResponse())
    assert "cost_nano_usd" not in unknown
    assert "saved_nano_usd" not in unknown
    free = pb.UsageReport(cost=model_pb2.Cost(nano_usd=0), saved=model_pb2.Cost(nano_usd=7))
    known = plexus_json(pb.CompleteResponse(usage=free))
    assert (known["cost_nano_usd"], known["saved_nano_usd"]) == (0, 7)


@given(st.lists(st.text()), st.lists(st.text()))
def test_a_whole_answer_joins_its_parts(texts: list[str], thoughts: list[str]) -> None:
    parts = [message_pb2.Part(reasoning=t) for t in thoughts]
    parts += [message_pb2.Part(text=t) for t in texts]
    answer = model_pb2.ModelResponse(message=message_pb2.Message(parts=parts))
    whole = pb.CompleteResponse(request_id="r", response=answer)
    body = orjson.loads(completion_json(whole, created_s=CREATED_S, asked_model="m"))
    message = body["choices"][0]["message"]
    assert message["content"] == "".join(texts)
    assert message.get("reasoning_content", "") == "".join(thoughts)
    assert (body["id"], body["created"], body["model"]) == ("chatcmpl-r", CREATED_S, "m")


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_totals_add_up(given_tokens: int, made_tokens: int) -> None:
    said = usage_json(model_pb2.Usage(input_tokens=given_tokens, output_tokens=made_tokens))
    assert said["total_tokens"] == given_tokens + made_tokens


@given(st.lists(st.floats(width=32, allow_nan=False)))
def test_packed_vectors_are_little_endian_floats(vector: list[float]) -> None:
    data = b64decode(packed(vector))
    assert list(struct.unpack(f"<{len(vector)}f", data)) == vector


@pytest.mark.parametrize("cls", errors.PlexusError.__subclasses__())
def test_every_error_has_a_status_and_an_object(cls: type[PlexusError]) -> None:
    error = cls("words", retry_after_s=0.25)
    status = http_status(error)
    assert 400 <= status <= 599
    said = orjson.loads(error_json(error, "r-1"))["error"]
    assert said["message"] == "words"
    assert said["code"] == error.reason
    assert said["type"]
    assert said["param"] is None
    assert said["request_id"] == "r-1"
    assert said["retryable"] == should_retry(error)
    headers = error_headers(error)
    assert headers["retry-after-ms"] == "250"
    assert headers["retry-after"] == "1"
    assert headers["x-should-retry"] == ("true" if should_retry(error) else "false")
    assert records_of(error_record(error, "r-1")) == [{"error": said}]


@pytest.mark.parametrize(
    ("error", "status", "retry"),
    [
        (errors.InvalidArgument("", reason=Reason.MESSAGE_TOO_LARGE), 413, False),
        (errors.FailedPrecondition("", reason=Reason.CONTENT_REFUSED), 400, False),
        (errors.InvalidArgument("", reason=Reason.IDEMPOTENCY_KEY_REUSED), 409, False),
        (errors.Unavailable("", reason=Reason.UPSTREAM_UNAUTHENTICATED), 502, False),
        (errors.Unavailable("", reason=Reason.DRAINING), 503, True),
        (errors.ResourceExhausted("", retry_after_s=1), 429, True),
        (errors.ResourceExhausted(""), 429, False),
        (errors.DeadlineExceeded(""), 504, False),
        (errors.Unimplemented(""), 501, False),
        (errors.Internal(""), 500, False),
    ],
)
def test_who_should_come_back(error: PlexusError, status: int, retry: bool) -> None:
    assert http_status(error) == status
    assert should_retry(error) == retry


@pytest.mark.parametrize(
    ("field", "param"),
    [
        ("request.messages[2].parts", "messages[2].content"),
        ("request.sampling.max_output_tokens", "max_tokens"),
        ("request.sampling.temperature", "temperature"),
        ("scope.user_id", "user"),
        ("n", "n"),
    ],
)
def test_a_field_is_named_as_the_client_knows_it(field: str, param: str) -> None:
    error = errors.InvalidArgument(f"{field}: no", violations=[(field, "no")])
    said = orjson.loads(error_json(error, "r"))["error"]
    assert (said["param"], said["message"]) == (param, f"{param}: no")


@pytest.mark.parametrize(
    ("allowed", "origin", "allows"),
    [
        (("loopback",), "http://localhost:3000", True),
        (("loopback",), "http://127.0.0.1", True),
        (("loopback",), "http://localhost.evil.example", False),
        (("loopback",), "null", False),
        (("loopback",), "http://[", False),
        (("https://app.example",), "https://app.example", True),
        (("https://app.example",), "http://app.example", False),
        (("https://app.example",), "http://localhost", False),
        (("*",), "https://any.example", True),
        ((), "http://localhost", False),
    ],
)
def test_origins(allowed: tuple[str, ...], origin: str, allows: bool) -> None:
    policy = OriginPolicy(allowed, anonymous=True)
    assert policy.allows(origin) == allows
    assert ("access-control-allow-origin" in policy.headers(origin)) == allows
    if allows:
        policy.check("localhost:8080", origin)
    else:
        with pytest.raises(PermissionDenied):
            policy.check("localhost:8080", origin)


def test_the_host_of_an_allowed_origin_is_served() -> None:
    policy = OriginPolicy(("https://app.example",), anonymous=True)
    policy.check("app.example", "")
    policy.check("[::1]:8080", "")
    policy.check("", "")
    with pytest.raises(PermissionDenied):
        policy.check("other.example", "")
