"""The built-in model: quotes the context it is given, says so, and costs nothing.

It lets the mesh run with no key and no network: memory, cache, streaming and accounting all
work as with a language model, and what they are given is the same every time.
"""

import hashlib
import re
from collections.abc import Sequence

import orjson

from mesh.tokens import estimate_tokens
from plexus.common.v1 import message_pb2, model_pb2
from services.router.extract import Passage, best_sentences, is_question, split_sentences
from services.router.failure import FailureKind, UpstreamFailure
from services.router.providers.provider import Emit, UpstreamCall
from services.router.wire.pieces import TEXT, Pieces, finished

CLOSING = (
    "(Plexus offline: quoted from this conversation and its context; no language model was called.)"
)
NO_CONTEXT = (
    "I am Plexus' offline model. I answer by quoting this conversation and its context, and "
    "nothing in them fits your message yet. Tell me a fact and ask about it, or set "
    "OPENAI_API_KEY or ANTHROPIC_API_KEY, or start Ollama, to talk to a language model."
)
NOTED = "Noted. I will quote it when you ask about it."

WORDS_PER_PIECE = 4
"""Words in one event: what a network read of a real stream holds."""

_PIECE = re.compile(rf"(?:\s*\S+){{1,{WORDS_PER_PIECE}}}\s*?")
_ASKS = re.compile(
    r"[?？]|^\s*(?:please\s+)?(?:who|what|when|where|why|how|which|whose|is|are|do|does|did|can|could|tell|show|list"
    r"|find|give|summari[sz]e|explain|describe|compare|recall|remind|repeat|quote)\b",
    re.IGNORECASE,
)

_WEIGHTS = {
    message_pb2.ROLE_SYSTEM: 0.9,
    message_pb2.ROLE_USER: 1.0,
    message_pb2.ROLE_ASSISTANT: 0.6,
    message_pb2.ROLE_TOOL: 1.2,
}
"""How far each speaker is believed: a tool most, an earlier answer least."""


class OfflineProvider:
    """Answers from the request alone. Two equal requests get equal answers."""

    async def generate(self, call: UpstreamCall, emit: Emit) -> None:
        if call.request.response_format.HasField("json_schema"):
            raise UpstreamFailure(
                FailureKind.REQUEST_FATAL, "the offline model cannot follow a JSON schema"
            )
        text = answer(call.request)
        text, reason = _cut(text, call.request.sampling)
        pieces = Pieces()
        for piece in _PIECE.findall(text):
            pieces.add(TEXT, piece)
            await emit(pieces.take())
        usage = model_pb2.Usage(
            input_tokens=call.estimated_input_tokens, output_tokens=estimate_tokens(text)
        )
        digest = hashlib.blake2b(call.request.SerializeToString(deterministic=True), digest_size=12)
        await emit(
            [
                finished(
                    id=f"offline-{digest.hexdigest()}",
                    model=call.model,
                    finish_reason=reason,
                    usage=usage,
                )
            ]
        )

    async def close(self) -> None:
        """There is nothing to free."""


def answer(request: model_pb2.ModelRequest) -> str:
    """Return the whole answer: quotations and a closing line, or what can be done about none."""
    text = _answer(request.messages)
    if request.response_format.json_object:
        return orjson.dumps({"answer": text}).decode()
    return text


def _answer(messages: Sequence[message_pb2.Message]) -> str:
    asked_at = max(
        (at for at, m in enumerate(messages) if m.role == message_pb2.ROLE_USER), default=-1
    )
    question, beside = _split_question(_text(messages[asked_at])) if asked_at >= 0 else ("", "")
    passages = [_passage(message) for at, message in enumerate(messages) if at != asked_at]
    passages.append(Passage(text=beside))
    if not _ASKS.search(question) and messages[-1].role != message_pb2.ROLE_TOOL:
        return f"{NOTED}\n\n{CLOSING}" if question else NO_CONTEXT
    quoted = best_sentences(question, passages) or _last_result(messages)
    return f"{' '.join(quoted)}\n\n{CLOSING}" if quoted else NO_CONTEXT


def _split_question(text: str) -> tuple[str, str]:
    """Return what a message asks and what it tells; without a question mark all of it asks."""
    sentences = split_sentences(text)
    questions = [sentence for sentence in sentences if is_question(sentence)]
    if not questions:
        return text, ""
    return " ".join(questions), "\n".join(s for s in sentences if s not in questions)


def _passage(message: message_pb2.Message) -> Passage:
    told = "\n".join(s for s in split_sentences(_text(message)) if s not in _OWN_WORDS)
    return Passage(text=told, weight=_WEIGHTS.get(message.role, 1.0))


def _last_result(messages: Sequence[message_pb2.Message]) -> list[str]:
    """Return the beginning of a tool's result when it is what the answer is awaited for."""
    if messages[-1].role != message_pb2.ROLE_TOOL:
        return []
    return split_sentences(_text(messages[-1]))[:3]


def _text(message: message_pb2.Message) -> str:
    return "\n".join(part.text for part in message.parts if part.HasField("text"))


def _cut(text: str, sampling: model_pb2.Sampling) -> tuple[str, model_pb2.FinishReason]:
    """Cut at the first stop string, then at the token limit."""
    ends = [at for stop in sampling.stop if stop and (at := text.find(stop)) >= 0]
    text = text[: min(ends)] if ends else text
    limit = sampling.max_output_tokens
    if not sampling.HasField("max_output_tokens") or estimate_tokens(text) <= limit:
        return text, model_pb2.FINISH_REASON_STOP
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        fits = estimate_tokens(text[:middle]) <= limit
        low, high = (middle, high) if fits else (low, middle - 1)
    return text[:low], model_pb2.FINISH_REASON_LENGTH


_OWN_WORDS = frozenset(
    sentence for text in (CLOSING, NO_CONTEXT, NOTED) for sentence in split_sentences(text)
)
"""What this model says of itself is never quoted back."""
