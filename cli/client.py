"""Channels to a running mesh, and its failures as sentences that say what to do."""

import os
import ssl
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self, cast

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cli.tls_options import CA_VARIABLE, CERT_KEY_VARIABLE, CERT_VARIABLE
from mesh.addresses import first_of
from mesh.channel import channel_options
from mesh.errors import (
    STATUS_DETAILS_KEY,
    FailedPrecondition,
    PlexusError,
    Reason,
    Unavailable,
    from_rpc_error,
)
from mesh.health import READINESS
from mesh.host import DEFAULT_PORTS, LOCAL
from mesh.settings import MeshSettings, load, read_file
from mesh.tls import Tls, TlsFiles
from plexus.gateway.v1 import gateway_service_pb2_grpc as gateway_grpc
from plexus.memory.v1 import memory_service_pb2_grpc as memory_grpc
from plexus.metrics.v1 import metrics_service_pb2_grpc as metrics_grpc

CALL_TIMEOUT_S: Final = 10.0
"""For calls that only read something."""

PROBE_TIMEOUT_S: Final = 2.0
"""How long a component may take to say how it is."""

KEY_VARIABLE: Final = "PLEXUS_API_KEY"

HTTP_PORT: Final = 8080

PUBLIC_AUTHORITIES: Final = "public"
"""In place of a file of authorities: those that gRPC knows."""

_ANY_HOST = ("0.0.0.0", "::", "[::]")
_MAX_MESSAGE_BYTES = 4 * 1024 * 1024
_NEVER_CONNECTED: Final = ("failed to connect", "connections to all backends failing")
_TLS_TROUBLES: Final[Mapping[str, str]] = {
    "CERTIFICATE_VERIFY_FAILED": "shows a certificate that is not to be believed: give its "
    f"authority with --ca (or {CA_VARIABLE}), and see that it has not expired.",
    "Hostname Verification": "shows a certificate for another name: call it by a name in it.",
    "WRONG_VERSION_NUMBER": f"does not speak TLS: leave out --ca (or {CA_VARIABLE}).",
    "Socket closed": "ends every connection. A mesh that speaks TLS wants --ca (or "
    f"{CA_VARIABLE}), one that wants a client certificate also --cert and --cert-key.",
}
"""What gRPC says of a handshake that failed, and what a person can do."""
_TRANSPORT_CODES = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.CANCELLED,
)


def client_tls(*, environ: Mapping[str, str] | None = None, file: Path | None = None) -> Tls | None:
    """Return the TLS to call with: as the options or the environment say, else as the mesh here
    is set; None for a mesh without. Raises FailedPrecondition for files that are no good.
    """
    environ = os.environ if environ is None else environ
    given = {name: environ.get(name) for name in (CA_VARIABLE, CERT_VARIABLE, CERT_KEY_VARIABLE)}
    if not any(given.values()):
        return Tls.of(load(MeshSettings, "mesh", environ=environ, file=file))
    ca, cert, key = ((Path(value) if value else None) for value in given.values())
    if (cert is None) != (key is None):
        raise FailedPrecondition(
            "a client certificate needs its key: give both --cert and --cert-key",
            reason=Reason.INVALID_SETTINGS,
        )
    return Tls(TlsFiles(cert=cert, key=key, ca=None if str(ca) == PUBLIC_AUTHORITIES else ca))


def https_context() -> ssl.SSLContext | None:
    """Return what to call the HTTP edge with; None where nothing is set."""
    tls = client_tls()
    return tls.client_context() if tls else None


def open_channel(address: str, tls: Tls | Literal["as set"] | None = "as set") -> grpc.aio.Channel:
    """Return a channel without interceptors to a component, with TLS or, if None, without."""
    options = channel_options(_MAX_MESSAGE_BYTES)
    if tls == "as set":
        tls = client_tls()
    if tls is None:
        return grpc.aio.insecure_channel(address, options=options)
    return grpc.aio.secure_channel(address, tls.channel_credentials(), options=options)


