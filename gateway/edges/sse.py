"""Server-sent events over HTTP: streams that stay open, say what went wrong, and cannot pile up.

Headers go out with the first record, in one packet, or with the first heartbeat. Until then a
request that fails can still answer with an honest status, which clients know how to retry.
"""

import asyncio
from collections.abc import Mapping

from aiohttp import web

from mesh.clock import Clock

HEARTBEAT = b": keep-alive\n\n"
_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    # nginx would gather the stream otherwise.
    "x-accel-buffering": "no",
}


class SseStream:
    """One response. Records go out whole and in order; a slow client holds its sender up.

    Made by `OpenStreams`. One task sends; heartbeats come from elsewhere, but only while nothing
    waits to be sent.
    """

    def __init__(self, request: web.Request, clock: Clock) -> None:
        self._request = request
        self._clock = clock
        self.response = web.StreamResponse(headers=_HEADERS)
        self.sent_s = clock.monotonic_s()
        self.has_ended = False
        self._unsent_bytes = 0
        self._moved_s = self.sent_s

    @property
    def has_begun(self) -> bool:
        """Whether the headers are out, so that the status can no longer change."""
        return self.response.prepared

    async def send(self, records: bytes, headers: Mapping[str, str]) -> None:
        """Send records, after the headers if these are not out yet.

        Raises ConnectionError when the client is gone.
        """
        self.sent_s = self._clock.monotonic_s()
        if not self.has_begun:
            await self._begin(headers)
        await self.response.write(records)

    async def end(self, records: bytes, headers: Mapping[str, str]) -> None:
        """Send the last records; the stream is over then."""
        if not self.has_begun:
            await self._begin(headers)
        await self.response.write_eof(records)
        self.has_ended = True

    @property
    def unsent_bytes(self) -> int:
        """How much waits for the client to read; the kernel's own buffers are not counted."""
        transport = self._request.transport
        return 0 if transport is None else transport.get_write_buffer_size()

    def has_stalled(self, stall_s: float) -> bool:
        """Whether what waits has not grown less for `stall_s`, as far as earlier asking shows."""
        unsent_bytes, now_s = self.unsent_bytes, self._clock.monotonic_s()
        if not unsent_bytes or unsent_bytes != self._unsent_bytes:
            self._unsent_bytes, self._moved_s = unsent_bytes, now_s
        return now_s - self._moved_s >= stall_s

    def cut(self) -> None:
        """Drop the connection without sending what is left; the sender is cancelled by that."""
        if self._request.transport is not None:
            self._request.transport.abort()

    async def _begin(self, headers: Mapping[str, str]) -> None:
        self.response.headers.update(headers)
        await self.response.prepare(self._request)


class OpenStreams:
    """All streams of an edge, watched by one task: silent ones get a heartbeat, stalled ones end.

    A heartbeat is late by a tenth of its interval at the most, which is what watching thousands
    of streams with one timer costs.
    """

    def __init__(self, clock: Clock, *, heartbeat_s: float, stall_s: float) -> None:
        self._clock = clock
        self._heartbeat_s = heartbeat_s
        self._stall_s = stall_s
        self._streams: set[SseStream] = set()
        self._watch: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start watching."""
        self._watch = asyncio.get_running_loop().create_task(self._watch_all())

    async def close(self) -> None:
        """Stop watching; the streams belong to their requests."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait([self._watch])

    def open(self, request: web.Request) -> SseStream:
        """Return a stream that answers `request`; the caller must `forget` it."""
        stream = SseStream(request, self._clock)
        self._streams.add(stream)
        return stream

    def forget(self, stream: SseStream) -> None:
        """Stop watching a stream."""
        self._streams.discard(stream)

    def __len__(self) -> int:
        return len(self._streams)

    async def _watch_all(self) -> None:
        while True:
            await self._clock.sleep(self._next_due_s() - self._clock.monotonic_s())
            now_s = self._clock.monotonic_s()
            for stream in list(self._streams):
                if stream.has_stalled(self._stall_s):
                    stream.cut()
                elif not stream.unsent_bytes and now_s - stream.sent_s >= self._heartbeat_s:
                    await _beat(stream)

    def _next_due_s(self) -> float:
        """Return when the next stream can be due. One that opens or sends later is due later."""
        now_s = self._clock.monotonic_s()
        tick_s = min(self._heartbeat_s, self._stall_s)
        due_s = min((stream.sent_s + tick_s for stream in self._streams), default=now_s + tick_s)
        return max(due_s, now_s + tick_s / 10)


async def _beat(stream: SseStream) -> None:
    try:
        # Does not wait: nothing is in front of it.
        await stream.send(HEARTBEAT, {})
    except (ConnectionError, RuntimeError):
        return  # Its own task sees the end as well.
