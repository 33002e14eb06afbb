"""OpenAI chat completions, parsed: streams of chunks, and whole answers in one body."""

from collections.abc import Mapping

from plexus.common.v1 import model_pb2
from services.router.failure import FailureKind, UpstreamFailure, classify, safe_detail
from services.router.wire.json import Json, child, count, items, parse_object, text
from services.router.wire.pieces import REASONING, REFUSAL, TEXT, Event, Pieces, finished
from services.router.wire.sse import MAX_RECORD_BYTES, EventStream

END_MARK = b"[DONE]"

FINISH_REASONS: Mapping[str, model_pb2.FinishReason] = {
    "stop": model_pb2.FINISH_REASON_STOP,
    "length": model_pb2.FINISH_REASON_LENGTH,
    "tool_calls": model_pb2.FINISH_REASON_TOOL_CALLS,
    "function_call": model_pb2.FINISH_REASON_TOOL_CALLS,
    "content_filter": model_pb2.FINISH_REASON_CONTENT_FILTER,
}


class OpenAIStream:
    """Parses one response. A body that is plain JSON instead of a stream is understood as well."""

    def __init__(self, *, model: str, estimated_input_tokens: int) -> None:
        self._records = EventStream()
        self._pieces = Pieces()
        self._body: bytearray | None = None
        self._started = False
        self._done = False
        self._id = ""
        self._model = model
        self._estimated_input_tokens = estimated_input_tokens
        self._finish_reason: str | None = None
        self._usage: model_pb2.Usage | None = None
        self._calls = 0
        self.malformed_records = 0

    @property
    def is_complete(self) -> bool:
        return self._done or (self._finish_reason is not None and self._usage is not None)

    @property
    def is_ending(self) -> bool:
        return self._finish_reason is not None

    def feed(self, chunk: bytes) -> list[Event]:
        if not self._started:
            self._started = True
            # A stream begins with a field name or a colon; a brace means a body in one piece.
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
        if self._finish_reason is None:
            raise UpstreamFailure(
                FailureKind.TRANSIENT, "the stream ended early", usage=self.usage()
            )
        reason = FINISH_REASONS.get(self._finish_reason, model_pb2.FINISH_REASON_UNSPECIFIED)
        if reason == model_pb2.FINISH_REASON_STOP and self._pieces.has_tool_calls:
            reason = model_pb2.FINISH_REASON_TOOL_CALLS
        last = finished(id=self._id, model=self._model, finish_reason=reason, usage=self.usage())
        return [*self._pieces.take(), last]

    def usage(self) -> model_pb2.Usage:
        if self._usage is not None:
            return self._usage
        return model_pb2.Usage(
            input_tokens=self._estimated_input_tokens,
            output_tokens=self._pieces.estimated_output_tokens(),
            estimated=True,
        )

    def _record(self, data: bytes) -> None:
        if data.startswith(END_MARK):
            self._done = True
            return
        chunk = parse_object(data)
        if chunk is None:
            # One bad record between good ones is skipped; a broken stream shows by its missing end.
            self.malformed_records += 1
        elif not self._plain_text(chunk):
            self._chunk(chunk)

    def _plain_text(self, chunk: Json) -> bool:
        """Take the ordinary record, a piece of text; nearly all are, so it is the short way."""
        try:
            choice = chunk["choices"][0]
            delta = choice["delta"]
            content: object = delta["content"]
            rest = (
                choice.get("finish_reason")
                or delta.get("tool_calls")
                or chunk.get("usage")
                or choice.get("index")
            )
        except (LookupError, TypeError, AttributeError):
            return False
        if rest or not content or not isinstance(content, str) or not self._id:
            return False
        self._pieces.add(TEXT, content)
        return True

    def _chunk(self, chunk: Json) -> None:
        if chunk.get("error"):
            raise failure_of(chunk, usage=self.usage() if self._pieces.has_output else None)
        if not self._id:
            self._id = text(chunk, "id")
            self._model = text(chunk, "model") or self._model
        if usage := child(chunk, "usage"):
            self._usage = parse_usage(usage)
        for choice in items(chunk, "choices"):
            # One answer is asked for; of several, only the first is ours.
            if choice.get("index"):
                continue
            self._delta(child(choice, "delta"))
            self._finish_reason = text(choice, "finish_reason") or self._finish_reason

    def _delta(self, delta: Json) -> None:
        if content := text(delta, "content"):
            self._pieces.add(TEXT, content)
        elif reasoning := text(delta, "reasoning_content") or text(delta, "reasoning"):
            self._pieces.add(REASONING, reasoning)
        elif refusal := text(delta, "refusal"):
            self._pieces.add(REFUSAL, refusal)
        if "tool_calls" in delta:
            for call in items(delta, "tool_calls"):
                self._tool_call(call)

    def _tool_call(self, call: Json) -> None:
        """Add a piece of a call. Some servers leave the index out; then an id begins a new call."""
        function = child(call, "function")
        index = count(call, "index")
        if call.get("index") is None:
            index = self._calls if call.get("id") else max(0, self._calls - 1)
        self._calls = max(self._calls, index + 1)
        self._pieces.add_tool_call(
            index,
            id=text(call, "id"),
            name=text(function, "name"),
            arguments_json=text(function, "arguments"),
        )

    def _whole(self, body: bytes) -> None:
        """Take an answer that came in one piece, or the error that came with status 200."""
        answer = parse_object(body)
        if answer is None:
            raise UpstreamFailure(FailureKind.TRANSIENT, "the body is not JSON")
        if answer.get("error") or not items(answer, "choices"):
            raise failure_of(answer)
        for choice in items(answer, "choices"):
            message = child(choice, "message")
            reasoning = text(message, "reasoning_content") or text(message, "reasoning")
            if reasoning:
                self._pieces.add(REASONING, reasoning)
            choice["delta"] = {"content": message.get("content"), "refusal": message.get("refusal")}
            choice["delta"]["tool_calls"] = message.get("tool_calls")
        self._chunk(answer)


def parse_usage(usage: Json) -> model_pb2.Usage:
    """Return the usage; OpenAI's totals are inclusive already."""
    return model_pb2.Usage(
        input_tokens=count(usage, "prompt_tokens"),
        cached_input_tokens=count(child(usage, "prompt_tokens_details"), "cached_tokens"),
        output_tokens=count(usage, "completion_tokens"),
        reasoning_output_tokens=count(
            child(usage, "completion_tokens_details"), "reasoning_tokens"
        ),
    )


def failure_of(
    body: Json, *, status: int = 0, usage: model_pb2.Usage | None = None
) -> UpstreamFailure:
    """Return the failure that an error body describes; servers disagree on its shape."""
    fields = child(body, "error") or body
    message = text(body, "error") or text(fields, "message")
    codes = tuple(str(fields[key]) for key in ("code", "type", "param") if fields.get(key))
    if not status:
        status = next((int(code) for code in codes if code.isdecimal() and len(code) == 3), 0)
    kind = classify(status, codes, message)
    return UpstreamFailure(kind, safe_detail(status, codes), usage=usage)


def extend(body: bytearray, chunk: bytes) -> None:
    """Add to a body that comes in one piece, up to the size a record may have."""
    body += chunk
    if len(body) > MAX_RECORD_BYTES:
        raise UpstreamFailure(FailureKind.TRANSIENT, "the body exceeds 8 MiB")
