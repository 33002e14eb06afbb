"""Certificates: what is refused at the start, how they rotate, whom they speak for."""

import asyncio
import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from mesh.call import Identity
from mesh.channel import connect
from mesh.errors import FailedPrecondition, PermissionDenied, PlexusError, Reason, Unauthenticated
from mesh.handlers import Method
from mesh.identity import Authenticator, certified, peer_spiffe_id
from mesh.keys import digest_of
from mesh.rotating_channel import RotatingChannel
from mesh.settings import KeySettings, MeshSettings, load
from mesh.testing.clock import ManualClock
from mesh.tls import PeerCertificate, Tls, TlsFiles, read, spiffe_id_of
from tests.certificates import CLIENT_ONLY, Authority, encrypted_key, put, serial_in, serial_of

MEMORY, ACME = "spiffe://plexus/component/memory", "spiffe://plexus/tenant/acme"
METHOD = "/test.Whose/Certificate"
TIMEOUT_S = 5.0


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority("test")


def required(files: TlsFiles) -> TlsFiles:
    return TlsFiles(cert=files.cert, key=files.key, ca=files.ca, client_auth="require")


# What is wrong with the files is said at the start.


Spoil = Callable[[Path, Authority], None]


def absent(name: str) -> Spoil:
    return lambda folder, _: (folder / name).unlink()


def garbled(name: str) -> Spoil:
    def spoil(folder: Path, _: Authority) -> None:
        first, middle, last = (folder / name).read_text().partition("-----\n")
        (folder / name).write_text(first + middle + "AAAA" + last)

    return spoil


def holding(name: str, content: bytes) -> Spoil:
    return lambda folder, _: put(folder / name, content)


def another_key(folder: Path, authority: Authority) -> None:
    other = authority.issue(folder / "other")
    assert other.key is not None
    (folder / "tls.key").write_bytes(other.key.read_bytes())


def expired(folder: Path, authority: Authority) -> None:
    authority.issue(folder, ends=timedelta(minutes=-1))


