"""The workers of a host: started, watched, started again when they die, drained together."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, cast

import orjson

from cli.worker import Order
from mesh.clock import SYSTEM_CLOCK, Clock
from mesh.errors import FailedPrecondition, PlexusError, Unavailable
from mesh.load_board import LoadBoard
from mesh.logs import Log

START_TIMEOUT_S: Final = 30.0
FIRST_BACKOFF_S: Final = 0.1
MAX_BACKOFF_S: Final = 5.0
"""Between two starts of a worker that keeps dying; it doubles in between."""
STABLE_S: Final = 30.0
"""A worker that lived this long died for a new reason."""
STOP_MARGIN_S: Final = 10.0
"""What a worker may take beyond its drain before it is killed."""

log = Log("workers")


@dataclass(slots=True)
class Worker:
    """One running worker."""

    process: asyncio.subprocess.Process
    ready: dict[str, Any]


class WorkerPool:
    """Owns the processes. `start` once, `close` once."""

    def __init__(
        self,
        order_of: Callable[[int], Order],
        board: LoadBoard,
        *,
        drain_s: float,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._order_of = order_of
        self._board = board
        self._drain_s = drain_s
        self._clock = clock
        self._workers: dict[int, Worker] = {}
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def workers(self) -> list[Worker]:
        """Those that run, in order."""
        return [self._workers[index] for index in sorted(self._workers)]

    async def start(self) -> None:
        """Return once all are ready; raises what keeps one from starting, and leaves none."""
        try:
            indices = range(self._board.workers)
            async with asyncio.TaskGroup() as group:
                for index in indices:
                    group.create_task(self._start(index))
        except BaseExceptionGroup as errors:
            await self.close()
            raise errors.exceptions[0] from None
        self._tasks = [asyncio.ensure_future(self._supervise(index)) for index in indices]

    async def close(self) -> None:
        """Let all drain, bounded; then none is left. Idempotent."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for worker in self.workers:
            with contextlib.suppress(ProcessLookupError):
                worker.process.send_signal(signal.SIGTERM)
        await asyncio.gather(*(self._end(worker.process) for worker in self.workers))
        self._workers.clear()

    async def _start(self, index: int) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "cli.worker"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the parent, which lets the workers drain
        )
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(self._order_of(index).encode())
            async with asyncio.timeout(START_TIMEOUT_S):
                line = await process.stdout.readline()
            said = cast("dict[str, Any]", orjson.loads(line)) if line else {}
            if said.get("event") != "ready":
                raise _refused(said)
        except TimeoutError:
            await self._kill(process)
            raise Unavailable(f"a worker was not ready within {START_TIMEOUT_S:g} s") from None
        except BaseException:
            await self._kill(process)
            raise
        self._workers[index] = Worker(process, said)

    async def _supervise(self, index: int) -> None:
        backoff_s = FIRST_BACKOFF_S
        while True:
            since_s = self._clock.monotonic_s()
            code = await self._workers[index].process.wait()
            self._board.forget(index)
            if self._clock.monotonic_s() - since_s >= STABLE_S:
                backoff_s = FIRST_BACKOFF_S
            log.warning("worker_died", worker=index, code=code, restart_in_s=backoff_s)
            backoff_s = await self._restart(index, backoff_s)
            log.warning("worker_restarted", worker=index, pid=self._workers[index].process.pid)

    async def _restart(self, index: int, backoff_s: float) -> float:
        while True:
            await self._clock.sleep(backoff_s)
            backoff_s = min(backoff_s * 2, MAX_BACKOFF_S)
            try:
                await self._start(index)
            except (PlexusError, OSError) as error:
                log.warning("worker_not_restarted", worker=index, why=str(error))
            else:
                return backoff_s

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        try:
            async with asyncio.timeout(self._drain_s + STOP_MARGIN_S):
                await process.wait()
        except TimeoutError:
            log.warning("worker_killed", pid=process.pid, why="did not stop")
            await self._kill(process)

    async def _kill(self, process: asyncio.subprocess.Process) -> None:
        if process.returncode is None:
            process.kill()
        await process.wait()


def _refused(said: dict[str, Any]) -> PlexusError:
    if said.get("event") == "failed":
        message = str(said.get("message", ""))
        if said.get("reason"):
            return FailedPrecondition(message, reason=str(said["reason"]))
        return Unavailable(message)
    return Unavailable("a worker ended before it was ready; see the log above")
