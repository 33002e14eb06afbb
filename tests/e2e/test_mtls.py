"""A mesh of five processes, each with a certificate of its own, that lets nobody in without one."""

import asyncio
import ssl
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import aiohttp
import grpc
import grpc.aio
import openai
import pytest
import pytest_asyncio

from mesh.channel import connect
from mesh.errors import Reason, from_rpc_error
from mesh.keys import KeysFile
from mesh.redis_server import RedisServer
from mesh.tls import Tls, TlsFiles
from plexus.gateway.v1 import gateway_service_pb2 as pb
from plexus.gateway.v1 import gateway_service_pb2_grpc
from plexus.memory.v1 import memory_service_pb2 as memory_pb
from plexus.memory.v1 import memory_service_pb2_grpc
from tests.certificates import Authority, put, serial_in, serial_of
from tests.e2e.calls import TIMEOUT_S, eventually, only, text_of, turn, warnings
from tests.e2e.processes import (
    COMPONENTS,
    Mesh,
    NotStarted,
    clean_environ,
    launch,
    start_component,
)

pytestmark = pytest.mark.asyncio(loop_scope="session")

DOMAIN = "mesh.example"
START_ORDER = ("router", "cache", "metrics", "memory", "gateway")


class CertifiedMesh:
    """A distributed mesh, its authority, and the folder with everybody's certificates."""

    def __init__(self, folder: Path, redis: RedisServer) -> None:
        self.authority = Authority("first")
        self.folder = folder
        environ = {
            "PLEXUS_DATA_DIR": str(folder / "data"),
            "PLEXUS_ADMIN_PORT": "0",
            "PLEXUS_GATEWAY_HTTP_PORT": "0",
            "PLEXUS_CACHE_REDIS_URL": redis.url,
            "PLEXUS_METRICS_REDIS_URL": redis.url,
            "PLEXUS_TLS_TRUST_DOMAIN": DOMAIN,
            "PLEXUS_TLS_CLIENT_AUTH": "require",
        }
        self.mesh = Mesh(folder / "data", environ, redis=redis)
        self.mesh.data_dir.mkdir(parents=True)

    async def start(self, component: str, *, port: int = 0) -> None:
        """Start a component with its own certificate."""
        files = self.certificate(f"component/{component}")
        self.mesh.environ.update(
            PLEXUS_TLS_CERT_FILE=str(files.cert),
            PLEXUS_TLS_KEY_FILE=str(files.key),
            PLEXUS_TLS_CA_FILE=str(files.ca),
        )
        await start_component(self.mesh, component, port=port)

    def certificate(self, role: str) -> TlsFiles:
        """Return the certificate of `tenant/acme`, `component/memory` or whatever else."""
        folder = self.folder / role
        if (folder / "tls.crt").exists():
            return TlsFiles(cert=folder / "tls.crt", key=folder / "tls.key", ca=folder / "ca.crt")
        return self.authority.issue(folder, f"spiffe://{DOMAIN}/{role}")

    @asynccontextmanager
    async def channel(
        self, files: TlsFiles, component: str = "gateway"
    ) -> AsyncGenerator[grpc.aio.Channel]:
        """Open a channel as a client with these files would."""
        credentials = Tls(files).channel_credentials()
        address = self.mesh.addresses[component]
        async with grpc.aio.secure_channel(address, credentials) as channel:
            yield channel


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def certified(short_tmp: Path) -> AsyncGenerator[CertifiedMesh]:
    folder = short_tmp / "mtls"
    redis = RedisServer(folder / "redis")
    await redis.start()
    running = CertifiedMesh(folder, redis)
    try:
        for component in START_ORDER:
            await running.start(component)
        running.mesh.http_url = running.mesh.processes["gateway"].ready["http_url"]
        yield running
        assert set((await running.mesh.stop()).values()) == {0}
    finally:
        await running.mesh.kill()


