"""Every component is restarted in turn under steady load: no call fails, no stream is cut."""

import asyncio
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator
from functools import partial
from pathlib import Path

import pytest
import pytest_asyncio

from mesh.errors import Reason
from mesh.testing.upstream import Script, ScriptedUpstream
from plexus.gateway.v1 import gateway_service_pb2 as pb
from plexus.gateway.v1 import gateway_service_pb2_grpc
from tests.e2e.calls import TIMEOUT_S, eventually, fresh, only, text_of, turn
from tests.e2e.replicas import Replicas, running_replicas

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]

ANSWER = "Hello world."
PAUSE_S = 0.1
"""Between two calls of one caller: the load is steady, and small."""
CALLERS = 3
COUNTS = {"gateway": 2, "router": 2, "cache": 2, "metrics": 2}


class Load:
    """Callers that take turns at Complete and Chat until told to stop."""

    def __init__(self, stub: gateway_service_pb2_grpc.GatewayServiceStub) -> None:
        self._stub = stub
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.ended: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.warned: Counter[str] = Counter()

    def start(self) -> None:
        self._tasks = [asyncio.ensure_future(self._call_on()) for _ in range(CALLERS)]

    async def stop(self) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)

    async def _call_on(self) -> None:
        while not self._stop.is_set():
            for call in (self._complete, self._chat):
                try:
                    await call()
                except Exception as error:
                    self.wrong.append(f"{call.__name__}: {error!r}")
            try:
                async with asyncio.timeout(PAUSE_S):
                    await self._stop.wait()
            except TimeoutError:
                continue

    async def _complete(self) -> None:
        request = pb.CompleteRequest(turn=turn(fresh("hi"), conversation=fresh("c")).turn)
        whole = await self._stub.Complete(request, timeout=TIMEOUT_S)
        self._check("complete", "".join(part.text for part in whole.response.message.parts))
        self.warned.update(warning.reason for warning in whole.warnings)

    async def _chat(self) -> None:
        request = turn(fresh("hi"), conversation=fresh("c"))
        events = [event async for event in self._stub.Chat(request, timeout=TIMEOUT_S)]
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
        assert events[-1].WhichOneof("event") == "completed", str(events[-1])
        self._check("chat", text_of(events))
        self.warned.update(event.warning.reason for event in only(events, "warning"))

    def _check(self, kind: str, said: str) -> None:
        assert said == ANSWER
        self.ended[kind] += 1


class LongStream:
    """A stream that begins before a restart and ends after it: the upstream waits for us."""

    def __init__(self, mesh: Replicas, upstream: ScriptedUpstream) -> None:
        self._go_on = asyncio.Event()
        self._begun = asyncio.Event()
        upstream.by_model["long"] = Script(stall_until=self._go_on, fault_at=1)
        request = turn(fresh("hi"), conversation=fresh("c"))
        request.turn.request.model = "up/long"
        self._call = mesh.gateway().Chat(request, timeout=60)
        self._events: list[pb.ChatResponse] = []
        self._reading = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        async for event in self._call:
            self._events.append(event)
            if event.WhichOneof("event") == "text":
                self._begun.set()

    async def begun(self) -> None:
        await self._begun.wait()

    async def ends_whole(self) -> None:
        self._go_on.set()
        await self._reading
        assert [e.sequence for e in self._events] == list(range(1, len(self._events) + 1))
        assert self._events[-1].WhichOneof("event") == "completed"
        assert text_of(self._events) == ANSWER


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream() -> AsyncGenerator[ScriptedUpstream]:
    async with ScriptedUpstream() as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh(upstream: ScriptedUpstream) -> AsyncGenerator[Replicas]:
    with tempfile.TemporaryDirectory(prefix="plx-") as folder:
        async with running_replicas(Path(folder) / "data", upstream, COUNTS) as running:
            yield running


async def test_a_rolling_restart_of_everything_costs_no_call(
    mesh: Replicas, upstream: ScriptedUpstream
) -> None:
    load = Load(mesh.gateway())
    load.start()
    try:
        for component in ("metrics", "cache", "memory", "router", "gateway"):
            for index in range(COUNTS.get(component, 1)):
                before = load.ended.total()
                stream = LongStream(mesh, upstream)
                await stream.begun()
                restarting = asyncio.ensure_future(mesh.restart(component, index))
                while load.ended.total() < before + 2 * CALLERS:
                    assert not load.wrong, f"{component} {index}: {load.wrong}"
                    await asyncio.sleep(0.01)
                await stream.ends_whole()
                assert await restarting == 0, f"{component} {index}"
                # The next one goes when this one carries load again, as `minReadySeconds` has it.
                await eventually(
                    partial(mesh.calls_served, component, index), lambda served: served > 0
                )
    finally:
        await load.stop()
    assert not load.wrong
    assert min(load.ended["complete"], load.ended["chat"]) > 50
    # One memory on one host: while it restarts, turns are answered without it, and say so.
    assert set(load.warned) <= {Reason.MEMORY_UNAVAILABLE, Reason.EMBEDDER_UNAVAILABLE}
