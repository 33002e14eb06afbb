"""The OpenAI edge as the unmodified `openai` client sees it, over a scripted gateway."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, cast

import openai
import pytest
from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam

from mesh import errors
from mesh.errors import PlexusError, Reason
from mesh.settings import KeySettings, MeshSettings
from plexus.common.v1 import message_pb2, model_pb2
from plexus.gateway.v1 import gateway_service_pb2 as pb
from tests.e2e.scripted_gateway import (
    RUN_ID,
    Edge,
    attempt,
    completed,
    outcome,
    reset,
    running_edge,
    stage,
    started,
    text,
    tool_call,
    usage,
    vector_of,
)

ASK: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello?"}]
KEY = "sk-right"
KEYED = MeshSettings(
    auth="keys",
    keys={"k1": KeySettings(sha256=hashlib.sha256(KEY.encode()).hexdigest(), tenant="acme")},
)


@asynccontextmanager
async def client_of(
    edge: Edge, *, key: str = "any", max_retries: int = 0
) -> AsyncGenerator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{edge.url}/v1", api_key=key, max_retries=max_retries
    ) as client:
        yield client


def extra(model: object, name: str) -> Any:
    """A field that OpenAI's types do not know."""
    return cast("dict[str, Any]", getattr(model, "model_extra", {}))[name]


async def read(stream: openai.AsyncStream[ChatCompletionChunk], into: list[str | None]) -> None:
    """Read a stream to its end, keeping the text also when it ends by raising."""
    async for chunk in stream:
        into.append(chunk.choices[0].delta.content)  # noqa: PERF401


async def test_an_answer_in_one_piece() -> None:
    async with running_edge() as edge, client_of(edge) as client:
        edge.gateway.outcomes = [outcome("Hello there")]
        raw = await client.chat.completions.with_raw_response.create(model="default", messages=ASK)
    answer = raw.parse()
    assert answer.id == f"chatcmpl-{RUN_ID}"
    assert answer.object == "chat.completion"
    assert answer.model == "small-2026-01"
    assert answer.choices[0].message.content == "Hello there"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (10, 7)
    assert answer.usage.total_tokens == 17
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 4
    assert answer.usage.prompt_tokens_details.cache_write_tokens == 2
    assert answer.usage.completion_tokens_details is not None
    assert answer.usage.completion_tokens_details.reasoning_tokens == 3
    assert extra(answer, "plexus") == {
        "request_id": RUN_ID,
        "conversation_id": "c-1",
        "cache": "miss",
        "provider": "acme",
        "model": "small-2026-01",
        "recalled": 2,
        "stages": {"recall": 2.25},
        "warnings": [{"reason": "MEMORY_UNAVAILABLE", "component": "memory", "message": "slow"}],
        "cost_nano_usd": 1500,
    }
    assert raw.headers["x-plexus-cache"] == "miss"
    assert raw.headers["x-plexus-model"] == "small-2026-01"
    assert raw.headers["x-plexus-cost-nano-usd"] == "1500"
    assert raw.headers["x-plexus-overhead-ms"] == "2.500"
    assert answer._request_id == raw.headers["x-request-id"] == edge.gateway.calls[0].request_id  # pyright: ignore[reportPrivateUsage]


async def test_a_stream() -> None:
    async with running_edge() as edge, client_of(edge) as client:
        edge.gateway.script = [
            started(),
            stage("cache", "miss"),
            attempt("acme/small"),
            text("Hel"),
            text("lo"),
            usage(),
            completed(),
        ]
        stream = await client.chat.completions.create(model="default", messages=ASK, stream=True)
        chunks = [chunk async for chunk in stream]
    assert {(c.id, c.model, c.object) for c in chunks} == {
        (f"chatcmpl-{RUN_ID}", "small", "chat.completion.chunk")
    }
    assert len({c.created for c in chunks}) == 1
    assert [c.choices[0].delta.content for c in chunks] == ["Hel", "lo", None]
    assert [c.choices[0].delta.role for c in chunks] == ["assistant", None, None]
    assert [c.choices[0].finish_reason for c in chunks] == [None, None, "stop"]
    assert all("usage" not in c.model_fields_set for c in chunks)
    assert stream.response.headers["content-type"].startswith("text/event-stream")
    assert stream.response.headers["cache-control"] == "no-cache"
    assert stream.response.headers["x-accel-buffering"] == "no"
    assert stream.response.headers["x-plexus-cache"] == "miss"
    assert stream.response.headers["x-plexus-model"] == "small"


