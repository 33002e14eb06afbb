"""A mesh that asks for keys: who may in, as which tenant, at both edges."""

import hashlib
from collections.abc import AsyncGenerator
from pathlib import Path

import grpc.aio
import openai
import orjson
import pytest
import pytest_asyncio

from mesh.errors import Reason, from_rpc_error
from plexus.gateway.v1 import gateway_service_pb2 as pb
from plexus.gateway.v1 import gateway_service_pb2_grpc
from plexus.memory.v1 import memory_service_pb2 as memory_pb
from plexus.memory.v1 import memory_service_pb2_grpc
from tests.e2e.calls import TIMEOUT_S, text_of, turn
from tests.e2e.conftest import TOPOLOGIES
from tests.e2e.processes import Mesh

pytestmark = pytest.mark.asyncio(loop_scope="session")

KEYS = {"acme": "key-of-acme", "rival": "key-of-rival"}
MESH_TOKEN = "token-of-this-mesh"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def mesh(topology: str, short_tmp: Path) -> AsyncGenerator[Mesh]:
    keys = {
        f"{tenant}-1": {"tenant": tenant, "sha256": hashlib.sha256(key.encode()).hexdigest()}
        for tenant, key in KEYS.items()
    }
    environ = {
        "PLEXUS_AUTH": "keys",
        "PLEXUS_KEYS": orjson.dumps(keys).decode(),
        "PLEXUS_MESH_TOKEN": MESH_TOKEN,
    }
    running = await TOPOLOGIES[topology](short_tmp / f"auth-{topology}", environ)
    yield running
    await running.stop()


def metadata(key: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {key}"),) if key else ()


async def chat(mesh: Mesh, key: str, request: pb.ChatRequest) -> list[pb.ChatResponse]:
    stub = gateway_service_pb2_grpc.GatewayServiceStub(mesh.channel())
    call = stub.Chat(request, timeout=TIMEOUT_S, metadata=metadata(key))
    return [event async for event in call]


async def ask(mesh: Mesh, component: str, key: str) -> None:
    if component == "gateway":
        await chat(mesh, key, turn("Hello"))
        return
    memory = memory_service_pb2_grpc.MemoryServiceStub(mesh.channel("memory"))
    request = memory_pb.ListMemoriesRequest()
    await memory.ListMemories(request, timeout=TIMEOUT_S, metadata=metadata(key))


async def test_a_key_speaks_for_its_tenant_and_sees_no_other(mesh: Mesh) -> None:
    secret = "The launch code is seven swans."
    await chat(mesh, KEYS["acme"], turn(secret, user="u"))
    mine = await chat(mesh, KEYS["acme"], turn("What is the launch code?", user="u"))
    theirs = await chat(mesh, KEYS["rival"], turn("What is the launch code?", user="u"))
    assert "seven swans" in text_of(mine)
    assert "seven swans" not in text_of(theirs)


@pytest.mark.parametrize(
    ("key", "reason"), [("", Reason.MISSING_KEY), ("wrong", Reason.INVALID_KEY)]
)
@pytest.mark.parametrize("component", ["gateway", "memory"])
async def test_without_a_good_key_every_component_refuses(
    mesh: Mesh, component: str, key: str, reason: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await ask(mesh, component, key)
    assert raised.value.code() == grpc.StatusCode.UNAUTHENTICATED
    assert from_rpc_error(raised.value).reason == reason


async def test_a_tenant_named_beside_the_key_must_be_its_own(mesh: Mesh) -> None:
    memory = memory_service_pb2_grpc.MemoryServiceStub(mesh.channel("memory"))
    forged = (*metadata(KEYS["rival"]), ("plexus-tenant", "acme"))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await memory.ListMemories(
            memory_pb.ListMemoriesRequest(), timeout=TIMEOUT_S, metadata=forged
        )
    assert from_rpc_error(raised.value).reason == Reason.TENANT_MISMATCH


async def test_a_guessed_mesh_token_opens_nothing(mesh: Mesh) -> None:
    memory = memory_service_pb2_grpc.MemoryServiceStub(mesh.channel("memory"))
    forged = (("plexus-mesh-token", "guess"), ("plexus-tenant", "acme"))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await memory.ListMemories(
            memory_pb.ListMemoriesRequest(), timeout=TIMEOUT_S, metadata=forged
        )
    assert from_rpc_error(raised.value).reason == Reason.MISSING_KEY


async def test_the_http_edge_asks_for_the_same_keys(mesh: Mesh) -> None:
    base_url = f"{mesh.http_url}/v1"
    async with openai.AsyncOpenAI(base_url=base_url, api_key=KEYS["acme"]) as client:
        listed = await client.models.list()
    assert "default" in [model.id for model in listed.data]
    async with openai.AsyncOpenAI(base_url=base_url, api_key="wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError) as raised:
            await client.models.list()
    assert raised.value.code == Reason.INVALID_KEY


async def test_resume_tokens_do_not_cross_tenants(mesh: Mesh) -> None:
    events = await chat(mesh, KEYS["acme"], turn("Hello"))
    resume = pb.Resume(resume_token=events[0].started.resume_token)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await chat(mesh, KEYS["rival"], pb.ChatRequest(resume=resume))
    assert from_rpc_error(raised.value).reason == Reason.INVALID_RESUME_TOKEN
    again = await chat(mesh, KEYS["acme"], pb.ChatRequest(resume=resume))
    assert again == events
