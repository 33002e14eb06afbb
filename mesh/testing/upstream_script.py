"""What the scripted upstream is told to do, and what it saw."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Script:
    """What the upstream does with one request. The default is a whole, correct answer."""

    tokens: Sequence[str] = ("Hello", " world", ".")
    """The pieces of the answer's text, one stream record each."""
    reasoning: Sequence[str] = ()
    """Pieces of reasoning before the text."""
    tool_calls: Sequence[tuple[str, str, str]] = ()
    """Calls as (id, name, arguments); arguments are streamed in two pieces."""
    finish_reason: str | None = None
    """As the dialect spells it; by default what fits. An empty one is left out."""
    usage: Mapping[str, Any] | None = field(default_factory=dict[str, Any])
    """Fields of the usage; empty counts the tokens, None reports nothing."""
    status: int = 200
    """Other than 200: the error below is the whole answer."""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    """Sent with the response, such as Retry-After."""
    error: Mapping[str, Any] | str | None = None
    """The error object; with status 200, and no `fault`, the body is this error."""
    silent_until: asyncio.Event | None = None
    """Nothing is sent, not even a status, until this is set."""
    stall_until: asyncio.Event | None = None
    """After `fault_at` tokens nothing more is sent until this is set."""
    fault: Literal["none", "cut", "cut_mid_token", "malformed", "error_record", "end"] = "none"
    """What happens after `fault_at` tokens: the connection breaks, at a record or within one; a
    record is not JSON, and the answer goes on; an error record; the body ends as if complete."""
    fault_at: int = 1
    """The number of tokens before `fault` or `stall_until`."""
    with_end_mark: bool = True
    """Whether the stream's end marker is sent."""
    hold_open: bool = False
    """Whether the connection stays open after the last record."""
    chunk_bytes: int = 0
    """Write the body in pieces of this size, in separate writes; 0 writes record by record."""
    one_write: bool = False
    """Write the whole body at once: what a fast upstream looks like to one network read."""
    line_end: str = "\n"
    """Ends each line of the stream; "\\r\\n" is legal too."""
    comments: bool = False
    """Whether comment records stand between the others."""


@dataclass(kw_only=True)
class Recorded:
    """One request as it arrived, and what became of its connection."""

    path: str
    body: Json
    headers: Mapping[str, str]
    disconnected: asyncio.Event
    """Set when the client closed the connection before the answer was complete."""
    finished: asyncio.Event
    """Set when the answer was sent as scripted."""

    @property
    def model(self) -> str:
        """The model asked for."""
        return str(self.body.get("model", ""))


BENCHMARK = Script(tokens=tuple(f" token{at}" for at in range(64)), one_write=True)
"""The fast path: 64 tokens, rendered once per model. Recognised by identity: use it as it is."""