async def test_usage_comes_in_a_chunk_of_its_own_when_asked_for() -> None:
    async with running_edge() as edge, client_of(edge) as client:
        edge.gateway.script = [started(), stage("recall"), text("Hi"), usage(), completed()]
        stream = await client.chat.completions.create(
            model="default", messages=ASK, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    *others, last = chunks
    assert all("usage" in c.model_fields_set and c.usage is None for c in others)
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.total_tokens == 17
    plexus = extra(last, "plexus")
    assert plexus["request_id"] == RUN_ID
    assert plexus["model"] == "small-2026-01"
    assert plexus["stages"] == {"recall": 1.0}
    assert plexus["cost_nano_usd"] == 1500


async def test_tool_calls_streamed_and_whole() -> None:
    tools = [tool_call("call_a", "look", '{"q":1}'), tool_call("call_b", "buy", "{}")]
    async with running_edge() as edge, client_of(edge) as client:
        finish = completed(model_pb2.FINISH_REASON_TOOL_CALLS)
        edge.gateway.script = [started(), text("Let me see"), *tools, usage(), finish]
        stream = await client.chat.completions.create(model="m", messages=ASK, stream=True)
        deltas = [chunk.choices[0] async for chunk in stream]
        message = message_pb2.Message(tool_calls=[step.tool_call for step in tools])
        edge.gateway.outcomes = [outcome(response=model_pb2.ModelResponse(message=message))]
        whole = await client.chat.completions.create(model="m", messages=ASK)
    pieces = [call for delta in deltas for call in delta.delta.tool_calls or ()]
    assert [(p.index, p.id, p.type) for p in pieces] == [
        (0, "call_a", "function"),
        (1, "call_b", "function"),
    ]
    assert pieces[0].function is not None
    assert (pieces[0].function.name, pieces[0].function.arguments) == ("look", '{"q":1}')
    assert deltas[-1].finish_reason == "tool_calls"
    calls = whole.choices[0].message.tool_calls or []
    assert [call.id for call in calls] == ["call_a", "call_b"]
    assert whole.choices[0].message.content is None


async def test_reasoning_and_refusal() -> None:
    async with running_edge() as edge, client_of(edge) as client:
        edge.gateway.script = [
            started(),
            pb.ChatResponse(reasoning="hm"),
            pb.ChatResponse(refusal="no"),
            completed(model_pb2.FINISH_REASON_CONTENT_FILTER),
        ]
        stream = await client.chat.completions.create(model="m", messages=ASK, stream=True)
        choices = [chunk.choices[0] async for chunk in stream]
        parts = [message_pb2.Part(reasoning="hm"), message_pb2.Part(refusal="no")]
        answer = model_pb2.ModelResponse(message=message_pb2.Message(parts=parts))
        edge.gateway.outcomes = [outcome(response=answer)]
        whole = await client.chat.completions.create(model="m", messages=ASK)
    assert extra(choices[0].delta, "reasoning_content") == "hm"
    assert choices[1].delta.refusal == "no"
    assert choices[-1].finish_reason == "content_filter"
    message = whole.choices[0].message
    assert (message.content, message.refusal) == (None, "no")
    assert extra(message, "reasoning_content") == "hm"


async def test_the_stream_helper_of_the_client_builds_the_whole_answer() -> None:
    async with running_edge() as edge, client_of(edge) as client:
        edge.gateway.script = [started(), text("a"), text("b"), usage(), completed()]
        async with client.chat.completions.stream(model="m", messages=ASK) as stream:
            whole = await stream.get_final_completion()
    assert whole.choices[0].message.content == "ab"


async def test_the_synchronous_client() -> None:
    def talk(url: str) -> tuple[str | None, str]:
        with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
            whole = client.chat.completions.create(model="m", messages=ASK)
            stream = client.chat.completions.create(model="m", messages=ASK, stream=True)
            pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
        return whole.choices[0].message.content, "".join(pieces)

    async with running_edge() as edge:
        edge.gateway.outcomes = [outcome("whole")]
        edge.gateway.script = [started(), text("in "), text("parts"), completed()]
        assert await asyncio.to_thread(talk, edge.url) == ("whole", "in parts")


ERRORS: list[tuple[PlexusError, type[openai.APIStatusError], int]] = [
    (errors.InvalidArgument("no"), openai.BadRequestError, 400),
    (errors.InvalidArgument("x", reason=Reason.CONTEXT_TOO_LONG), openai.BadRequestError, 400),
    (errors.Unauthenticated("no"), openai.AuthenticationError, 401),
    (errors.PermissionDenied("no"), openai.PermissionDeniedError, 403),
    (errors.NotFound("no", reason=Reason.MODEL_NOT_FOUND), openai.NotFoundError, 404),
    (errors.Conflict("no"), openai.ConflictError, 409),
    (errors.FailedPrecondition("no"), openai.UnprocessableEntityError, 422),
    (errors.ResourceExhausted("no"), openai.RateLimitError, 429),
    (errors.Internal("no"), openai.InternalServerError, 500),
    (errors.Unavailable("no"), openai.InternalServerError, 503),
    (errors.DeadlineExceeded("no"), openai.InternalServerError, 504),
]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(("error", "expected", "status"), ERRORS)
async def test_an_error_raises_the_exception_that_clients_expect(
    error: PlexusError, expected: type[openai.APIStatusError], status: int, streamed: bool
) -> None:
    async with running_edge() as edge, client_of(edge) as client:
        edge.gateway.outcomes = [error]
        edge.gateway.script = [started(), stage("recall"), error]
        with pytest.raises(expected) as raised:
            await client.chat.completions.create(model="m", messages=ASK, stream=streamed)
    assert raised.value.status_code == status
    assert raised.value.code == error.reason
    assert raised.value.request_id == edge.gateway.calls[0].request_id


async def test_a_run_that_fails_before_any_output_fails_with_a_status() -> None:
    failure = errors.to_failure(
        errors.Unavailable("down", reason=Reason.UPSTREAM_UNAVAILABLE, retry_after_s=1.5)
    )
    async with running_edge() as edge, client_of(edge) as client:
        edge.gateway.script = [started(), attempt("acme/small"), pb.ChatResponse(failed=failure)]
        with pytest.raises(openai.InternalServerError) as raised:
            await client.chat.completions.create(model="m", messages=ASK, stream=True)
    assert raised.value.status_code == 503
    assert raised.value.code == "UPSTREAM_UNAVAILABLE"
    assert raised.value.response.headers["retry-after-ms"] == "1500"
    assert raised.value.response.headers["retry-after"] == "2"


@pytest.mark.parametrize(
    "broken",
    [
        errors.Unavailable("broke off", reason=Reason.STREAM_INTERRUPTED),
        pb.ChatResponse(
            failed=errors.to_failure(
                errors.Unavailable("broke off", reason=Reason.STREAM_INTERRUPTED)
            )
        ),
        reset(1),
    ],
    ids=["status", "failed event", "reset after text"],
)
async def test_a_stream_that_breaks_after_text_ends_with_an_error_record(
    broken: PlexusError | pb.ChatResponse,
) -> None:
    async with running_edge() as edge, client_of(edge) as client:
        edge.gateway.script = [started(), text("once"), broken, text("once"), completed()]
        stream = await client.chat.completions.create(model="m", messages=ASK, stream=True)
        seen: list[str | None] = []
        with pytest.raises(openai.APIError) as raised:
            await read(stream, seen)
    assert seen == ["once"]
    assert raised.value.code == "STREAM_INTERRUPTED"
    body = cast("dict[str, Any]", raised.value.body)
    assert body["retryable"] is True
    assert body["request_id"] == edge.gateway.calls[0].request_id


async def test_a_reset_before_text_is_invisible() -> None:
    async with running_edge() as edge, client_of(edge) as client:
        edge.gateway.script = [
            started(),
            attempt("acme/small"),
            reset(1),
            attempt("other/big", number=2),
            text("fine"),
            completed(),
        ]
        stream = await client.chat.completions.create(model="m", messages=ASK, stream=True)
        chunks = [chunk async for chunk in stream]
    assert [c.choices[0].delta.content for c in chunks] == ["fine", None]
    assert {c.model for c in chunks} == {"big"}


async def test_a_run_without_a_terminal_event_is_not_taken_for_an_answer() -> None:
    async with running_edge() as edge, client_of(edge) as client:
        edge.gateway.script = [started(), text("half")]
        stream = await client.chat.completions.create(model="m", messages=ASK, stream=True)
        with pytest.raises(openai.APIError) as raised:
            await read(stream, [])
    assert raised.value.code == "STREAM_INTERRUPTED"


async def test_the_client_retries_what_may_succeed_and_nothing_else() -> None:
    async with running_edge() as edge, client_of(edge, max_retries=2) as client:
        edge.gateway.outcomes = [errors.Unavailable("soon", retry_after_s=0.001), outcome("yes")]
        answer = await client.chat.completions.create(model="m", messages=ASK)
        assert answer.choices[0].message.content == "yes"
        assert len(edge.gateway.turns) == 2
        # Spent, not busy: nothing says when to come back.
        edge.gateway.outcomes = [errors.ResourceExhausted("spent")]
        with pytest.raises(openai.RateLimitError):
            await client.chat.completions.create(model="m", messages=ASK)
        assert len(edge.gateway.turns) == 3


async def test_the_whole_request_arrives() -> None:
    async with running_edge() as edge, client_of(edge) as client:
        edge.gateway.outcomes = [outcome()]
        await client.chat.completions.create(
            model="group",
            messages=[
                {"role": "developer", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "Look"}]},
            ],
            temperature=0.5,
            max_completion_tokens=99,
            stop="END",
            seed=7,
            user="ada",
            tool_choice={"type": "function", "function": {"name": "look"}},
            tools=[
                {
                    "type": "function",
                    "function": {"name": "look", "parameters": {"type": "object"}},
                }
            ],
            metadata={"conversation_id": "conv-7"},
            extra_body={"reasoning_effort": "low", "made_up": [1]},
            extra_headers={
                "x-plexus-agent-id": "helper",
                "x-plexus-memory": "off",
                "cache-control": "no-store, max-age=60",
                "idempotency-key": "k-1",
                "x-request-id": "my-request-1",
                "traceparent": f"00-{'a' * 32}-{'b' * 16}-01",
            },
            timeout=9.0,
        )
    turn, call = edge.gateway.turns[0], edge.gateway.calls[0]
    assert [m.role for m in turn.request.messages] == [
        message_pb2.ROLE_SYSTEM,
        message_pb2.ROLE_USER,
    ]
    assert turn.request.model == "group"
    assert turn.request.sampling.max_output_tokens == 99
    assert turn.request.sampling.stop == ["END"]
    assert turn.request.tool_choice == "look"
    assert turn.request.extra_json == '{"reasoning_effort":"low","made_up":[1]}'
    assert turn.scope.agent_id == "helper"
    assert turn.scope.user_id == "ada"
    assert turn.scope.conversation_id == "conv-7"
    assert turn.memory.no_recall
    assert turn.memory.no_remember
    assert turn.cache.no_store
    assert turn.cache.max_age_ms == 60_000
    assert turn.idempotency_key == "k-1"
    assert call.request_id == "my-request-1"
    assert call.trace.trace_id == "a" * 32
    assert 0 < edge.gateway.seconds_allowed[0] <= 9.0


