"""The gRPC edge: decode, start or find a run, and pass its events on."""

import secrets
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import grpc.aio

from gateway.clients import Clients
from gateway.edges.gathered import Gathered
from gateway.outbox import Outbox
from gateway.pipeline import Pipeline
from gateway.runs import Run
from gateway.settings import GatewaySettings
from gateway.shared_runs import Readable, SharedRuns
from gateway.stages.admit import admit
from mesh.call import current_call, resolve_tenant
from mesh.clock import Clock
from mesh.errors import from_rpc_error
from mesh.validation import invalid, require
from plexus.gateway.v1 import gateway_service_pb2 as pb
from plexus.gateway.v1 import gateway_service_pb2_grpc
from plexus.metrics.v1 import metrics_service_pb2 as metrics_pb
from plexus.router.v1 import router_service_pb2 as router_pb


class GatewayService(gateway_service_pb2_grpc.GatewayServiceServicer):
    """Serves `plexus.gateway.v1.GatewayService`."""

    def __init__(
        self,
        pipeline: Pipeline,
        runs: SharedRuns,
        clients: Clients,
        outbox: Outbox,
        settings: GatewaySettings,
        clock: Clock,
    ) -> None:
        self._pipeline = pipeline
        self._runs = runs
        self._clients = clients
        self._outbox = outbox
        self._settings = settings
        self._clock = clock

    async def Chat(
        self,
        request: pb.ChatRequest,
        context: grpc.aio.ServicerContext[pb.ChatRequest, pb.ChatResponse],
    ) -> None:
        action = request.WhichOneof("action")
        require(action is not None, "action", "set turn to start a turn, or resume")
        if action == "resume":
            run, after = await self._resume(request.resume)
        else:
            run, after = await self._start(request.turn), 0
        await self._pass_on(run, after, context.write)

    async def Complete(
        self,
        request: pb.CompleteRequest,
        context: grpc.aio.ServicerContext[pb.CompleteRequest, pb.CompleteResponse],
    ) -> pb.CompleteResponse:
        turn = pb.Turn()
        turn.CopyFrom(request.turn)
        turn.resume_window_ms = 0
        turn.quiet = False
        gathered = Gathered()
        await self._pass_on(await self._start(turn), 0, gathered.add)
        return gathered.result()

    async def CancelChat(
        self,
        request: pb.CancelChatRequest,
        context: grpc.aio.ServicerContext[pb.CancelChatRequest, pb.CancelChatResponse],
    ) -> pb.CancelChatResponse:
        tenant = current_call().identity.tenant
        cancelled = await self._runs.cancel(tenant, request.resume_token)
        return pb.CancelChatResponse(cancelled=cancelled)

    async def Embed(
        self,
        request: pb.EmbedRequest,
        context: grpc.aio.ServicerContext[pb.EmbedRequest, pb.EmbedResponse],
    ) -> pb.EmbedResponse:
        scope = request.scope
        scope.tenant = resolve_tenant(scope)
        try:
            embedded = await self._clients.router.Embed(
                router_pb.EmbedRequest(scope=scope, model=request.model, texts=request.texts)
            )
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error
        await self._book_embeddings(request, embedded)
        return pb.EmbedResponse(
            embeddings=[pb.Embedding(values=vector.values) for vector in embedded.vectors],
            model=embedded.model,
            usage=embedded.usage,
        )

    async def ListModels(
        self,
        request: pb.ListModelsRequest,
        context: grpc.aio.ServicerContext[pb.ListModelsRequest, pb.ListModelsResponse],
    ) -> pb.ListModelsResponse:
        try:
            listed = await self._clients.router.ListModels(router_pb.ListModelsRequest())
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error
        return pb.ListModelsResponse(
            models=[
                pb.Model(name=m.name, deployments=m.deployments, operation=m.operation)
                for m in listed.models
            ]
        )

    async def _start(self, turn: pb.Turn) -> Readable:
        call = current_call()
        tenant = resolve_tenant(turn.scope)
        admitted = admit(turn, tenant, self._settings)
        return await self._runs.begin(
            tenant, turn, lambda run: self._pipeline.execute(run, admitted, call)
        )

    async def _resume(self, resume: pb.Resume) -> tuple[Readable, int]:
        run = await self._runs.find(current_call().identity.tenant, resume.resume_token)
        require(resume.after_sequence >= 0, "resume.after_sequence", "must not be negative")
        if isinstance(run, Run) and resume.after_sequence > run.sequence:
            raise invalid("resume.after_sequence", f"this run has events 1 to {run.sequence}")
        return run, resume.after_sequence

    async def _pass_on(
        self, run: Readable, after: int, write: Callable[[pb.ChatResponse], Awaitable[None]]
    ) -> None:
        """Give the run's events to `write`; a reader that goes away is counted out."""
        self._runs.attach(run)
        try:
            async with aclosing(run.follow(after)) as events:
                async for event in events:
                    await write(event)
        finally:
            self._runs.detach(run)

    async def _book_embeddings(
        self, request: pb.EmbedRequest, embedded: router_pb.EmbedResponse
    ) -> None:
        call = current_call()
        event = metrics_pb.UsageEvent(
            event_id=secrets.token_hex(16),
            scope=request.scope,
            operation="embeddings",
            provider=embedded.provider,
            model=embedded.model,
            requested_model=request.model,
            usage=embedded.usage,
            outcome=metrics_pb.OUTCOME_COMPLETED,
            request_id=call.request_id,
        )
        event.event_time.FromNanoseconds(self._clock.time_ns())
        booking = metrics_pb.RecordUsageRequest(events=[event])
        try:
            await self._clients.metrics.RecordUsage(
                booking, timeout=self._settings.account_timeout_s
            )
        except grpc.aio.AioRpcError:
            await self._outbox.put_usage(call.identity, booking)
