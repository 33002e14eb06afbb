"""The HTTP side that both dialects share: one pool per provider, bounded waits, one read loop."""

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp

from mesh.clock import Clock
from services.router.failure import FailureKind, UpstreamFailure
from services.router.providers.provider import Emit
from services.router.retry_after import retry_after_s
from services.router.wire.json import Json, parse_object
from services.router.wire.openai_stream import failure_of
from services.router.wire.parser import StreamParser

ACCOUNTS_GRACE_S = 1.0
"""How long an answer that has ended may keep the caller waiting for its usage."""

DRAIN_S = 0.02
"""How long a finished response may take to its end so that its connection is kept."""

MAX_ERROR_BYTES = 64 * 1024
"""What is read of an error's body."""

MAX_JSON_BYTES = 32 << 20
"""What is read of a whole answer's body."""


@dataclass(frozen=True, kw_only=True)
class HttpLimits:
    """Bounds of one provider's pool."""

    connections: int = 1024
    connect_timeout_s: float = 5.0
    keep_alive_s: float = 60.0


class HttpUpstream:
    """A provider's API over one pooled session, opened at first use. Never retries."""

    def __init__(
        self, base_url: str, headers: Mapping[str, str], *, limits: HttpLimits, clock: Clock
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._headers = {**headers, "Content-Type": "application/json"}
        self._limits = limits
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    async def stream(
        self, path: str, body: bytes, parser: StreamParser, emit: Emit, *, idle_timeout_s: float
    ) -> None:
        """Post `body` and emit what `parser` makes of the response, read by read.

        The connection goes back to the pool only when the response was read to its end.
        """
        response = await self._post(path, body, read_timeout_s=None)
        try:
            if response.status != 200:
                raise await self._refusal(response)
            await self._pump(response, parser, emit, idle_timeout_s)
            await emit(parser.end())
            await _drain(response)
        finally:
            # Closes the connection unless it was read to its end.
            response.close()

    async def json(self, path: str, body: bytes, *, timeout_s: float) -> Json:
        """Post `body` and return the JSON object that answers it."""
        response = await self._post(path, body, read_timeout_s=timeout_s)
        try:
            if response.status != 200:
                raise await self._refusal(response)
            return _json_object(await _read(response, MAX_JSON_BYTES))
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _broken(error) from error
        finally:
            response.close()

    async def close(self) -> None:
        """Close every connection. Idempotent; later calls fail as unavailable."""
        self._closed = True
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _post(
        self, path: str, body: bytes, *, read_timeout_s: float | None
    ) -> aiohttp.ClientResponse:
        timeout = aiohttp.ClientTimeout(
            total=None,
            sock_connect=self._limits.connect_timeout_s,
            sock_read=read_timeout_s,
        )
        try:
            return await self._open_session().post(
                self._base_url + path, data=body, timeout=timeout, allow_redirects=False
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _broken(error) from error

    async def _pump(
        self,
        response: aiohttp.ClientResponse,
        parser: StreamParser,
        emit: Emit,
        idle_timeout_s: float,
    ) -> None:
        """Feed the parser until the answer is whole, the body ends or the connection fails.

        Before the first content only the caller bounds the wait: it knows the deadline's shares.
        """
        limit_s: float | None = None
        while not parser.is_complete:
            try:
                async with asyncio.timeout(ACCOUNTS_GRACE_S if parser.is_ending else limit_s):
                    chunk = await response.content.readany()
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                if parser.is_ending:
                    return
                failure = _broken(error)
                failure.usage = parser.usage()
                raise failure from error
            if not chunk:
                return
            if events := parser.feed(chunk):
                limit_s = idle_timeout_s
                await emit(events)

    async def _refusal(self, response: aiohttp.ClientResponse) -> UpstreamFailure:
        """Return the failure that a response with an error status describes."""
        body: Json = {}
        # When what it says is lost, the status still tells the kind.
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError, UpstreamFailure):
            body = _json_object(await _read(response, MAX_ERROR_BYTES))
        failure = failure_of(body, status=response.status)
        now_s = self._clock.time_ns() / 1e9
        failure.retry_after_s = retry_after_s(response.headers, now_s=now_s)
        return failure

    def _open_session(self) -> aiohttp.ClientSession:
        if self._closed:
            raise UpstreamFailure(FailureKind.TRANSIENT, "the router is closing")
        if self._session is None:
            # aiohttp sets TCP_NODELAY itself; cookies of an API would only leak between tenants.
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=self._limits.connections,
                    keepalive_timeout=self._limits.keep_alive_s,
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=self._headers,
            )
        return self._session


async def _drain(response: aiohttp.ClientResponse) -> None:
    """Read to the end of a finished response, briefly, so that its connection can be kept."""
    content = response.content
    try:
        async with asyncio.timeout(DRAIN_S):
            while not content.at_eof():
                await content.readany()
    except (aiohttp.ClientError, TimeoutError, OSError):
        return


async def _read(response: aiohttp.ClientResponse, limit_bytes: int) -> bytes:
    body = bytearray()
    while chunk := await response.content.readany():
        body += chunk
        if len(body) > limit_bytes:
            raise UpstreamFailure(FailureKind.TRANSIENT, "the body is too large")
    return bytes(body)


def _json_object(body: bytes) -> Json:
    value = parse_object(body)
    if value is None:
        raise UpstreamFailure(FailureKind.TRANSIENT, "the body is not a JSON object")
    return value


def _broken(error: BaseException) -> UpstreamFailure:
    """Return the failure of a connection. A stall excludes its deployment, a cut does not."""
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return UpstreamFailure(FailureKind.SILENT, "no connection in time")
    if isinstance(error, TimeoutError):
        return UpstreamFailure(FailureKind.SILENT, "the stream stalled")
    if isinstance(error, aiohttp.ClientConnectorError):
        return UpstreamFailure(FailureKind.TRANSIENT, "no connection")
    return UpstreamFailure(FailureKind.TRANSIENT, "the connection broke")