async def chat(
    channel: grpc.aio.Channel, request: pb.ChatRequest, key: str = ""
) -> list[pb.ChatResponse]:
    stub = gateway_service_pb2_grpc.GatewayServiceStub(channel)
    metadata = (("authorization", f"Bearer {key}"),) if key else ()
    return [event async for event in stub.Chat(request, timeout=TIMEOUT_S, metadata=metadata)]


async def memories(channel: grpc.aio.Channel, *metadata: tuple[str, str]) -> list[str]:
    stub = memory_service_pb2_grpc.MemoryServiceStub(channel)
    listed = await stub.ListMemories(
        memory_pb.ListMemoriesRequest(page_size=500), timeout=TIMEOUT_S, metadata=metadata
    )
    return [memory.text for memory in listed.memories]


async def refusal(files: TlsFiles, certified: CertifiedMesh, *metadata: tuple[str, str]) -> str:
    async with certified.channel(files, "memory") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await memories(channel, *metadata)
    return from_rpc_error(raised.value).reason


async def test_a_tenants_certificate_chats_and_sees_its_tenant_only(
    certified: CertifiedMesh,
) -> None:
    acme, rival = certified.certificate("tenant/acme"), certified.certificate("tenant/rival")
    secret, question = "The launch code is nine herons.", "What is the launch code?"
    async with certified.channel(acme) as channel:
        told = await chat(channel, turn(secret, user="u"))
        mine = await chat(channel, turn(question, user="u"))
    async with certified.channel(rival) as channel:
        theirs = await chat(channel, turn(question, user="u"))
    assert warnings(told) == set(), "every component answered the gateway"
    assert "nine herons" in text_of(mine)
    assert "nine herons" not in text_of(theirs)
    async with certified.channel(acme, "memory") as channel:
        assert secret in await memories(channel)
    async with certified.channel(rival, "memory") as channel:
        assert secret not in await memories(channel)
    assert await refusal(rival, certified, ("plexus-tenant", "acme")) == Reason.TENANT_MISMATCH


async def test_a_components_certificate_may_call_for_any_tenant(certified: CertifiedMesh) -> None:
    text = "A parcel for the delegate."
    async with certified.channel(certified.certificate("tenant/delegate")) as channel:
        await chat(channel, turn(text, user="d"))
    gateway = certified.certificate("component/gateway")
    async with certified.channel(gateway, "memory") as channel:
        assert text in await memories(channel, ("plexus-tenant", "delegate"))
        assert text not in await memories(channel, ("plexus-tenant", "acme"))
    assert await refusal(gateway, certified) == Reason.TENANT_REQUIRED


async def test_a_list_of_replicas_is_balanced_over_with_tls(certified: CertifiedMesh) -> None:
    # Two servers that can be told apart by what they answer.
    replicas = [certified.mesh.addresses[each] for each in ("memory", "metrics")]
    answers: set[grpc.StatusCode] = set()
    tls = Tls(certified.certificate("tenant/acme"))
    async with connect(",".join(replicas), tls=tls) as channel, asyncio.timeout(TIMEOUT_S):
        while len(answers) < len(replicas):
            try:
                await memories(channel)
                answers.add(grpc.StatusCode.OK)
            except grpc.aio.AioRpcError as error:
                answers.add(error.code())
    assert answers == {grpc.StatusCode.OK, grpc.StatusCode.UNIMPLEMENTED}


