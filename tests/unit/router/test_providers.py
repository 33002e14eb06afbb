"""Providers over real sockets, against the scripted upstream: both dialects, every fault."""

import asyncio

import pytest

from mesh.testing.upstream import Script, ScriptedUpstream
from plexus.common.v1 import message_pb2, model_pb2
from services.router.failure import FailureKind, UpstreamFailure
from services.router.providers import http
from services.router.providers.provider import Provider, UpstreamCall
from services.router.wire.pieces import Event
from tests.unit.router.conftest import Dialect, openai

K = FailureKind


def call(model: str = "m", *, idle_timeout_s: float = 5.0) -> UpstreamCall:
    hello = message_pb2.Message(role=message_pb2.ROLE_USER, parts=[message_pb2.Part(text="hello")])
    return UpstreamCall(
        request=model_pb2.ModelRequest(messages=[hello]),
        model=model,
        estimated_input_tokens=42,
        idle_timeout_s=idle_timeout_s,
    )


class Collected:
    """What a provider emitted, and a signal once there is something."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.emissions = 0
        self.has_some = asyncio.Event()

    async def __call__(self, events: list[Event]) -> None:
        self.events += events
        self.emissions += 1
        self.has_some.set()

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events)


async def collect(provider: Provider, upstream_call: UpstreamCall | None = None) -> Collected:
    collected = Collected()
    await provider.generate(upstream_call or call(), collected)
    return collected


async def fail(provider: Provider, upstream_call: UpstreamCall | None = None) -> UpstreamFailure:
    with pytest.raises(UpstreamFailure) as caught:
        await collect(provider, upstream_call)
    return caught.value


async def test_a_whole_answer(upstream: ScriptedUpstream, dialect: Dialect) -> None:
    async with dialect(upstream) as provider:
        collected = await collect(provider)
    finished = collected.events[-1].finished
    assert collected.text == "Hello world."
    assert finished.finish_reason == model_pb2.FINISH_REASON_STOP
    assert finished.usage == model_pb2.Usage(input_tokens=10, output_tokens=3)
    assert finished.model == "m"


async def test_one_network_read_is_one_event(upstream: ScriptedUpstream, dialect: Dialect) -> None:
    upstream.script(Script(tokens=[f"{at} " for at in range(64)], one_write=True))
    async with dialect(upstream) as provider:
        collected = await collect(provider)
    assert len(collected.text.split()) == 64
    assert len(collected.events) <= 3


@pytest.mark.parametrize(
    "script",
    [
        Script(chunk_bytes=1, tokens=["é", "世界", "😀"]),
        Script(chunk_bytes=7, tokens=["é", "世界", "😀"], line_end="\r\n", comments=True),
        Script(tokens=["é", "世界", "😀"], with_end_mark=False),
        Script(tokens=["é", "世界", "😀"], with_end_mark=False, hold_open=True),
        Script(tokens=["é", "世界", "😀"], fault="malformed"),
    ],
    ids=["byte by byte", "crlf and comments", "no end mark", "never closed", "malformed record"],
)
async def test_strange_but_whole_streams(
    upstream: ScriptedUpstream, dialect: Dialect, script: Script
) -> None:
    upstream.script(script)
    async with dialect(upstream) as provider:
        collected = await collect(provider)
    assert collected.text == "é世界😀"
    assert not collected.events[-1].finished.usage.estimated


async def test_reasoning_and_tool_calls(upstream: ScriptedUpstream, dialect: Dialect) -> None:
    calls = [("t1", "add", '{"a":1}'), ("t2", "now", "{}")]
    upstream.script(Script(reasoning=["let ", "me"], tool_calls=calls))
    async with dialect(upstream) as provider:
        collected = await collect(provider)
    assert "".join(event.reasoning for event in collected.events) == "let me"
    deltas = [event.tool_call for event in collected.events if event.HasField("tool_call")]
    joined = {
        delta.index: "".join(d.arguments_json for d in deltas if d.index == delta.index)
        for delta in deltas
    }
    assert joined == {0: '{"a":1}', 1: "{}"}
    assert [(d.id, d.name) for d in deltas if d.id] == [("t1", "add"), ("t2", "now")]
    assert collected.events[-1].finished.finish_reason == model_pb2.FINISH_REASON_TOOL_CALLS


async def test_missing_usage_is_estimated(upstream: ScriptedUpstream, dialect: Dialect) -> None:
    upstream.script(Script(usage=None))
    async with dialect(upstream) as provider:
        usage = (await collect(provider)).events[-1].finished.usage
    assert usage.estimated
    assert usage.output_tokens == 3


@pytest.mark.parametrize("fault", ["cut", "cut_mid_token", "end", "error_record"])
async def test_a_broken_stream_is_never_a_whole_answer(
    upstream: ScriptedUpstream, dialect: Dialect, fault: str
) -> None:
    upstream.script(Script(fault=fault, fault_at=2))  # pyright: ignore[reportArgumentType]
    async with dialect(upstream) as provider:
        failure = await fail(provider)
    assert failure.kind is K.TRANSIENT
    assert failure.usage is not None


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, K.REQUEST_FATAL),
        (401, K.KEY_FATAL),
        (429, K.KEY_THROTTLED),
        (500, K.TRANSIENT),
        (503, K.TRANSIENT),
    ],
)
async def test_an_error_status(
    upstream: ScriptedUpstream, dialect: Dialect, status: int, kind: FailureKind
) -> None:
    error = {"message": "no", "type": "unheard_of"}
    upstream.script(Script(status=status, error=error, headers={"Retry-After": "3"}))
    async with dialect(upstream) as provider:
        failure = await fail(provider)
    assert failure.kind is kind
    assert failure.retry_after_s == 3.0
    assert failure.detail == f"HTTP {status}, unheard_of"
    assert failure.usage is None


async def test_an_error_with_status_200(upstream: ScriptedUpstream, dialect: Dialect) -> None:
    upstream.script(Script(error={"message": "slow down", "code": "rate_limit_exceeded"}))
    async with dialect(upstream) as provider:
        assert (await fail(provider)).kind is K.KEY_THROTTLED


async def test_a_stall_between_bytes(upstream: ScriptedUpstream, dialect: Dialect) -> None:
    upstream.script(Script(stall_until=asyncio.Event(), fault_at=2))
    async with dialect(upstream) as provider:
        failure = await fail(provider, call(idle_timeout_s=0.05))
    assert failure.kind is K.SILENT
    assert failure.usage is not None
    recorded = await upstream.wait_for_requests(1)
    await recorded.disconnected.wait()


async def test_accounts_that_never_come_do_not_hold_the_answer(
    upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "ACCOUNTS_GRACE_S", 0.05)
    upstream.script(Script(usage=None, with_end_mark=False, hold_open=True))
    async with openai(upstream) as provider:
        collected = await collect(provider)
    assert collected.text == "Hello world."
    assert collected.events[-1].finished.usage.estimated


async def test_nobody_listens(upstream: ScriptedUpstream, dialect: Dialect) -> None:
    async with dialect(upstream) as provider:
        await upstream.close()
        failure = await fail(provider)
    assert failure.kind is K.TRANSIENT
    assert failure.usage is None


@pytest.mark.parametrize("has_status", [False, True])
async def test_cancelling_before_content_closes_the_connection(
    upstream: ScriptedUpstream, dialect: Dialect, has_status: bool
) -> None:
    never = asyncio.Event()
    upstream.script(
        Script(stall_until=never, fault_at=0) if has_status else Script(silent_until=never)
    )
    async with dialect(upstream) as provider:
        task = asyncio.create_task(collect(provider))
        recorded = await upstream.wait_for_requests(1)
        task.cancel()
        await asyncio.wait([task])
        await recorded.disconnected.wait()
    assert not recorded.finished.is_set()


async def test_cancelling_mid_stream_closes_the_connection(
    upstream: ScriptedUpstream, dialect: Dialect
) -> None:
    upstream.script(Script(stall_until=asyncio.Event(), fault_at=1))
    async with dialect(upstream) as provider:
        collected = Collected()
        task = asyncio.create_task(provider.generate(call(), collected))
        await collected.has_some.wait()
        task.cancel()
        await asyncio.wait([task])
        recorded = await upstream.wait_for_requests(1)
        await recorded.disconnected.wait()


async def test_a_finished_connection_is_used_again(
    upstream: ScriptedUpstream, dialect: Dialect
) -> None:
    async with dialect(upstream) as provider:
        for _ in range(5):
            await collect(provider)
    assert upstream.connections == 1


async def test_a_request_names_model_and_key(upstream: ScriptedUpstream, dialect: Dialect) -> None:
    async with dialect(upstream) as provider:
        await collect(provider, call("big/model:1"))
    recorded = await upstream.wait_for_requests(1)
    assert recorded.model == "big/model:1"
    assert "k" in (recorded.headers.get("x-api-key"), recorded.headers.get("Authorization", "")[7:])


async def test_a_closed_provider_answers_no_more(
    upstream: ScriptedUpstream, dialect: Dialect
) -> None:
    async with dialect(upstream) as provider:
        await collect(provider)
        await provider.close()
        await provider.close()
        assert (await fail(provider)).kind is K.TRANSIENT
    assert len(upstream.requests) == 1
