"""Client channels over the wire: options, service config and interceptors in one place.

Retries by the transport cover lost connections; handlers that failed say so with push-back
(see `mesh.errors.trailing_metadata`), so attempts never multiply. A connection may be lost
after the handler has begun, and before its first message: then the call runs once more.
"""

from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
import orjson

from mesh.addresses import first_of, target_of
from mesh.exchange import STREAM_WINDOW_BYTES
from mesh.outgoing import outgoing
from mesh.rotating_channel import RotatingChannel
from mesh.tls import Tls

KEEPALIVE_MS = 30_000
KEEPALIVE_TIMEOUT_MS = 10_000
RETRY_ATTEMPTS = 3

SERVICE_CONFIG: dict[str, object] = {
    # By what the replicas report of their load (mesh.load_report); a replica that has reported
    # nothing gets its turn, and where none does this is round robin.
    "loadBalancingConfig": [
        {
            "weighted_round_robin": {
                "blackoutPeriod": "1s",
                "weightUpdatePeriod": "1s",
                "weightExpirationPeriod": "30s",
            }
        },
        {"round_robin": {}},
    ],
    # The name that servers of others know as well; ours answer it as `readiness`.
    "healthCheckConfig": {"serviceName": ""},
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": RETRY_ATTEMPTS,
                "initialBackoff": "0.05s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                # A server that is about to stop cancels calls that arrive in that moment. What
                # the caller itself or a handler cancelled is not tried again.
                "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
            },
        }
    ],
    # The retry budget: each failure takes a token, each success gives half a one back, and retries
    # stop below half of the tokens. A server that stops may fail a few dozen calls at once.
    "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.5},
}


def channel_options(max_message_bytes: int) -> list[tuple[str, Any]]:
    """Return the channel arguments of a client."""
    return [
        ("grpc.service_config", orjson.dumps(SERVICE_CONFIG).decode()),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        # New pods are seen on re-resolution, and a dead one is tried again, within seconds.
        ("grpc.dns_min_time_between_resolutions_ms", 5_000),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 500),
        # A window that grows without bound would take away the sender's back-pressure.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", STREAM_WINDOW_BYTES),
    ]


def connect(
    address: str,
    *,
    max_message_bytes: int = 4 * 1024 * 1024,
    mesh_token: str = "",
    tls: Tls | None = None,
) -> grpc.aio.Channel:
    """Return a channel to `host:port`, `dns:///…`, `unix:/path`, or several IP addresses separated
    by commas, over which it balances; it connects lazily.

    With `tls` it presents the certificate of the moment and believes the authorities of the
    moment: when the files change, later calls go over a new connection, and running ones finish.
    All replicas of a list are expected to have certificates that name the first one's host.
    """
    target = target_of(address)
    options = channel_options(max_message_bytes)
    added = client_interceptors(mesh_token)
    # A unix socket is in a folder that nobody else can enter.
    if tls is None or target.startswith("unix:"):
        return grpc.aio.insecure_channel(target, options=options, interceptors=added)
    if "," in target:
        # gRPC compares certificates with one name for the whole channel, and has none for a list.
        options.append(("grpc.default_authority", first_of(target)))

    def secure() -> grpc.aio.Channel:
        credentials = tls.channel_credentials()
        return grpc.aio.secure_channel(target, credentials, options=options, interceptors=added)

    return RotatingChannel(secure, tls.material)


def client_interceptors(mesh_token: str = "") -> list[grpc.aio.ClientInterceptor]:
    """Return four objects: grpc.aio uses an object with several bases for the first one only."""
    return [
        _UnaryUnary(mesh_token),
        _UnaryStream(mesh_token),
        _StreamUnary(mesh_token),
        _StreamStream(mesh_token),
    ]


class _Propagation:
    """Adds identity, request id, trace and deadline to outgoing calls."""

    def __init__(self, mesh_token: str) -> None:
        self._mesh_token = mesh_token

    async def send(
        self, continuation: Callable[..., Any], details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        method: Any = details.method
        path = method.decode() if isinstance(method, bytes) else str(method)
        given: Any = details.metadata or ()
        metadata, timeout_s = outgoing(
            path, tuple(given), details.timeout, mesh_token=self._mesh_token
        )
        sent = grpc.aio.ClientCallDetails(
            method=details.method,
            # gRPC may let a call through whose deadline is this very moment.
            timeout=timeout_s if timeout_s > 0 else -1.0,
            metadata=grpc.aio.Metadata(*metadata),
            credentials=details.credentials,
            wait_for_ready=details.wait_for_ready,
        )
        return await continuation(sent, request)


class _UnaryUnary(_Propagation, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        return await self.send(continuation, client_call_details, request)


class _UnaryStream(_Propagation, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        return await self.send(continuation, client_call_details, request)


class _StreamUnary(_Propagation, grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        return await self.send(continuation, client_call_details, request_iterator)


class _StreamStream(_Propagation, grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        return await self.send(continuation, client_call_details, request_iterator)
