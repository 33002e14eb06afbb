"""The model upstream as a process of its own: `python -m bench.upstream`.

The model's name says what it does, so that one upstream serves every scenario: `fast-64` sends 64
tokens in one prepared write and costs next to nothing; `paced-50-100-48` waits 50 ms, then
sends 48 tokens at 100 a second. It embeds, too: vectors that depend on the text alone.
"""

import asyncio
import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import web

from bench.process import run
from mesh.clock import SYSTEM_CLOCK
from mesh.server import until_signal
from mesh.testing.upstream import whole_stream
from mesh.testing.upstream_dialect import OpenAIDialect
from mesh.testing.upstream_script import Recorded, Script

FAST = "fast-64"
PACED = "paced-50-100-48"
LONG = "fast-24000"
ENDLESS = "paced-0-20-600"
EMBEDDER = "embedder"
DIMENSIONS = 384
MAX_PREPARED = 64
"""Answers that are kept ready; a run names fewer models."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How a model answers; without a rate everything is sent at once."""

    first_s: float
    tokens_per_s: float
    count: int


def pace_of(model: str) -> Pace:
    """Return what a model's name asks for; a provider's prefix is ignored."""
    name, *numbers = model.rpartition("/")[2].split("-")
    if name == "fast" and len(numbers) == 1:
        return Pace(0.0, 0.0, int(numbers[0]))
    if name == "paced" and len(numbers) == 3:
        return Pace(int(numbers[0]) / 1000, float(numbers[1]), int(numbers[2]))
    raise ValueError(f"unknown model {model!r}")


def tokens(count: int) -> Sequence[str]:
    """Return the words of an answer; the last one tells whether it came whole."""
    return [f" token{at}" for at in range(count)]


def last_token(model: str) -> str:
    """Return the last word of a model's answer."""
    return f" token{pace_of(model).count - 1}"


class Upstream:
    """Serves OpenAI chat completions and embeddings."""

    def __init__(self) -> None:
        self._prepared: dict[tuple[str, bool, bool], bytes] = {}

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        if request.method != "POST":
            return _json(orjson.dumps({"object": "list", "data": []}))
        body: dict[str, Any] = orjson.loads(await request.read())
        if request.path.endswith("/embeddings"):
            return _json(_embeddings(body))
        pace = pace_of(body["model"])
        if body.get("stream") and pace.tokens_per_s:
            return await _paced(request, body, pace)
        if pace.first_s:
            await SYSTEM_CLOCK.sleep(pace.first_s + pace.count / pace.tokens_per_s)
        return self._at_once(body, pace)

    def _at_once(self, body: dict[str, Any], pace: Pace) -> web.Response:
        streamed = bool(body.get("stream"))
        options: dict[str, Any] = body.get("stream_options") or {}
        wants_usage = bool(options.get("include_usage"))
        key = (str(body["model"]), streamed, wants_usage)
        if key not in self._prepared:
            if len(self._prepared) >= MAX_PREPARED:
                self._prepared.clear()
            dialect = _dialect(body, pace)
            whole = whole_stream(dialect.script, dialect) if streamed else _whole(dialect)
            self._prepared[key] = whole
        kind = "text/event-stream" if streamed else "application/json"
        return web.Response(body=self._prepared[key], content_type=kind)


async def _paced(request: web.BaseRequest, body: dict[str, Any], pace: Pace) -> web.StreamResponse:
    """Send each token at its own time after the request, whatever the earlier ones took."""
    loop = asyncio.get_running_loop()
    due_s = loop.time() + pace.first_s
    dialect = _dialect(body, pace)
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    await response.write(b"".join(dialect.start()))
    for text in dialect.script.tokens:
        await SYSTEM_CLOCK.sleep(max(0.0, due_s - loop.time()))
        await response.write(dialect.token(text))
        due_s += 1 / pace.tokens_per_s
    await response.write(b"".join(dialect.end()))
    await response.write_eof()
    return response


def _dialect(body: dict[str, Any], pace: Pace) -> OpenAIDialect:
    recorded = Recorded(
        path="", body=body, headers={}, disconnected=asyncio.Event(), finished=asyncio.Event()
    )
    return OpenAIDialect(recorded, Script(tokens=tokens(pace.count), one_write=True))


def _whole(dialect: OpenAIDialect) -> bytes:
    return orjson.dumps(dialect.whole())


def _embeddings(body: dict[str, Any]) -> bytes:
    texts: list[str] = [body["input"]] if isinstance(body["input"], str) else body["input"]
    data = [
        {"index": at, "object": "embedding", "embedding": _vector(text)}
        for at, text in enumerate(texts)
    ]
    usage = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
    return orjson.dumps({"object": "list", "data": data, "model": EMBEDDER, "usage": usage})


def _vector(text: str) -> list[float]:
    digest = hashlib.shake_128(text.encode()).digest(DIMENSIONS)
    return [byte / 128 - 1 for byte in digest]


def _json(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="application/json")


async def serve() -> None:
    """Listen on a free port, say where, and serve until a signal."""
    runner = web.ServerRunner(web.Server(Upstream().handle, handler_cancellation=True))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port: int = runner.addresses[0][1]
    ready = {"event": "ready", "url": f"http://127.0.0.1:{port}/v1"}
    sys.stdout.write(orjson.dumps(ready).decode() + "\n")
    sys.stdout.flush()
    await until_signal()
    await runner.cleanup()


if __name__ == "__main__":
    run(serve())
