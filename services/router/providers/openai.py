"""Any server that speaks OpenAI's chat completions: hosted, vLLM, Ollama, llama.cpp."""

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import orjson

from mesh.clock import Clock
from services.router.failure import FailureKind, UpstreamFailure
from services.router.providers.http import HttpLimits, HttpUpstream
from services.router.providers.provider import Emit, UpstreamCall
from services.router.wire.json import child, count, items
from services.router.wire.openai_request import chat_body
from services.router.wire.openai_stream import OpenAIStream

DEFAULT_BASE_URL = "https://api.openai.com/v1"
HOSTED = "api.openai.com"
"""Where `max_tokens` is refused by reasoning models and `max_completion_tokens` is always taken."""


@dataclass(frozen=True, kw_only=True)
class EndpointVectors:
    """What an embeddings endpoint returned, in the order of the texts."""

    vectors: list[list[float]]
    input_tokens: int


class OpenAIProvider:
    """Streams chat completions. The key lives in the session's headers and nowhere else."""

    def __init__(
        self,
        *,
        base_url: str,
        api_key: str,
        limits: HttpLimits,
        clock: Clock,
        max_tokens_field: str = "",
    ) -> None:
        base_url = base_url or DEFAULT_BASE_URL
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = HttpUpstream(base_url, headers, limits=limits, clock=clock)
        is_hosted = urlsplit(base_url).hostname == HOSTED
        self._max_tokens_field = max_tokens_field or (
            "max_completion_tokens" if is_hosted else "max_tokens"
        )

    async def generate(self, call: UpstreamCall, emit: Emit) -> None:
        body = chat_body(call.request, model=call.model, max_tokens_field=self._max_tokens_field)
        parser = OpenAIStream(model=call.model, estimated_input_tokens=call.estimated_input_tokens)
        await self._http.stream(
            "/chat/completions", body, parser, emit, idle_timeout_s=call.idle_timeout_s
        )

    async def embed(self, model: str, texts: Sequence[str], *, timeout_s: float) -> EndpointVectors:
        """Return the endpoint's embeddings; raise UpstreamFailure."""
        body = orjson.dumps({"model": model, "input": list(texts), "encoding_format": "float"})
        answer = await self._http.json("/embeddings", body, timeout_s=timeout_s)
        rows = sorted(items(answer, "data"), key=lambda row: count(row, "index"))
        vectors: list[list[float]] = [row.get("embedding", []) for row in rows]
        tokens = count(child(answer, "usage"), "prompt_tokens")
        if len(vectors) != len(texts):
            raise UpstreamFailure(FailureKind.TRANSIENT, "the number of embeddings is wrong")
        return EndpointVectors(vectors=vectors, input_tokens=tokens)

    async def close(self) -> None:
        await self._http.close()
