"""A gateway that says what a test tells it to: the faults that the real one cannot easily make."""

import asyncio
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import grpc.aio

from gateway.edges.http import HttpEdge, HttpEdgeSettings
from mesh.call import Call, current_call
from mesh.clock import SYSTEM_CLOCK, Clock
from mesh.errors import PlexusError
from mesh.handlers import ServiceTable
from mesh.identity import Authenticator
from mesh.server import ComponentServer
from mesh.settings import MeshSettings
from plexus.cache.v1 import cache_service_pb2 as cache_pb
from plexus.common.v1 import message_pb2, model_pb2
from plexus.gateway.v1 import gateway_service_pb2 as pb
from plexus.gateway.v1 import gateway_service_pb2_grpc

RUN_ID = "run-1"
Step = pb.ChatResponse | PlexusError | asyncio.Event
"""An event to send, an error to raise, or something to wait for."""


class ScriptedGateway(gateway_service_pb2_grpc.GatewayServiceServicer):
    """Serves scripts, and keeps what it was asked and by whom."""

    name = "gateway"

    def __init__(self) -> None:
        self.script: Sequence[Step] = ()
        self.outcomes: list[pb.CompleteResponse | PlexusError] = []
        self.outcomes_wait_for: asyncio.Event | None = None
        self.models: list[pb.Model] = []
        self.turns: list[pb.Turn] = []
        self.embed_requests: list[pb.EmbedRequest] = []
        self.calls: list[Call] = []
        self.seconds_allowed: list[float] = []
        self.cancelled = asyncio.Event()
        self.asked = asyncio.Event()

    def register(self, table: ServiceTable) -> None:
        gateway_service_pb2_grpc.add_GatewayServiceServicer_to_server(self, table)

    async def start(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Nothing to free."""

    def readiness(self) -> bool:
        return True

    async def Chat(
        self,
        request: pb.ChatRequest,
        context: grpc.aio.ServicerContext[pb.ChatRequest, pb.ChatResponse],
    ) -> None:
        self._note(request.turn, context.time_remaining())
        with self._noticing_cancellation():
            sequence = 0
            for step in self.script:
                if isinstance(step, PlexusError):
                    raise step
                if isinstance(step, asyncio.Event):
                    await step.wait()
                else:
                    sequence += 1
                    step.sequence = sequence
                    await context.write(step)

    async def Complete(
        self,
        request: pb.CompleteRequest,
        context: grpc.aio.ServicerContext[pb.CompleteRequest, pb.CompleteResponse],
    ) -> pb.CompleteResponse:
        self._note(request.turn, context.time_remaining())
        if self.outcomes_wait_for is not None:
            with self._noticing_cancellation():
                await self.outcomes_wait_for.wait()
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, PlexusError):
            raise outcome
        return outcome

    async def Embed(
        self,
        request: pb.EmbedRequest,
        context: grpc.aio.ServicerContext[pb.EmbedRequest, pb.EmbedResponse],
    ) -> pb.EmbedResponse:
        self.embed_requests.append(request)
        return pb.EmbedResponse(
            embeddings=[pb.Embedding(values=vector_of(text)) for text in request.texts],
            model="embedder",
            usage=model_pb2.Usage(input_tokens=len(request.texts)),
        )

    async def ListModels(
        self,
        request: pb.ListModelsRequest,
        context: grpc.aio.ServicerContext[pb.ListModelsRequest, pb.ListModelsResponse],
    ) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(models=self.models)

    def _note(self, turn: pb.Turn, seconds: float | None) -> None:
        self.turns.append(turn)
        self.calls.append(current_call())
        self.seconds_allowed.append(seconds or 0.0)
        self.asked.set()

    @contextmanager
    def _noticing_cancellation(self) -> Generator[None]:
        try:
            yield
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


def vector_of(text: str) -> list[float]:
    """Return a vector that tells texts apart; every number fits 32 bits exactly."""
    return [float(len(text)), 0.5, -0.25]


@dataclass(slots=True)
class Edge:
    """An edge on a free port over a scripted gateway."""

    gateway: ScriptedGateway
    http: HttpEdge
    port: int
    ready: list[bool] = field(default_factory=lambda: [True])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@asynccontextmanager
async def running_edge(
    *,
    mesh: MeshSettings | None = None,
    settings: HttpEdgeSettings | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> AsyncGenerator[Edge]:
    """Run the edge for the block."""
    mesh = mesh or MeshSettings()
    gateway = ScriptedGateway()
    server = ComponentServer(gateway, mesh)
    await server.start()
    ready = [True]
    http = HttpEdge(
        server.channel,
        Authenticator(mesh),
        settings or HttpEdgeSettings(port=0),
        clock=clock,
        readiness=lambda: ready[0],
    )
    try:
        yield Edge(gateway, http, await http.start(), ready)
    finally:
        await http.close(0)
        await server.drain()


def started(run_id: str = RUN_ID) -> pb.ChatResponse:
    return pb.ChatResponse(
        started=pb.Started(request_id=run_id, conversation_id="c-1", resume_token=f"{run_id}.t")
    )


def text(piece: str) -> pb.ChatResponse:
    return pb.ChatResponse(text=piece)


def stage(name: str, verdict: str = "", *, duration_ms: float = 1.0) -> pb.ChatResponse:
    return pb.ChatResponse(stage=pb.Stage(name=name, duration_ms=duration_ms, verdict=verdict))


def attempt(deployment: str, *, number: int = 1) -> pb.ChatResponse:
    return pb.ChatResponse(attempt=pb.Attempt(number=number, deployment=deployment, why="only"))


def reset(after: int) -> pb.ChatResponse:
    return pb.ChatResponse(reset=pb.Reset(after_sequence=after, why="failed over"))


def tool_call(call_id: str, name: str, arguments: str) -> pb.ChatResponse:
    call = message_pb2.ToolCall(id=call_id, name=name, arguments_json=arguments)
    return pb.ChatResponse(tool_call=call)


def usage_report() -> pb.UsageReport:
    return pb.UsageReport(
        usage=model_pb2.Usage(
            input_tokens=10,
            cached_input_tokens=4,
            cache_write_input_tokens=2,
            output_tokens=7,
            reasoning_output_tokens=3,
        ),
        cost=model_pb2.Cost(nano_usd=1500, price_source="genai-prices"),
    )


def usage() -> pb.ChatResponse:
    return pb.ChatResponse(usage=usage_report())


def completion(
    finish: model_pb2.FinishReason = model_pb2.FINISH_REASON_STOP,
    verdict: cache_pb.Verdict = cache_pb.VERDICT_MISS,
) -> pb.Completed:
    return pb.Completed(
        finish_reason=finish,
        model="small-2026-01",
        provider="acme",
        cache_verdict=verdict,
        recalled_count=2,
        duration_ms=12.5,
        upstream_ms=10.0,
    )


def completed(finish: model_pb2.FinishReason = model_pb2.FINISH_REASON_STOP) -> pb.ChatResponse:
    return pb.ChatResponse(completed=completion(finish))


def outcome(answer: str = "Hello", **fields: object) -> pb.CompleteResponse:
    message = message_pb2.Message(
        role=message_pb2.ROLE_ASSISTANT, parts=[message_pb2.Part(text=answer)]
    )
    whole = pb.CompleteResponse(
        request_id=RUN_ID,
        conversation_id="c-1",
        response=model_pb2.ModelResponse(message=message),
        usage=usage_report(),
        completed=completion(),
        warnings=[pb.Warning(reason="MEMORY_UNAVAILABLE", component="memory", message="slow")],
        stages=[pb.Stage(name="recall", duration_ms=1.25), pb.Stage(name="recall", duration_ms=1)],
    )
    for name, change in fields.items():
        getattr(whole, name).CopyFrom(change)
    return whole
