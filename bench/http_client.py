"""A client of OpenAI's HTTP dialect that costs little and sees when each piece arrives.

It reads no JSON: it looks for content in the bytes, and knows an answer by its last word.
"""

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from typing import cast
from urllib.parse import urlsplit

import orjson

from bench.schedule import Kind
from bench.upstream import last_token
from bench.window import Call, Timing

CONTENT = re.compile(rb'"content": ?"[^"]')
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
OVERLAP_BYTES = 16


class Connection(asyncio.Protocol):
    """One kept-alive connection; one exchange at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._body = bytearray()
        self._end = 0
        self._chunked = False
        self._searched = 0
        self.arrivals_s: list[float] = []
        self._whole: asyncio.Future[bytes] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._finish(b"")

    @property
    def is_open(self) -> bool:
        """Whether it can carry another exchange."""
        return self._transport is not None and not self._transport.is_closing()

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.abort()

    async def exchange(self, request: bytes) -> bytes:
        """Send a request and return status line, headers and body; empty when it broke off."""
        self._body.clear()
        self._end = self._searched = 0
        self._chunked = False
        self.arrivals_s.clear()
        if self._transport is None:
            return b""
        self._whole = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            return await self._whole
        finally:
            self._whole = None

    def data_received(self, data: bytes) -> None:
        self._body += data
        if CONTENT.search(self._body, max(0, self._searched - OVERLAP_BYTES)):
            self.arrivals_s.append(time.perf_counter())
        self._searched = len(self._body)
        if not self._end and not self._chunked:
            self._read_head()
        if self._end:
            complete = len(self._body) >= self._end
        else:
            complete = self._chunked and self._body.endswith(b"\r\n0\r\n\r\n")
        if complete:
            self._finish(bytes(self._body))

    def _read_head(self) -> None:
        head_end = self._body.find(b"\r\n\r\n")
        if head_end < 0:
            return
        length = LENGTH.search(self._body, 0, head_end + 2)
        if length:
            self._end = head_end + 4 + int(length[1])
        else:
            self._chunked = True

    def _finish(self, answer: bytes) -> None:
        if self._whole is not None and not self._whole.done():
            self._whole.set_result(answer)


class HttpChat:
    """Calls one server; its connections are kept from call to call."""

    def __init__(
        self, url: str, model: str, *, prompt: Callable[[int], str], headers: Mapping[str, str]
    ) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._path = f"{parts.path.rstrip('/')}/chat/completions"
        self._model = model
        self._prompt = prompt
        lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
        self._head = (
            f"POST {self._path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n"
            f"Content-Type: application/json\r\n{''.join(lines)}Content-Length: "
        ).encode()
        self._last = last_token(model).encode()
        self._idle: list[Connection] = []

    def call(self, kind: Kind) -> Call:
        """Return what makes one call of that kind."""
        return self.stream if kind == "stream" else self.unary

    async def unary(self, caller: int) -> Timing | None:
        """Ask for a whole answer."""
        begun_s = time.perf_counter()
        answer, _ = await self._exchange(self._request(caller, stream=False))
        total_s = time.perf_counter() - begun_s
        return Timing(total_s) if self._last in answer else None

    async def stream(self, caller: int) -> Timing | None:
        """Ask for a stream and read it to its end."""
        begun_s = time.perf_counter()
        answer, arrivals_s = await self._exchange(self._request(caller, stream=True))
        total_s = time.perf_counter() - begun_s
        if not arrivals_s or b"[DONE]" not in answer or self._last not in answer:
            return None
        gaps_s = [late - early for early, late in zip(arrivals_s, arrivals_s[1:], strict=False)]
        return Timing(total_s, arrivals_s[0] - begun_s, gaps_s)

    async def close(self) -> None:
        """Close every connection."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    def _request(self, caller: int, *, stream: bool) -> bytes:
        message = {"role": "user", "content": self._prompt(caller)}
        body = orjson.dumps({"model": self._model, "messages": [message], "stream": stream})
        return b"%b%d\r\n\r\n%b" % (self._head, len(body), body)

    async def _exchange(self, request: bytes) -> tuple[bytes, list[float]]:
        connection = await self._connection()
        try:
            answer = await connection.exchange(request)
        except BaseException:
            connection.close()
            raise
        arrivals_s = list(connection.arrivals_s)
        if connection.is_open and answer:
            self._idle.append(connection)
        return answer, arrivals_s

    async def _connection(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
        loop = asyncio.get_running_loop()
        _, made = await loop.create_connection(Connection, self._host, self._port)
        return made
