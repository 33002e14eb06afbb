"""The state of one in-process call: two bounded pipes of messages, metadata, status, deadline.

Both ends hold the same `Exchange`: the client's call object and the handler's context
(see `mesh.inprocess`). Its status is decided once, by whichever end is first.
"""

import asyncio
from collections import deque
from collections.abc import Callable

import grpc

from mesh.clock import SYSTEM_CLOCK

STREAM_WINDOW_BYTES = 65_536
"""How much a stream holds for a reader that does not read, as an HTTP/2 window would."""
MESSAGE_OVERHEAD_BYTES = 48
"""What a message counts besides its own bytes, so that empty ones are bounded as well."""

Metadata = tuple[tuple[str, str | bytes], ...]


class Bell:
    """Wakes whoever waits for a change; costs next to nothing while nobody does."""

    __slots__ = ("_waiters",)

    def __init__(self) -> None:
        self._waiters: list[asyncio.Future[None]] = []

    async def wait(self) -> None:
        """Return at the next `ring`."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def ring(self) -> None:
        """Wake all who wait now."""
        if not self._waiters:
            return
        rung, self._waiters = self._waiters, []
        for waiter in rung:
            if not waiter.done():
                waiter.set_result(None)


class Pipe:
    """A byte-bounded queue of encoded messages, for one writer and one reader."""

    __slots__ = ("_items", "_size", "changed", "closed")

    def __init__(self) -> None:
        self._items: deque[bytes] = deque()
        self._size = 0
        self.closed = False
        self.changed = Bell()

    async def put(self, item: bytes) -> bool:
        """Append once there is room; False when closed. More than the window passes alone."""
        while self._size >= STREAM_WINDOW_BYTES and not self.closed:
            await self.changed.wait()
        if not self.closed:
            self._items.append(item)
            self._size += len(item) + MESSAGE_OVERHEAD_BYTES
            self.changed.ring()
        return not self.closed

    async def get(self) -> bytes | None:
        """Return the next item; None after the last."""
        while not self._items:
            if self.closed:
                return None
            await self.changed.wait()
        item = self._items.popleft()
        self._size -= len(item) + MESSAGE_OVERHEAD_BYTES
        self.changed.ring()
        return item

    def close(self, *, discard: bool = False) -> None:
        """No more items; with `discard` also forget those not read."""
        self.closed = True
        if discard:
            self._items.clear()
            self._size = 0
        self.changed.ring()


class Exchange:
    """The state that the two ends of one call share."""

    def __init__(self, metadata: Metadata, timeout_s: float, limit: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.metadata = metadata
        self.limit = limit
        self.deadline_s = SYSTEM_CLOCK.monotonic_s() + timeout_s
        self.requests = Pipe()
        self.responses = Pipe()
        self.changed = Bell()
        self.initial_metadata: Metadata | None = None
        self.trailing_metadata: Metadata = ()
        self.code: grpc.StatusCode | None = None
        self.details = ""
        self.locally_cancelled = False
        self.done_callbacks: list[Callable[[], None]] = []
        self.task: asyncio.Task[None] | None = None
        self.feeder: asyncio.Task[None] | None = None
        self._timer = self.loop.call_later(max(timeout_s, 0), self._expire)

    def begin(self, initial_metadata: Metadata) -> None:
        """Publish the server's initial metadata; the first to call wins."""
        if self.initial_metadata is None:
            self.initial_metadata = initial_metadata
            self.changed.ring()

    async def begun(self) -> Metadata:
        """Return the server's initial metadata once it is there."""
        while self.initial_metadata is None:
            await self.changed.wait()
        return self.initial_metadata

    def end(self, code: grpc.StatusCode, details: str = "", trailers: Metadata = ()) -> None:
        """Decide the status; the first to call wins."""
        if self.code is not None:
            return
        self.code, self.details, self.trailing_metadata = code, details, trailers
        self._timer.cancel()
        if self.initial_metadata is None:
            self.initial_metadata = ()
        self.responses.close(discard=self.locally_cancelled)
        self.requests.close(discard=True)
        if self.feeder is not None:
            self.feeder.cancel()
        self.changed.ring()
        for callback in self.done_callbacks:
            self.loop.call_soon(callback)

    async def ended(self) -> None:
        """Return once the status is decided."""
        while self.code is None:
            await self.changed.wait()

    def stop(self, code: grpc.StatusCode, details: str) -> bool:
        """End the call from outside the handler and cancel the handler."""
        if self.code is not None:
            return False
        self.end(code, details)
        if self.task is not None:
            self.task.cancel(details)
        return True

    def cancel(self, details: str = "Locally cancelled by application!") -> bool:
        """Cancel for the client."""
        if self.code is None:
            self.locally_cancelled = True
        return self.stop(grpc.StatusCode.CANCELLED, details)

    async def send(self, data: bytes) -> bool:
        """Pass one message of the client on; False once the call is over."""
        if len(data) > self.limit:
            self.stop(grpc.StatusCode.RESOURCE_EXHAUSTED, too_large(data, self.limit))
        return await self.requests.put(data)

    def _expire(self) -> None:
        self.stop(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")

    def time_remaining(self) -> float:
        """Return the seconds to the deadline, never below 0."""
        return max(0.0, self.deadline_s - SYSTEM_CLOCK.monotonic_s())


def too_large(data: bytes, limit: int) -> str:
    """Return the status text for a message over the limit, as gRPC words it."""
    return f"Received message larger than max ({len(data)} vs. {limit})"
