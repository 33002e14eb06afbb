"""What can be set on the cache."""

from dataclasses import dataclass

from mesh.settings import Secret


@dataclass(frozen=True, kw_only=True)
class CacheSettings:
    """Settings of the cache component, read as PLEXUS_CACHE_<FIELD>."""

    port: int = 50053
    """The gRPC port; 0 picks a free one."""
    redis_url: Secret = Secret("")
    """Where Redis is; empty means the mesh's own."""
    key_secret: Secret = Secret("")
    """Keys are authenticated with this when set; all replicas need the same, 16 bytes or more."""
    redis_timeout_ms: int = 30
    """The longest that a lookup or store waits for Redis; above 0."""
    redis_connections: int = 2
    """Connections to Redis per process; at least 1."""
    default_ttl_ms: int = 3_600_000
    """How long an answer is kept when its caller does not say; above 0."""
    max_ttl_ms: int = 86_400_000
    """The longest that a caller may ask for."""
    ttl_jitter: float = 0.1
    """Lifetimes vary by this share either way, so that entries of one moment do not end in one."""
    max_entry_bytes: int = 1 << 20
    """Larger answers are not stored."""
    compress_above_bytes: int = 1024
    """Answers larger than this are compressed in Redis."""
    local_bytes: int = 64 << 20
    """What the in-process level may hold; 0 turns it off."""
    local_ttl_ms: int = 60_000
    """How long the in-process level keeps an entry at most: the bound on staleness without
    Redis.
    """
    max_staleness_ms: int = 1000
    """How long another replica may serve an entry from its process after Invalidate began."""
    lease_ms: int = 120_000
    """How long a leader may take for its answer before one of those who wait leads instead."""
    max_flights: int = 4096
    """Requests that may be in the making at a time with others waiting; above that nobody waits."""
    max_waiters: int = 256
    """Callers that may wait for one leader; later ones lead for themselves."""
    max_wait_ms: int = 120_000
    """The longest that a caller may wait for a leader."""

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if not 0 <= self.ttl_jitter < 1:
            raise ValueError("ttl_jitter must be from 0 to below 1")
        if self.key_secret and len(self.key_secret.encode()) < 16:
            raise ValueError("key_secret must have 16 bytes or more")
        for name in ("redis_timeout_ms", "redis_connections", "default_ttl_ms", "max_ttl_ms"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
