"""The HTTP server of the gateway: lifecycle, and what holds for every request.

Each request gets an id, is measured and logged once, and its errors are given their form here,
whatever dialect it speaks. A client that goes away cancels what was done for it.
"""

import asyncio
import errno
from collections.abc import Callable, Sequence

import grpc.aio
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from prometheus_client import CONTENT_TYPE_LATEST

from gateway.edges.http_errors import error_headers, error_json, error_record, http_status
from gateway.edges.http_exchange import EXCHANGE, Exchange, check_headers, json_response
from gateway.edges.http_settings import HttpEdgeSettings
from gateway.edges.openai import OpenAIDialect
from gateway.edges.origin import OriginPolicy
from gateway.edges.request_headers import is_client_retry
from gateway.edges.sse import OpenStreams
from gateway.edges.welcome import no_such_route, welcome
from mesh import metrics
from mesh.call import valid_request_id
from mesh.clock import SYSTEM_CLOCK, Clock
from mesh.errors import (
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    PlexusError,
    Reason,
    Unavailable,
    Unimplemented,
    from_rpc_error,
)
from mesh.identity import Authenticator, check_metadata_size, peer_spiffe_id
from mesh.logs import Log
from mesh.outgoing import REQUEST_ID_KEY
from mesh.server import HARD_METADATA_BYTES, LOOPBACK_HOSTS, open_to_the_world, port_taken
from mesh.tls import Tls, spiffe_id_of

CUT_TIMEOUT_S = 1.0
"""How long a request that was cut off at the end of the grace may take to say so."""
CLIENT_GONE = 499
PROBES = ("/healthz", "/readyz", "/metrics")

log = Log("http")

__all__ = ["HttpEdge", "HttpEdgeSettings"]


