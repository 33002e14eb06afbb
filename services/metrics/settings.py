"""What can be set on metrics."""

from dataclasses import dataclass
from pathlib import Path

from mesh.settings import Secret


@dataclass(frozen=True, kw_only=True)
class MetricsSettings:
    """Settings of the metrics component, read as PLEXUS_METRICS_<FIELD>."""

    port: int = 50054
    """The gRPC port; 0 picks a free one."""
    redis_url: Secret = Secret("")
    """Where the ledger's Redis is; empty means the mesh's own. It must not evict and must sync."""
    redis_timeout_ms: int = 500
    """The longest that one question to Redis may take; above 0."""
    redis_connections: int = 2
    """Connections to Redis per process; at least 1."""
    prices_file: Path | None = None
    """Prices that win over the built-in ones; the form is in services/metrics/overrides.py."""
    flush_interval_ms: int = 1000
    """How often latencies go to Redis: what a killed process loses of its percentiles at most."""
    max_models: int = 256
    """Models that percentiles and Prometheus labels tell apart; later ones become `other`."""
    max_stages: int = 64
    """Stages that percentiles tell apart; later ones become `other`."""

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        for name in ("redis_timeout_ms", "redis_connections", "flush_interval_ms"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