def for_clients_only(folder: Path, authority: Authority) -> None:
    authority.issue(folder, usages=CLIENT_ONLY)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (absent("tls.crt"), "tls_cert_file: .*tls.crt cannot be read: No such file"),
        (absent("tls.key"), "tls_key_file: .*tls.key cannot be read: No such file"),
        (absent("ca.crt"), "tls_ca_file: .*ca.crt cannot be read: No such file"),
        (holding("tls.crt", b"hello"), "tls_cert_file: .*no PEM certificate"),
        (holding("tls.key", b""), "tls_key_file: .*no PEM private key"),
        (holding("ca.crt", b"hello"), "tls_ca_file: .*no PEM certificate"),
        (garbled("tls.crt"), "not valid PEM"),
        (garbled("tls.key"), "not valid PEM"),
        (garbled("ca.crt"), "not valid PEM"),
        (another_key, "tls.key does not belong to the certificate"),
        (holding("tls.key", encrypted_key()), "passphrase"),
        (expired, "has expired"),
        (for_clients_only, "not for servers"),
    ],
)
def test_files_that_are_no_good_are_one_sentence(
    tmp_path: Path, authority: Authority, spoil: Spoil, said: str
) -> None:
    files = authority.issue(tmp_path, MEMORY)
    spoil(tmp_path, authority)
    with pytest.raises(FailedPrecondition, match=said) as raised:
        Tls(files)
    assert raised.value.reason == Reason.INVALID_SETTINGS
    assert "\n" not in raised.value.message


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"PLEXUS_TLS_CERT_FILE": "a"}, "go together"),
        ({"PLEXUS_TLS_KEY_FILE": "a"}, "go together"),
        ({"PLEXUS_TLS_CLIENT_AUTH": "require"}, "tls_ca_file"),
        ({"PLEXUS_TLS_CLIENT_AUTH": "require", "PLEXUS_TLS_CA_FILE": "a"}, "tls_cert_file"),
        ({"PLEXUS_TLS_CLIENT_AUTH": "maybe"}, "must be one of"),
        ({"PLEXUS_TLS_TRUST_DOMAIN": "spiffe://x"}, "tls_trust_domain"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(environ: dict[str, str], said: str) -> None:
    with pytest.raises(FailedPrecondition, match=said):
        load(MeshSettings, "mesh", environ=environ)


def test_without_settings_there_is_no_tls() -> None:
    assert Tls.of(MeshSettings()) is None


# Rotation.


async def test_material_is_the_same_object_until_a_file_changes(
    tmp_path: Path, authority: Authority
) -> None:
    clock = ManualClock()
    files = authority.issue(tmp_path, MEMORY)
    tls = Tls(files, clock=clock)
    first = tls.material()
    (tmp_path / "tls.crt").touch()
    await clock.advance(1)
    assert tls.material() is first, "the same content is no change"
    authority.issue(tmp_path, MEMORY)
    assert tls.material() is first, "it looks once a second"
    await clock.advance(1)
    assert tls.material() is not first
    assert tls.material().cert == (tmp_path / "tls.crt").read_bytes()


async def test_a_rotation_that_is_half_done_or_wrong_leaves_the_last_good_certificate(
    tmp_path: Path, authority: Authority
) -> None:
    clock = ManualClock()
    tls = Tls(authority.issue(tmp_path, MEMORY), clock=clock)
    first = tls.material()
    key = (tmp_path / "tls.key").read_bytes()
    another_key(tmp_path, authority)
    await clock.advance(1)
    assert tls.material() is first
    authority.issue(tmp_path, MEMORY, ends=timedelta(minutes=-1))
    await clock.advance(1)
    assert tls.material() is first
    authority.issue(tmp_path, MEMORY)
    await clock.advance(1)
    assert tls.material().key not in (None, key)


@asynccontextmanager
async def serving(files: TlsFiles, clock: ManualClock) -> AsyncGenerator[str]:
    """A server that says, as often as it is asked, whose certificate the call came with."""

    async def answer(requests: Any, context: Any) -> None:
        async for _ in requests:
            await context.write(peer_spiffe_id.get().encode())

    method = Method(METHOD, request_streaming=True, response_streaming=True)
    behavior = PeerCertificate().intercept(method, answer)

    class Handlers(grpc.GenericRpcHandler):
        def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
            known = handler_call_details.method == METHOD
            make: Any = grpc.stream_stream_rpc_method_handler
            return make(behavior) if known else None

    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Handlers(),))
    port = server.add_secure_port("127.0.0.1:0", Tls(files, clock=clock).server_credentials())
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


