"""Anthropic's Messages API."""

from mesh.clock import Clock
from services.router.providers.http import HttpLimits, HttpUpstream
from services.router.providers.provider import Emit, UpstreamCall
from services.router.wire.anthropic_request import messages_body
from services.router.wire.anthropic_stream import AnthropicStream

DEFAULT_BASE_URL = "https://api.anthropic.com"
API_VERSION = "2023-06-01"


class AnthropicProvider:
    """Streams messages. The key lives in the session's headers and nowhere else."""

    def __init__(self, *, base_url: str, api_key: str, limits: HttpLimits, clock: Clock) -> None:
        headers = {"anthropic-version": API_VERSION}
        if api_key:
            headers["x-api-key"] = api_key
        root = (base_url or DEFAULT_BASE_URL).rstrip("/").removesuffix("/v1")
        self._http = HttpUpstream(root, headers, limits=limits, clock=clock)

    async def generate(self, call: UpstreamCall, emit: Emit) -> None:
        parser = AnthropicStream(
            model=call.model, estimated_input_tokens=call.estimated_input_tokens
        )
        body = messages_body(call.request, model=call.model)
        await self._http.stream(
            "/v1/messages", body, parser, emit, idle_timeout_s=call.idle_timeout_s
        )

    async def close(self) -> None:
        await self._http.close()
