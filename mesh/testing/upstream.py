"""A model upstream that does as it is told: a real HTTP server with scripted answers and faults.

It speaks OpenAI chat completions and embeddings and Anthropic messages on a free port. What it
does is a `Script`: one queued for the next request, or one fixed for a model name, or the default
answer. Nothing here sleeps: a script that waits does so on an event, and a test decides when.
"""

import asyncio
import hashlib
import struct
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import orjson
from aiohttp import web

from mesh.testing.upstream_dialect import AnthropicDialect, Dialect, OpenAIDialect
from mesh.testing.upstream_script import BENCHMARK, Json, Recorded, Script

__all__ = ["BENCHMARK", "Recorded", "Script", "ScriptedUpstream"]

MAX_RECORDED = 10_000
"""Requests that are kept; a benchmark sends more, and older ones give way."""


class ScriptedUpstream:
    """The server. Use it as an async context manager; `base_url` is the root without a path."""

    def __init__(self) -> None:
        self.requests: deque[Recorded] = deque(maxlen=MAX_RECORDED)
        self.scripts: deque[Script] = deque()
        self.by_model: dict[str, Script] = {}
        self.default = Script()
        self.embedding_dimensions = 8
        self._peers: set[object] = set()
        self._arrived = asyncio.Condition()
        self._rendered: dict[tuple[str, str], bytes] = {}
        self._runner: web.AppRunner | None = None
        self._port = 0

    async def __aenter__(self) -> "ScriptedUpstream":
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    @property
    def base_url(self) -> str:
        """Where the server listens: the root; OpenAI's dialect begins below /v1."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def openai_url(self) -> str:
        """The base URL that OpenAI clients want."""
        return f"{self.base_url}/v1"

    @property
    def connections(self) -> int:
        """How many connections have carried a request."""
        return len(self._peers)

    async def start(self, port: int = 0) -> None:
        """Listen on `port`; 0 picks a free one."""
        app = web.Application(client_max_size=64 << 20)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/messages", self._messages)
        app.router.add_post("/v1/embeddings", self._embeddings)
        app.router.add_get("/v1/models", self._models)
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port)
        await site.start()
        server: Any = self._runner.addresses
        self._port = int(server[0][1])

    async def close(self) -> None:
        """Stop; connections that are open are closed."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    def script(self, *scripts: Script) -> None:
        """Queue what the next requests get, whatever model they name."""
        self.scripts.extend(scripts)

    async def wait_for_requests(self, count: int) -> Recorded:
        """Return the `count`-th request once it has arrived."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: len(self.requests) >= count)
        return self.requests[count - 1]

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        recorded, script = await self._accept(request)
        if script is BENCHMARK:
            return await self._benchmark(request, recorded, OpenAIDialect)
        return await self._answer(request, recorded, script, OpenAIDialect(recorded, script))

    async def _messages(self, request: web.Request) -> web.StreamResponse:
        recorded, script = await self._accept(request)
        return await self._answer(request, recorded, script, AnthropicDialect(recorded, script))

    async def _embeddings(self, request: web.Request) -> web.StreamResponse:
        recorded, script = await self._accept(request)
        if script.status != 200:
            return _error_response(script, OpenAIDialect(recorded, script))
        texts = recorded.body["input"]
        data = [
            {"index": at, "object": "embedding", "embedding": self._vector(text)}
            for at, text in enumerate([texts] if isinstance(texts, str) else texts)
        ]
        usage = {"prompt_tokens": sum(len(str(text).split()) for text in texts)}
        recorded.finished.set()
        # Reversed: the index says what belongs to what, not the order.
        return _json(
            {"object": "list", "data": data[::-1], "model": recorded.model, "usage": usage}
        )

    async def _models(self, request: web.Request) -> web.StreamResponse:
        names = sorted(self.by_model) or ["scripted"]
        return _json(
            {"object": "list", "data": [{"id": name, "object": "model"} for name in names]}
        )

    def _vector(self, text: str) -> list[float]:
        """Return a vector that depends on the text alone."""
        digest = hashlib.blake2b(text.encode(), digest_size=self.embedding_dimensions * 4).digest()
        return [n / 2**32 for n in struct.unpack(f"<{self.embedding_dimensions}I", digest)]

    async def _accept(self, request: web.Request) -> tuple[Recorded, Script]:
        recorded = Recorded(
            path=request.path,
            body=cast("Json", orjson.loads(await request.read())),
            headers=request.headers,
            disconnected=asyncio.Event(),
            finished=asyncio.Event(),
        )
        self.requests.append(recorded)
        self._peers.add(request.get_extra_info("peername"))
        async with self._arrived:
            self._arrived.notify_all()
        if self.scripts:
            return recorded, self.scripts.popleft()
        return recorded, self.by_model.get(recorded.model, self.default)

    async def _answer(
        self, request: web.Request, recorded: Recorded, script: Script, dialect: "Dialect"
    ) -> web.StreamResponse:
        """Do as the script says; note a client that leaves before it is done."""
        try:
            if script.silent_until is not None:
                await script.silent_until.wait()
            if script.status != 200 or (script.error is not None and script.fault == "none"):
                response: web.StreamResponse = _error_response(script, dialect)
            elif not recorded.body.get("stream"):
                response = _json(dialect.whole(), headers=script.headers)
            else:
                response = await _stream(request, script, dialect)
        except (asyncio.CancelledError, ConnectionError):
            recorded.disconnected.set()
            raise
        recorded.finished.set()
        return response

    async def _benchmark(
        self,
        request: web.Request,
        recorded: Recorded,
        dialect: Callable[[Recorded, Script], "Dialect"],
    ) -> web.StreamResponse:
        """Send the same prepared stream in one write: the upstream costs next to nothing."""
        key = (request.path, recorded.model)
        body = self._rendered.get(key)
        if body is None:
            body = whole_stream(BENCHMARK, dialect(recorded, BENCHMARK))
            self._rendered[key] = body
        recorded.finished.set()
        return web.Response(body=body, content_type="text/event-stream")


class _Cut(Exception):
    """The script breaks the connection."""


async def _stream(request: web.Request, script: Script, dialect: Dialect) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", **script.headers})
    await response.prepare(request)
    try:
        for data in _writes(script, dialect):
            if data is None:
                assert script.stall_until is not None
                await script.stall_until.wait()
            else:
                await response.write(data)
    except _Cut:
        if request.transport is not None:
            request.transport.abort()
        return response
    if script.hold_open:
        await asyncio.get_running_loop().create_future()
    await response.write_eof()
    return response


def _writes(script: Script, dialect: Dialect) -> Iterator[bytes | None]:
    """Yield what is written, write by write; None where the script stalls."""
    if script.one_write:
        yield whole_stream(script, dialect)
        return
    for record in _records(script, dialect):
        if record is None or not script.chunk_bytes:
            yield record
        else:
            size = script.chunk_bytes
            yield from (record[at : at + size] for at in range(0, len(record), size))


def _records(script: Script, dialect: Dialect) -> Iterator[bytes | None]:
    yield from dialect.start()
    for at, text in enumerate(script.tokens):
        if at == script.fault_at:
            if script.stall_until is not None:
                yield None
            yield from _fault(script, dialect, text)
            if script.fault == "end":
                return
        yield dialect.token(text)
    yield from dialect.end()


def _fault(script: Script, dialect: Dialect, text: str) -> Iterator[bytes]:
    if script.fault == "malformed":
        yield dialect.record(b'{"choices": [{"delta": {"content": "bro')
    elif script.fault == "error_record":
        yield dialect.error_record()
    elif script.fault == "cut_mid_token":
        record = dialect.token(text)
        yield record[: len(record) // 2]
    if script.fault in ("cut", "cut_mid_token"):
        raise _Cut


def whole_stream(script: Script, dialect: Dialect) -> bytes:
    """Return the whole body of a streamed answer; a script that stalls does not."""
    return b"".join(record for record in _records(script, dialect) if record)


def _json(
    body: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    return web.Response(
        body=orjson.dumps(body), status=status, content_type="application/json", headers=headers
    )


def _error_response(script: Script, dialect: Dialect) -> web.Response:
    return _json(dialect.error_body(), status=script.status, headers=script.headers)