class Conversation:
    """One open stream to the server above."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        open_stream: Any = channel.stream_stream
        self.call: Any = open_stream(METHOD)(timeout=TIMEOUT_S)

    async def ask(self) -> str:
        await self.call.write(b"?")
        return (await self.call.read()).decode()

    async def end(self) -> grpc.StatusCode:
        await self.call.done_writing()
        assert await self.call.read() is grpc.aio.EOF
        return await self.call.code()


async def whose(channel: grpc.aio.Channel) -> str:
    talk = Conversation(channel)
    said = await talk.ask()
    assert await talk.end() is grpc.StatusCode.OK
    return said


async def test_a_client_calls_on_with_its_new_certificate_and_breaks_no_call(
    tmp_path: Path, authority: Authority
) -> None:
    clock = ManualClock()
    served = required(authority.issue(tmp_path / "server", MEMORY))
    mine = authority.issue(tmp_path / "client", ACME)
    async with serving(served, clock) as address:
        channel = connect(address, tls=Tls(mine, clock=clock))
        assert isinstance(channel, RotatingChannel)
        old = Conversation(channel)
        assert await old.ask() == ACME
        authority.issue(tmp_path / "client", "spiffe://plexus/tenant/globex")
        await clock.advance(1)
        assert await whose(channel) == "spiffe://plexus/tenant/globex"
        assert await old.ask() == ACME, "the stream that runs is not broken"
        (draining,) = channel.draining
        assert await old.end() is grpc.StatusCode.OK
        await asyncio.wait_for(draining, TIMEOUT_S)
        assert channel.draining == ()
        assert await whose(channel) == "spiffe://plexus/tenant/globex"
        await channel.close()


async def test_channels_that_drain_are_bounded_and_end_with_the_channel(
    tmp_path: Path, authority: Authority
) -> None:
    clock = ManualClock()
    served = required(authority.issue(tmp_path / "server", MEMORY))
    mine = authority.issue(tmp_path / "client", ACME)
    async with serving(served, clock) as address:
        channel = connect(address, tls=Tls(mine, clock=clock))
        assert isinstance(channel, RotatingChannel)
        talks: list[Conversation] = []
        for _ in range(12):
            talks.append(Conversation(channel))
            assert await talks[-1].ask() == ACME
            authority.issue(tmp_path / "client", ACME)
            await clock.advance(1)
        assert len(channel.draining) <= 8
        assert await talks[-1].ask() == ACME
        await channel.close()
        assert channel.draining == ()
        assert await talks[-1].call.code() is grpc.StatusCode.CANCELLED


async def test_a_server_shows_its_new_certificate_and_believes_its_new_authority(
    tmp_path: Path, authority: Authority
) -> None:
    clock = ManualClock()
    other = Authority("other")
    served = required(authority.issue(tmp_path / "server", MEMORY))
    stranger = other.issue(tmp_path / "client", ACME)
    put(tmp_path / "client" / "ca.crt", authority.pem)
    async with serving(served, clock) as address:
        async with connect(address, tls=Tls(stranger)) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await whose(channel)
            assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        put(tmp_path / "server" / "ca.crt", authority.pem + other.pem)
        await clock.advance(1)
        async with connect(address, tls=Tls(stranger)) as channel:
            assert await whose(channel) == ACME


async def test_https_hands_out_the_certificate_of_the_moment(
    tmp_path: Path, authority: Authority
) -> None:
    clock = ManualClock()
    tls = Tls(required(authority.issue(tmp_path / "server", MEMORY)), clock=clock)
    client = Tls(authority.issue(tmp_path / "client", ACME)).client_context()
    seen: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(spiffe_id_of(writer.get_extra_info("peercert")))
        writer.write(b"done")
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls.https_context())
    port = server.sockets[0].getsockname()[1]

    async def shown() -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client)
        certificate: ssl.SSLObject = writer.get_extra_info("ssl_object")
        assert await reader.read() == b"done"
        writer.close()
        return serial_of(certificate.getpeercert(binary_form=True) or b"")

    async with server:
        assert await shown() == serial_in(tmp_path / "server" / "tls.crt")
        authority.issue(tmp_path / "server", MEMORY)
        await clock.advance(1)
        assert await shown() == serial_in(tmp_path / "server" / "tls.crt")
    assert seen == [ACME, ACME]


# Whom a certificate speaks for.


@pytest.mark.parametrize(
    ("spiffe_id", "stands_for"),
    [
        ("spiffe://plexus/tenant/acme", ("tenant", "acme")),
        ("spiffe://plexus/component/gateway", ("component", "gateway")),
        ("", ("", "")),
        ("spiffe://plexus/", ("", "")),
        ("spiffe://plexus/tenant", ("", "")),
        ("spiffe://plexus/tenant/", ("", "")),
        ("spiffe://plexus/tenant/a/b", ("", "")),
        ("spiffe://plexus/tenant/a b", ("", "")),
        ("spiffe://plexus/component/mesh", ("", "")),
        ("spiffe://plexus/component/acme", ("", "")),
        ("spiffe://plexus/admin/acme", ("", "")),
        ("spiffe://plexus.example/tenant/acme", ("", "")),
        ("spiffe://other/tenant/acme", ("", "")),
        ("https://plexus/tenant/acme", ("", "")),
        ("x-spiffe://plexus/tenant/acme", ("", "")),
    ],
)
def test_an_id_stands_for_a_tenant_or_a_component_of_this_domain_or_for_nothing(
    spiffe_id: str, stands_for: tuple[str, str]
) -> None:
    assert certified(spiffe_id, "spiffe://plexus/") == stands_for


@pytest.mark.parametrize(
    ("uris", "found"),
    [
        ([], ""),
        ([ACME], ACME),
        ([ACME, MEMORY], ""),
        (["https://x"], ""),
        ([ACME, "https://x"], ""),
    ],
)
def test_an_id_must_be_the_only_uri_of_a_certificate(
    tmp_path: Path, authority: Authority, uris: list[str], found: str
) -> None:
    names = tuple(("URI", uri) for uri in uris)
    assert spiffe_id_of({"subjectAltName": (("DNS", "localhost"), *names)}) == found
    assert spiffe_id_of(None) == ""


CERTIFIED = MeshSettings(
    tls_client_auth="require",
    tls_cert_file=Path("unread"),
    tls_key_file=Path("unread"),
    tls_ca_file=Path("unread"),
    keys={"k": KeySettings(tenant="globex", sha256=digest_of("key-of-globex"))},
)


def identity(spiffe_id: str, **metadata: str) -> Identity:
    token = peer_spiffe_id.set(spiffe_id)
    try:
        sent = {name.replace("_", "-"): value for name, value in metadata.items()}
        return Authenticator(CERTIFIED).authenticate(sent)
    finally:
        peer_spiffe_id.reset(token)


def refused(spiffe_id: str, **metadata: str) -> PlexusError:
    with pytest.raises(PlexusError) as raised:
        identity(spiffe_id, **metadata)
    return raised.value


def test_a_tenants_certificate_speaks_for_that_tenant_alone() -> None:
    assert identity(ACME) == Identity("acme", "certificate:acme")
    assert identity(ACME, plexus_tenant="acme", plexus_principal="key:x").tenant == "acme"
    error = refused(ACME, plexus_tenant="globex")
    assert isinstance(error, PermissionDenied)
    assert error.reason == Reason.TENANT_MISMATCH


def test_a_tenants_certificate_comes_before_a_key() -> None:
    assert identity(ACME, authorization="Bearer key-of-globex").tenant == "acme"
    assert identity(ACME, authorization="Bearer any").tenant == "acme"


def test_a_component_says_for_whom_it_calls() -> None:
    assert identity(MEMORY, plexus_tenant="any") == Identity("any", "component:memory")
    said = identity(MEMORY, plexus_tenant="any", plexus_principal="key:ana")
    assert said == Identity("any", "key:ana")
    assert refused(MEMORY).reason == Reason.TENANT_REQUIRED


def test_a_component_with_a_key_and_no_tenant_calls_for_itself() -> None:
    assert identity(MEMORY, authorization="Bearer key-of-globex").tenant == "globex"


@pytest.mark.parametrize("spiffe_id", ["", "spiffe://other/tenant/acme"])
def test_another_certificate_needs_a_key_even_where_no_key_is_asked_for(spiffe_id: str) -> None:
    assert isinstance(refused(spiffe_id), Unauthenticated)
    assert refused(spiffe_id).reason == Reason.MISSING_KEY
    assert refused(spiffe_id, plexus_tenant="default").reason == Reason.MISSING_KEY
    assert identity(spiffe_id, authorization="Bearer key-of-globex").tenant == "globex"


def test_reading_is_what_a_peer_would_accept(tmp_path: Path, authority: Authority) -> None:
    material = read(authority.issue(tmp_path, MEMORY))
    assert material.cert == (tmp_path / "tls.crt").read_bytes()
    assert "PRIVATE" not in repr(material)
