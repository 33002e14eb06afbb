"""TLS of one process: what it serves with and what it calls with, as its files are now.

The files are checked as peers will check them, so that what is wrong with them is one sentence
at the start, and never replaces what works when they change later.
"""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import grpc

from mesh.clock import SYSTEM_CLOCK, Clock
from mesh.errors import FailedPrecondition, Reason
from mesh.handlers import Behavior, Context, Method
from mesh.identity import peer_spiffe_id
from mesh.settings import MeshSettings
from mesh.watched_files import WatchedFiles

_END = "-----END CERTIFICATE-----"
_HANDSHAKE_ROUNDS = 8
_EXPIRED, _NOT_YET_VALID, _WRONG_PURPOSE = 10, 9, 26


@dataclass(frozen=True, kw_only=True)
class TlsFiles:
    """Where certificates are; see the settings of the same names."""

    cert: Path | None = None
    key: Path | None = None
    ca: Path | None = None
    client_auth: Literal["none", "require"] = "none"

    @classmethod
    def of(cls, settings: MeshSettings) -> "TlsFiles":
        """Return those of the settings."""
        return cls(
            cert=settings.tls_cert_file,
            key=settings.tls_key_file,
            ca=settings.tls_ca_file,
            client_auth=settings.tls_client_auth,
        )

    def __bool__(self) -> bool:
        return self.cert is not None or self.ca is not None

    def paths(self) -> list[Path]:
        """Return those that are set."""
        return [path for path in (self.cert, self.key, self.ca) if path is not None]


@dataclass(frozen=True, kw_only=True)
class Material:
    """What the files held at one moment: checked, and not mixed from two moments."""

    cert: bytes | None
    key: bytes | None = field(repr=False)
    roots: bytes | None
    https: ssl.SSLContext | None = field(compare=False, repr=False)
    """For servers of HTTP; None without a certificate."""


