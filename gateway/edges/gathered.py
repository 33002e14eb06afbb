"""A run's events gathered into one unary response."""

from gateway.turn import Answer
from mesh.errors import from_failure
from plexus.common.v1 import message_pb2, model_pb2
from plexus.gateway.v1 import gateway_service_pb2 as pb

_TEXTS = ("text", "reasoning", "refusal")


class Gathered:
    """Takes events in order; `add` raises what the run failed with."""

    def __init__(self) -> None:
        self._response = pb.CompleteResponse()
        self._output: list[pb.ChatResponse] = []

    async def add(self, event: pb.ChatResponse) -> None:
        """Take the next event."""
        kind = event.WhichOneof("event")
        if kind in _TEXTS or kind == "tool_call":
            self._output.append(event)
        elif kind == "reset":
            limit = event.reset.after_sequence
            self._output = [output for output in self._output if output.sequence <= limit]
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
        answer = Answer()
        calls: list[message_pb2.ToolCall] = []
        for output in self._output:
            kind = output.WhichOneof("event")
            if kind == "tool_call":
                calls.append(output.tool_call)
            elif kind:
                answer.add(kind, getattr(output, kind))
        message = answer.message()
        message.tool_calls.extend(calls)
        return message
