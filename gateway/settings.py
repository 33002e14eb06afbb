"""Settings of the gateway."""

from dataclasses import dataclass

from mesh.settings import Secret


@dataclass(frozen=True, kw_only=True)
class GatewaySettings:
    """How turns are run. Times are upper bounds; the caller's deadline shortens them."""

    port: int = 50050
    """The gRPC port; 0 picks a free one."""
    http_port: int = 8080
    """The port of the HTTP edge; 0 picks a free one."""
    http_cors_origins: tuple[str, ...] = ("loopback",)
    """Web origins that browsers may call the HTTP edge from: `https://host`, `loopback`, or `*`."""
    http_timeout_s: float = 120.0
    """The deadline of HTTP requests that name none."""
    http_heartbeat_s: float = 15.0
    """An HTTP stream that is silent this long sends a comment, so that proxies keep it open."""
    default_model: str = "default"
    """The model group of turns that name no model."""
    recall_token_budget: int = 1500
    """Tokens of recalled context when the turn does not say."""
    prompt_token_limit: int = 16_000
    """Recalled context is dropped, oldest and least relevant first, to keep a prompt below this."""
    recall_timeout_s: float = 1.0
    """How long a turn waits for memory before it answers without."""
    remember_timeout_s: float = 2.0
    """How long a write to memory may take before it goes to the outbox."""
    cache_timeout_s: float = 0.25
    """How long a lookup may take, not counting the wait for another caller's answer."""
    cache_join_wait_s: float = 30.0
    """How long a turn waits for an equal turn in progress to share its answer; 0 turns it off."""
    account_timeout_s: float = 2.0
    """How long booking may take before it goes to the outbox."""
    flush_interval_ms: float = 25.0
    """The most latency that merging pieces of text may add; the first piece never waits."""
    flush_bytes: int = 2048
    """Merged text is sent at this size even earlier."""
    max_turn_bytes: int = 1024 * 1024
    """The largest turn that is accepted."""
    max_answer_bytes: int = 1024 * 1024
    """The longest answer; what a reader that does not read can cost at the most."""
    max_live_runs: int = 1024
    """Turns in progress, those waiting for a resume included."""
    retention_s: float = 60.0
    """How long an ended run can still be read by its resume token."""
    retention_bytes: int = 64 * 1024 * 1024
    """What ended runs may hold in all; the oldest go first."""
    max_resume_window_ms: int = 60_000
    """The longest a run may wait for its reader to come back."""
    redis_url: Secret = Secret("")
    """Where replicas share their runs; empty means the mesh's own Redis."""
    redis_timeout_ms: int = 50
    """The longest that a turn with an idempotency key waits for Redis before it starts."""
    run_lease_ms: int = 5_000
    """A replica that renews its runs for this long no more is taken for dead: those who follow
    them elsewhere are told."""
    follow_poll_ms: int = 50
    """How often a reader of another replica's run asks for more: the delay that it adds."""
    outbox_limit: int = 10_000
    """Writes that may wait in the outbox; beyond it turns fail rather than lose anything."""
    outbox_retry_s: float = 1.0
    """How often the outbox tries again while something is down."""
