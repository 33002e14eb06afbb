"""`plexus up --workers 2`: one mesh over two processes that share calls and outlive each other."""

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import aiohttp
import grpc.aio
import orjson
import pytest

from mesh.channel import connect
from mesh.testing.upstream import Script, ScriptedUpstream
from plexus.gateway.v1 import gateway_service_pb2 as pb
from plexus.gateway.v1 import gateway_service_pb2_grpc
from tests.e2e.calls import TIMEOUT_S, children, eventually, fresh, text_of, turn
from tests.e2e.processes import COMPONENTS, Process, launch

pytestmark = pytest.mark.timeout(120)

ANSWER = "Hello world."
IN_FLIGHT = 'plexus_calls_in_flight{component="gateway"} '


@pytest.fixture
async def upstream() -> AsyncGenerator[ScriptedUpstream]:
    async with ScriptedUpstream() as server:
        yield server


@pytest.fixture
async def mesh(upstream: ScriptedUpstream) -> AsyncGenerator[Process]:
    providers = {"up": {"kind": "openai", "base_url": upstream.openai_url}}
    with tempfile.TemporaryDirectory(prefix="plx-") as folder:
        environ = {
            **{f"PLEXUS_{name.upper()}_PORT": "0" for name in COMPONENTS},
            "PLEXUS_GATEWAY_HTTP_PORT": "0",
            "PLEXUS_DATA_DIR": f"{folder}/data",
            "PLEXUS_ROUTER_PROVIDERS": orjson.dumps(providers).decode(),
            # Memory's calls for embeddings would be shared, and counted, too.
            "PLEXUS_MEMORY_EMBEDDING": "false",
            "PLEXUS_ROUTER_GROUPS": orjson.dumps({"default": ["up/first"]}).decode(),
        }
        running = await launch(["up", "--workers", "2"], environ, Path(folder) / "log")
        yield running
        await running.stop()


class Stream:
    """A stream over a connection of its own, or over a shared one, that waits for its upstream."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        stub = gateway_service_pb2_grpc.GatewayServiceStub(channel)
        self._call = stub.Chat(turn(fresh("hi")), timeout=60)
        self.events: list[pb.ChatResponse] = []

    async def begin(self) -> None:
        """Return when the first text has arrived."""
        while not self.events or self.events[-1].WhichOneof("event") != "text":
            event = await self._call.read()
            assert isinstance(event, pb.ChatResponse)
            self.events.append(event)

    async def end(self) -> str:
        """Read on, and return "whole" or the status that ended it."""
        try:
            while isinstance(event := await self._call.read(), pb.ChatResponse):
                self.events.append(event)
        except grpc.aio.AioRpcError as error:
            return error.code().name
        assert self.events[-1].WhichOneof("event") == "completed"
        assert text_of(self.events) == ANSWER
        return "whole"


def channel_to(mesh: Process) -> grpc.aio.Channel:
    """A plain channel with a connection of its own."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    return grpc.aio.insecure_channel(mesh.ready["addresses"]["gateway"], options=options)


async def in_flight(mesh: Process) -> list[int]:
    """How many calls the gateway of each worker runs."""
    running: list[int] = []
    async with aiohttp.ClientSession() as session:
        for worker in mesh.ready["workers"]:
            async with session.get(f"{worker['admin_url']}/metrics") as response:
                lines = (await response.text()).splitlines()
            running += [round(float(s.split()[1])) for s in lines if s.startswith(IN_FLIGHT)]
    return running


async def complete(mesh: Process) -> str:
    """One call over a connection of its own, with the retries of our channel."""
    async with connect(mesh.ready["addresses"]["gateway"]) as channel:
        stub = gateway_service_pb2_grpc.GatewayServiceStub(channel)
        request = pb.CompleteRequest(turn=turn(fresh("hi")).turn)
        whole = await stub.Complete(request, timeout=TIMEOUT_S)
    return "".join(part.text for part in whole.response.message.parts)


async def post(session: aiohttp.ClientSession, mesh: Process) -> str:
    body: dict[str, Any] = {
        "model": "default",
        "messages": [{"role": "user", "content": fresh("hi")}],
    }
    url = f"{mesh.ready['http_url']}/v1/chat/completions"
    async with session.post(url, json=body) as response:
        assert response.status == 200
        return (await response.json())["choices"][0]["message"]["content"]


async def test_the_calls_of_one_connection_are_shared_evenly(
    mesh: Process, upstream: ScriptedUpstream
) -> None:
    go_on = asyncio.Event()
    upstream.default = Script(stall_until=go_on, fault_at=1)
    async with channel_to(mesh) as channel:
        streams = [Stream(channel) for _ in range(12)]
        for stream in streams:
            await stream.begin()
        assert await in_flight(mesh) == [6, 6]
        go_on.set()
        assert [await stream.end() for stream in streams] == ["whole"] * 12
    assert await eventually(lambda: in_flight(mesh), lambda running: running == [0, 0])


async def test_http_requests_are_shared_evenly(mesh: Process, upstream: ScriptedUpstream) -> None:
    go_on = asyncio.Event()
    upstream.default = Script(stall_until=go_on, fault_at=1)
    async with aiohttp.ClientSession() as session:
        posts: list[asyncio.Task[str]] = []
        for number in range(1, 9):
            posts.append(asyncio.ensure_future(post(session, mesh)))
            await eventually(lambda: in_flight(mesh), lambda now, n=number: sum(now) == n)
        assert await in_flight(mesh) == [4, 4]
        go_on.set()
        assert await asyncio.gather(*posts) == [ANSWER] * 8


async def test_a_killed_worker_is_replaced_and_disturbs_no_other(
    mesh: Process, upstream: ScriptedUpstream
) -> None:
    go_on = asyncio.Event()
    upstream.default = Script(stall_until=go_on, fault_at=1)
    channels = [channel_to(mesh) for _ in range(6)]
    streams = [Stream(channel) for channel in channels for _ in range(2)]
    for stream in streams:
        await stream.begin()
    assert await in_flight(mesh) == [6, 6]
    victim = mesh.ready["workers"][0]["pid"]
    upstream.default = Script()
    os.kill(victim, signal.SIGKILL)
    # Nobody is refused while one is missing.
    assert await asyncio.gather(*(complete(mesh) for _ in range(10))) == [ANSWER] * 10
    go_on.set()
    ends = [await stream.end() for stream in streams]
    # A stream of the victim, or one that came in there, says so; none is cut in silence.
    assert set(ends) <= {"whole", "UNAVAILABLE"}
    assert ends.count("UNAVAILABLE") >= 6

    async def workers() -> list[int]:
        return children(mesh.pid, "cli.worker")

    running = await eventually(workers, lambda pids: len(pids) == 2 and victim not in pids)
    assert mesh.ready["workers"][1]["pid"] in running
    assert await asyncio.gather(*(complete(mesh) for _ in range(10))) == [ANSWER] * 10
    for channel in channels:
        await channel.close()


async def test_a_stop_lets_every_workers_streams_end(
    mesh: Process, upstream: ScriptedUpstream
) -> None:
    go_on = asyncio.Event()
    upstream.default = Script(stall_until=go_on, fault_at=1)
    async with channel_to(mesh) as channel:
        streams = [Stream(channel) for _ in range(4)]
        for stream in streams:
            await stream.begin()
        stopping = asyncio.ensure_future(mesh.stop())
        await asyncio.sleep(0)
        go_on.set()
        assert [await stream.end() for stream in streams] == ["whole"] * 4
        assert await stopping == 0
    assert not children(mesh.pid, "cli.worker")
