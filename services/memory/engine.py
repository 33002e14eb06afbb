"""The engine process: `python -m services.memory.engine` with a connected socket as a file
descriptor.

It answers frames of requests in batches, groups waiting searches into one planned query, and
flushes the log in groups: at the latest `flush_interval_ms` after a change, or when a request
waits for it. It ends, flushed, when the socket does: when its parent is gone, however that came
about.
"""

import argparse
import contextlib
import ctypes
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from services.memory.frames import FrameReader, Message, encode
from services.memory.shard import Shard, ShardError

HELLO = 0
"""The id of the first message, which says whether the shard is open."""
FAULT = "fault"

_RECEIVE_BYTES = 1 << 20
_CHANGES = frozenset(("write", "put_record", "delete", "attach", "adopt_model", "sweep"))
_OPTIMIZE_WHEN_IDLE_AFTER = 5_000
"""Fewer changes leave nothing worth a pause."""
_OPTIMIZE_AT_ONCE_AFTER = 50_000
"""More changes slow every search; the pause is taken though nobody is idle."""


class Engine:
    """Serves one shard to one connection."""

    def __init__(
        self,
        shard: Shard,
        connection: socket.socket,
        *,
        flush_interval_s: float,
        optimize_idle_s: float,
    ) -> None:
        self._shard = shard
        self._connection = connection
        self._flush_interval_s = flush_interval_s
        self._optimize_idle_s = optimize_idle_s
        self._reader = FrameReader()
        self._flush_due_s: float | None = None
        # What an earlier process left undone is looked at in the first idle moment.
        self._changes = _OPTIMIZE_WHEN_IDLE_AFTER
        self._operations: dict[str, Callable[..., Any]] = {
            name: getattr(shard, name)
            for name in (
                *("get", "scan", "count", "search", "read_record", "pending", "pending_count"),
                *_CHANGES,
            )
        }

    def run(self) -> None:
        """Serve until the connection ends."""
        while (data := self._receive()) is not None:
            batch = [message for frame in self._reader.feed(data) for message in frame]
            if batch:
                self._connection.sendall(encode(self._answer(batch)))
                if self._optimize_idle_s > 0 and self._changes >= _OPTIMIZE_AT_ONCE_AFTER:
                    self._optimize()

    def _receive(self) -> bytes | None:
        """Return what has arrived; does the upkeep that falls due while nothing does."""
        while True:
            self._connection.settimeout(self._patience_s())
            try:
                data = self._connection.recv(_RECEIVE_BYTES)
            except TimeoutError:
                self._upkeep()
                continue
            except ConnectionError:
                return None
            self._flush_when_due()
            return data or None

    def _patience_s(self) -> float | None:
        if self._flush_due_s is not None:
            return max(0.001, self._flush_due_s - time.monotonic())
        wants_optimizing = self._optimize_idle_s > 0 and self._changes >= _OPTIMIZE_WHEN_IDLE_AFTER
        return self._optimize_idle_s if wants_optimizing else None

    def _upkeep(self) -> None:
        if self._flush_due_s is not None:
            self._flush_when_due()
        elif self._changes >= _OPTIMIZE_WHEN_IDLE_AFTER:
            self._optimize()

    def _optimize(self) -> None:
        self._changes = 0
        self._shard.optimize()

    def _flush_when_due(self) -> None:
        if self._flush_due_s is not None and time.monotonic() >= self._flush_due_s:
            self._flush()

    def _flush(self) -> None:
        self._flush_due_s = None
        self._shard.flush()

    def _answer(self, batch: list[Message]) -> list[Message]:
        replies: list[Message] = []
        synced: list[int] = []
        position = 0
        while position < len(batch):
            number, name, arguments = batch[position]
            searches = _run_of_searches(batch, position)
            if len(searches) > 1:
                replies += self._search_all(searches)
            elif name == "flush":
                synced.append(number)
            else:
                replies.append(self._one(number, name, arguments))
            position += max(1, len(searches))
        if synced:
            # One flush serves everybody who waits for one.
            self._flush()
            replies += [(number, None, None) for number in synced]
        return replies

    def _one(self, number: int, name: str, arguments: tuple[Any, ...]) -> Message:
        try:
            result = self._operations[name](*arguments)
        except ShardError as error:
            return (number, error.code, str(error))
        except Exception as error:
            return (number, FAULT, f"{name}: {type(error).__name__}")
        if name in _CHANGES:
            self._note_change(arguments)
        return (number, None, result)

    def _search_all(self, searches: list[Message]) -> list[Message]:
        try:
            found = self._shard.search_all([arguments for _, _, arguments in searches])
        except Exception:
            # One bad search must not fail its neighbours.
            return [self._one(*search) for search in searches]
        return [(search[0], None, rows) for search, rows in zip(searches, found, strict=True)]

    def _note_change(self, arguments: tuple[Any, ...]) -> None:
        self._changes += max(
            (len(cast("list[Any]", a)) for a in arguments if isinstance(a, list)), default=1
        )
        if self._flush_due_s is None:
            self._flush_due_s = time.monotonic() + self._flush_interval_s


def _run_of_searches(batch: list[Message], start: int) -> list[Message]:
    end = start
    while end < len(batch) and batch[end][1] == "search":
        end += 1
    return batch[start:end]


def _die_with_parent() -> None:
    """Ask Linux for SIGTERM when the parent dies; elsewhere the end of the socket has to do."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)


def _stop(_number: int, _frame: object) -> None:
    raise SystemExit(0)


def main() -> int:
    """Open the shard, say so, serve, close."""
    parser = argparse.ArgumentParser(description="Serve one memory shard to the parent process.")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--descriptor", type=int, required=True)
    parser.add_argument("--dimensions", type=int, required=True)
    parser.add_argument("--flush-interval-ms", type=int, required=True)
    parser.add_argument("--optimize-idle-s", type=float, required=True)
    options = parser.parse_args()
    _die_with_parent()
    # Ctrl-C reaches the whole group; the parent decides when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _stop)
    connection = socket.socket(fileno=options.descriptor)
    try:
        shard = Shard(options.folder, dimensions=options.dimensions)
    except ShardError as error:
        connection.sendall(encode([(HELLO, error.code, str(error))]))
        return 1
    engine = Engine(
        shard,
        connection,
        flush_interval_s=options.flush_interval_ms / 1000,
        optimize_idle_s=options.optimize_idle_s,
    )
    try:
        connection.sendall(encode([(HELLO, None, os.getpid())]))
        with contextlib.suppress(ConnectionError):
            engine.run()
    finally:
        shard.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
