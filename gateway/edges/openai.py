"""The OpenAI dialect: chat completions, embeddings and models over the gateway's own contract.

A translator and nothing else: what it can do, any client of `GatewayService` can do.
"""

from collections.abc import Sequence

import grpc.aio
import orjson
from aiohttp import web

from gateway.edges.http_exchange import (
    EXCHANGE,
    Exchange,
    calling,
    json_response,
    read_object,
)
from gateway.edges.http_settings import HttpEdgeSettings
from gateway.edges.openai_request import ChatAsk, EmbeddingsAsk, chat_ask, embeddings_ask
from gateway.edges.openai_response import (
    answer_headers,
    completion_json,
    embeddings_json,
    model_json,
    models_json,
)
from gateway.edges.openai_stream import ChunkStream
from gateway.edges.request_headers import timeout_s_of
from gateway.edges.sse import OpenStreams
from mesh.call import Identity
from mesh.clock import Clock
from mesh.errors import NotFound, Reason, Unavailable
from mesh.identity import Authenticator
from mesh.validation import require
from plexus.gateway.v1 import gateway_service_pb2 as pb
from plexus.gateway.v1 import gateway_service_pb2_grpc

EMBED_BATCH = 256
"""How many texts one call of the contract takes."""


class OpenAIDialect:
    """The handlers of OpenAI's routes. Errors leave as raised; the edge gives them their form."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        authenticator: Authenticator,
        settings: HttpEdgeSettings,
        streams: OpenStreams,
        clock: Clock,
    ) -> None:
        self._stub = gateway_service_pb2_grpc.GatewayServiceStub(channel)
        self._authenticator = authenticator
        self._settings = settings
        self._streams = streams
        self._clock = clock

    def routes(self) -> Sequence[web.RouteDef]:
        """Return the routes."""
        return (
            web.post("/v1/chat/completions", self.chat),
            web.post("/v1/embeddings", self.embeddings),
            web.get("/v1/models", self.models, allow_head=False),
            web.get("/v1/models/{name:.+}", self.model, allow_head=False),
        )

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """Serve POST /v1/chat/completions."""
        exchange, identity = self._identify(request)
        body = await read_object(request, self._settings)
        ask = chat_ask(body, request.headers, identity.tenant)
        timeout_s = timeout_s_of(request.headers, self._settings, streamed=ask.streamed)
        with calling(exchange, identity, request.headers, timeout_s):
            if ask.streamed:
                return await self._stream(request, exchange, ask)
            outcome = await self._stub.Complete(pb.CompleteRequest(turn=ask.turn))
        exchange.run_id = outcome.request_id
        body_json = completion_json(
            outcome, created_s=self._now_s(), asked_model=ask.turn.request.model
        )
        return json_response(body_json, headers=answer_headers(outcome))

    async def embeddings(self, request: web.Request) -> web.StreamResponse:
        """Serve POST /v1/embeddings."""
        exchange, identity = self._identify(request)
        ask = embeddings_ask(await read_object(request, self._settings), request.headers)
        timeout_s = timeout_s_of(request.headers, self._settings, streamed=False)
        with calling(exchange, identity, request.headers, timeout_s):
            embedded = await self._embed(ask)
        vectors = [embedding.values for embedding in embedded.embeddings]
        fits = ask.dimensions is None or all(len(v) == ask.dimensions for v in vectors)
        require(fits, "dimensions", "this model makes vectors of one length; leave it out")
        return json_response(
            embeddings_json(
                vectors,
                model=embedded.model,
                input_tokens=embedded.usage.input_tokens,
                as_base64=ask.as_base64,
            )
        )

    async def models(self, request: web.Request) -> web.StreamResponse:
        """Serve GET /v1/models."""
        return json_response(models_json(await self._list_models(request)))

    async def model(self, request: web.Request) -> web.StreamResponse:
        """Serve GET /v1/models/{name}."""
        name = request.match_info["name"]
        for model in await self._list_models(request):
            if model.name == name:
                return json_response(orjson.dumps(model_json(model)))
        raise NotFound(
            "this model is not configured here; GET /v1/models lists those that are",
            reason=Reason.MODEL_NOT_FOUND,
        )

    async def _stream(
        self, request: web.Request, exchange: Exchange, ask: ChatAsk
    ) -> web.StreamResponse:
        """Send a run as it happens. Whatever ends this, the run does not outlive it."""
        chunks = ChunkStream(
            asked_model=ask.turn.request.model,
            created_s=self._now_s(),
            include_usage=ask.include_usage,
        )
        call = self._stub.Chat(pb.ChatRequest(turn=ask.turn))
        exchange.stream = stream = self._streams.open(request)
        try:
            async for event in call:
                records = chunks.feed(event)
                if chunks.ended:
                    await stream.end(records, chunks.headers)
                elif records:
                    await stream.send(records, chunks.headers)
        finally:
            exchange.run_id = chunks.run_id
            self._streams.forget(stream)
            # After the terminal event the call ends by itself; before it, nobody reads on.
            if not chunks.ended:
                call.cancel()
        if not chunks.ended:
            raise Unavailable(
                "the run ended without saying how; ask again", reason=Reason.STREAM_INTERRUPTED
            )
        return stream.response

    async def _embed(self, ask: EmbeddingsAsk) -> pb.EmbedResponse:
        """Embed all texts, in as many calls as the contract needs, under one deadline."""
        whole = pb.EmbedResponse()
        for start in range(0, len(ask.texts), EMBED_BATCH):
            batch = pb.EmbedRequest(
                scope=ask.scope, model=ask.model, texts=ask.texts[start : start + EMBED_BATCH]
            )
            part = await self._stub.Embed(batch)
            whole.embeddings.extend(part.embeddings)
            whole.model = part.model
            whole.usage.input_tokens += part.usage.input_tokens
        return whole

    async def _list_models(self, request: web.Request) -> Sequence[pb.Model]:
        exchange, identity = self._identify(request)
        timeout_s = timeout_s_of(request.headers, self._settings, streamed=False)
        with calling(exchange, identity, request.headers, timeout_s):
            return (await self._stub.ListModels(pb.ListModelsRequest())).models

    def _identify(self, request: web.Request) -> tuple[Exchange, Identity]:
        exchange = request[EXCHANGE]
        exchange.identity = identity = self._authenticator.authenticate(request.headers)
        return exchange, identity

    def _now_s(self) -> int:
        return self._clock.time_ns() // 1_000_000_000
