"""Puts the router together."""

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from mesh.breaker import BreakerStatistics
from mesh.clock import SYSTEM_CLOCK, Clock
from mesh.errors import FailedPrecondition, Reason
from services.router.catalogue import Catalogue
from services.router.deployment import HealthBook
from services.router.embedding.embedder import Embedder, EndpointEmbedder, LocalEmbedder
from services.router.embedding.queue import EmbeddingQueue, QueueStatistics
from services.router.journey import Upstreams
from services.router.providers.anthropic import AnthropicProvider
from services.router.providers.http import HttpLimits
from services.router.providers.offline import OfflineProvider
from services.router.providers.openai import OpenAIProvider
from services.router.providers.provider import Provider
from services.router.relay import Relay, RelayStatistics
from services.router.route import RoutePolicy
from services.router.service import RouterService
from services.router.settings import MINILM, ProviderSettings, RouterSettings

DEFAULT_DATA_DIR = Path(".plexus")


@dataclass(frozen=True, kw_only=True)
class RouterStatistics:
    """A snapshot of the router."""

    relay: RelayStatistics
    embeddings: QueueStatistics
    breakers: Mapping[str, BreakerStatistics]


class Router:
    """The component: its servicer, and what it owns."""

    def __init__(
        self,
        *,
        settings: RouterSettings,
        providers: Mapping[str, Provider],
        embedder: Embedder,
        clock: Clock,
    ) -> None:
        self._providers = providers
        self._embedder = embedder
        self._health = HealthBook(
            clock,
            failure_threshold=settings.breaker_failure_threshold,
            open_s=settings.breaker_open_s,
        )
        self._relay = _relay(settings, providers, self._health, clock)
        self._embeddings = _queue(settings, embedder, clock)
        self._is_open = False
        self.servicer = RouterService(
            catalogue=Catalogue(settings),
            relay=self._relay,
            health=self._health,
            embeddings=self._embeddings,
            embedding_model=embedder.model,
            embedding_names=frozenset({settings.embedding_model, embedder.model}),
            default_deadline_s=settings.default_deadline_s,
        )

    async def start(self) -> None:
        """Begin to embed; the model loads in the background while other calls are served."""
        self._embedder.start()
        self._embeddings.start()
        self._is_open = True

    async def close(self) -> None:
        """Fail waiting embeddings, free the model and close every connection."""
        self._is_open = False
        await self._embeddings.close()
        await self._embedder.close()
        await asyncio.gather(*(provider.close() for provider in self._providers.values()))

    def readiness(self) -> bool:
        """Whether calls are taken. Ill providers do not count: the router answers for them."""
        return self._is_open

    def statistics(self) -> RouterStatistics:
        """Return a snapshot."""
        return RouterStatistics(
            relay=replace(self._relay.statistics),
            embeddings=replace(self._embeddings.statistics),
            breakers=self._health.statistics(),
        )


async def build(
    settings: RouterSettings,
    *,
    clock: Clock = SYSTEM_CLOCK,
    environ: Mapping[str, str] | None = None,
) -> Router:
    """Return the router, not started. Keys are read from `environ` by the names in the settings.

    Raises FailedPrecondition(INVALID_SETTINGS) when a named key is not set.
    """
    environ = os.environ if environ is None else environ
    providers = {
        name: _provider(name, provider, settings, clock, environ)
        for name, provider in settings.all_providers.items()
    }
    embedder = _embedder(settings, providers)
    return Router(settings=settings, providers=providers, embedder=embedder, clock=clock)


def _provider(
    name: str,
    provider: ProviderSettings,
    settings: RouterSettings,
    clock: Clock,
    environ: Mapping[str, str],
) -> Provider:
    if provider.kind == "offline":
        return OfflineProvider()
    api_key = environ.get(provider.api_key_env, "").strip()
    if provider.api_key_env and not api_key:
        raise _wrong(f"providers.{name}.api_key_env", f"{provider.api_key_env} is not set")
    limits = HttpLimits(
        connections=settings.max_concurrent_generations,
        connect_timeout_s=settings.connect_timeout_s,
    )
    if provider.kind == "anthropic":
        return AnthropicProvider(
            base_url=provider.base_url, api_key=api_key, limits=limits, clock=clock
        )
    return OpenAIProvider(
        base_url=provider.base_url,
        api_key=api_key,
        limits=limits,
        clock=clock,
        max_tokens_field=provider.max_tokens_field,
    )


def _embedder(settings: RouterSettings, providers: Mapping[str, Provider]) -> Embedder:
    if settings.embedding_model == MINILM:
        return LocalEmbedder(
            threads=settings.embedding_threads, data_dir=settings.data_dir or DEFAULT_DATA_DIR
        )
    provider = providers.get(settings.embedding_model.partition("/")[0])
    if not isinstance(provider, OpenAIProvider):
        raise _wrong(
            "embedding_model", f'must be {MINILM} or "provider/model" of a provider of kind openai'
        )
    return EndpointEmbedder(provider, settings.embedding_model)


def _relay(
    settings: RouterSettings, providers: Mapping[str, Provider], health: HealthBook, clock: Clock
) -> Relay:
    policy = RoutePolicy(
        max_attempts=settings.max_attempts,
        max_attempts_per_deployment=settings.max_attempts_per_deployment,
        first_token_timeout_s=settings.first_token_timeout_s,
        max_wait_s=settings.max_wait_s,
        restart_mid_stream=settings.restart_mid_stream,
    )
    upstreams = Upstreams(
        providers=providers, health=health, clock=clock, idle_timeout_s=settings.idle_timeout_s
    )
    return Relay(
        upstreams,
        policy,
        default_deadline_s=settings.default_deadline_s,
        max_in_progress=settings.max_concurrent_generations,
    )


def _queue(settings: RouterSettings, embedder: Embedder, clock: Clock) -> EmbeddingQueue:
    return EmbeddingQueue(
        embedder.encode,
        clock=clock,
        max_batch=settings.embedding_batch_texts,
        max_wait_s=settings.embedding_batch_wait_ms / 1e3,
        max_queued=settings.embedding_queue_texts,
        cache_bytes=settings.embedding_cache_bytes,
    )


def _wrong(setting: str, why: str) -> FailedPrecondition:
    return FailedPrecondition(f"setting router.{setting}: {why}", reason=Reason.INVALID_SETTINGS)
