"""The HTTP edge on the wire: bytes, headers, refusals, heartbeats, hang-ups and shutdown."""

import asyncio
import hashlib
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson
import pytest

from gateway.edges.http import HttpEdgeSettings
from mesh.errors import FailedPrecondition, Reason, Unavailable
from mesh.settings import KeySettings, MeshSettings
from mesh.testing.clock import ManualClock
from tests.e2e.scripted_gateway import (
    Edge,
    completed,
    outcome,
    running_edge,
    stage,
    started,
    text,
    usage,
)

CHAT = "/v1/chat/completions"
ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello?"}]}
STREAM: dict[str, Any] = {**ASK, "stream": True}
HEARTBEAT_S = 15.0
STALL_S = 30.0
TIMED = HttpEdgeSettings(port=0, heartbeat_s=HEARTBEAT_S, stall_s=STALL_S)
KEYED = MeshSettings(
    auth="keys",
    keys={"k1": KeySettings(sha256=hashlib.sha256(b"sk").hexdigest(), tenant="acme")},
)


@asynccontextmanager
async def session_of(edge: Edge) -> AsyncGenerator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(edge.url) as session:
        yield session


async def error_of(response: aiohttp.ClientResponse) -> dict[str, Any]:
    body: dict[str, Any] = orjson.loads(await response.read())
    return body["error"]


async def test_the_bytes_of_a_stream() -> None:
    async with running_edge(clock=ManualClock()) as edge, session_of(edge) as session:
        edge.gateway.script = [started(), text('say "hé"\n'), text("x"), usage(), completed()]
        body = {**STREAM, "model": "m", "stream_options": {"include_usage": True}}
        async with session.post(CHAT, json=body) as response:
            records = (await response.read()).split(b"\n\n")
    common = b'data: {"id":"chatcmpl-run-1","object":"chat.completion.chunk","created":1700000000,'
    assert records[0] == (
        common
        + b'"model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":'
        + orjson.dumps('say "hé"\n')
        + b'},"logprobs":null,"finish_reason":null}],"usage":null}'
    )
    assert orjson.loads(records[1].removeprefix(b"data: "))["choices"][0]["delta"] == {
        "content": "x"
    }
    assert orjson.loads(records[3].removeprefix(b"data: "))["choices"] == []
    assert records[4:] == [b"data: [DONE]", b""]


async def test_each_event_is_on_the_wire_before_the_next_is_made() -> None:
    gate = asyncio.Event()
    async with running_edge() as edge, session_of(edge) as session:
        edge.gateway.script = [started(), text("first"), gate, text("second"), completed()]
        async with session.post(CHAT, json=STREAM) as response:
            first = await response.content.readuntil(b"\n\n")
            assert b"first" in first
            gate.set()
            assert b"second" in await response.content.readuntil(b"\n\n")


@pytest.mark.parametrize(
    ("method", "path", "status", "says"),
    [
        ("GET", "/nothing", 404, "GET /v1/models"),
        ("POST", "/v1/completions", 404, "is_chat_model=True"),
        ("GET", CHAT, 405, "use POST"),
    ],
)
async def test_a_wrong_route_says_what_exists(
    method: str, path: str, status: int, says: str
) -> None:
    async with (
        running_edge() as edge,
        session_of(edge) as session,
        session.request(method, path) as response,
    ):
        error = await error_of(response)
    assert response.status == status
    assert says in error["message"]
    assert response.headers.get("allow") == ("POST" if status == 405 else None)
    assert response.headers["x-should-retry"] == "false"
    assert response.headers["x-request-id"] == error["request_id"]


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        (b"{secret words", 400, "MALFORMED_BODY", None),
        (b'["secret words"]', 400, "MALFORMED_BODY", None),
        (b"", 400, "MALFORMED_BODY", None),
        (b'{"messages":[]}', 400, "INVALID_FIELD", "messages"),
        (b'{"messages":"secret words"}', 400, "INVALID_FIELD", "messages"),
        (
            b'{"messages":[{"role":"user","content":"x"}],"n":2}',
            400,
            "INVALID_FIELD",
            "n",
        ),
        (b'{"messages":[{"role":"secret words"}]}', 400, "INVALID_FIELD", "messages[0].role"),
        (b" " * 2000, 413, "MESSAGE_TOO_LARGE", None),
    ],
)
async def test_a_bad_body_is_refused_without_repeating_it(
    body: bytes, status: int, code: str, param: str | None
) -> None:
    settings = HttpEdgeSettings(port=0, max_body_bytes=1000)
    async with (
        running_edge(settings=settings) as edge,
        session_of(edge) as session,
        session.post(CHAT, data=body) as response,
    ):
        raw = await response.read()
    error = orjson.loads(raw)["error"]
    assert response.status == status
    assert (error["code"], error["param"]) == (code, param)
    assert error["type"] == "invalid_request_error"
    assert b"secret" not in raw
    assert not edge.gateway.turns


