"""Anthropic Messages, parsed: the event stream of one answer."""

from collections.abc import Mapping

import orjson

from plexus.common.v1 import model_pb2
from services.router.failure import FailureKind, UpstreamFailure
from services.router.wire.json import Json, child, count, items, parse_object, text
from services.router.wire.openai_stream import extend, failure_of
from services.router.wire.pieces import REASONING, TEXT, Event, Pieces, finished
from services.router.wire.sse import EventStream

FINISH_REASONS: Mapping[str, model_pb2.FinishReason] = {
    "end_turn": model_pb2.FINISH_REASON_STOP,
    "stop_sequence": model_pb2.FINISH_REASON_STOP,
    "max_tokens": model_pb2.FINISH_REASON_LENGTH,
    "model_context_window_exceeded": model_pb2.FINISH_REASON_LENGTH,
    "tool_use": model_pb2.FINISH_REASON_TOOL_CALLS,
    "refusal": model_pb2.FINISH_REASON_CONTENT_FILTER,
}


class AnthropicStream:
    """Parses one response. Event types are read from the data, not from the event lines."""

    def __init__(self, *, model: str, estimated_input_tokens: int) -> None:
        self._records = EventStream()
        self._pieces = Pieces()
        self._body: bytearray | None = None
        self._started = False
        self._stopped = False
        self._id = ""
        self._model = model
        self._estimated_input_tokens = estimated_input_tokens
        self._stop_reason: str | None = None
        self._counts: dict[str, int] = {}
        self._output_reported = False
        self._calls: dict[int, int] = {}
        self.malformed_records = 0

    @property
    def is_complete(self) -> bool:
        return self._stopped or (self._stop_reason is not None and self._output_reported)

    @property
    def is_ending(self) -> bool:
        return self._stop_reason is not None

    def feed(self, chunk: bytes) -> list[Event]:
        if not self._started:
            self._started = True
            if chunk.lstrip()[:1] == b"{":
                self._body = bytearray()
        if self._body is not None:
            extend(self._body, chunk)
            return []
        for data in self._records.feed(chunk):
            self._record(data)
        return self._pieces.take()

    def end(self) -> list[Event]:
        if self._body is not None:
            self._whole(bytes(self._body))
        else:
            for data in self._records.flush():
                self._record(data)
        if self._stop_reason is None:
            raise UpstreamFailure(
                FailureKind.TRANSIENT, "the stream ended early", usage=self.usage()
            )
        reason = FINISH_REASONS.get(self._stop_reason, model_pb2.FINISH_REASON_UNSPECIFIED)
        last = finished(id=self._id, model=self._model, finish_reason=reason, usage=self.usage())
        return [*self._pieces.take(), last]

    def usage(self) -> model_pb2.Usage:
        """Return inclusive totals: Anthropic's input tokens leave out cache reads and writes."""
        counts = self._counts
        read = counts.get("cache_read_input_tokens", 0)
        written = counts.get("cache_creation_input_tokens", 0)
        fresh = counts.get("input_tokens", 0)
        if not self._output_reported:
            return model_pb2.Usage(
                input_tokens=fresh + read + written or self._estimated_input_tokens,
                cached_input_tokens=read,
                cache_write_input_tokens=written,
                output_tokens=self._pieces.estimated_output_tokens(),
                estimated=True,
            )
        return model_pb2.Usage(
            input_tokens=fresh + read + written,
            cached_input_tokens=read,
            cache_write_input_tokens=written,
            output_tokens=counts.get("output_tokens", 0),
        )

    def _record(self, data: bytes) -> None:
        event = parse_object(data)
        if event is None:
            self.malformed_records += 1
            return
        kind = text(event, "type")
        if kind == "content_block_delta":
            self._delta(count(event, "index"), child(event, "delta"))
        elif kind == "content_block_start":
            self._block(count(event, "index"), child(event, "content_block"))
        elif kind == "message_start":
            self._message(child(event, "message"))
        elif kind == "message_delta":
            self._stop_reason = text(child(event, "delta"), "stop_reason") or self._stop_reason
            self._count(child(event, "usage"), is_final=True)
        elif kind == "message_stop":
            self._stopped = True
        elif kind == "error" or event.get("error"):
            raise failure_of(event, usage=self.usage() if self._pieces.has_output else None)

    def _message(self, message: Json) -> None:
        self._id = text(message, "id")
        self._model = text(message, "model") or self._model
        self._count(child(message, "usage"), is_final=False)

    def _count(self, usage: Json, *, is_final: bool) -> None:
        for name in usage:
            self._counts[name] = count(usage, name)
        # The first event's output count is a placeholder; only the last one's is the answer's.
        self._output_reported = self._output_reported or (is_final and "output_tokens" in usage)

    def _block(self, index: int, block: Json) -> None:
        if text(block, "type") == "tool_use":
            self._call(index, id=text(block, "id"), name=text(block, "name"))
        elif begun := text(block, "text"):
            self._pieces.add(TEXT, begun)

    def _delta(self, index: int, delta: Json) -> None:
        if said := text(delta, "text"):
            self._pieces.add(TEXT, said)
        elif thought := text(delta, "thinking"):
            self._pieces.add(REASONING, thought)
        elif arguments := text(delta, "partial_json"):
            self._call(index, arguments_json=arguments)

    def _call(self, block: int, *, id: str = "", name: str = "", arguments_json: str = "") -> None:
        """Add a piece of a tool call. Blocks of all kinds share one count; calls have their own."""
        number = self._calls.setdefault(block, len(self._calls))
        self._pieces.add_tool_call(number, id=id, name=name, arguments_json=arguments_json)

    def _whole(self, body: bytes) -> None:
        """Take an answer that came in one piece, or the error that came with status 200."""
        message = parse_object(body)
        if message is None:
            raise UpstreamFailure(FailureKind.TRANSIENT, "the body is not JSON")
        if text(message, "type") != "message":
            raise failure_of(message)
        self._message(message)
        for index, block in enumerate(items(message, "content")):
            self._whole_block(index, block)
        self._stop_reason = text(message, "stop_reason") or None
        self._count(child(message, "usage"), is_final=True)

    def _whole_block(self, index: int, block: Json) -> None:
        self._block(index, block)
        if thought := text(block, "thinking"):
            self._pieces.add(REASONING, thought)
        elif text(block, "type") == "tool_use":
            arguments = orjson.dumps(child(block, "input")).decode()
            self._call(index, arguments_json=arguments)
