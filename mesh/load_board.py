"""How many calls each worker of a host runs, in memory that all of them see.

One row for each worker: for how many calls that came in here each worker does the work. A cell
has one writer, so nothing is locked and nothing is lost; a choice between workers costs a few
reads. The worker that a call is given to is counted before it knows, so a burst does not pile up.
"""

import mmap
import os
from pathlib import Path

CELL_BYTES = 4
MAX_WORKERS = 64


class LoadBoard:
    """The board of `workers` processes. The parent makes it; each worker opens it as itself."""

    def __init__(self, path: Path, workers: int) -> None:
        """Open the file, or make it with nobody open for calls."""
        if not 1 <= workers <= MAX_WORKERS:
            raise ValueError(f"workers: from 1 to {MAX_WORKERS}")
        self.workers = workers
        size = (workers + 1) * workers * CELL_BYTES
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(descriptor, size)
            self._map = mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)
        self._cells = memoryview(self._map).cast("i")
        self._open = workers * workers

    def add(self, entered: int, works: int, count: int) -> None:
        """Count calls that came in at one worker and are worked on by another, or no more."""
        self._cells[entered * self.workers + works] += count

    def set_open(self, worker: int, is_open: bool) -> None:
        """Say whether others may give calls to a worker."""
        self._cells[self._open + worker] = int(is_open)

    def forget(self, worker: int) -> None:
        """A worker is gone, and with it the calls that came in there. For the parent."""
        self.set_open(worker, False)
        for other in range(self.workers):
            self._cells[worker * self.workers + other] = 0

    def load(self, worker: int) -> int:
        """Return the calls that a worker works on, wherever they came in."""
        return sum(self._cells[worker : self._open : self.workers])

    def pick(self, me: int) -> int:
        """Return the open worker with the least to do; `me` when no other has less."""
        best, least = me, self.load(me) if self._cells[self._open + me] else None
        for step in range(1, self.workers):
            other = (me + step) % self.workers
            if not self._cells[self._open + other]:
                continue
            load = self.load(other)
            if least is None or load < least:
                best, least = other, load
        return best

    def close(self) -> None:
        """Let go of the memory; the file stays."""
        self._cells.release()
        self._map.close()
