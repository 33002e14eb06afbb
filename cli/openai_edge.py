"""One question through the OpenAI edge: with the official client, or with plain HTTP."""

import asyncio
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final

import aiohttp
import orjson

from cli.client import https_context
from mesh.errors import Unavailable

TIMEOUT_S: Final = 60.0
NO_KEY: Final = "any"
"""The client insists on a key; a mesh that asks for none ignores it."""
MAX_BODY_BYTES: Final = 4 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class EdgeAnswer:
    """What came back."""

    text: str
    model: str
    cache: str
    input_tokens: int
    output_tokens: int


async def ask_with_openai(base_url: str, *, key: str, agent_id: str, message: str) -> EdgeAnswer:
    """Ask with the unmodified `openai` package, which must be importable."""
    openai: Any = await asyncio.to_thread(import_module, "openai")
    headers = {"x-plexus-agent-id": agent_id}
    http_client = openai.DefaultAsyncHttpxClient(verify=https_context() or True)
    async with openai.AsyncOpenAI(
        base_url=base_url,
        api_key=key or NO_KEY,
        default_headers=headers,
        timeout=TIMEOUT_S,
        http_client=http_client,
    ) as client:
        try:
            said: Any = await client.chat.completions.create(
                model="default", messages=[{"role": "user", "content": message}]
            )
        except openai.APIError as error:
            raise _refused(base_url, str(error)) from error
    return _answer_of(said.model_dump())


async def ask_with_plain_http(
    base_url: str, *, key: str, agent_id: str, message: str
) -> EdgeAnswer:
    """Ask with one POST."""
    headers = {
        "authorization": f"Bearer {key or NO_KEY}",
        "content-type": "application/json",
        "x-plexus-agent-id": agent_id,
    }
    body = {"model": "default", "messages": [{"role": "user", "content": message}]}
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.post(
                f"{base_url}/chat/completions",
                data=orjson.dumps(body),
                headers=headers,
                ssl=https_context() or True,
            ) as response,
        ):
            said = await response.content.read(MAX_BODY_BYTES)
            if response.status != 200:
                raise _refused(base_url, f"HTTP {response.status}")
            return _answer_of(orjson.loads(said))
    except (aiohttp.ClientError, TimeoutError) as error:
        raise _refused(base_url, type(error).__name__) from error


def _answer_of(said: dict[str, Any]) -> EdgeAnswer:
    usage: dict[str, Any] = said.get("usage") or {}
    about: dict[str, Any] = said.get("plexus") or {}
    return EdgeAnswer(
        text=str(said["choices"][0]["message"]["content"] or ""),
        model=str(said["model"]),
        cache=str(about.get("cache", "unknown")),
        input_tokens=int(usage.get("prompt_tokens", 0)),
        output_tokens=int(usage.get("completion_tokens", 0)),
    )


def _refused(base_url: str, why: str) -> Unavailable:
    return Unavailable(
        f"The OpenAI edge at {base_url} did not answer ({why}): see `plexus doctor`."
    )