async def test_keys_decide_the_tenant_and_are_needed_where_asked_for() -> None:
    async with running_edge(mesh=KEYED) as edge:
        async with client_of(edge, key=KEY) as client:
            edge.gateway.outcomes = [outcome()]
            await client.chat.completions.create(model="m", messages=ASK)
        assert edge.gateway.calls[0].identity.tenant == "acme"
        async with client_of(edge, key="sk-wrong") as client:
            with pytest.raises(openai.AuthenticationError) as raised:
                await client.chat.completions.create(model="m", messages=ASK)
        assert raised.value.code == "INVALID_KEY"
        assert raised.value.response.headers["www-authenticate"] == "Bearer"
        assert "sk-wrong" not in str(raised.value)


async def test_an_unknown_tenant_is_refused() -> None:
    async with running_edge() as edge, client_of(edge) as client:
        with pytest.raises(openai.PermissionDeniedError) as raised:
            await client.with_options(
                default_headers={"plexus-tenant": "nobody"}
            ).chat.completions.create(model="m", messages=ASK)
    assert raised.value.code == "UNKNOWN_TENANT"


async def test_embeddings_in_both_encodings() -> None:
    texts = ["one", "three"]
    async with running_edge() as edge, client_of(edge) as client:
        as_base64 = await client.embeddings.create(model="e", input=texts)
        as_floats = await client.embeddings.create(model="e", input=texts, encoding_format="float")
        single = await client.embeddings.create(model="e", input="one")
    expected = [vector_of(each) for each in texts]
    assert [d.embedding for d in as_base64.data] == expected
    assert [d.embedding for d in as_floats.data] == expected
    assert [d.embedding for d in single.data] == expected[:1]
    assert [d.index for d in as_base64.data] == [0, 1]
    assert as_base64.model == "embedder"
    assert as_base64.usage.prompt_tokens == 2