class Tls:
    """Credentials made of files. Raises FailedPrecondition at once if they are no good."""

    def __init__(self, files: TlsFiles, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self.files = files
        self._watched = WatchedFiles("tls", files.paths(), lambda: read(files), clock=clock)

    @classmethod
    def of(cls, settings: MeshSettings, *, clock: Clock = SYSTEM_CLOCK) -> "Tls | None":
        """Return the TLS that the settings ask for; None when they ask for none."""
        files = TlsFiles.of(settings)
        return cls(files, clock=clock) if files else None

    @property
    def serves(self) -> bool:
        """Whether there is a certificate to serve with; without, it is for calling only."""
        return self.files.cert is not None

    @property
    def requires_client(self) -> bool:
        """Whether a gRPC client needs a certificate."""
        return self.files.client_auth == "require"

    def material(self) -> Material:
        """Return what to use now: the same object until a file changes."""
        return self._watched.current()

    def server_credentials(self) -> grpc.ServerCredentials:
        """Return credentials that ask for the current files at every handshake."""

        def configuration() -> grpc.ServerCertificateConfiguration:
            now = self.material()
            assert now.key is not None, "checked by the settings"
            assert now.cert is not None, "only who serves asks for it"
            roots = now.roots if self.requires_client else None
            return grpc.ssl_server_certificate_configuration([(now.key, now.cert)], roots)

        make: Any = grpc.dynamic_ssl_server_credentials
        return make(configuration(), configuration, self.requires_client)

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Return credentials of this moment: a channel's cannot change (see RotatingChannel)."""
        now = self.material()
        return grpc.ssl_channel_credentials(now.roots, now.key, now.cert)

    def client_context(self) -> ssl.SSLContext:
        """Return a context of this moment, to call an HTTP server with."""
        context = ssl.create_default_context(cafile=self.files.ca)
        if self.files.cert is not None:
            context.load_cert_chain(self.files.cert, self.files.key)
        return context

    def https_context(self) -> ssl.SSLContext:
        """Return a server's context that hands every handshake to the current certificate."""
        first = self.material().https
        assert first is not None, "only who serves asks for it"
        context = _server_context(self.files)

        def choose(connection: ssl.SSLObject, name: str | None, original: ssl.SSLContext) -> None:
            connection.context = self.material().https or first

        context.sni_callback = choose
        return context


class PeerCertificate:
    """Says whose certificate a call came with; a call in process or without TLS has none."""

    def intercept(self, method: Method, behavior: Behavior) -> Behavior:
        async def certified(request: Any, context: Context) -> Any:
            found: Any = context.auth_context()
            # gRPC fills it in for a well-formed id that is the certificate's only URI.
            (spiffe_id,) = found.get("peer_spiffe_id") or (b"",)
            peer_spiffe_id.set(spiffe_id.decode())
            return await behavior(request, context)

        return certified


def spiffe_id_of(certificate: Mapping[str, Any] | None) -> str:
    """Return the SPIFFE id of a certificate as Python's ssl describes it; empty without one."""
    names: tuple[tuple[str, str], ...] = (certificate or {}).get("subjectAltName", ())
    uris = [value for kind, value in names if kind == "URI"]
    return uris[0] if len(uris) == 1 and uris[0].startswith("spiffe://") else ""


def read(files: TlsFiles) -> Material:
    """Read and check the files; raise FailedPrecondition with one sentence."""
    before = _contents(files)
    https = None
    if files.ca is not None:
        _check_authorities(files.ca)
    if files.cert is not None:
        https = _server_context(files)
        _check_as_a_peer(files.cert, https)
    if _contents(files) != before:
        raise _wrong("the TLS files change at this moment")
    cert, key, roots = before
    return Material(cert=cert, key=key, roots=roots, https=https)


def _contents(files: TlsFiles) -> tuple[bytes | None, bytes | None, bytes | None]:
    return (
        _content("tls_cert_file", files.cert, "CERTIFICATE"),
        _content("tls_key_file", files.key, "PRIVATE KEY"),
        _content("tls_ca_file", files.ca, "CERTIFICATE"),
    )


def _content(name: str, path: Path | None, holds: str) -> bytes | None:
    if path is None:
        return None
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _wrong(f"{name}: {path} cannot be read: {error.strerror}") from error
    if f"{holds}-----".encode() not in content:
        raise _wrong(f"{name}: {path} holds no PEM {holds.lower()}")
    if b"ENCRYPTED" in content:
        raise _wrong(f"{name}: {path} has a passphrase; store the key without one")
    return content


def _server_context(files: TlsFiles) -> ssl.SSLContext:
    """Return a context for HTTPS, which takes a client's certificate but lets one come without."""
    assert files.cert is not None, "checked by the caller"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(files.cert, files.key)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise _wrong(
                f"the key {files.key} does not belong to the certificate {files.cert}"
            ) from error
        raise _wrong(f"{files.cert} and {files.key} cannot be used: not valid PEM") from error
    except OSError as error:
        raise _wrong(f"{files.cert} cannot be read: {error.strerror}") from error
    if files.client_auth == "require" and files.ca is not None:
        context.verify_mode = ssl.CERT_OPTIONAL
        context.load_verify_locations(files.ca)
        # A resumed session would outlive an authority that is believed no more.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
    return context


def _check_authorities(path: Path) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError as error:
        raise _wrong(f"tls_ca_file: {path} is not valid PEM") from error
    except OSError as error:
        raise _wrong(f"tls_ca_file: {path} cannot be read: {error.strerror}") from error


def _check_as_a_peer(path: Path, server: ssl.SSLContext) -> None:
    """Shake hands in memory with a client that believes this very certificate."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        client.load_verify_locations(cadata=path.read_text().partition(_END)[0] + _END + "\n")
        _shake_hands(server, client)
    except ssl.SSLCertVerificationError as error:
        raise _wrong(_verdict(path, error)) from error
    except (OSError, ValueError) as error:
        raise _wrong(f"tls_cert_file: {path} cannot be used: not valid PEM") from error


def _shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        client.wrap_bio(to_client, to_server),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(_HANDSHAKE_ROUNDS):
        for side in list(sides):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            sides.remove(side)
        if not sides:
            return


def _verdict(path: Path, error: ssl.SSLCertVerificationError) -> str:
    if error.verify_code == _EXPIRED:
        return f"the certificate {path} has expired: renew it"
    if error.verify_code == _NOT_YET_VALID:
        return f"the certificate {path} is not valid yet: see this machine's clock"
    if error.verify_code == _WRONG_PURPOSE:
        return f"the certificate {path} is not for servers: its extended key usage lacks serverAuth"
    return f"the certificate {path} cannot be used: {error.verify_message}"


def _wrong(why: str) -> FailedPrecondition:
    return FailedPrecondition(f"TLS: {why}", reason=Reason.INVALID_SETTINGS)
