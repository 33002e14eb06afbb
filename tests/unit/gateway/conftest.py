"""A real gateway in front of components that do as a test tells them, over the real transport."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from gateway.build import Gateway
from gateway.clients import Clients
from gateway.settings import GatewaySettings
from mesh.call import Identity, current_call, outgoing_call
from mesh.clock import SYSTEM_CLOCK
from mesh.errors import PlexusError
from mesh.handlers import ServiceTable
from mesh.server import ComponentServer
from mesh.settings import MeshSettings
from plexus.cache.v1 import cache_service_pb2 as cache_pb
from plexus.cache.v1 import cache_service_pb2_grpc
from plexus.common.v1 import message_pb2, model_pb2
from plexus.gateway.v1 import gateway_service_pb2 as pb
from plexus.gateway.v1 import gateway_service_pb2_grpc
from plexus.memory.v1 import memory_service_pb2 as memory_pb
from plexus.memory.v1 import memory_service_pb2_grpc
from plexus.metrics.v1 import metrics_service_pb2 as metrics_pb
from plexus.metrics.v1 import metrics_service_pb2_grpc
from plexus.router.v1 import router_service_pb2 as router_pb
from plexus.router.v1 import router_service_pb2_grpc

ACME = Identity("acme", "test")
LEASE = "lease-1"
Context = grpc.aio.ServicerContext[Any, Any]


@dataclass
class Scripted:
    """What the scripted components share: a failure to raise, and something to wait for first."""

    failure: PlexusError | None = None
    wait_for: asyncio.Event | None = None
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def obey(self) -> None:
        """Note the call, then wait and fail as told."""
        self.asked.set()
        if self.wait_for is not None:
            await self.wait_for.wait()
        if self.failure is not None:
            raise self.failure


class ScriptedMemory(memory_service_pb2_grpc.MemoryServiceServicer, Scripted):
    """Keeps what it is given; recalls what a test puts into `recalled`."""

    def __init__(self) -> None:
        Scripted.__init__(self)
        self.recalled = memory_pb.RecallResponse()
        self.recalls: list[memory_pb.RecallRequest] = []
        self.tried: list[memory_pb.WriteMemoriesRequest] = []
        self.written: list[memory_pb.WriteMemoriesRequest] = []
        self.tenants: list[str] = []

    async def Recall(self, request: memory_pb.RecallRequest, context: Context) -> Any:
        self.recalls.append(request)
        return self.recalled

    async def WriteMemories(self, request: memory_pb.WriteMemoriesRequest, context: Context) -> Any:
        self.tried.append(request)
        self.tenants.append(current_call().identity.tenant)
        await self.obey()
        self.written.append(request)
        return memory_pb.WriteMemoriesResponse()

    def texts(self) -> list[str]:
        """Return the texts written, in the order of the writes."""
        return [write.text for request in self.written for write in request.writes]


Step = router_pb.GenerateResponse | PlexusError | asyncio.Event


class ScriptedRouter(router_service_pb2_grpc.RouterServiceServicer):
    """Plays `steps` for every request: sends an event, raises an error, or waits."""

    def __init__(self) -> None:
        self.steps: Sequence[Step] = ANSWER
        self.requests: list[router_pb.GenerateRequest] = []

    async def Generate(self, request: router_pb.GenerateRequest, context: Context) -> None:
        self.requests.append(request)
        for step in self.steps:
            if isinstance(step, PlexusError):
                raise step
            if isinstance(step, asyncio.Event):
                await step.wait()
            else:
                await context.write(step)

    async def Embed(self, request: router_pb.EmbedRequest, context: Context) -> Any:
        return router_pb.EmbedResponse(model="model", provider="up")


class ScriptedCache(cache_service_pb2_grpc.CacheServiceServicer, Scripted):
    """Answers every lookup with `found`; `obey`s when it is to store."""

    def __init__(self) -> None:
        Scripted.__init__(self)
        self.found = cache_pb.LookupResponse(verdict=cache_pb.VERDICT_MISS, lease=LEASE)
        self.stored: list[cache_pb.StoreRequest] = []
        self.released: list[str] = []

    async def Lookup(self, request: cache_pb.LookupRequest, context: Context) -> Any:
        return self.found

    async def Store(self, request: cache_pb.StoreRequest, context: Context) -> Any:
        await self.obey()
        self.stored.append(request)
        return cache_pb.StoreResponse(stored=True)

    async def Release(self, request: cache_pb.ReleaseRequest, context: Context) -> Any:
        self.released.append(request.lease)
        return cache_pb.ReleaseResponse()


class ScriptedMetrics(metrics_service_pb2_grpc.MetricsServiceServicer, Scripted):
    """Books each event once, at a nano-dollar a token."""

    def __init__(self) -> None:
        Scripted.__init__(self)
        self.booked: dict[str, metrics_pb.UsageEvent] = {}

    async def RecordUsage(self, request: metrics_pb.RecordUsageRequest, context: Context) -> Any:
        await self.obey()
        response = metrics_pb.RecordUsageResponse()
        for event in request.events:
            self.booked.setdefault(event.event_id, event)
            entry = response.entries.add(event_id=event.event_id)
            entry.cost.nano_usd = event.usage.input_tokens + event.usage.output_tokens
        return response


class Component:
    """A servicer as the fabric wants it."""

    def __init__(self, name: str, add: Callable[[ServiceTable], None]) -> None:
        self.name = name
        self._add = add

    def register(self, table: ServiceTable) -> None:
        self._add(table)

    async def start(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Nothing to free."""

    def readiness(self) -> bool:
        return True


