"""Settings of the memory component."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mesh.settings import Secret


@dataclass(frozen=True, kw_only=True)
class MemorySettings:
    """Settings of one memory component; PLEXUS_MEMORY_<FIELD> in the environment."""

    port: int = 50051
    """The gRPC port; 0 picks a free one."""
    store: Literal["edge", "server"] = "edge"
    """`edge`: an engine in a process of its own beside this one. `server`: a Qdrant cluster."""
    data_dir: Path | None = None
    """Where the edge store keeps its data; one process owns it. Empty: `memory` in the mesh's."""
    qdrant_url: str = "http://127.0.0.1:6334"
    """The gRPC address of Qdrant for `store: server`; https turns TLS on."""
    qdrant_api_key: Secret = Secret("")
    """The API key of Qdrant; needs https unless the address is loopback."""
    collection: str = "plexus_memory"
    """The collection in Qdrant; it is made when it is not there."""
    dimensions: int = 384
    """The length of embeddings; fixed once data exists."""
    embedding_model: str = ""
    """The model to ask the router for; empty takes the router's default."""
    embedding: bool = True
    """Whether to embed at all; without it every search is by words."""
    call_timeout_ms: int = 5_000
    """The longest that one call to the store may take; a caller's deadline shortens it."""
    max_in_flight: int = 4_096
    """Calls to the store at one time before more are refused."""
    flush_interval_ms: int = 2_000
    """At most this long after a write the edge store's log is on disk, for loss of power."""
    optimize_idle_s: float = 10.0
    """The edge store reorganises itself after this long without a call; 0 never."""
    embed_batch_size: int = 32
    """Texts per background call to the embedder, 1 to 256."""
    embed_timeout_ms: int = 30_000
    """The longest that one background call to the embedder may take."""
    query_embed_timeout_ms: int = 250
    """The longest that a search waits for its query's embedding before it does without."""
    embedding_cache_entries: int = 4_096
    """Embeddings kept in memory, each 4 bytes a dimension."""
    min_cosine: float = 0.25
    """Below this similarity Recall does not count a memory as relevant by meaning."""
    sweep_interval_s: float = 60.0
    """How often expired items are removed; they are unreadable before that."""

    def __post_init__(self) -> None:
        """Refuse what could not work."""
        for name in (
            *("dimensions", "call_timeout_ms", "max_in_flight", "flush_interval_ms"),
            *("embed_timeout_ms", "query_embed_timeout_ms", "embedding_cache_entries"),
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if not 1 <= self.embed_batch_size <= 256:
            raise ValueError("embed_batch_size must be 1 to 256")
        if self.sweep_interval_s <= 0:
            raise ValueError("sweep_interval_s must be above 0")