async def test_a_header_that_is_not_utf8_is_refused_by_name() -> None:
    async with running_edge(mesh=KEYED) as edge:
        reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
        head = request_bytes(ASK).replace(b"\r\n", b"\r\nX-Api-Key: sk\xff\r\n", 1)
        writer.write(head)
        answer = await reader.readuntil(b"}}")
        writer.close()
        await writer.wait_closed()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"param":"x-api-key"' in answer


async def test_a_missing_key_is_told_how_to_send_one() -> None:
    async with (
        running_edge(mesh=KEYED) as edge,
        session_of(edge) as session,
        session.post(CHAT, json=ASK) as response,
    ):
        error = await error_of(response)
    assert response.status == 401
    assert (error["code"], error["type"]) == ("MISSING_KEY", "authentication_error")
    assert "Bearer" in error["message"]


async def test_probes_metrics_and_the_front_page() -> None:
    async with running_edge() as edge, session_of(edge) as session:

        async def get(path: str) -> tuple[int, str]:
            async with session.get(path) as response:
                return response.status, await response.text()

        assert (await get("/healthz"))[0] == 200
        assert (await get("/readyz"))[0] == 200
        edge.ready[0] = False
        assert (await get("/readyz"))[0] == 503
        assert (await get("/healthz"))[0] == 200
        status, figures = await get("/metrics")
        assert status == 200
        assert 'http_server_request_duration_seconds_count{http_response_status_code="503"' in (
            figures
        )
        status, page = await get("/")
        assert status == 200
        assert f"curl -N {edge.url}/v1/chat/completions" in page


async def test_a_retry_is_counted() -> None:
    async with running_edge() as edge, session_of(edge) as session:

        async def retries() -> float:
            async with session.get("/metrics") as response:
                lines = (await response.text()).splitlines()
            name = "plexus_http_client_retries_total "
            return next(float(line.removeprefix(name)) for line in lines if line.startswith(name))

        before = await retries()
        for count in ("0", "1"):
            async with session.get("/healthz", headers={"x-stainless-retry-count": count}):
                pass
        assert await retries() == before + 1


async def test_a_preflight_grants_what_openai_clients_send() -> None:
    asked = "authorization,content-type,x-stainless-os,x-stainless-retry-count,x-evil"
    headers = {
        "origin": "http://localhost:5173",
        "access-control-request-method": "POST",
        "access-control-request-headers": asked,
    }
    async with (
        running_edge() as edge,
        session_of(edge) as session,
        session.options(CHAT, headers=headers) as response,
    ):
        granted = response.headers
    assert response.status == 204
    assert granted["access-control-allow-origin"] == "http://localhost:5173"
    allowed = {name.strip() for name in granted["access-control-allow-headers"].split(",")}
    assert {"authorization", "content-type", "x-stainless-os", "x-stainless-retry-count"} <= allowed
    assert "x-evil" not in allowed
    assert "POST" in granted["access-control-allow-methods"]


async def test_a_page_may_read_the_answer_where_its_origin_is_allowed() -> None:
    async with running_edge() as edge, session_of(edge) as session:
        edge.gateway.outcomes = [outcome()]
        async with session.post(
            CHAT, json=ASK, headers={"origin": "http://[::1]:3000"}
        ) as response:
            assert response.status == 200
            assert response.headers["access-control-allow-origin"] == "http://[::1]:3000"
            assert "x-request-id" in response.headers["access-control-expose-headers"]


@pytest.mark.parametrize(
    "headers",
    [{"origin": "https://evil.example"}, {"origin": "null"}, {"host": "evil.example:8080"}],
)
async def test_a_foreign_page_cannot_use_a_mesh_without_keys(headers: dict[str, str]) -> None:
    async with (
        running_edge() as edge,
        session_of(edge) as session,
        session.post(CHAT, json=ASK, headers=headers) as response,
    ):
        error = await error_of(response)
    assert response.status == 403
    assert error["code"] == "ORIGIN_NOT_ALLOWED"
    assert "access-control-allow-origin" not in response.headers
    assert not edge.gateway.turns


async def test_where_keys_are_asked_for_the_host_name_does_not_matter() -> None:
    headers = {"host": "mesh.example", "origin": "https://app.example", "x-api-key": "sk"}
    async with running_edge(mesh=KEYED) as edge, session_of(edge) as session:
        edge.gateway.outcomes = [outcome()]
        async with session.post(CHAT, json=ASK, headers=headers) as response:
            assert response.status == 200
            assert "access-control-allow-origin" not in response.headers


async def test_a_silent_stream_sends_heartbeats() -> None:
    clock, gate = ManualClock(), asyncio.Event()
    async with running_edge(clock=clock, settings=TIMED) as edge, session_of(edge) as session:
        edge.gateway.script = [started(), text("a"), gate, text("b"), completed()]
        async with session.post(CHAT, json=STREAM) as response:
            assert b'"a"' in await response.content.readuntil(b"\n\n")
            for _ in range(3):
                await clock.wait_for_sleepers()
                await clock.advance(HEARTBEAT_S)
                assert await response.content.readuntil(b"\n\n") == b": keep-alive\n\n"
            gate.set()
            assert b'"b"' in await response.content.readuntil(b"\n\n")
            assert (await response.read()).endswith(b"data: [DONE]\n\n")


