"""What is driven: a name, its processes, and a way to call it."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from bench.process import cpu_s
from bench.schedule import Kind, Load
from bench.upstream import FAST
from bench.window import Call, Window, closed_loop


class Chat(Protocol):
    """A client of one target."""

    def call(self, kind: Kind) -> Call:
        """Return what makes one call of that kind."""
        ...

    async def close(self) -> None:
        """Close every connection."""
        ...


class Target(Protocol):
    """One scenario. Its cost in processor time is that of `pids` and what they started."""

    name: str
    pids: Sequence[int]

    async def closed(self, load: Load, *, warm_up_s: float, window_s: float) -> Window:
        """Drive it in a closed loop with answers that cost the upstream nothing."""
        ...

    async def settle(self) -> None:
        """Return when nothing of the last window goes on in the background; bounded."""
        ...

    async def close(self) -> None:
        """Close every connection. Its processes go on."""
        ...


async def nothing() -> None:
    """There is nothing to wait for."""


class CalledTarget:
    """A target that this process calls; it can be asked for answers at any pace."""

    def __init__(
        self,
        name: str,
        pids: Sequence[int],
        connect: Callable[[str], Chat],
        *,
        settle: Callable[[], Awaitable[None]] = nothing,
    ) -> None:
        self.name = name
        self.pids = pids
        self._connect = connect
        self._settle = settle
        self._chats: dict[str, Chat] = {}

    def call(self, kind: Kind, model: str) -> Call:
        """Return what makes one call for one of the upstream's models."""
        if model not in self._chats:
            self._chats[model] = self._connect(model)
        return self._chats[model].call(kind)

    async def closed(self, load: Load, *, warm_up_s: float, window_s: float) -> Window:
        return await closed_loop(
            self.call(load.kind, FAST),
            concurrency=load.concurrency,
            warm_up_s=warm_up_s,
            window_s=window_s,
        )

    async def settle(self) -> None:
        await self._settle()

    async def close(self) -> None:
        for chat in self._chats.values():
            await chat.close()
        self._chats.clear()


async def measured(
    target: Target, load: Load, *, warm_up_s: float, window_s: float
) -> tuple[Window, float]:
    """Drive a target and return what was seen, and the milliseconds of processor one call took."""
    before_s = cpu_s(*target.pids)
    window = await target.closed(load, warm_up_s=warm_up_s, window_s=window_s)
    used_s = cpu_s(*target.pids) - before_s
    await target.settle()
    return window, used_s / max(1, window.calls) * 1000
