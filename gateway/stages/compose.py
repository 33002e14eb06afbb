"""Compose: the prompt from the turn and what was recalled. Pure and deterministic.

Nothing the client sent is ever dropped or changed; recalled context is, to keep the prompt
below its limit: the oldest turns of the window first, then the least relevant memories.
"""

import re
from collections.abc import Iterable, Sequence

from mesh.tokens import estimate_tokens
from plexus.common.v1 import message_pb2, model_pb2
from plexus.memory.v1 import memory_service_pb2 as memory_pb

CONTEXT_HEADER = "Known from memory, most relevant first. Use it where it helps:"

_BLANKS = re.compile(r"[ \t]+")
_BLANK_LINES = re.compile(r"\n{3,}")


def fitting(
    request: model_pb2.ModelRequest,
    recalled: memory_pb.RecallResponse,
    *,
    token_limit: int,
) -> list[memory_pb.RecalledItem]:
    """Return what was recalled as far as the prompt has room for it."""
    memories, window = _split(recalled.items)
    left = token_limit - sum(_tokens_of(message) for message in request.messages)
    memories, left = _fit(memories, left)
    window, _ = _fit(window[::-1], left)
    return memories + window[::-1]


def compose(
    request: model_pb2.ModelRequest, recalled: Sequence[memory_pb.RecalledItem]
) -> model_pb2.ModelRequest:
    """Return the request to answer: system messages, memories, window, new messages."""
    memories, window = _split(recalled)
    composed = model_pb2.ModelRequest()
    composed.CopyFrom(request)
    del composed.messages[:]
    leading = _leading_system_count(request)
    composed.messages.extend(request.messages[:leading])
    if memories:
        text = "\n".join([CONTEXT_HEADER, *(f"- {_one_line(item)}" for item in memories)])
        composed.messages.append(_message(message_pb2.ROLE_SYSTEM, text))
    composed.messages.extend(_message(item.memory.role, _tidy(item.memory.text)) for item in window)
    composed.messages.extend(request.messages[leading:])
    return composed


def query_of(request: model_pb2.ModelRequest) -> str:
    """Return what the turn is about: the text of the last user message."""
    for message in reversed(request.messages):
        if message.role == message_pb2.ROLE_USER:
            return text_of(message)
    return ""


def text_of(message: message_pb2.Message) -> str:
    """Return a message's plain text; reasoning and pictures are left out."""
    return "\n".join(part.text for part in message.parts if part.HasField("text"))


def _split(
    recalled: Iterable[memory_pb.RecalledItem],
) -> tuple[list[memory_pb.RecalledItem], list[memory_pb.RecalledItem]]:
    window: list[memory_pb.RecalledItem] = []
    others: list[memory_pb.RecalledItem] = []
    for item in recalled:
        (window if item.reason == memory_pb.RECALL_REASON_WINDOW else others).append(item)
    return others, window


def _fit(
    items: list[memory_pb.RecalledItem], budget: int
) -> tuple[list[memory_pb.RecalledItem], int]:
    """Return the leading items that fit, and what is left of the budget."""
    kept: list[memory_pb.RecalledItem] = []
    for item in items:
        if item.token_count > budget:
            break
        kept.append(item)
        budget -= item.token_count
    return kept, budget


def _leading_system_count(request: model_pb2.ModelRequest) -> int:
    count = 0
    while count < len(request.messages) and request.messages[count].role == message_pb2.ROLE_SYSTEM:
        count += 1
    return count


def _message(role: message_pb2.Role, text: str) -> message_pb2.Message:
    return message_pb2.Message(role=role, parts=[message_pb2.Part(text=text)])


def _one_line(item: memory_pb.RecalledItem) -> str:
    return _BLANKS.sub(" ", item.memory.text.replace("\n", " ")).strip()


def _tidy(text: str) -> str:
    if "  " not in text and "\t" not in text and "\n\n\n" not in text:
        return text.strip()
    return _BLANK_LINES.sub("\n\n", _BLANKS.sub(" ", text)).strip()


def _tokens_of(message: message_pb2.Message) -> int:
    return estimate_tokens(text_of(message))
