"""Deliver: pieces of text into events. The first goes out at once; later ones are merged.

A piece waits at most `interval_s`, or until `max_bytes` are gathered. There is one timer per
burst, not per piece, and a piece that comes after a quiet interval does not wait at all.
"""

import asyncio
from collections.abc import Callable

from mesh.clock import Clock
from plexus.gateway.v1 import gateway_service_pb2 as pb

Append = Callable[[pb.ChatResponse], None]

TEXT = "text"
REASONING = "reasoning"
REFUSAL = "refusal"


def size_bytes(text: str) -> int:
    """Return the length of `text` in UTF-8."""
    return len(text) if text.isascii() else len(text.encode())


class Coalescer:
    """Merges pieces of one kind; a change of kind flushes, so order is kept."""

    def __init__(self, append: Append, clock: Clock, *, interval_s: float, max_bytes: int) -> None:
        self._append = append
        self._clock = clock
        self._interval_s = interval_s
        self._max_bytes = max_bytes
        self._kind = TEXT
        self._pieces: list[str] = []
        self._size = 0
        self._flushed_s = -interval_s
        self._timer: asyncio.TimerHandle | None = None
        self.first_s: float | None = None

    def add(self, kind: str, piece: str) -> None:
        """Send `piece` now or a little later."""
        if not piece:
            return
        if kind != self._kind:
            self.flush()
            self._kind = kind
        self._pieces.append(piece)
        self._size += size_bytes(piece)
        now_s = self._clock.monotonic_s()
        if self.first_s is None:
            self.first_s = now_s
        wait_s = self._flushed_s + self._interval_s - now_s
        if wait_s <= 0 or self._size >= self._max_bytes:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(wait_s, self.flush)

    def flush(self) -> None:
        """Send what is gathered; call it before any other event and at the end."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._pieces:
            text = "".join(self._pieces)
            self._pieces.clear()
            self._size = 0
            self._flushed_s = self._clock.monotonic_s()
            event = pb.ChatResponse()
            setattr(event, self._kind, text)
            self._append(event)

    def discard(self) -> None:
        """Forget what is gathered: a reset makes it void."""
        self._pieces.clear()
        self._size = 0
        self.flush()
