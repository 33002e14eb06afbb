"""A run's events as the records of an OpenAI stream. Pure: bytes in order, no I/O.

Which model the chunks name: that of the attempt which gave the first output, else, as for a
cached answer, the model that was asked for. It then stays, as clients expect, even when another
model takes over; the one that finished is in the `plexus` object of the usage chunk. Nothing has
to wait for this: no chunk is sent before the first output.
"""

import orjson

from gateway.edges.json_fields import Json
from gateway.edges.openai_response import (
    DEFAULT_MODEL,
    completion_id,
    finish_reason,
    is_header_text,
    plexus_json,
    tool_call_json,
    usage_json,
)
from mesh.errors import Reason, Unavailable, from_failure
from plexus.gateway.v1 import gateway_service_pb2 as pb

DONE = b"data: [DONE]\n\n"
_ROLE = b'"role":"assistant",'


class ChunkStream:
    """Translates one run. `feed` returns what to send for an event, often nothing.

    A run that fails, or voids what was sent already, raises from `feed`; nothing may follow then.
    """

    def __init__(self, *, asked_model: str, created_s: int, include_usage: bool) -> None:
        self._model = asked_model or DEFAULT_MODEL
        self._created_s = created_s
        self._include_usage = include_usage
        self._outcome = pb.CompleteResponse()
        self._head = b""
        self._tail = b'},"logprobs":null,"finish_reason":null}]' + self._end_of_chunk()
        self._last_output = 0
        self._tool_calls = 0
        self._headers: dict[str, str] = {}
        self.ended = False

    @property
    def run_id(self) -> str:
        """The run's id; empty before `started`."""
        return self._outcome.request_id

    @property
    def headers(self) -> dict[str, str]:
        """What is known for the response's headers so far."""
        return self._headers

    def feed(self, event: pb.ChatResponse) -> bytes:
        """Take the next event; return the records to send now, empty for none."""
        kind = event.WhichOneof("event")
        if kind == "text":
            return self._delta(event, b'"content":' + orjson.dumps(event.text))
        if kind == "reasoning":
            return self._delta(event, b'"reasoning_content":' + orjson.dumps(event.reasoning))
        if kind == "refusal":
            return self._delta(event, b'"refusal":' + orjson.dumps(event.refusal))
        if kind == "tool_call":
            return self._delta(event, self._tool_call(event))
        if kind == "completed":
            self._outcome.completed.CopyFrom(event.completed)
            return self._finish()
        if kind == "failed":
            raise from_failure(event.failed)
        if kind == "reset":
            self._reset(event.reset)
        else:
            self._note(kind, event)
        return b""

    def _delta(self, event: pb.ChatResponse, fields: bytes) -> bytes:
        opening = b"" if self._last_output else _ROLE
        self._last_output = event.sequence
        return self._start() + opening + fields + self._tail

    def _tool_call(self, event: pb.ChatResponse) -> bytes:
        piece = {"index": self._tool_calls, **tool_call_json(event.tool_call)}
        self._tool_calls += 1
        return b'"tool_calls":' + orjson.dumps([piece])

    def _start(self) -> bytes:
        """Return what all chunks with a choice begin with."""
        if not self._head:
            # The closing brace goes: the choices follow.
            common = orjson.dumps(self._common())[:-1]
            self._head = b"data: " + common + b',"choices":[{"index":0,"delta":{'
        return self._head

    def _finish(self) -> bytes:
        """Return the last chunk, the usage when it was asked for, and the end mark."""
        self.ended = True
        reason = finish_reason(
            self._outcome.completed.finish_reason, has_tool_calls=self._tool_calls > 0
        )
        # An answer without any output still is one message of the assistant.
        delta = b"" if self._last_output else _ROLE + b'"content":""'
        last = self._start() + delta + b'},"logprobs":null,"finish_reason":"' + reason.encode()
        return last + b'"}]' + self._end_of_chunk() + self._usage() + DONE

    def _usage(self) -> bytes:
        if not self._include_usage:
            return b""
        chunk: Json = {
            **self._common(),
            "choices": [],
            "usage": usage_json(self._outcome.usage.usage),
            "plexus": plexus_json(self._outcome),
        }
        return b"data: " + orjson.dumps(chunk) + b"\n\n"

    def _common(self) -> Json:
        return {
            "id": completion_id(self._outcome.request_id),
            "object": "chat.completion.chunk",
            "created": self._created_s,
            "model": self._model,
        }

    def _end_of_chunk(self) -> bytes:
        return b',"usage":null}\n\n' if self._include_usage else b"}\n\n"

    def _reset(self, reset: pb.Reset) -> None:
        # OpenAI's dialect cannot take anything back, and the same text must not come twice.
        if self._last_output > reset.after_sequence:
            raise Unavailable(
                "the answer broke off and began anew; what was sent is void, ask again",
                reason=Reason.STREAM_INTERRUPTED,
            )

    def _note(self, kind: str | None, event: pb.ChatResponse) -> None:
        """Keep what the headers and the usage chunk will say."""
        if kind == "started":
            self._outcome.request_id = event.started.request_id
            self._outcome.conversation_id = event.started.conversation_id
        elif kind == "stage":
            self._outcome.stages.append(event.stage)
            if event.stage.name == "cache":
                self._set_header("x-plexus-cache", event.stage.verdict.partition(" ")[0])
        elif kind == "attempt" and not event.attempt.HasField("failure"):
            model = event.attempt.deployment.partition("/")[2] or event.attempt.deployment
            self._set_header("x-plexus-model", model)
            if not self._head:
                self._model = model
        elif kind == "warning":
            self._outcome.warnings.append(event.warning)
        elif kind == "usage":
            self._outcome.usage.CopyFrom(event.usage)

    def _set_header(self, name: str, value: str) -> None:
        if is_header_text(value):
            self._headers[name] = value
