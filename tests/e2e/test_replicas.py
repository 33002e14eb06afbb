"""Two gateways, routers and caches over one memory, metrics and Redis: what one starts, the other
goes on with.
"""

import asyncio
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import pytest_asyncio

from mesh.errors import Reason, from_rpc_error
from mesh.testing.upstream import Script, ScriptedUpstream
from plexus.gateway.v1 import gateway_service_pb2 as pb
from tests.e2e.calls import TIMEOUT_S, eventually, fresh, only, text_of, turn, warnings
from tests.e2e.replicas import Replicas, running_replicas

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

ANSWER = "Hello world."
WINDOW_MS = 60_000


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream() -> AsyncGenerator[ScriptedUpstream]:
    async with ScriptedUpstream() as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh(upstream: ScriptedUpstream) -> AsyncGenerator[Replicas]:
    counts = {"gateway": 2, "router": 2, "cache": 2}
    with tempfile.TemporaryDirectory(prefix="plx-") as folder:
        async with running_replicas(Path(folder) / "data", upstream, counts) as running:
            yield running


class Held:
    """A stream whose upstream has sent one piece and waits for `go_on`."""

    def __init__(self, upstream: ScriptedUpstream) -> None:
        self.go_on = asyncio.Event()
        self.events: list[pb.ChatResponse] = []
        self.call: Any = None
        upstream.script(Script(stall_until=self.go_on, fault_at=1))

    async def start(self, mesh: Replicas, index: int, request: pb.ChatRequest) -> str:
        """Return the resume token once the first text has arrived from gateway `index`."""
        self.call = mesh.gateway(index).Chat(request, timeout=TIMEOUT_S)
        while not only(self.events, "text"):
            event = await self.call.read()
            assert isinstance(event, pb.ChatResponse), "the stream ended before its first text"
            self.events.append(event)
        return self.events[0].started.resume_token

    def drop(self) -> None:
        """Break the connection off, as a network does."""
        self.call.cancel()


def resume(token: str, after: int) -> pb.ChatRequest:
    return pb.ChatRequest(resume=pb.Resume(resume_token=token, after_sequence=after))


def gapless(events: list[pb.ChatResponse]) -> bool:
    return [event.sequence for event in events] == list(range(1, len(events) + 1))


async def test_a_dropped_stream_goes_on_at_the_other_gateway(
    mesh: Replicas, upstream: ScriptedUpstream
) -> None:
    held = Held(upstream)
    token = await held.start(mesh, 0, turn(fresh("hi"), resume_window_ms=WINDOW_MS))
    held.drop()
    seen = held.events
    call = mesh.gateway(1).Chat(resume(token, len(seen)), timeout=TIMEOUT_S)
    held.go_on.set()
    whole = [*seen, *[event async for event in call]]
    assert gapless(whole)
    assert whole[-1].WhichOneof("event") == "completed"
    assert text_of(whole) == ANSWER
    assert not warnings(whole)


async def test_a_forged_token_is_unknown_at_every_gateway(
    mesh: Replicas, upstream: ScriptedUpstream
) -> None:
    held = Held(upstream)
    token = await held.start(mesh, 0, turn(fresh("hi"), resume_window_ms=WINDOW_MS))
    held.go_on.set()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in mesh.gateway(1).Chat(resume(token[:-1] + "~", 0), timeout=TIMEOUT_S):
            pass
    assert from_rpc_error(caught.value).reason == Reason.INVALID_RESUME_TOKEN


async def test_a_run_is_cancelled_through_the_other_gateway(
    mesh: Replicas, upstream: ScriptedUpstream
) -> None:
    held = Held(upstream)
    token = await held.start(mesh, 0, turn(fresh("hi"), resume_window_ms=WINDOW_MS))
    recorded = upstream.requests[-1]
    request = pb.CancelChatRequest(resume_token=token)

    async def cancelled() -> bool:
        return (await mesh.gateway(1).CancelChat(request, timeout=TIMEOUT_S)).cancelled

    assert await eventually(cancelled, lambda so: so)
    rest = [event async for event in held.call]
    assert rest[-1].failed.reason == Reason.CANCELLED
    await recorded.disconnected.wait()
    await eventually(cancelled, lambda so: not so)


async def test_one_idempotency_key_is_one_run_at_all_gateways(
    mesh: Replicas, upstream: ScriptedUpstream
) -> None:
    held = Held(upstream)
    key, text = fresh("key"), fresh("hi")
    before = len(upstream.requests)
    await held.start(mesh, 0, turn(text, idempotency_key=key))
    again = asyncio.ensure_future(
        mesh.gateway(1).Complete(
            pb.CompleteRequest(turn=turn(text, idempotency_key=key).turn), timeout=TIMEOUT_S
        )
    )
    second = mesh.gateway(1).Chat(turn(text, idempotency_key=key), timeout=TIMEOUT_S)
    first_event = await second.read()
    assert isinstance(first_event, pb.ChatResponse)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in mesh.gateway(1).Chat(turn("other", idempotency_key=key), timeout=TIMEOUT_S):
            pass
    assert from_rpc_error(caught.value).reason == Reason.IDEMPOTENCY_KEY_REUSED
    held.go_on.set()
    ours = [*held.events, *[event async for event in held.call]]
    theirs = [first_event, *[event async for event in second]]
    assert ours == theirs
    whole = await again
    assert whole.request_id == ours[0].started.request_id
    assert "".join(part.text for part in whole.response.message.parts) == ANSWER
    assert len(upstream.requests) == before + 1


async def test_an_owner_killed_in_mid_stream_is_one_failure_for_its_followers(
    mesh: Replicas, upstream: ScriptedUpstream
) -> None:
    held = Held(upstream)
    token = await held.start(mesh, 0, turn(fresh("hi"), resume_window_ms=WINDOW_MS))
    follower = mesh.gateway(1).Chat(resume(token, 1), timeout=TIMEOUT_S)
    first = await follower.read()
    assert isinstance(first, pb.ChatResponse)
    followed = [held.events[0], first]
    await mesh.processes["gateway"][0].kill()
    with pytest.raises(grpc.aio.AioRpcError):
        await held.call.read()
    followed += [event async for event in follower]
    assert gapless(followed)
    assert [e.WhichOneof("event") for e in followed].count("failed") == 1
    assert followed[-1].failed.reason == Reason.STREAM_INTERRUPTED
    late = mesh.gateway(1).Chat(resume(token, len(held.events)), timeout=TIMEOUT_S)
    (only_event,) = [event async for event in late]
    assert only_event.failed.reason == Reason.STREAM_INTERRUPTED
    held.go_on.set()
    port = int(mesh.address("gateway", 0).rpartition(":")[2])
    await mesh.start("gateway", 0, port=port)
