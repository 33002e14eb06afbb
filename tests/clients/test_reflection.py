"""What a mesh says about itself: reflection as grpcurl and any dynamic client use it."""

import asyncio
import shutil
import subprocess

import grpc
import orjson
import pytest
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from mesh.testing.upstream import Script, ScriptedUpstream
from tests.clients.conftest import key_of, require
from tests.clients.examples import BUILD_TIMEOUT_S, FOLDER, go_missing, running
from tests.e2e.calls import TIMEOUT_S
from tests.e2e.processes import COMPONENTS, Mesh, clean_environ

pytestmark = pytest.mark.asyncio(loop_scope="session")

GRPCURL = "github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3"
SERVICE = "plexus.gateway.v1.GatewayService"
TURN = {"turn": {"request": {"messages": [{"role": "ROLE_USER", "parts": [{"text": "Hello"}]}]}}}


@pytest.fixture(scope="session")
def grpcurl() -> str:
    """grpcurl from the PATH, or one that go builds."""
    found = shutil.which("grpcurl")
    if found:
        return found
    require(go_missing() and f"{go_missing()} to build grpcurl")
    folder = FOLDER / "build"
    if not (folder / "grpcurl").exists():
        environ = {**clean_environ(), "GOBIN": str(folder)}
        subprocess.run(["go", "install", GRPCURL], env=environ, timeout=BUILD_TIMEOUT_S, check=True)
    return str(folder / "grpcurl")


@pytest.mark.timeout(600)
async def test_grpcurl_lists_describes_and_checks_health(grpcurl: str, offline_mesh: Mesh) -> None:
    async def says(*words: str, component: str = "gateway") -> str:
        command = (grpcurl, "-plaintext", offline_mesh.addresses[component], *words)
        async with running(command, FOLDER, {}) as program:
            pass
        assert program.child.returncode == 0, program.complaints
        return program.printed

    for component in COMPONENTS:
        listed = (await says("list", component=component)).split()
        assert f"plexus.{component}.v1.{component.title()}Service" in listed
        assert "grpc.health.v1.Health" in listed
    described = await says("describe", SERVICE)
    assert (
        "rpc Chat ( .plexus.gateway.v1.ChatRequest ) "
        "returns ( stream .plexus.gateway.v1.ChatResponse );"
    ) in described
    assert "int64 after_sequence = 2;" in await says("describe", "plexus.gateway.v1.Resume")
    assert orjson.loads(await says("grpc.health.v1.Health/Check")) == {"status": "SERVING"}


@pytest.mark.timeout(600)
async def test_chat_streams_through_grpcurl(
    grpcurl: str, keyed_mesh: Mesh, upstream: ScriptedUpstream
) -> None:
    shown = asyncio.Event()
    upstream.scripts.clear()
    upstream.script(Script(tokens=("From", " grpcurl", "."), stall_until=shown))
    key = f"authorization: Bearer {key_of('go')}"
    options = ("-plaintext", "-H", key, "-d", orjson.dumps(TURN).decode())
    command = (grpcurl, *options, keyed_mesh.addresses["gateway"], f"{SERVICE}/Chat")
    async with running(command, FOLDER, {}) as program:
        await program.prints('"text": "From"')
        shown.set()  # Only now does the model go on.
    assert program.child.returncode == 0, program.complaints
    assert '"completed": {' in program.printed


async def test_a_client_without_generated_code_can_chat(
    keyed_mesh: Mesh, upstream: ScriptedUpstream
) -> None:
    loop, shown = asyncio.get_running_loop(), asyncio.Event()
    upstream.scripts.clear()
    upstream.script(Script(tokens=("From", " reflection", "."), stall_until=shown))

    def chat() -> str:
        text, ended = "", False
        metadata = (("authorization", f"Bearer {key_of('python')}"),)
        with grpc.insecure_channel(keyed_mesh.addresses["gateway"]) as channel:
            pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
            method = pool.FindServiceByName(SERVICE).FindMethodByName("Chat")
            request_type, response_type = map(
                GetMessageClass, (method.input_type, method.output_type)
            )
            open_stream = channel.unary_stream(
                f"/{SERVICE}/Chat",
                request_serializer=request_type.SerializeToString,
                response_deserializer=response_type.FromString,
            )
            request = json_format.ParseDict(TURN, request_type())
            for message in open_stream(request, timeout=TIMEOUT_S, metadata=metadata):
                event = json_format.MessageToDict(message)
                text += event.get("text", "")
                if text:
                    loop.call_soon_threadsafe(shown.set)
                ended = "completed" in event
        assert ended
        return text

    assert await asyncio.to_thread(chat) == "From reflection."
