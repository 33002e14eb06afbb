"""Finds what an embedded mesh can talk to: keys in the environment, servers on this machine."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import aiohttp
import orjson

from services.router.settings import DEFAULT_GROUP, ProviderSettings, RouterSettings

PROBE_TIMEOUT_S = 0.3
"""How long all probes together may take: a mesh must start at once where nothing answers."""

OPENAI_MODEL = "gpt-5-mini"
ANTHROPIC_MODEL = "claude-sonnet-4-5"
"""What a key alone means; `PLEXUS_ROUTER_GROUPS` or plexus.yaml name others."""

OLLAMA_ADDRESS = "http://127.0.0.1:11434"
VLLM_ADDRESS = "http://127.0.0.1:8000"
EMBEDDING_MARKS = ("embed", "bge-", "minilm", "rerank")
"""Parts of the names of local models that do not chat."""

Probe = Callable[[str], Awaitable[Sequence[str]]]
"""Returns the ids of the models served below a base URL; none, or an error, when nothing is."""


@dataclass(frozen=True, kw_only=True)
class Discovery:
    """What was found: settings to use, and a line for a person on each thing."""

    settings: RouterSettings
    lines: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class _Found:
    name: str
    provider: ProviderSettings
    models: Sequence[str]
    line: str


async def discover(
    environ: Mapping[str, str],
    probe: Probe | None = None,
    *,
    base: RouterSettings | None = None,
) -> Discovery:
    """Return settings whose default group holds what answers here, else the offline model.

    Hosted providers with a key come first, then servers on this machine. Keys stay where they are.
    Takes at most `PROBE_TIMEOUT_S`. `base` gives every setting that is not about providers.
    """
    found = [*_keyed(environ), *await _local(environ, probe or probe_models)]
    offline = ProviderSettings(kind="offline")
    if not found:
        lines = [
            "no key and no local server found: answers come from the offline model, by quotation"
        ]
    else:
        lines = [item.line for item in found]
    group = tuple(f"{item.name}/{item.models[0]}" for item in found) or ("offline/extractive",)
    settings = replace(
        base or RouterSettings(),
        providers={**{item.name: item.provider for item in found}, "offline": offline},
        groups={DEFAULT_GROUP: group},
    )
    return Discovery(settings=settings, lines=lines)


async def probe_models(base_url: str) -> Sequence[str]:
    """Ask an OpenAI-compatible server for its models."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{base_url}/models", allow_redirects=False) as response,
    ):
        if response.status != 200:
            return []
        body = orjson.loads(await response.content.read(1 << 20))
        return [str(model["id"]) for model in body["data"]]


def _keyed(environ: Mapping[str, str]) -> list[_Found]:
    found: list[_Found] = []
    if environ.get("OPENAI_API_KEY"):
        base_url = environ.get("OPENAI_BASE_URL", "")
        provider = ProviderSettings(kind="openai", base_url=base_url, api_key_env="OPENAI_API_KEY")
        model = environ.get("OPENAI_MODEL") or OPENAI_MODEL
        where = f" at {base_url}" if base_url else ""
        line = f"OPENAI_API_KEY is set: openai/{model}{where}"
        found.append(_Found(name="openai", provider=provider, models=[model], line=line))
    if environ.get("ANTHROPIC_API_KEY"):
        provider = ProviderSettings(
            kind="anthropic",
            base_url=environ.get("ANTHROPIC_BASE_URL", ""),
            api_key_env="ANTHROPIC_API_KEY",
        )
        model = environ.get("ANTHROPIC_MODEL") or ANTHROPIC_MODEL
        line = f"ANTHROPIC_API_KEY is set: anthropic/{model}"
        found.append(_Found(name="anthropic", provider=provider, models=[model], line=line))
    return found


async def _local(environ: Mapping[str, str], probe: Probe) -> list[_Found]:
    """Probe the local servers at once, all within one bound."""
    addresses = {"ollama": _ollama_address(environ), "vllm": VLLM_ADDRESS}
    urls = {name: f"{address}/v1" for name, address in addresses.items()}
    answers = await asyncio.gather(*(_models(probe, url) for url in urls.values()))
    return [
        _Found(
            name=name,
            provider=ProviderSettings(kind="openai", base_url=url),
            models=models,
            line=f"{name} answers at {addresses[name]}: {name}/{models[0]}",
        )
        for (name, url), models in zip(urls.items(), answers, strict=True)
        if models
    ]


async def _models(probe: Probe, url: str) -> list[str]:
    """Return the chat models at an address; whatever is wrong there means none."""
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            models = await probe(url)
    except (OSError, TimeoutError, aiohttp.ClientError, ValueError, KeyError, TypeError):
        return []
    return [name for name in models if not any(mark in name.lower() for mark in EMBEDDING_MARKS)]


def _ollama_address(environ: Mapping[str, str]) -> str:
    """Return where Ollama listens; OLLAMA_HOST may lack scheme and port, and be a bind address."""
    host = environ.get("OLLAMA_HOST", "").strip().rstrip("/")
    if not host:
        return OLLAMA_ADDRESS
    if "://" in host:
        return host
    name, _, port = host.partition(":")
    return f"http://{'127.0.0.1' if name in ('', '0.0.0.0') else name}:{port or '11434'}"
