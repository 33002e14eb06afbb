"""The only door to time. Everything that waits or dates takes a `Clock`."""

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """A source of time; `ManualClock` in `mesh.testing` is the double."""

    def monotonic_s(self) -> float:
        """Seconds on a clock that never goes back; only differences mean something."""
        ...

    def time_ns(self) -> int:
        """Nanoseconds since the Unix epoch; may jump when the machine's clock is set."""
        ...

    async def sleep(self, delay_s: float) -> None:
        """Return after `delay_s` seconds of this clock; cancellable."""
        ...


class SystemClock:
    """The machine's own time."""

    def monotonic_s(self) -> float:
        return time.monotonic()

    def time_ns(self) -> int:
        return time.time_ns()

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)


SYSTEM_CLOCK = SystemClock()
