"""Collects the pieces of one network read and merges neighbours into single events."""

from mesh.tokens import token_eighths, tokens_from_eighths
from plexus.common.v1 import model_pb2
from plexus.router.v1 import router_service_pb2 as pb

Event = pb.GenerateResponse
"""An event of an answer; the contract's own message, so that nothing is translated twice."""

TEXT, REASONING, REFUSAL = "text", "reasoning", "refusal"


class Pieces:
    """The events of an answer as they form. One message per run of like pieces in a read."""

    def __init__(self) -> None:
        self.has_output = False
        self.has_tool_calls = False
        self._events: list[Event] = []
        self._kind = ""
        self._run: list[str] = []
        self._eighths = 0

    def add(self, kind: str, text: str) -> None:
        """Append a piece of text, reasoning or refusal."""
        self.has_output = True
        if kind != self._kind:
            self._close_run()
            self._kind = kind
        self._run.append(text)

    def add_tool_call(self, index: int, *, id: str, name: str, arguments_json: str) -> None:
        """Append a piece of a tool call; id and name are empty in all but the first."""
        self._close_run()
        last = self._events[-1].tool_call if self._events else None
        if last is not None and not id and not name and self._ends_in_call(index):
            last.arguments_json += arguments_json
        else:
            call = pb.ToolCallDelta(index=index, id=id, name=name, arguments_json=arguments_json)
            self._events.append(Event(tool_call=call))
        self._eighths += token_eighths(name) + token_eighths(arguments_json)
        self.has_output = self.has_tool_calls = True

    def take(self) -> list[Event]:
        """Return the events since the last take."""
        self._close_run()
        events, self._events = self._events, []
        return events

    def estimated_output_tokens(self) -> int:
        """Estimate the tokens of everything added so far."""
        self._close_run()
        return tokens_from_eighths(self._eighths)

    def _close_run(self) -> None:
        if not self._run:
            return
        text = "".join(self._run)
        self._run.clear()
        self._eighths += token_eighths(text)
        if self._kind == TEXT:
            self._events.append(Event(text=text))
        elif self._kind == REASONING:
            self._events.append(Event(reasoning=text))
        else:
            self._events.append(Event(refusal=text))

    def _ends_in_call(self, index: int) -> bool:
        last = self._events[-1]
        return last.HasField("tool_call") and last.tool_call.index == index


def finished(
    *, id: str, model: str, finish_reason: model_pb2.FinishReason, usage: model_pb2.Usage
) -> Event:
    """Return the last event of an answer; the relay adds what only it knows."""
    return Event(finished=pb.Finished(id=id, model=model, finish_reason=finish_reason, usage=usage))