class Rig:
    """The scripted components, and a gateway once `open` was called."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.memory = ScriptedMemory()
        self.router = ScriptedRouter()
        self.cache = ScriptedCache()
        self.metrics = ScriptedMetrics()
        add_memory = memory_service_pb2_grpc.add_MemoryServiceServicer_to_server
        add_router = router_service_pb2_grpc.add_RouterServiceServicer_to_server
        add_cache = cache_service_pb2_grpc.add_CacheServiceServicer_to_server
        add_metrics = metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server
        components = (
            Component("memory", lambda table: add_memory(self.memory, _server(table))),
            Component("router", lambda table: add_router(self.router, _server(table))),
            Component("cache", lambda table: add_cache(self.cache, _server(table))),
            Component("metrics", lambda table: add_metrics(self.metrics, _server(table))),
        )
        self._servers = {each.name: ComponentServer(each, MeshSettings()) for each in components}
        self.clients = Clients.over(self.channel_to)

    def channel_to(self, component: str) -> grpc.aio.Channel:
        return self._servers[component].channel

    async def open(self, **settings: Any) -> Gateway:
        """Start a gateway with these settings; the stub speaks to it from then on."""
        chosen = replace(GatewaySettings(outbox_retry_s=0.001), **settings)
        gateway = Gateway(
            chosen, data_dir=self.data_dir, channel_to=self.channel_to, clock=SYSTEM_CLOCK
        )
        self._servers["gateway"] = ComponentServer(gateway, MeshSettings())
        await self._servers["gateway"].start()
        return gateway

    @property
    def stub(self) -> gateway_service_pb2_grpc.GatewayServiceStub:
        """The gateway's stub; call it as somebody."""
        return gateway_service_pb2_grpc.GatewayServiceStub(self.channel_to("gateway"))

    async def chat(self, turn: pb.Turn, *, timeout_s: float = 8.0) -> list[pb.ChatResponse]:
        """Return all events of a turn of ACME's."""
        with outgoing_call(ACME, timeout_s=timeout_s):
            return await checked(self.stub.Chat(pb.ChatRequest(turn=turn)))

    async def cancel(self, token: str) -> bool:
        """Cancel a run of ACME's by its token."""
        with outgoing_call(ACME):
            request = pb.CancelChatRequest(resume_token=token)
            return (await self.stub.CancelChat(request)).cancelled

    async def close(self) -> None:
        for server in reversed(self._servers.values()):
            await server.finish(0)


def _server(table: ServiceTable) -> Any:
    """Generated code asks for a grpc server; the table stands in for one."""
    return table


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncGenerator[Rig]:
    opened = Rig(tmp_path)
    yield opened
    await opened.close()


async def checked(call: Any, events: Sequence[pb.ChatResponse] = ()) -> list[pb.ChatResponse]:
    """Read to the end, after `events`; require no gap and one terminal event, the last."""
    read = [*events, *[event async for event in call]]
    assert [event.sequence for event in read] == list(range(1, len(read) + 1))
    assert [at for at, event in enumerate(read, 1) if is_terminal(event)] == [len(read)]
    return read


async def read_until(call: Any, good: Callable[[pb.ChatResponse], bool]) -> list[pb.ChatResponse]:
    """Read up to the first event that is `good`."""
    events: list[pb.ChatResponse] = []
    while not events or not good(events[-1]):
        event = await call.read()
        assert isinstance(event, pb.ChatResponse), f"ended too early: {events}"
        events.append(event)
    return events


async def until(good: Callable[[], bool]) -> None:
    """Let the loop run until `good`; the test's own timeout bounds it."""
    while not good():  # noqa: ASYNC110 -- yields to the loop, waits for no time
        await asyncio.sleep(0)


def is_terminal(event: pb.ChatResponse) -> bool:
    return event.WhichOneof("event") in ("completed", "failed")


def kinds(events: Sequence[pb.ChatResponse]) -> list[str | None]:
    return [event.WhichOneof("event") for event in events]


def user(text: str) -> message_pb2.Message:
    return message_pb2.Message(role=message_pb2.ROLE_USER, parts=[message_pb2.Part(text=text)])


def turn(*messages: message_pb2.Message, **fields: Any) -> pb.Turn:
    """Return a turn that says "Hi." unless told otherwise."""
    request = model_pb2.ModelRequest(messages=messages or [user("Hi.")])
    return pb.Turn(request=request, **fields)


def attempt(number: int = 1, **fields: Any) -> router_pb.GenerateResponse:
    begun = router_pb.Attempt(
        number=number,
        deployment="up/model",
        provider="up",
        model="model",
        estimated_input_tokens=5,
        **fields,
    )
    return router_pb.GenerateResponse(attempt=begun)


def piece(text: str) -> router_pb.GenerateResponse:
    return router_pb.GenerateResponse(text=text)


def finished(**usage: Any) -> router_pb.GenerateResponse:
    end = router_pb.Finished(
        model="model",
        provider="up",
        finish_reason=model_pb2.FINISH_REASON_STOP,
        usage=model_pb2.Usage(**usage),
    )
    return router_pb.GenerateResponse(finished=end)


ANSWER = (attempt(), piece("Hello."), finished(input_tokens=7, output_tokens=9))