async def test_more_embeddings_than_one_call_takes() -> None:
    texts = [str(n) * (n % 7 + 1) for n in range(600)]
    async with running_edge() as edge, client_of(edge) as client:
        answer = await client.embeddings.create(model="e", input=texts)
    assert [d.embedding for d in answer.data] == [vector_of(each) for each in texts]
    assert [len(r.texts) for r in edge.gateway.embed_requests] == [256, 256, 88]
    assert answer.usage.total_tokens == 600


async def test_embeddings_that_cannot_be_made_are_refused_by_field() -> None:
    async with running_edge() as edge, client_of(edge) as client:
        with pytest.raises(openai.BadRequestError, match="token ids") as raised:
            await client.embeddings.create(model="e", input=[[1, 2], [3]])
        assert raised.value.param == "input"
        with pytest.raises(openai.BadRequestError) as raised:
            await client.embeddings.create(model="e", input="x", dimensions=8)
        assert raised.value.param == "dimensions"
    assert len(edge.gateway.embed_requests) == 1


async def test_models_are_listed_and_found_by_name() -> None:
    async with running_edge() as edge, client_of(edge) as client:
        edge.gateway.models = [
            pb.Model(name="default", deployments=["offline/echo"], operation="chat"),
            pb.Model(name="offline/echo", deployments=["offline/echo"], operation="chat"),
        ]
        listed = await client.models.list()
        found = await client.models.retrieve("offline/echo")
        with pytest.raises(openai.NotFoundError) as raised:
            await client.models.retrieve("nothing")
    assert [model.id for model in listed.data] == ["default", "offline/echo"]
    assert found.id == "offline/echo"
    assert extra(found, "plexus") == {"operation": "chat", "deployments": ["offline/echo"]}
    assert raised.value.code == "MODEL_NOT_FOUND"


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_client_that_gives_up_cancels_the_call(streamed: bool) -> None:
    async with running_edge() as edge, client_of(edge) as client:
        never = asyncio.Event()
        edge.gateway.outcomes_wait_for = never
        edge.gateway.script = [started(), text("begin"), never]

        async def ask() -> None:
            if not streamed:
                await client.chat.completions.create(model="m", messages=ASK)
            else:
                stream = await client.chat.completions.create(model="m", messages=ASK, stream=True)
                await read(stream, [])

        asking = asyncio.ensure_future(ask())
        await edge.gateway.asked.wait()
        asking.cancel()
        await asyncio.wait([asking])
        await edge.gateway.cancelled.wait()