class HttpEdge:
    """Serves the gateway over HTTP. `start` once, `close` once."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        authenticator: Authenticator,
        settings: HttpEdgeSettings,
        *,
        clock: Clock = SYSTEM_CLOCK,
        readiness: Callable[[], bool],
        routes: Sequence[web.RouteDef] = (),
        tls: Tls | None = None,
    ) -> None:
        """With `tls` that has a certificate it serves HTTPS only."""
        self._tls = tls if tls is not None and tls.serves else None
        self._settings = settings
        self._clock = clock
        self._readiness = readiness
        self._anonymous = _lets_anyone_in(authenticator)
        self._origins = OriginPolicy(settings.cors_origins, anonymous=self._anonymous)
        self.streams = OpenStreams(
            clock, heartbeat_s=settings.heartbeat_s, stall_s=settings.stall_s
        )
        openai = OpenAIDialect(channel, authenticator, settings, self.streams, clock)
        self._runner = self._make_runner([*openai.routes(), *routes])
        self._running: dict[asyncio.Task[object], None] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._cutting = False
        self._base_url = ""

    async def start(self) -> int:
        """Listen and return the port.

        Raises FailedPrecondition when the port is taken, or when a mesh that asks for no key
        would be reachable from other machines.
        """
        host, port = self._settings.host, self._settings.port
        if self._anonymous and host not in LOOPBACK_HOSTS:
            raise open_to_the_world(host)
        await self._runner.setup()
        try:
            context = self._tls.https_context() if self._tls else None
            shared = self._settings.shared_port or None
            await web.TCPSite(
                self._runner, host, port, ssl_context=context, reuse_port=shared
            ).start()
        except OSError as error:
            await self._runner.cleanup()
            if error.errno == errno.EADDRINUSE:
                raise port_taken("gateway_http", host, port) from error
            raise FailedPrecondition(
                f"gateway cannot listen on {host}:{port}: {error.strerror}",
                reason=Reason.INVALID_SETTINGS,
            ) from error
        bound: int = self._runner.addresses[0][1]
        self._base_url = f"{self.scheme}://{_shown(host)}:{bound}"
        self.streams.start()
        return bound

    @property
    def scheme(self) -> str:
        """What its URLs begin with."""
        return "https" if self._tls else "http"

    async def close(self, grace_s: float) -> None:
        """Accept nothing new, let running requests finish within the grace, then end the rest.

        A stream that is ended so says so to its client; it never looks complete.
        """
        for site in self._runner.sites:
            await site.stop()
        if self._runner.server is not None:
            self._runner.server.pre_shutdown()
        await self._until_idle(grace_s)
        self._cutting = True
        for task in list(self._running):
            task.cancel()
        await self._runner.cleanup()
        await self.streams.close()

    def _make_runner(self, routes: Sequence[web.RouteDef]) -> web.AppRunner:
        app = web.Application(
            client_max_size=self._settings.max_body_bytes, middlewares=[self._middleware()]
        )
        app.add_routes(
            [
                web.get("/", self._welcome),
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
                *routes,
            ]
        )
        app.on_response_prepare.append(self._add_headers)
        return web.AppRunner(
            app,
            access_log=None,
            # A client that goes away cancels its handler, and with it the call and the provider's.
            handler_cancellation=True,
            shutdown_timeout=CUT_TIMEOUT_S,
            # Larger than what is accepted, so that the refusal can say why.
            max_line_size=HARD_METADATA_BYTES,
            max_field_size=HARD_METADATA_BYTES,
        )

    def _middleware(self) -> Middleware:
        @web.middleware
        async def serve(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self._serve(request, handler)

        return serve

    async def _serve(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Serve one request: origin, handler, errors; then measure and log it."""
        started_s = self._clock.monotonic_s()
        request_id = valid_request_id(request.headers.get(REQUEST_ID_KEY, ""))
        request[EXCHANGE] = exchange = Exchange(request_id)
        task = asyncio.current_task()
        assert task is not None, "handlers run in tasks"
        self._running[task] = None
        self._idle.clear()
        status, reason = CLIENT_GONE, str(Reason.CANCELLED)
        try:
            response, error = await self._answer(request, handler, exchange, task)
            status, reason = response.status, error.reason if error else ""
            return response
        finally:
            del self._running[task]
            if not self._running:
                self._idle.set()
            self._report(request, exchange, status, reason, self._clock.monotonic_s() - started_s)

    async def _answer(
        self,
        request: web.Request,
        handler: Handler,
        exchange: Exchange,
        task: asyncio.Task[object],
    ) -> tuple[web.StreamResponse, PlexusError | None]:
        error: PlexusError
        refused: web.HTTPException | None = None
        try:
            peer_spiffe_id.set(spiffe_id_of(request.get_extra_info("peercert")))
            if (preflight := self._admit(request)) is not None:
                return preflight, None
            return await handler(request), None
        except PlexusError as raised:
            error = raised
        except grpc.aio.AioRpcError as raised:
            error = from_rpc_error(raised)
        except web.HTTPException as raised:
            error, refused = _of_http(raised, request), raised
        except asyncio.CancelledError:
            if exchange.stream is not None and exchange.stream.has_ended:
                # The client has everything and hung up before the gateway had tidied up.
                return exchange.stream.response, None
            if not self._cutting:
                raise
            task.uncancel()
            error = Unavailable("this server is shutting down; ask again", reason=Reason.DRAINING)
        except ConnectionError:
            raise  # The client is gone; the framework expects to hear it in this way.
        except Exception as raised:
            log.fault("fault", raised, request_id=exchange.request_id)
            error = Internal(f"a fault of ours; see the log for request {exchange.request_id}")
        return await _refuse(error, exchange, refused), error

    def _admit(self, request: web.Request) -> web.Response | None:
        """Check where the request comes from; return the answer to a preflight."""
        check_metadata_size(sum(len(name) + len(v) for name, v in request.headers.items()))
        check_headers(request.headers)
        origin = request.headers.get("origin", "")
        self._origins.check(request.headers.get("host", ""), origin)
        if request.method != "OPTIONS" or not origin:
            return None
        asked = request.headers.get("access-control-request-headers", "")
        return web.Response(status=204, headers=self._origins.preflight_headers(asked))

    async def _add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        response.headers["server"] = "plexus"
        exchange = request.get(EXCHANGE)
        if exchange is not None:
            response.headers[REQUEST_ID_KEY] = exchange.request_id
        response.headers.update(self._origins.headers(request.headers.get("origin", "")))

    async def _until_idle(self, grace_s: float) -> None:
        waits = [
            asyncio.ensure_future(self._idle.wait()),
            asyncio.ensure_future(self._clock.sleep(grace_s)),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def _report(
        self, request: web.Request, exchange: Exchange, status: int, reason: str, took_s: float
    ) -> None:
        resource = request.match_info.route.resource
        route = resource.canonical if resource is not None else "unmatched"
        metrics.HTTP_SERVER_DURATION.labels(route, str(status)).observe(took_s)
        if is_client_retry(request.headers):
            metrics.HTTP_CLIENT_RETRIES.inc()
        emit = log.debug if route in PROBES else log.info
        emit(
            "request",
            method=request.method,
            route=route,
            status=status,
            reason=reason,
            duration_ms=took_s * 1000,
            request_id=exchange.request_id,
            run_id=exchange.run_id,
            tenant=exchange.identity.tenant if exchange.identity else "",
            principal=exchange.identity.principal if exchange.identity else "",
        )

    async def _welcome(self, request: web.Request) -> web.StreamResponse:
        return web.Response(text=welcome(self._base_url, anonymous=self._anonymous))

    async def _healthz(self, request: web.Request) -> web.StreamResponse:
        return web.Response(text="ok\n")

    async def _readyz(self, request: web.Request) -> web.StreamResponse:
        ready = self._readiness()
        return web.Response(
            text="ready\n" if ready else "not ready\n", status=200 if ready else 503
        )

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        headers = {"content-type": CONTENT_TYPE_LATEST}
        return web.Response(body=metrics.exposition(), headers=headers)


async def _refuse(
    error: PlexusError, exchange: Exchange, refused: web.HTTPException | None
) -> web.StreamResponse:
    """Tell the client: by a status, or inside a stream whose status is out by a last record."""
    stream = exchange.stream
    if stream is not None and stream.has_begun:
        await stream.end(error_record(error, exchange.request_id), {})
        return stream.response
    status = refused.status if refused else http_status(error)
    headers = error_headers(error)
    if refused is not None and "allow" in refused.headers:
        headers["allow"] = refused.headers["allow"]
    body = error_json(error, exchange.request_id, status=status)
    return json_response(body, status=status, headers=headers)


def _of_http(raised: web.HTTPException, request: web.Request) -> PlexusError:
    """Return what the framework refused as an error of ours; its status stays."""
    if raised.status == 404:
        return NotFound(no_such_route(request.path))
    if isinstance(raised, web.HTTPMethodNotAllowed):
        return Unimplemented(f"use {' or '.join(sorted(raised.allowed_methods))} here")
    return InvalidArgument(
        f"the request cannot be read: {raised.reason}", reason=Reason.MALFORMED_BODY
    )


def _shown(host: str) -> str:
    """Return a host that a person can open."""
    if host in ("0.0.0.0", "::"):
        return "localhost"
    return f"[{host}]" if ":" in host else host


def _lets_anyone_in(authenticator: Authenticator) -> bool:
    try:
        authenticator.authenticate({})
    except PlexusError:
        return False
    return True
