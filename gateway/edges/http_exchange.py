"""One HTTP request on its way to the gateway: what every dialect needs to know and do."""

import asyncio
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

from aiohttp import web

from gateway.edges.http_settings import HttpEdgeSettings
from gateway.edges.json_fields import Fields, malformed
from gateway.edges.sse import SseStream
from mesh.call import Identity, outgoing_call, parse_traceparent, set_call
from mesh.errors import InvalidArgument, Reason
from mesh.outgoing import TRACEPARENT_KEY
from mesh.validation import invalid

JSON = "application/json"


@dataclass(slots=True)
class Exchange:
    """What is known of a request while it is served; the edge logs it at the end."""

    request_id: str
    identity: Identity | None = None
    run_id: str = ""
    stream: SseStream | None = None


EXCHANGE = web.RequestKey("exchange", Exchange)


def check_headers(headers: Mapping[str, str]) -> None:
    """Refuse headers that are not UTF-8: neither the contract nor a log can hold them."""
    for name, value in headers.items():
        # Bytes that are not UTF-8 arrive as surrogates, which nothing else produces.
        if not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
            raise invalid(name.lower(), "is not UTF-8")


async def read_object(request: web.Request, settings: HttpEdgeSettings) -> Fields:
    """Return the body as a JSON object.

    Raises InvalidArgument: MESSAGE_TOO_LARGE, or MALFORMED_BODY also for a body that takes too
    long to arrive.
    """
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            body = await request.read()
    except TimeoutError:
        raise malformed(f"did not arrive within {settings.body_timeout_s:g} s") from None
    except web.HTTPRequestEntityTooLarge:
        raise InvalidArgument(
            f"the request body exceeds {settings.max_body_bytes} bytes",
            reason=Reason.MESSAGE_TOO_LARGE,
        ) from None
    return Fields.parse(body)


@contextmanager
def calling(
    exchange: Exchange, identity: Identity, headers: Mapping[str, str], timeout_s: float
) -> Generator[None]:
    """Make calls to the gateway inside the block for the request: its identity, id, deadline
    and trace.
    """
    with outgoing_call(identity, timeout_s=timeout_s, request_id=exchange.request_id) as call:
        trace = parse_traceparent(headers.get(TRACEPARENT_KEY, ""))
        if trace is not None:
            set_call(replace(call, trace=trace))
        yield


def json_response(
    body: bytes, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Return encoded JSON as a response."""
    return web.Response(body=body, status=status, headers=headers, content_type=JSON)
