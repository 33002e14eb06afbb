"""Embed, CountTokens and ListModels as callers see them."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from mesh.call import Identity, outgoing_call
from mesh.component import Hosted
from mesh.errors import Reason, from_rpc_error
from mesh.server import ComponentServer
from mesh.settings import MeshSettings
from mesh.testing.upstream import Script, ScriptedUpstream
from plexus.common.v1 import message_pb2, model_pb2
from plexus.router.v1 import router_service_pb2 as pb
from plexus.router.v1 import router_service_pb2_grpc as rpc
from services.router.build import Router, build
from services.router.embedding import weights
from services.router.settings import ProviderSettings, RouterSettings


class Caller:
    """A router in this process and a stub for it."""

    def __init__(self, settings: RouterSettings) -> None:
        self.settings = settings
        self.router: Router
        self.stub: rpc.RouterServiceStub
        self._server: ComponentServer

    async def __aenter__(self) -> "Caller":
        self.router = await build(self.settings, environ={})
        hosted = Hosted("router", self.router, rpc.add_RouterServiceServicer_to_server)
        self._server = ComponentServer(hosted, MeshSettings(drain_hold_s=0.0, drain_grace_s=0.1))
        await self._server.start()
        self.stub = rpc.RouterServiceStub(self._server.channel)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._server.drain()

    async def embed(self, *texts: str, **options: Any) -> pb.EmbedResponse:
        return await self.stub.Embed(pb.EmbedRequest(texts=texts), **options)


@pytest.fixture(autouse=True)
def identity() -> Iterator[None]:
    """Make every call of a test in the name of one tenant."""
    with outgoing_call(Identity(tenant="acme", principal="test")):
        yield


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[Caller]:
    async with Caller(RouterSettings(data_dir=tmp_path)) as caller:
        yield caller


async def reason_of(call: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value).reason


async def test_a_call_made_while_the_model_loads_is_answered(local: Caller) -> None:
    response = await local.embed("This is an example sentence")
    assert list(response.vectors[0].values)[:2] == pytest.approx([0.0677, 0.0635], abs=1e-4)
    assert (response.dimensions, response.model) == (384, "all-MiniLM-L6-v2@53aa5117")
    assert response.usage == model_pb2.Usage(input_tokens=7)


async def test_concurrent_calls_share_batches_and_keep_their_texts(local: Caller) -> None:
    await local.embed("warm")
    before = local.router.statistics().embeddings.batches
    responses = await asyncio.gather(
        *(local.embed(f"text {n}", "shared by all") for n in range(20))
    )
    statistics = local.router.statistics().embeddings
    assert statistics.batches - before < 10
    assert statistics.texts == 1 + 20 + 1
    alone = await local.embed("text 7")
    assert list(responses[7].vectors[0].values) == pytest.approx(
        list(alone.vectors[0].values), abs=1e-5
    )
    assert alone.usage.cached_input_tokens == alone.usage.input_tokens


async def test_bad_requests_are_refused(local: Caller) -> None:
    assert await reason_of(local.embed()) == Reason.INVALID_FIELD
    assert await reason_of(local.embed("")) == Reason.INVALID_FIELD
    assert await reason_of(local.embed("x" * 40_000)) == Reason.INVALID_FIELD
    assert await reason_of(local.embed(*["x"] * 257)) == Reason.INVALID_FIELD
    other = pb.EmbedRequest(texts=["x"], model="other")
    assert await reason_of(local.stub.Embed(other)) == Reason.MODEL_NOT_FOUND
    named = pb.EmbedRequest(texts=["x"], model="minilm")
    assert (await local.stub.Embed(named)).dimensions == 384


async def test_a_missing_model_fails_embed_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "PACKAGE", "no_such_package")
    async with Caller(RouterSettings(data_dir=tmp_path)) as caller:
        assert await reason_of(caller.embed("x")) == Reason.EMBEDDER_UNAVAILABLE
        assert caller.router.readiness()
        assert await caller.stub.ListModels(pb.ListModelsRequest())


async def test_an_endpoint_embeds_in_batches_and_is_normalised(tmp_path: Path) -> None:
    async with ScriptedUpstream() as upstream:
        settings = RouterSettings(
            providers={"up": ProviderSettings(kind="openai", base_url=upstream.openai_url)},
            groups={"default": ("up/chat",)},
            embedding_model="up/vectors",
            data_dir=tmp_path,
        )
        async with Caller(settings) as caller:
            first, second = await asyncio.gather(caller.embed("a", "b"), caller.embed("c"))
            assert len(upstream.requests) == 1
            assert first.model == "up/vectors"
            for vector in (*first.vectors, *second.vectors):
                assert sum(x * x for x in vector.values) == pytest.approx(1.0, abs=1e-5)
            assert list(first.vectors[0].values) != list(first.vectors[1].values)
            upstream.script(Script(status=503))
            assert await reason_of(caller.embed("d")) == Reason.EMBEDDER_UNAVAILABLE
            assert len((await caller.embed("d")).vectors) == 1


async def test_an_embedding_waits_no_longer_than_its_deadline(tmp_path: Path) -> None:
    async with ScriptedUpstream() as upstream:
        settings = RouterSettings(
            providers={"up": ProviderSettings(kind="openai", base_url=upstream.openai_url)},
            groups={"default": ("up/chat",)},
            embedding_model="up/vectors",
            embedding_batch_wait_ms=60_000.0,
            data_dir=tmp_path,
        )
        async with Caller(settings) as caller:
            reason = await reason_of(caller.embed("a", timeout=0.1))
            assert reason in (Reason.DEADLINE_EXCEEDED, Reason.INTERNAL)


async def test_tokens_are_counted_and_marked_as_an_estimate(local: Caller) -> None:
    message = message_pb2.Message(
        role=message_pb2.ROLE_USER, parts=[message_pb2.Part(text="x" * 400)]
    )
    response = await local.stub.CountTokens(
        pb.CountTokensRequest(request=model_pb2.ModelRequest(messages=[message]))
    )
    assert (response.input_tokens, response.estimated) == (104, True)


async def test_models_are_listed_groups_first(local: Caller) -> None:
    response = await local.stub.ListModels(pb.ListModelsRequest())
    assert [(model.name, model.operation) for model in response.models] == [
        ("default", "chat"),
        ("offline/extractive", "chat"),
        ("all-MiniLM-L6-v2@53aa5117", "embeddings"),
    ]


async def test_closing_leaves_no_task(tmp_path: Path) -> None:
    before = asyncio.all_tasks()
    async with Caller(RouterSettings(data_dir=tmp_path)) as caller:
        await caller.embed("x")
    if left := asyncio.all_tasks() - before:
        _, pending = await asyncio.wait(left, timeout=5)
        assert not pending
