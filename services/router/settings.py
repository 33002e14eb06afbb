"""Settings of the router: the `router:` section of plexus.yaml, or PLEXUS_ROUTER_*."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

DEFAULT_GROUP = "default"
"""The model group used when a request names none."""

MINILM = "minilm"
"""The name of the built-in embedding model."""


@dataclass(frozen=True, kw_only=True)
class ProviderSettings:
    """One upstream. Its key is kept in the environment; only the variable's name is here."""

    kind: Literal["openai", "anthropic", "offline"]
    """The dialect; `openai` fits every compatible server."""
    base_url: str = ""
    """Where the API begins, such as http://127.0.0.1:8000/v1; empty means the vendor's own."""
    api_key_env: str = ""
    """The environment variable that holds the key; empty sends none."""
    max_tokens_field: str = ""
    """`max_tokens` or `max_completion_tokens`; empty means what `base_url` is known to take."""


def _offline_provider() -> Mapping[str, ProviderSettings]:
    return {"offline": ProviderSettings(kind="offline")}


def _offline_group() -> Mapping[str, tuple[str, ...]]:
    return {DEFAULT_GROUP: ("offline/extractive",)}


@dataclass(frozen=True, kw_only=True)
class RouterSettings:
    """How requests find a model, how long they may take, and how many there may be."""

    port: int = 50052
    """The gRPC port; 0 picks a free one."""
    providers: Mapping[str, ProviderSettings] = field(default_factory=_offline_provider)
    """Upstreams by name; a name holds no slash. `offline` is always there."""
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=_offline_group)
    """Model groups: name to deployments "provider/model", in the order they are tried."""
    context_windows: Mapping[str, int] = field(default_factory=dict[str, int])
    """Context windows in tokens by "provider/model"; without one no prompt is held too long."""
    allow_unlisted_models: bool = True
    """Whether "provider/model" may name a model of a configured provider that no group lists."""
    max_attempts: int = 3
    """Attempts for one request, over all deployments; at least 1."""
    max_attempts_per_deployment: int = 2
    """Attempts for one request at one deployment; at least 1."""
    restart_mid_stream: bool = True
    """Whether an answer that breaks off after output is begun anew, after a `reset` event."""
    default_deadline_s: float = 120.0
    """The deadline of a request whose call has none."""
    connect_timeout_s: float = 5.0
    """How long a connection, TLS included, may take."""
    first_token_timeout_s: float = 30.0
    """How long an attempt may take to its first content; its share of the deadline may be less."""
    idle_timeout_s: float = 20.0
    """How long a stream may be silent once it has begun."""
    max_wait_s: float = 30.0
    """How long a request may wait for a Retry-After when nothing else is left."""
    max_concurrent_generations: int = 1024
    """Answers in progress; more are refused. Also the connections kept per provider."""
    breaker_failure_threshold: int = 5
    """Failures in a row after which a deployment is left alone."""
    breaker_open_s: float = 5.0
    """How long it is left alone before a probe."""
    embedding_model: str = MINILM
    """`minilm`, built in, or "provider/model" of an OpenAI-compatible embeddings endpoint."""
    embedding_threads: int = 1
    """Threads that one batch of the built-in model uses."""
    embedding_batch_texts: int = 64
    """The most texts in one batch."""
    embedding_batch_wait_ms: float = 0.0
    """How long an idle embedder waits for company before a batch begins."""
    embedding_queue_texts: int = 4096
    """Texts that may wait; more are refused."""
    embedding_cache_bytes: int = 8 * 1024 * 1024
    """Memory for vectors of texts seen before; 0 keeps none."""
    data_dir: Path | None = None
    """Where the note lies that says the model's files were verified; empty: the mesh's folder."""

    def __post_init__(self) -> None:
        for name in self.providers:
            if not name or "/" in name:
                raise ValueError(f"providers: the name {name!r} must not be empty or hold a slash")
        if DEFAULT_GROUP not in self.groups:
            raise ValueError(f"groups: there must be one named {DEFAULT_GROUP!r}")
        for group, deployments in self.groups.items():
            self._check_group(group, deployments)
        at_least_one = ("max_attempts", "max_attempts_per_deployment", "max_concurrent_generations")
        for name in (*at_least_one, "embedding_batch_texts", "embedding_threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be at least 1")
        for name in ("default_deadline_s", "first_token_timeout_s", "idle_timeout_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: must be above 0")

    @property
    def all_providers(self) -> Mapping[str, ProviderSettings]:
        """The configured upstreams and the built-in one."""
        return {**_offline_provider(), **self.providers}

    def _check_group(self, group: str, deployments: tuple[str, ...]) -> None:
        if not deployments:
            raise ValueError(f"groups.{group}: names no deployment")
        for deployment in deployments:
            provider, _, model = deployment.partition("/")
            if provider not in self.all_providers or not model:
                raise ValueError(
                    f'groups.{group}: {deployment!r} must be "provider/model" with a provider of '
                    f"{', '.join(self.all_providers)}"
                )