@pytest.mark.parametrize(
    "spiffe_id",
    [
        "spiffe://elsewhere.example/component/gateway",
        f"spiffe://{DOMAIN}/component/unheard-of",
        f"spiffe://{DOMAIN}/tenant/",
        "",
    ],
)
async def test_any_other_certificate_of_the_authority_needs_a_key(
    certified: CertifiedMesh, spiffe_id: str, tmp_path: Path
) -> None:
    files = certified.authority.issue(tmp_path, *([spiffe_id] if spiffe_id else []))
    assert await refusal(files, certified) == Reason.MISSING_KEY
    forged = (("plexus-tenant", "acme"), ("plexus-principal", "mesh"))
    assert await refusal(files, certified, *forged) == Reason.MISSING_KEY
    key, _ = KeysFile(certified.mesh.data_dir / "keys.json").create(
        tenant="keyed", name="", expires_s=None, now_s=0
    )
    sent = ("authorization", f"Bearer {key}")
    async with certified.channel(files, "memory") as channel:
        assert await eventually(lambda: memories(channel, sent), lambda _: True) == []


@pytest.mark.parametrize("component", COMPONENTS)
async def test_without_a_certificate_no_component_lets_anybody_in(
    certified: CertifiedMesh, component: str, tmp_path: Path
) -> None:
    ca = certified.certificate("tenant/acme").ca
    stranger = Authority("stranger").issue(tmp_path, f"spiffe://{DOMAIN}/tenant/acme")
    strangers = TlsFiles(cert=stranger.cert, key=stranger.key, ca=ca)
    expired = certified.authority.issue(
        tmp_path / "old", f"spiffe://{DOMAIN}/tenant/acme", ends=timedelta(minutes=-1)
    )
    assert await handshake(certified, component, certified.certificate("tenant/acme"))
    for files in (TlsFiles(ca=ca), strangers, expired):
        assert not await handshake(certified, component, files)
    async with grpc.aio.insecure_channel(certified.mesh.addresses[component]) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await memories(channel)
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


async def handshake(certified: CertifiedMesh, component: str, files: TlsFiles) -> int:
    """Return the serial of the certificate that a server shows; 0 when it ends the connection.

    With TLS 1.3 a client hears only after the handshake that its certificate is refused.
    """
    context = ssl.create_default_context(cafile=files.ca)
    context.set_alpn_protocols(["h2"])
    if files.cert is not None:
        context.load_cert_chain(files.cert, files.key)
    host, _, port = certified.mesh.addresses[component].rpartition(":")
    try:
        reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
    except (OSError, ssl.SSLError):
        return 0
    shown: ssl.SSLObject = writer.get_extra_info("ssl_object")
    serial = serial_of(shown.getpeercert(binary_form=True) or b"")
    try:
        said = await reader.read(1)  # an HTTP/2 server speaks first
    except (OSError, ssl.SSLError):
        said = b""
    writer.transport.abort()
    return serial if said else 0


