"""Settings of the HTTP edge."""

from dataclasses import dataclass

LOOPBACK_ORIGINS = "loopback"
"""In `cors_origins`: pages served from this machine, whatever their port."""


@dataclass(frozen=True, kw_only=True)
class HttpEdgeSettings:
    """Where the HTTP edge listens and what it grants a client."""

    host: str = "127.0.0.1"
    """The address to listen on; a mesh that asks for no key serves loopback only."""
    port: int = 8080
    """The port; 0 picks a free one."""
    shared_port: bool = False
    """Whether other workers of this host listen on the same port."""
    max_body_bytes: int = 2 * 1024 * 1024
    """The largest request body. Keep it below the mesh's `max_message_bytes`."""
    body_timeout_s: float = 30.0
    """How long a client may take to send a request body."""
    timeout_s: float = 120.0
    """The deadline of requests that name none."""
    max_timeout_s: float = 600.0
    """The longest deadline that a client may ask for."""
    heartbeat_s: float = 15.0
    """A stream that sends nothing for this long sends a comment, so that proxies keep it open."""
    stall_s: float = 30.0
    """A client that takes nothing of a stream for this long is disconnected."""
    cors_origins: tuple[str, ...] = (LOOPBACK_ORIGINS,)
    """Web origins that browsers may call from: `https://host`, `loopback`, or `*` for any."""

    def __post_init__(self) -> None:
        for name in ("body_timeout_s", "timeout_s", "max_timeout_s", "heartbeat_s", "stall_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: must be above 0")
        if self.max_body_bytes < 1:
            raise ValueError("max_body_bytes: must be at least 1")
