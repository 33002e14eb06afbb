"""Files that change while a process runs: what they say now, read again when they change."""

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from mesh.clock import SYSTEM_CLOCK, Clock
from mesh.errors import PlexusError
from mesh.logs import Log

LOOK_EVERY_S = 1.0

T = TypeVar("T")
_Signature = tuple[tuple[int, int, int, int] | None, ...]

log = Log("files")


class WatchedFiles(Generic[T]):
    """The value that `read` makes of some files.

    The first reading raises what `read` raises. Later, what cannot be read leaves the last good
    value in place and is logged once; it is tried again until it can be. Use from any thread.
    """

    def __init__(
        self,
        what: str,
        paths: Sequence[Path],
        read: Callable[[], T],
        *,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._what = what
        self._paths = tuple(paths)
        self._read = read
        self._clock = clock
        self._looking = threading.Lock()
        self._signature = self._sign()
        self._value = read()
        self._looked_s = clock.monotonic_s()
        self._refused: _Signature | None = None

    def current(self) -> T:
        """Return the value, the same object until it changes.

        At most once a second this costs a stat of each file. Only when one has changed does it
        read: the files are small and local, so it waits for no task.
        """
        now_s = self._clock.monotonic_s()
        if now_s - self._looked_s >= LOOK_EVERY_S and self._looking.acquire(blocking=False):
            try:
                self._looked_s = now_s
                self._look()
            finally:
                self._looking.release()
        return self._value

    def _look(self) -> None:
        signature = self._sign()
        if signature == self._signature:
            return
        try:
            value = self._read()
        except PlexusError as error:
            if signature != self._refused:
                self._refused = signature
                log.warning("kept the last good one", what=self._what, why=error.message)
            return
        if signature != self._sign():
            return  # somebody writes at this moment: look again a second later
        self._signature, self._refused = signature, None
        if value != self._value:
            self._value = value
            log.info("files changed", what=self._what)

    def _sign(self) -> _Signature:
        return tuple(_sign(path) for path in self._paths)


def _sign(path: Path) -> tuple[int, int, int, int] | None:
    try:
        seen = os.stat(path)
    except OSError:
        return None
    return seen.st_mtime_ns, seen.st_ctime_ns, seen.st_size, seen.st_ino