async def plexus(certified: CertifiedMesh, *arguments: str, **environ: str) -> tuple[int, str, str]:
    """Run the command as on another machine: it knows nothing but what it is told."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "cli.main",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**clean_environ(), **environ},
    )
    said, errors = await child.communicate()
    return child.returncode or 0, said.decode(), errors.decode()


def options(files: TlsFiles) -> list[str]:
    return ["--ca", str(files.ca), "--cert", str(files.cert), "--cert-key", str(files.key)]


async def test_the_command_line_speaks_tls_by_options_or_environment(
    certified: CertifiedMesh,
) -> None:
    acme = certified.certificate("tenant/acme")
    gateway = certified.mesh.addresses["gateway"]
    code, said, errors = await plexus(
        certified, "chat", "Hello there", "--address", gateway, *options(acme)
    )
    assert (code, bool(said.strip())) == (0, True), errors
    code, said, errors = await plexus(
        certified,
        *("cost", "--json", "--address", certified.mesh.addresses["metrics"]),
        PLEXUS_CA_FILE=str(acme.ca),
        PLEXUS_CLIENT_CERT_FILE=str(acme.cert),
        PLEXUS_CLIENT_KEY_FILE=str(acme.key),
    )
    assert (code, said[:1]) == (0, "{"), errors


async def test_the_command_line_says_what_is_missing(
    certified: CertifiedMesh, tmp_path: Path
) -> None:
    acme = certified.certificate("tenant/acme")
    ask = ["chat", "Hello", "--address", certified.mesh.addresses["gateway"]]
    put(tmp_path / "ca.crt", Authority("stranger").pem)
    for given, said in (
        ([], "--ca"),
        (["--ca", str(acme.ca)], "--cert"),
        (["--ca", str(tmp_path / "ca.crt")], "--ca"),
        (["--ca", str(tmp_path / "none.crt")], "none.crt"),
        (["--cert", str(acme.cert)], "--cert-key"),
    ):
        code, _, errors = await plexus(certified, *ask, *given)
        assert code == 1
        assert said in errors
        assert "Traceback" not in errors


async def test_doctor_finds_the_mesh_well(certified: CertifiedMesh) -> None:
    acme = certified.certificate("tenant/acme")
    addresses = certified.mesh.addresses
    ports = {f"PLEXUS_{n.upper()}_PORT": at.rpartition(":")[2] for n, at in addresses.items()}
    http_port = certified.mesh.http_url.rpartition(":")[2]
    _, said, errors = await plexus(
        certified, "doctor", *options(acme), PLEXUS_GATEWAY_HTTP_PORT=http_port, **ports
    )
    for component in COMPONENTS:
        assert f"{component:<13} serving at {addresses[component]}, with reflection" in said, errors


async def test_the_http_edge_is_https_and_takes_a_certificate_or_a_key(
    certified: CertifiedMesh,
) -> None:
    url, acme = certified.mesh.http_url, certified.certificate("tenant/acme")
    assert url.startswith("https://")
    assert await models(url, Tls(acme).client_context(), "any") == []
    without = Tls(TlsFiles(ca=acme.ca)).client_context()
    assert await models(url, without, "wrong") == [Reason.INVALID_KEY]
    key, _ = KeysFile(certified.mesh.data_dir / "keys.json").create(
        tenant="http", name="", expires_s=None, now_s=0
    )
    await eventually(lambda: models(url, without, key), lambda refusals: refusals == [])
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{url}/readyz", ssl=without) as ready:
            assert ready.status == 200, "a probe needs no certificate"
        async with session.get(f"{url}/v1/models", ssl=without) as refused:
            assert refused.status == 401
        with pytest.raises(aiohttp.ClientError):
            await session.get(url.replace("https", "http"))


async def models(url: str, context: ssl.SSLContext, key: str) -> list[str]:
    """Return what the OpenAI client is refused for; nothing when it is served."""
    http_client = openai.DefaultAsyncHttpxClient(verify=context)
    async with openai.AsyncOpenAI(
        base_url=f"{url}/v1", api_key=key, http_client=http_client, max_retries=0
    ) as client:
        try:
            listed = await client.models.list()
        except openai.AuthenticationError as error:
            return [str(error.code)]
    assert "default" in [model.id for model in listed.data]
    return []


async def test_what_is_wrong_with_a_certificate_is_said_at_the_start(
    certified: CertifiedMesh, tmp_path: Path
) -> None:
    expired = certified.authority.issue(tmp_path, ends=timedelta(minutes=-1))
    environ = {
        **certified.mesh.environ,
        "PLEXUS_TLS_CERT_FILE": str(expired.cert),
        "PLEXUS_TLS_KEY_FILE": str(expired.key),
    }
    with pytest.raises(NotStarted) as raised:
        await launch(["serve", "cache"], environ, tmp_path / "log")
    assert "has expired" in str(raised.value)
    assert "Traceback" not in str(raised.value)


async def test_with_client_certificates_an_open_mesh_may_face_the_network(
    certified: CertifiedMesh, tmp_path: Path
) -> None:
    environ = {**certified.mesh.environ, "PLEXUS_HOST": "0.0.0.0"}
    process = await launch(
        ["serve", "cache"], {**environ, "PLEXUS_CACHE_PORT": "0"}, tmp_path / "a"
    )
    await process.kill()
    environ["PLEXUS_TLS_CLIENT_AUTH"] = "none"
    with pytest.raises(NotStarted, match="PLEXUS_TLS_CLIENT_AUTH=require"):
        await launch(["serve", "cache"], environ, tmp_path / "b")


async def test_certificates_and_authority_rotate_without_a_failed_call(
    certified: CertifiedMesh,
) -> None:
    """New authority beside the old one, new certificates for all, then the old authority goes."""
    acme = certified.certificate("tenant/acme")
    old, new = certified.authority, Authority("second")
    roles = ["tenant/acme", *(f"component/{name}" for name in COMPONENTS)]
    of_old = old.issue(certified.folder / "old-client", f"spiffe://{DOMAIN}/tenant/acme")
    of_new = new.issue(certified.folder / "new-client", f"spiffe://{DOMAIN}/tenant/acme")
    for files in (of_old, of_new):
        put(certified.folder / (files.ca or Path()).parent.name / "ca.crt", old.pem + new.pem)

    async with under_load(certified, acme) as answered:
        believe(certified, roles, old.pem + new.pem)
        await eventually(lambda: accepted(certified, of_new), lambda who: who == set(COMPONENTS))
        for role in roles:
            new.issue(certified.folder / role, f"spiffe://{DOMAIN}/{role}")
        await eventually(lambda: rotated(certified, of_new), lambda who: who == set(COMPONENTS))
        believe(certified, roles, new.pem)
        await eventually(lambda: accepted(certified, of_old), lambda who: who == set())
        seen = len(answered)
        await eventually(lambda: count(answered), lambda now: now > seen + 3)

    # What connects anew does so with the new certificates, and nothing else would be let in.
    port = certified.mesh.addresses["memory"].rpartition(":")[2]
    assert await certified.mesh.processes["memory"].stop() == 0
    await certified.start("memory", port=int(port))

    async def works() -> set[str]:
        async with certified.channel(acme) as channel:
            return warnings(await chat(channel, turn("Hello again")))

    await eventually(works, lambda reasons: reasons == set())
    assert await handshake(certified, "memory", of_new) == serial_in(
        certified.folder / "component/memory/tls.crt"
    )
    certified.authority = new


@asynccontextmanager
async def under_load(
    certified: CertifiedMesh, files: TlsFiles
) -> AsyncGenerator[list[list[pb.ChatResponse]]]:
    """Chat without pause inside the block, over one channel; every answer must be whole."""
    answered: list[list[pb.ChatResponse]] = []
    channel = connect(certified.mesh.addresses["gateway"], tls=Tls(files))
    stopped = asyncio.Event()

    async def ask() -> None:
        while not stopped.is_set():
            events = await chat(channel, turn("How are you?"))
            assert len(only(events, "completed")) == 1
            assert warnings(events) == set()
            answered.append(events)

    asking = asyncio.create_task(ask())
    try:
        yield answered
    finally:
        stopped.set()
        await asking
        await channel.close()


def believe(certified: CertifiedMesh, roles: list[str], authorities: bytes) -> None:
    for role in roles:
        put(certified.folder / role / "ca.crt", authorities)


async def accepted(certified: CertifiedMesh, files: TlsFiles) -> set[str]:
    """Return the components that let a client with these files in."""
    shown = await asyncio.gather(*(handshake(certified, name, files) for name in COMPONENTS))
    return {name for name, serial in zip(COMPONENTS, shown, strict=True) if serial}


async def rotated(certified: CertifiedMesh, files: TlsFiles) -> set[str]:
    """Return the components that show the certificate that is in their file."""
    shown = await asyncio.gather(*(handshake(certified, name, files) for name in COMPONENTS))
    folder = certified.folder / "component"
    return {
        name
        for name, serial in zip(COMPONENTS, shown, strict=True)
        if serial == serial_in(folder / name / "tls.crt")
    }


async def count(answered: list[list[pb.ChatResponse]]) -> int:
    return len(answered)
