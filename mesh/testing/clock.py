"""A clock that moves only when told to."""

import asyncio
import heapq
import itertools


class ManualClock:
    """A `Clock` double: time stands still until `advance`.

    `advance` wakes the sleepers whose time has come, in order, and lets the loop run
    between them, so that a test sees what happens at each moment.
    """

    def __init__(self, *, epoch_ns: int = 1_700_000_000_000_000_000) -> None:
        self._now_s = 1_000.0
        self._epoch_ns = epoch_ns
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()
        self._slept = asyncio.Event()

    def monotonic_s(self) -> float:
        return self._now_s

    def time_ns(self) -> int:
        return self._epoch_ns + int((self._now_s - 1_000.0) * 1e9)

    async def sleep(self, delay_s: float) -> None:
        if delay_s <= 0:
            await _let_others_run()
            return
        woken = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now_s + delay_s, next(self._order), woken))
        self._slept.set()
        await woken

    @property
    def sleeper_count(self) -> int:
        """How many tasks are asleep on this clock."""
        return sum(not woken.done() for _, _, woken in self._sleepers)

    async def wait_for_sleepers(self, count: int = 1) -> None:
        """Return once at least `count` tasks sleep on this clock."""
        while self.sleeper_count < count:
            self._slept.clear()
            await self._slept.wait()

    async def advance(self, delay_s: float) -> None:
        """Move time forward by `delay_s` seconds, waking sleepers on the way."""
        target_s = self._now_s + delay_s
        while self._sleepers and self._sleepers[0][0] <= target_s:
            wake_s, _, woken = heapq.heappop(self._sleepers)
            self._now_s = max(self._now_s, wake_s)
            if not woken.done():
                woken.set_result(None)
            await _let_others_run()
        self._now_s = target_s
        await _let_others_run()


async def _let_others_run() -> None:
    await asyncio.sleep(0)  # noqa: TID251 -- yields to the loop, waits for no time
