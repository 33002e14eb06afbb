"""A run's events gathered into one unary response."""

from gateway.turn import part_of
from mesh.errors import from_failure
from plexus.common.v1 import message_pb2, model_pb2
from plexus.gateway.v1 import gateway_service_pb2 as pb

_TEXTS = ("text", "reasoning", "refusal")


class Gathered:
    """Takes events in order; `result` raises what the run failed with."""

    def __init__(self) -> None:
        self._response = pb.CompleteResponse()
        self._pieces: list[tuple[int, str, str]] = []
        self._calls: list[tuple[int, message_pb2.ToolCall]] = []

    async def add(self, event: pb.ChatResponse) -> None:
        """Take the next event."""
        kind = event.WhichOneof("event")
        if kind in _TEXTS:
            self._pieces.append((event.sequence, kind, getattr(event, kind)))
        elif kind == "tool_call":
            self._calls.append((event.sequence, event.tool_call))
        elif kind == "reset":
            limit = event.reset.after_sequence
            self._pieces = [piece for piece in self._pieces if piece[0] <= limit]
            self._calls = [call for call in self._calls if call[0] <= limit]
        elif kind == "started":
            self._response.request_id = event.started.request_id
            self._response.conversation_id = event.started.conversation_id
        elif kind == "stage":
            self._response.stages.append(event.stage)
        elif kind == "warning":
            self._response.warnings.append(event.warning)
        elif kind == "usage":
            self._response.usage.CopyFrom(event.usage)
        elif kind == "completed":
            self._response.completed.CopyFrom(event.completed)
        elif kind == "failed":
            raise from_failure(event.failed)

    def result(self) -> pb.CompleteResponse:
        """Return the whole outcome; call it after the terminal event."""
        completed = self._response.completed
        self._response.response.CopyFrom(
            model_pb2.ModelResponse(
                id=self._response.request_id,
                model=completed.model,
                provider=completed.provider,
                message=self._message(),
                finish_reason=completed.finish_reason,
                usage=self._response.usage.usage,
            )
        )
        return self._response

    def _message(self) -> message_pb2.Message:
        parts: list[message_pb2.Part] = []
        last_kind = ""
        for _, kind, piece in self._pieces:
            if kind == last_kind:
                setattr(parts[-1], kind, getattr(parts[-1], kind) + piece)
            else:
                parts.append(part_of(kind, piece))
            last_kind = kind
        return message_pb2.Message(
            role=message_pb2.ROLE_ASSISTANT,
            parts=parts,
            tool_calls=[call for _, call in self._calls],
        )
