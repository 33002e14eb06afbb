"""Generate as callers see it: the same over the wire and in process, with real upstream sockets."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from mesh.call import Identity, outgoing_call
from mesh.component import Hosted
from mesh.errors import PlexusError, Reason, from_failure, from_rpc_error
from mesh.server import ComponentServer
from mesh.settings import MeshSettings
from mesh.testing.upstream import Script, ScriptedUpstream
from plexus.common.v1 import message_pb2, model_pb2
from plexus.router.v1 import router_service_pb2 as pb
from plexus.router.v1 import router_service_pb2_grpc as rpc
from services.router.build import Router, build
from services.router.settings import ProviderSettings, RouterSettings

Event = pb.GenerateResponse
CALLER = Identity(tenant="acme", principal="test")
GROUPS = {
    "default": ("up/first", "up/second"),
    "pair": ("claude/first", "up/second"),
    "single": ("up/only",),
    "rescued": ("up/only", "offline/extractive"),
}


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as server:
        yield server


@pytest.fixture
def changes() -> dict[str, Any]:
    """Return what differs from the usual settings; a test overrides it by parametrization."""
    return {}


def settings(upstream: ScriptedUpstream, tmp_path: Path, **changes: Any) -> RouterSettings:
    providers = {
        "up": ProviderSettings(kind="openai", base_url=upstream.openai_url),
        "claude": ProviderSettings(kind="anthropic", base_url=upstream.base_url),
        "offline": ProviderSettings(kind="offline"),
    }
    # No test here embeds, so the model is not loaded.
    defaults: dict[str, Any] = {"embedding_model": "up/vectors", "data_dir": tmp_path}
    return RouterSettings(providers=providers, groups=GROUPS, **(defaults | changes))


class Caller:
    """A router behind a channel, and what its answers come to."""

    def __init__(self, router: Router, channel: grpc.aio.Channel) -> None:
        self.router = router
        self.stub = rpc.RouterServiceStub(channel)

    def begin(self, model: str, *, timeout_s: float = 10.0, text: str = "hello") -> Any:
        part = message_pb2.Part(text=text)
        request = model_pb2.ModelRequest(
            model=model, messages=[message_pb2.Message(role=message_pb2.ROLE_USER, parts=[part])]
        )
        with outgoing_call(CALLER):
            return self.stub.Generate(pb.GenerateRequest(request=request), timeout=timeout_s)

    async def events(self, model: str, *, timeout_s: float = 10.0) -> list[Event]:
        return [event async for event in self.begin(model, timeout_s=timeout_s)]

    async def error(self, model: str, *, timeout_s: float = 10.0) -> PlexusError:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.events(model, timeout_s=timeout_s)
        return from_rpc_error(caught.value)


@pytest.fixture(params=["in process", "wire"])
async def caller(
    request: pytest.FixtureRequest,
    upstream: ScriptedUpstream,
    tmp_path: Path,
    changes: dict[str, Any],
) -> AsyncIterator[Caller]:
    router = await build(settings(upstream, tmp_path, **changes), environ={})
    component = Hosted("router", router, rpc.add_RouterServiceServicer_to_server)
    server = ComponentServer(component, MeshSettings(drain_hold_s=0.0, drain_grace_s=0.1))
    await server.start()
    if request.param == "wire":
        port = await server.listen(0)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Caller(router, channel)
    else:
        yield Caller(router, server.channel)
    await server.drain()
    assert router.statistics().relay.in_progress == 0


def kinds(events: Sequence[Event]) -> list[str]:
    """Name the events, a failed attempt apart from one that begins."""
    names = [str(event.WhichOneof("event")) for event in events]
    return [
        "failed" if name == "attempt" and event.attempt.HasField("failure") else name
        for name, event in zip(names, events, strict=True)
    ]


def text_after_reset(events: Sequence[Event]) -> str:
    text = ""
    for event in events:
        text = "" if event.HasField("reset") else text + event.text
    return text


async def test_an_answer_begins_with_its_attempt_and_ends_with_finished(caller: Caller) -> None:
    events = await caller.events("default")
    assert kinds(events)[0] == "attempt"
    assert kinds(events)[-1] == "finished"
    begun, finished = events[0].attempt, events[-1].finished
    assert (begun.number, begun.deployment, begun.why) == (1, "up/first", "first choice")
    assert begun.estimated_input_tokens > 0
    assert (finished.provider, finished.deployment, finished.model) == ("up", "up/first", "first")
    assert finished.time_to_first_token_ms > 0
    assert text_after_reset(events) == "Hello world."


@pytest.mark.parametrize("group", ["default", "pair"])
@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (Script(status=500), Reason.UPSTREAM_UNAVAILABLE),
        (Script(status=429, headers={"Retry-After": "60"}), Reason.UPSTREAM_RATE_LIMITED),
        (Script(status=404), Reason.MODEL_NOT_FOUND),
        (Script(fault="cut", fault_at=0), Reason.UPSTREAM_UNAVAILABLE),
        (Script(fault="error_record", fault_at=0), Reason.UPSTREAM_UNAVAILABLE),
        (Script(tokens=[], finish_reason="", with_end_mark=False), Reason.UPSTREAM_UNAVAILABLE),
    ],
    ids=["500", "429", "404", "cut", "error record", "empty stream"],
)
async def test_a_failure_before_content_falls_over_with_nothing_to_take_back(
    caller: Caller, upstream: ScriptedUpstream, group: str, script: Script, reason: Reason
) -> None:
    upstream.by_model["first"] = script
    events = await caller.events(group)
    assert kinds(events)[:3] == ["attempt", "failed", "attempt"]
    assert "reset" not in kinds(events)
    failed = events[1].attempt
    assert (failed.number, from_failure(failed.failure).reason) == (1, reason)
    assert failed.duration_ms > 0
    assert events[2].attempt.deployment == "up/second"
    assert text_after_reset(events) == "Hello world."


@pytest.mark.parametrize("group", ["default", "pair"])
@pytest.mark.parametrize("fault", ["cut", "cut_mid_token", "end", "error_record"])
async def test_a_failure_after_content_begins_anew_after_a_reset(
    caller: Caller, upstream: ScriptedUpstream, group: str, fault: Any
) -> None:
    gate = asyncio.Event()
    upstream.by_model["first"] = Script(
        tokens=["wrong ", "half"], fault=fault, fault_at=1, stall_until=gate
    )
    events: list[Event] = []
    async for event in caller.begin(group):
        events.append(event)
        if event.text:
            # Only now, so that the text and the fault cannot share a network read.
            gate.set()
    assert kinds(events)[:5] == ["attempt", "text", "failed", "reset", "attempt"]
    usage = events[2].attempt.usage
    assert usage.output_tokens > 0
    assert usage.estimated
    assert text_after_reset(events) == "Hello world."


@pytest.mark.parametrize("changes", [{"restart_mid_stream": False}])
async def test_without_restarts_a_broken_answer_is_said_to_be_broken(
    caller: Caller, upstream: ScriptedUpstream
) -> None:
    gate = asyncio.Event()
    upstream.by_model["first"] = Script(fault="cut", fault_at=1, stall_until=gate)
    call = caller.begin("default")
    await call.read()
    assert (await call.read()).text == "Hello"
    gate.set()
    assert (await call.read()).attempt.HasField("failure")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert from_rpc_error(caught.value).reason == Reason.STREAM_INTERRUPTED
    assert len(upstream.requests) == 1


@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [
        (400, "bad_thing", Reason.UPSTREAM_REJECTED),
        (400, "content_filter", Reason.CONTENT_REFUSED),
        (400, "context_length_exceeded", Reason.CONTEXT_TOO_LONG),
    ],
)
async def test_a_refused_request_is_never_sent_again(
    caller: Caller, upstream: ScriptedUpstream, status: int, code: str, reason: Reason
) -> None:
    upstream.default = Script(status=status, error={"code": code, "message": "no"})
    assert (await caller.error("default")).reason == reason
    assert len(upstream.requests) == 1


async def test_a_refused_key_spares_its_other_deployments(
    caller: Caller, upstream: ScriptedUpstream
) -> None:
    upstream.default = Script(status=401)
    assert (await caller.error("default")).reason == Reason.UPSTREAM_UNAUTHENTICATED
    assert len(upstream.requests) == 1


async def test_attempts_are_bounded(caller: Caller, upstream: ScriptedUpstream) -> None:
    upstream.default = Script(status=500)
    assert (await caller.error("default")).reason == Reason.UPSTREAM_UNAVAILABLE
    assert [recorded.model for recorded in upstream.requests] == ["first", "second", "first"]


async def test_a_single_deployment_is_tried_twice_at_most(
    caller: Caller, upstream: ScriptedUpstream
) -> None:
    upstream.default = Script(status=503)
    await caller.error("single")
    assert len(upstream.requests) == 2


async def test_retry_after_is_kept_across_requests(
    caller: Caller, upstream: ScriptedUpstream
) -> None:
    upstream.script(Script(status=429, headers={"retry-after": "3600"}))
    error = await caller.error("single")
    assert error.reason == Reason.UPSTREAM_RATE_LIMITED
    assert error.retry_after_s == pytest.approx(3600, abs=60)
    again = await caller.error("single")
    assert again.reason == Reason.UPSTREAM_RATE_LIMITED
    assert again.retry_after_s
    assert len(upstream.requests) == 1


async def test_a_short_retry_after_is_waited_for(
    caller: Caller, upstream: ScriptedUpstream
) -> None:
    upstream.script(Script(status=429, headers={"retry-after-ms": "20"}))
    events = await caller.events("single")
    assert kinds(events)[:3] == ["attempt", "failed", "attempt"]
    assert len(upstream.requests) == 2


@pytest.mark.parametrize("group", ["default", "pair"])
async def test_a_silent_upstream_costs_a_share_of_the_deadline_and_is_not_asked_twice(
    caller: Caller, upstream: ScriptedUpstream, group: str
) -> None:
    upstream.by_model["first"] = Script(silent_until=asyncio.Event())
    events = await caller.events(group, timeout_s=1.0)
    assert kinds(events)[:3] == ["attempt", "failed", "attempt"]
    assert events[1].attempt.usage.estimated
    assert text_after_reset(events) == "Hello world."
    assert [recorded.model for recorded in upstream.requests] == ["first", "second"]
    await upstream.requests[0].disconnected.wait()
    breakers = caller.router.statistics().breakers
    assert all(not breaker.failures for breaker in breakers.values()), "the caller was in a hurry"


async def test_a_stalled_stream_begins_anew_elsewhere(
    caller: Caller, upstream: ScriptedUpstream
) -> None:
    upstream.by_model["first"] = Script(stall_until=asyncio.Event(), fault_at=1)
    events = await caller.events("default", timeout_s=1.0)
    assert kinds(events)[:5] == ["attempt", "text", "failed", "reset", "attempt"]
    assert text_after_reset(events) == "Hello world."


async def test_silence_everywhere_ends_with_the_deadline(
    caller: Caller, upstream: ScriptedUpstream
) -> None:
    upstream.default = Script(silent_until=asyncio.Event())
    error = await caller.error("default", timeout_s=0.3)
    assert error.code in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE)
    assert len(upstream.requests) == 2
    for recorded in upstream.requests:
        await recorded.disconnected.wait()


@pytest.mark.parametrize("group", ["default", "pair"])
@pytest.mark.parametrize("fault_at", [0, 1])
async def test_cancelling_reaches_the_upstream(
    caller: Caller, upstream: ScriptedUpstream, group: str, fault_at: int
) -> None:
    upstream.by_model["first"] = Script(stall_until=asyncio.Event(), fault_at=fault_at)
    call = caller.begin(group, timeout_s=60.0)
    for _ in range(1 + fault_at):
        await call.read()
    recorded = await upstream.wait_for_requests(1)
    call.cancel()
    await recorded.disconnected.wait()
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("changes", [{"breaker_failure_threshold": 2, "breaker_open_s": 3600.0}])
async def test_an_open_breaker_spares_a_dead_deployment(
    caller: Caller, upstream: ScriptedUpstream
) -> None:
    upstream.by_model["first"] = Script(status=500)
    for _ in range(5):
        await caller.events("default")
    asked = [recorded.model for recorded in upstream.requests]
    assert asked.count("first") == 2
    assert asked.count("second") == 5
    asked = model_pb2.ModelRequest(messages=[message_pb2.Message(role=message_pb2.ROLE_USER)])
    with outgoing_call(CALLER):
        explained = await caller.stub.ExplainRoute(pb.ExplainRouteRequest(request=asked))
    assert [(c.deployment, c.eligible, c.breaker_state) for c in explained.candidates] == [
        ("up/second", True, "closed"),
        ("up/first", False, "open"),
    ]


async def test_the_offline_model_answers_when_all_else_fails(
    caller: Caller, upstream: ScriptedUpstream
) -> None:
    upstream.default = Script(status=500)
    events = await caller.events("rescued")
    assert events[-1].finished.deployment == "offline/extractive"


@pytest.mark.parametrize("changes", [{"max_concurrent_generations": 1}])
async def test_answers_beyond_the_limit_are_refused(
    caller: Caller, upstream: ScriptedUpstream
) -> None:
    gate = asyncio.Event()
    upstream.script(Script(silent_until=gate))
    running = asyncio.create_task(caller.events("single"))
    await upstream.wait_for_requests(1)
    error = await caller.error("single")
    assert (error.reason, error.retry_after_s) == (Reason.OVERLOADED, 1.0)
    gate.set()
    assert kinds(await running)[-1] == "finished"


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (model_pb2.ModelRequest(), "request.messages"),
        (model_pb2.ModelRequest(messages=[message_pb2.Message()]), "request.messages[0].role"),
        (
            model_pb2.ModelRequest(messages=[message_pb2.Message(role=message_pb2.ROLE_TOOL)]),
            "request.messages[0].tool_call_id",
        ),
        (
            model_pb2.ModelRequest(
                messages=[message_pb2.Message(role=message_pb2.ROLE_USER)],
                sampling=model_pb2.Sampling(temperature=3),
            ),
            "request.sampling.temperature",
        ),
    ],
    ids=["no messages", "no role", "no call id", "temperature"],
)
async def test_a_bad_request_names_its_field(
    caller: Caller, upstream: ScriptedUpstream, request_: model_pb2.ModelRequest, field: str
) -> None:
    with outgoing_call(CALLER):
        call = caller.stub.Generate(pb.GenerateRequest(request=request_))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    error = from_rpc_error(caught.value)
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert [violation[0] for violation in error.violations] == [field]
    assert not upstream.requests


async def test_an_unknown_model_is_not_found(caller: Caller) -> None:
    assert (await caller.error("nope")).reason == Reason.MODEL_NOT_FOUND


async def test_many_cancelled_streams_leave_nothing_behind(
    caller: Caller, upstream: ScriptedUpstream
) -> None:
    upstream.default = Script(stall_until=asyncio.Event(), fault_at=1)
    before = asyncio.all_tasks()

    async def leave() -> None:
        call = caller.begin("single", timeout_s=60.0)
        await call.read()
        await call.read()
        call.cancel()

    await asyncio.gather(*(leave() for _ in range(50)))
    for recorded in upstream.requests:
        await recorded.disconnected.wait()
    # grpc's own listener replaces its task with each call.
    left = {t for t in asyncio.all_tasks() - before if "_request_call" not in repr(t)}
    if left:
        _, pending = await asyncio.wait(left, timeout=5)
        assert not pending
    assert caller.router.statistics().relay.cancelled == 50