class MeshClient:
    """Stubs of a running mesh. Channels connect on first use; use it as a context manager."""

    def __init__(
        self,
        addresses: Mapping[str, str],
        *,
        key: str = "",
        tls: Tls | Literal["as set"] | None = "as set",
    ) -> None:
        """`addresses` maps component names to `host:port`."""
        self._tls: Tls | Literal["as set"] | None = tls
        self.addresses = dict(addresses)
        self.metadata = grpc.aio.Metadata(*([("authorization", f"Bearer {key}")] if key else []))
        self._channels: dict[str, grpc.aio.Channel] = {}

    @property
    def gateway(self) -> gateway_grpc.GatewayServiceStub:
        """The gateway's stub."""
        return gateway_grpc.GatewayServiceStub(self.channel("gateway"))

    @property
    def memory(self) -> memory_grpc.MemoryServiceStub:
        """The memory's stub."""
        return memory_grpc.MemoryServiceStub(self.channel("memory"))

    @property
    def metrics(self) -> metrics_grpc.MetricsServiceStub:
        """The metrics' stub."""
        return metrics_grpc.MetricsServiceStub(self.channel("metrics"))

    def channel(self, component: str) -> grpc.aio.Channel:
        """Return the one channel to a component."""
        if component not in self._channels:
            self._channels[component] = open_channel(self.addresses[component], self._tls)
        return self._channels[component]

    async def close(self) -> None:
        """Close the channels; calls in progress are cancelled."""
        for channel in self._channels.values():
            await channel.close()
        self._channels.clear()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


@asynccontextmanager
async def explained(address: str) -> AsyncGenerator[None]:
    """Turn a failed call inside the block into a PlexusError that says what to do."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise explain(error, address) from error


def explain(error: grpc.aio.AioRpcError, address: str) -> PlexusError:
    """Return the error of a call to `address`; one that no server sent gets a remedy."""
    ours = from_rpc_error(error)
    if ours.reason in (Reason.MISSING_KEY, Reason.INVALID_KEY):
        return type(ours)(f"{ours.message}; here: --key or {KEY_VARIABLE}.", reason=ours.reason)
    if is_from_server(error) or error.code() is not grpc.StatusCode.UNAVAILABLE:
        return ours
    return _tls_trouble(address, error.details() or "") or unreachable(address)


def _tls_trouble(address: str, details: str) -> PlexusError | None:
    """Return the error for a connection that failed over TLS; None when it did not."""
    for sign, why in _TLS_TROUBLES.items():
        if sign in details and any(never in details for never in _NEVER_CONNECTED):
            return Unavailable(f"{address} {why}", reason=Reason.COMPONENT_UNAVAILABLE)
    return None


def unreachable(address: str) -> PlexusError:
    """Return the error for an address at which nothing serves."""
    return Unavailable(
        f"No mesh is ready at {address}: start one with `make run` (or `plexus up`), name another "
        "with --address, or its authority with --ca if it speaks TLS.",
        reason=Reason.COMPONENT_UNAVAILABLE,
    )


def is_from_server(error: grpc.aio.AioRpcError) -> bool:
    """Whether a Plexus server sent this error, rather than the transport."""
    return any(key == STATUS_DETAILS_KEY for key, _ in error.trailing_metadata() or ())


def is_dropped(error: grpc.aio.AioRpcError) -> bool:
    """Whether the connection broke, so that the work at its other end may go on."""
    return error.code() in _TRANSPORT_CODES and not is_from_server(error)


async def is_ready(address: str, *, timeout_s: float = PROBE_TIMEOUT_S) -> bool:
    """Whether a component serves at `address` and is ready. Never raises."""
    request = health_pb2.HealthCheckRequest(service=READINESS)
    async with open_channel(address) as channel:
        try:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            said = await stub.Check(request, timeout=timeout_s)
        except grpc.aio.AioRpcError:
            return False
    return bool(said.status == health_pb2.HealthCheckResponse.SERVING)


def addresses(
    *, environ: Mapping[str, str] | None = None, file: Path | None = None
) -> dict[str, str]:
    """Return where the settings say that each component is; raise if they are invalid."""
    environ = os.environ if environ is None else environ
    mesh = load(MeshSettings, "mesh", environ=environ, file=file)
    sections = read_file(file)
    host = "127.0.0.1" if mesh.host in _ANY_HOST else mesh.host
    found: dict[str, str] = {}
    for component, default in DEFAULT_PORTS.items():
        placed = mesh.placement.get(component, LOCAL)
        port = environ.get(f"PLEXUS_{component.upper()}_PORT") or _of(sections, component, "port")
        found[component] = f"{host}:{port or default}" if placed == LOCAL else first_of(placed)
    return found


def http_url(*, environ: Mapping[str, str] | None = None, file: Path | None = None) -> str:
    """Return where the settings say that the HTTP edge is."""
    environ = os.environ if environ is None else environ
    mesh = load(MeshSettings, "mesh", environ=environ, file=file)
    host = "127.0.0.1" if mesh.host in _ANY_HOST else mesh.host
    port = environ.get("PLEXUS_GATEWAY_HTTP_PORT") or _of(read_file(file), "gateway", "http_port")
    scheme = "https" if mesh.tls_cert_file else "http"
    return f"{scheme}://{host}:{port or HTTP_PORT}"


def _of(sections: Mapping[str, object], section: str, name: str) -> object:
    values = sections.get(section)
    return cast("dict[str, object]", values).get(name) if isinstance(values, dict) else None
