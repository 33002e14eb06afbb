"""Outcomes of the contract as OpenAI response bodies. Pure."""

from array import array
from base64 import b64encode
from collections.abc import Iterable, Sequence
from sys import byteorder

import orjson

from gateway.edges.json_fields import Json
from plexus.cache.v1 import cache_service_pb2 as cache_pb
from plexus.common.v1 import message_pb2, model_pb2
from plexus.gateway.v1 import gateway_service_pb2 as pb

_FINISH_REASONS = {
    model_pb2.FINISH_REASON_STOP: "stop",
    model_pb2.FINISH_REASON_LENGTH: "length",
    model_pb2.FINISH_REASON_TOOL_CALLS: "tool_calls",
    model_pb2.FINISH_REASON_CONTENT_FILTER: "content_filter",
}
CACHE_WORDS = {
    cache_pb.VERDICT_EXACT_HIT: "exact",
    cache_pb.VERDICT_SEMANTIC_HIT: "semantic",
    cache_pb.VERDICT_JOINED_HIT: "joined",
    cache_pb.VERDICT_MISS: "miss",
    cache_pb.VERDICT_BYPASS: "bypass",
    cache_pb.VERDICT_UNAVAILABLE: "unavailable",
}
OWNER = "plexus"
DEFAULT_MODEL = "default"
"""What a request that names no model asks for."""


def completion_id(run_id: str) -> str:
    """Return the id of a chat completion."""
    return f"chatcmpl-{run_id}"


def completion_json(outcome: pb.CompleteResponse, *, created_s: int, asked_model: str) -> bytes:
    """Return the body of an answer that is not streamed."""
    answer = outcome.response
    choice = {
        "index": 0,
        "message": _message_json(answer.message),
        "logprobs": None,
        "finish_reason": finish_reason(
            outcome.completed.finish_reason, has_tool_calls=bool(answer.message.tool_calls)
        ),
    }
    return orjson.dumps(
        {
            "id": completion_id(outcome.request_id),
            "object": "chat.completion",
            "created": created_s,
            "model": outcome.completed.model or asked_model or DEFAULT_MODEL,
            "choices": [choice],
            "usage": usage_json(outcome.usage.usage),
            "plexus": plexus_json(outcome),
        }
    )


def finish_reason(reason: model_pb2.FinishReason, *, has_tool_calls: bool) -> str:
    """Return OpenAI's word; a provider that said nothing is taken to have finished."""
    return _FINISH_REASONS.get(reason) or ("tool_calls" if has_tool_calls else "stop")


def usage_json(usage: model_pb2.Usage) -> Json:
    """Return the usage; totals are inclusive in both dialects."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cached_input_tokens,
            "cache_write_tokens": usage.cache_write_input_tokens,
        },
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_output_tokens},
    }


def plexus_json(outcome: pb.CompleteResponse) -> Json:
    """Return what the mesh did for this answer, which OpenAI's fields cannot say.

    Money is absent when no price is known, which is not zero.
    """
    completed, bill = outcome.completed, outcome.usage
    said: Json = {
        "request_id": outcome.request_id,
        "conversation_id": outcome.conversation_id,
        "cache": cache_word(completed.cache_verdict),
        "provider": completed.provider,
        "model": completed.model,
        "recalled": completed.recalled_count,
        "stages": _stage_times(outcome.stages),
        "warnings": [
            {"reason": w.reason, "component": w.component, "message": w.message}
            for w in outcome.warnings
        ],
    }
    if bill.cost.HasField("nano_usd"):
        said["cost_nano_usd"] = bill.cost.nano_usd
    if bill.saved.HasField("nano_usd"):
        said["saved_nano_usd"] = bill.saved.nano_usd
    if bill.usage.estimated:
        said["usage_estimated"] = True
    return said


def answer_headers(outcome: pb.CompleteResponse) -> dict[str, str]:
    """Return the headers that say how an answer came about."""
    completed = outcome.completed
    overhead_ms = max(0.0, completed.duration_ms - completed.upstream_ms)
    headers = {
        "x-plexus-cache": cache_word(completed.cache_verdict),
        "x-plexus-overhead-ms": f"{overhead_ms:.3f}",
    }
    if is_header_text(completed.model):
        headers["x-plexus-model"] = completed.model
    if outcome.usage.cost.HasField("nano_usd"):
        headers["x-plexus-cost-nano-usd"] = str(outcome.usage.cost.nano_usd)
    return headers


def cache_word(verdict: cache_pb.Verdict) -> str:
    """Return the cache's part in one word."""
    return CACHE_WORDS.get(verdict, "bypass")


def is_header_text(text: str) -> bool:
    """Whether `text` can stand in a header as it is."""
    return bool(text) and text.isascii() and text.isprintable()


def embeddings_json(
    vectors: Sequence[Sequence[float]], *, model: str, input_tokens: int, as_base64: bool
) -> bytes:
    """Return the body of an embeddings response."""
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": packed(vector) if as_base64 else list(vector),
        }
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": input_tokens, "total_tokens": input_tokens}
    return orjson.dumps({"object": "list", "data": data, "model": model, "usage": usage})


def packed(vector: Sequence[float]) -> str:
    """Return a vector as base64 of little-endian 32-bit floats."""
    numbers = array("f", vector)
    if byteorder == "big":
        numbers.byteswap()
    return b64encode(numbers.tobytes()).decode()


def model_json(model: pb.Model) -> Json:
    """Return one model. OpenAI requires a date of creation; none is known."""
    return {
        "id": model.name,
        "object": "model",
        "created": 0,
        "owned_by": OWNER,
        "plexus": {"operation": model.operation, "deployments": list(model.deployments)},
    }


def models_json(models: Iterable[pb.Model]) -> bytes:
    """Return the body of a models listing."""
    return orjson.dumps({"object": "list", "data": [model_json(model) for model in models]})


def tool_call_json(call: message_pb2.ToolCall) -> Json:
    """Return one tool call."""
    function = {"name": call.name, "arguments": call.arguments_json}
    return {"id": call.id, "type": "function", "function": function}


def _message_json(message: message_pb2.Message) -> Json:
    text, reasoning, refusal = (
        "".join(getattr(part, kind) for part in message.parts)
        for kind in ("text", "reasoning", "refusal")
    )
    silent = not text and bool(refusal or message.tool_calls)
    answer: Json = {
        "role": "assistant",
        "content": None if silent else text,
        "refusal": refusal or None,
    }
    if reasoning:
        answer["reasoning_content"] = reasoning
    if message.tool_calls:
        answer["tool_calls"] = [tool_call_json(call) for call in message.tool_calls]
    return answer


def _stage_times(stages: Iterable[pb.Stage]) -> dict[str, float]:
    """Return milliseconds by stage; a stage that ran twice counts both."""
    times: dict[str, float] = {}
    for stage in stages:
        times[stage.name] = round(times.get(stage.name, 0.0) + stage.duration_ms, 3)
    return times