async def test_a_heartbeat_before_any_output_settles_the_status() -> None:
    clock, gate = ManualClock(), asyncio.Event()
    async with running_edge(clock=clock, settings=TIMED) as edge, session_of(edge) as session:
        edge.gateway.script = [started(), gate, Unavailable("down", retry_after_s=2)]
        asking = asyncio.ensure_future(session.post(CHAT, json=STREAM).__aenter__())
        await edge.gateway.asked.wait()
        await clock.wait_for_sleepers()
        assert not asking.done()
        await clock.advance(HEARTBEAT_S)
        response = await asking
        assert response.status == 200
        assert await response.content.readuntil(b"\n\n") == b": keep-alive\n\n"
        gate.set()
        last = (await response.read()).removeprefix(b"data: ")
    assert orjson.loads(last)["error"]["code"] == "COMPONENT_UNAVAILABLE"
    assert orjson.loads(last)["error"]["retry_after_ms"] == 2000
    assert b"[DONE]" not in last


async def test_a_client_that_reads_nothing_is_disconnected_and_its_call_cancelled() -> None:
    clock = ManualClock()
    async with running_edge(clock=clock, settings=TIMED) as edge:
        # More than the kernel buffers for a connection.
        edge.gateway.script = [started(), *(text("x" * 60_000) for _ in range(400)), completed()]
        with socket.socket() as frozen:
            frozen.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            frozen.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(frozen, ("127.0.0.1", edge.port))
            await loop.sock_sendall(frozen, request_bytes(STREAM))
            while not edge.gateway.cancelled.is_set():
                await clock.advance(STALL_S / 10)
        assert len(edge.http.streams) == 0


async def test_a_client_that_hangs_up_cancels_the_call_at_once() -> None:
    never = asyncio.Event()
    async with running_edge() as edge:
        edge.gateway.script = [started(), text("begin"), never]
        reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
        writer.write(request_bytes(STREAM))
        await reader.readuntil(b"begin")
        writer.transport.abort()
        await edge.gateway.cancelled.wait()


async def test_closing_lets_a_stream_finish_and_takes_no_new_connection() -> None:
    clock, gate = ManualClock(), asyncio.Event()
    async with running_edge(clock=clock, settings=TIMED) as edge, session_of(edge) as session:
        edge.gateway.script = [started(), text("a"), gate, text("b"), completed()]
        async with session.post(CHAT, json=STREAM) as response:
            await response.content.readuntil(b"\n\n")
            closing = asyncio.ensure_future(edge.http.close(20))
            await clock.wait_for_sleepers(2)
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", edge.port)
            gate.set()
            rest = await response.read()
        await closing
    assert rest.endswith(b"data: [DONE]\n\n")


async def test_what_outlives_the_grace_is_told_so() -> None:
    clock, never = ManualClock(), asyncio.Event()
    async with running_edge(clock=clock, settings=TIMED) as edge, session_of(edge) as session:
        edge.gateway.script = [started(), text("a"), never]
        edge.gateway.outcomes_wait_for = never
        async with session.post(CHAT, json=STREAM) as streamed:
            await streamed.content.readuntil(b"\n\n")
            edge.gateway.asked.clear()
            asking = asyncio.ensure_future(session.post(CHAT, json=ASK).__aenter__())
            await edge.gateway.asked.wait()
            closing = asyncio.ensure_future(edge.http.close(20))
            await clock.wait_for_sleepers(2)
            await clock.advance(20)
            rest = await streamed.read()
            whole = await asking
            error = await error_of(whole)
            await closing
    records = [r for r in rest.split(b"\n\n") if r.startswith(b"data: ")]
    assert [orjson.loads(r.removeprefix(b"data: "))["error"]["code"] for r in records] == [
        "DRAINING"
    ]
    assert whole.status == 503
    assert error["code"] == "DRAINING"
    assert whole.headers["x-should-retry"] == "true"


async def test_a_port_in_use_is_said_in_one_sentence() -> None:
    async with running_edge() as edge:
        with pytest.raises(FailedPrecondition, match="port is in use") as raised:
            async with running_edge(settings=HttpEdgeSettings(port=edge.port)):
                pass
    assert "PLEXUS_GATEWAY_HTTP_PORT" in raised.value.message


async def test_a_mesh_without_keys_listens_on_loopback_only() -> None:
    with pytest.raises(FailedPrecondition, match="auth: keys") as raised:
        async with running_edge(settings=HttpEdgeSettings(host="0.0.0.0", port=0)):
            pass
    assert raised.value.reason == Reason.INVALID_SETTINGS


async def test_the_headers_wait_for_what_they_can_say() -> None:
    async with running_edge() as edge, session_of(edge) as session:
        edge.gateway.script = [started(), stage("cache", "exact hit"), text("again"), completed()]
        async with session.post(CHAT, json={**STREAM, "model": "group"}) as response:
            assert response.headers["x-plexus-cache"] == "exact"
            assert b'"model":"group"' in await response.read()


def request_bytes(body: dict[str, Any]) -> bytes:
    encoded = orjson.dumps(body)
    head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(encoded)}\r\n\r\n"
    return head.encode() + encoded
