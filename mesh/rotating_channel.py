"""A channel that is made anew when its credentials change.

gRPC reads a client's certificate once per channel. So each call asks whether the credentials are
still the same; if not, a new channel takes over, and the old one is closed when its calls end.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio

from mesh.logs import Log

DRAIN_S = 600.0
"""How long the calls of a channel that was replaced may take to end."""
MAX_DRAINING = 8
"""Channels that were replaced and still have calls; beyond, the oldest is closed with its calls."""

log = Log("channel")


class _Generation:
    """One channel and the number of its calls."""

    def __init__(self, version: object, channel: grpc.aio.Channel) -> None:
        self.version = version
        self.channel = channel
        self._calls = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def hold(self, call: Any) -> None:
        """Count a call until it is done."""
        self._calls += 1
        self._idle.clear()
        call.add_done_callback(self._release)

    def _release(self, _: object) -> None:
        self._calls -= 1
        if self._calls == 0:
            self._idle.set()

    async def drain(self) -> None:
        """Close once no call runs, or when DRAIN_S have passed."""
        try:
            async with asyncio.timeout(DRAIN_S):
                await self._idle.wait()
        except TimeoutError:
            log.warning("a replaced channel is closed with calls", count=self._calls)
        finally:
            await self.channel.close()


class RotatingChannel(grpc.aio.Channel):
    """Give it to any generated stub. `version` is compared by identity at every call: cheap."""

    def __init__(
        self, open_channel: Callable[[], grpc.aio.Channel], version: Callable[[], object]
    ) -> None:
        self._open = open_channel
        self._version = version
        self._now = _Generation(version(), open_channel())
        self._draining: dict[asyncio.Task[None], None] = {}
        self._closed = False

    @property
    def draining(self) -> tuple[asyncio.Task[None], ...]:
        """Those that close the channels which were replaced and still have calls."""
        return tuple(self._draining)

    def current(self) -> _Generation:
        """Return the channel for a call that starts now."""
        version = self._version()
        if version is not self._now.version and not self._closed:
            old, self._now = self._now, _Generation(version, self._open())
            self._retire(old)
        return self._now

    def _retire(self, old: _Generation) -> None:
        if len(self._draining) >= MAX_DRAINING:
            next(iter(self._draining)).cancel()
        task = asyncio.get_running_loop().create_task(old.drain())
        self._draining[task] = None
        task.add_done_callback(lambda done: self._draining.pop(done, None))

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return _MultiCallable(self, lambda now: now.unary_unary(method, *args, **kwargs))

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return _MultiCallable(self, lambda now: now.unary_stream(method, *args, **kwargs))

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return _MultiCallable(self, lambda now: now.stream_unary(method, *args, **kwargs))

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return _MultiCallable(self, lambda now: now.stream_stream(method, *args, **kwargs))

    async def close(self, grace: float | None = None) -> None:
        """Close this channel and those it replaced; calls get `grace` seconds."""
        self._closed = True
        draining = list(self._draining)
        await self._now.channel.close(grace)
        for task in draining:
            task.cancel()
        await asyncio.gather(*draining, return_exceptions=True)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self.current().channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self.current().channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Return once it is connected."""
        await self.current().channel.channel_ready()

    async def __aenter__(self) -> "RotatingChannel":
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()


class _MultiCallable:
    """A method of whatever channel is the current one when it is called."""

    def __init__(
        self, owner: RotatingChannel, bind: Callable[[grpc.aio.Channel], Callable[..., Any]]
    ) -> None:
        self._owner = owner
        self._bind = bind
        self._bound_to: _Generation | None = None
        self._call: Callable[..., Any] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        generation = self._owner.current()
        if self._call is None or self._bound_to is not generation:
            self._call, self._bound_to = self._bind(generation.channel), generation
        call = self._call(*args, **kwargs)
        generation.hold(call)
        return call
