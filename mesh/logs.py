"""Structured logs: one event name and key=value pairs a line, at most one line a request at INFO.

Nothing here formats an exception's message: it may hold what a user typed. A fault is
logged as its type and where it was raised.
"""

import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import TextIO

_ROOT = "plexus"
_FIELDS = "plexus_fields"


def configure(level: str, stream: TextIO | None = None) -> None:
    """Send Plexus' logs to `stream` (standard error). Calling it again replaces the target."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_LineFormatter())
    root = logging.getLogger(_ROOT)
    root.handlers = [handler]
    root.propagate = False
    root.setLevel(level.upper())


class Log:
    """A named logger; fields are keyword arguments and must hold no prompt text and no secret."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(f"{_ROOT}.{name}")

    @property
    def debugging(self) -> bool:
        """Whether `debug` logs anything."""
        return self._logger.isEnabledFor(logging.DEBUG)

    def debug(self, event: str, **fields: object) -> None:
        """Log detail that is off by default."""
        self._emit(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: object) -> None:
        """Log a request or a change of state."""
        self._emit(logging.INFO, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """Log what went less well than it should."""
        self._emit(logging.WARNING, event, fields)

    def fault(self, event: str, error: BaseException, **fields: object) -> None:
        """Log a bug: the exception's type and frames, never its text."""
        frames = traceback.extract_tb(error.__traceback__)[-6:]
        at = " < ".join(f"{f.filename.rsplit('/', 1)[-1]}:{f.lineno}" for f in reversed(frames))
        self._emit(logging.ERROR, event, {**fields, "error": type(error).__name__, "at": at})

    def _emit(self, level: int, event: str, fields: dict[str, object]) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, "%s", event, extra={_FIELDS: fields})


class _LineFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields: dict[str, object] = getattr(record, _FIELDS, {})
        pairs = "".join(f" {key}={_quoted(value)}" for key, value in fields.items())
        name = record.name.removeprefix(f"{_ROOT}.")
        return f"{when} {record.levelname.lower()} {name} {record.getMessage()}{pairs}"


def _quoted(value: object) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    if text.isprintable() and not any(c in text for c in ' "='):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    # Nothing that a terminal or a line-based reader acts on passes as it is.
    return '"' + "".join(c if c.isprintable() else repr(c)[1:-1] for c in escaped) + '"'
