"""The gRPC edge of the router: decode, check, call, encode."""

import asyncio
from typing import Any

import grpc.aio

from mesh.call import remaining_s, resolve_tenant
from mesh.errors import DeadlineExceeded, NotFound, Reason
from mesh.validation import check_bytes, check_count, require
from plexus.common.v1 import message_pb2, model_pb2
from plexus.router.v1 import router_service_pb2 as pb
from plexus.router.v1 import router_service_pb2_grpc
from services.router.catalogue import Catalogue
from services.router.deployment import HealthBook
from services.router.embedding.queue import EmbeddingQueue
from services.router.estimate import estimate_input_tokens
from services.router.relay import Relay

MAX_MESSAGES = 10_000
MAX_TOOLS = 256
MAX_STOPS = 16
MAX_TEXTS = 256
MAX_TEXT_BYTES = 32 * 1024
MAX_NAME_BYTES = 256

Context = grpc.aio.ServicerContext[Any, Any]


class RouterService(router_service_pb2_grpc.RouterServiceServicer):
    """See the contract for what each call promises."""

    def __init__(
        self,
        *,
        catalogue: Catalogue,
        relay: Relay,
        health: HealthBook,
        embeddings: EmbeddingQueue,
        embedding_model: str,
        embedding_names: frozenset[str],
        default_deadline_s: float,
    ) -> None:
        self._catalogue = catalogue
        self._relay = relay
        self._health = health
        self._embeddings = embeddings
        self._embedding_model = embedding_model
        self._embedding_names = embedding_names
        self._default_deadline_s = default_deadline_s

    async def Generate(
        self,
        request: pb.GenerateRequest,
        context: grpc.aio.ServicerContext[pb.GenerateRequest, pb.GenerateResponse],
    ) -> None:
        resolve_tenant(request.scope)
        asked = request.request
        _check_request(asked)
        candidates = self._catalogue.candidates(asked.model)
        input_tokens = estimate_input_tokens(asked, candidates[0].model)
        await self._relay.relay(
            asked,
            candidates,
            context.write,
            estimated_input_tokens=input_tokens,
            estimated_tokens=input_tokens + asked.sampling.max_output_tokens,
        )

    async def Embed(self, request: pb.EmbedRequest, context: Context) -> pb.EmbedResponse:
        resolve_tenant(request.scope)
        self._check_embed(request)
        try:
            async with asyncio.timeout(remaining_s(self._default_deadline_s)):
                answer = await self._embeddings.embed(request.texts)
        except TimeoutError:
            raise DeadlineExceeded(
                "the call's deadline passed before the texts were embedded"
            ) from None
        return pb.EmbedResponse(
            vectors=answer.vectors,
            model=self._embedding_model,
            dimensions=len(answer.vectors[0].values),
            usage=model_pb2.Usage(
                input_tokens=answer.input_tokens, cached_input_tokens=answer.cached_input_tokens
            ),
        )

    async def CountTokens(
        self, request: pb.CountTokensRequest, context: Context
    ) -> pb.CountTokensResponse:
        resolve_tenant(request.scope)
        _check_request(request.request)
        candidates = self._catalogue.candidates(request.request.model)
        tokens = estimate_input_tokens(request.request, candidates[0].model)
        return pb.CountTokensResponse(input_tokens=tokens, estimated=True)

    async def ListModels(
        self, request: pb.ListModelsRequest, context: Context
    ) -> pb.ListModelsResponse:
        resolve_tenant(request.scope)
        embedding = pb.Model(
            name=self._embedding_model, deployments=[self._embedding_model], operation="embeddings"
        )
        return pb.ListModelsResponse(models=[*self._catalogue.models(), embedding])

    async def ExplainRoute(
        self, request: pb.ExplainRouteRequest, context: Context
    ) -> pb.ExplainRouteResponse:
        resolve_tenant(request.scope)
        asked = request.request
        _check_request(asked)
        candidates = self._catalogue.candidates(asked.model)
        tokens = estimate_input_tokens(asked, candidates[0].model)
        return pb.ExplainRouteResponse(
            candidates=[
                pb.Candidate(
                    deployment=candidate.deployment.name,
                    eligible=candidate.eligible,
                    why=candidate.why,
                    breaker_state=self._health.of(candidate.deployment).breaker.state,
                )
                for candidate in self._relay.explain(
                    candidates, tokens + asked.sampling.max_output_tokens
                )
            ]
        )

    def _check_embed(self, request: pb.EmbedRequest) -> None:
        check_count(len(request.texts), "texts", low=1, high=MAX_TEXTS)
        for at, text in enumerate(request.texts):
            check_bytes(text, f"texts[{at}]", low=1, high=MAX_TEXT_BYTES)
        if request.model and request.model not in self._embedding_names:
            raise NotFound(
                f"the embedding model here is {self._embedding_model}; an empty name means it",
                reason=Reason.MODEL_NOT_FOUND,
            )


def _check_request(request: model_pb2.ModelRequest) -> None:
    check_bytes(request.model, "request.model", high=MAX_NAME_BYTES)
    check_count(len(request.messages), "request.messages", low=1, high=MAX_MESSAGES)
    check_count(len(request.tools), "request.tools", high=MAX_TOOLS)
    for at, message in enumerate(request.messages):
        _check_message(message, f"request.messages[{at}]")
    _check_sampling(request.sampling)


def _check_message(message: message_pb2.Message, field: str) -> None:
    role = message.role
    require(
        message_pb2.ROLE_SYSTEM <= role <= message_pb2.ROLE_TOOL, f"{field}.role", "is required"
    )
    require(
        bool(message.tool_call_id) == (role == message_pb2.ROLE_TOOL),
        f"{field}.tool_call_id",
        "belongs to tool messages, and to them always",
    )
    require(
        not message.tool_calls or role == message_pb2.ROLE_ASSISTANT,
        f"{field}.tool_calls",
        "belong to assistant messages",
    )


def _check_sampling(sampling: model_pb2.Sampling) -> None:
    name = "request.sampling"
    check_count(len(sampling.stop), f"{name}.stop", high=MAX_STOPS)
    require(0 <= sampling.temperature <= 2, f"{name}.temperature", "must be 0 to 2")
    if sampling.HasField("top_p"):
        require(0 < sampling.top_p <= 1, f"{name}.top_p", "must be above 0, to 1")
    if sampling.HasField("max_output_tokens"):
        require(sampling.max_output_tokens >= 1, f"{name}.max_output_tokens", "must be at least 1")
    for field in ("presence_penalty", "frequency_penalty"):
        require(-2 <= getattr(sampling, field) <= 2, f"{name}.{field}", "must be -2 to 2")
