"""Which web pages may call the edge. Pure.

A mesh that asks for no key trusts whoever reaches it, and a browser on the same machine reaches
it for any page it shows. There, a request from an origin that is not allowed is refused, as is one
whose `Host` is not local: that is a page whose name was re-bound to this machine. Where keys are
asked for, a foreign page has none, so it only goes without CORS headers.
"""

from collections.abc import Sequence
from urllib.parse import urlsplit

from gateway.edges.http_settings import LOOPBACK_ORIGINS
from mesh.errors import PermissionDenied, Reason

_LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")
_EXPOSED = (
    "x-request-id, x-plexus-cache, x-plexus-model, x-plexus-cost-nano-usd, "
    "x-plexus-overhead-ms, x-should-retry, retry-after, retry-after-ms"
)
_ALLOWED_HEADERS = (
    "authorization, content-type, cache-control, idempotency-key, x-api-key, x-request-id, "
    "x-request-timeout, x-plexus-conversation-id, x-plexus-agent-id, x-plexus-memory"
)
_STAINLESS = "x-stainless-"
_PREFLIGHT_AGE_S = 600


class OriginPolicy:
    """Decides by `Origin` and `Host`. `anonymous` means that callers without a key are let in."""

    def __init__(self, allowed: Sequence[str], *, anonymous: bool) -> None:
        self._any = "*" in allowed
        self._loopback = LOOPBACK_ORIGINS in allowed
        self._origins = {origin.rstrip("/").lower() for origin in allowed}
        self._hosts = {host for origin in self._origins if (host := _host_of(origin))}
        self._anonymous = anonymous

    def check(self, host: str, origin: str) -> None:
        """Raise PermissionDenied(ORIGIN_NOT_ALLOWED) for a page that may not call."""
        if not self._anonymous or self._any:
            return
        name = _host_of(f"http://{host}")
        if host and name not in _LOOPBACK_HOSTS and name not in self._hosts:
            raise _refusal("this host name")
        if origin and not self.allows(origin):
            raise _refusal("pages of this origin")

    def allows(self, origin: str) -> bool:
        """Whether pages of `origin` may read responses."""
        if self._any or origin.lower() in self._origins:
            return True
        return self._loopback and _host_of(origin) in _LOOPBACK_HOSTS

    def headers(self, origin: str) -> dict[str, str]:
        """Return the CORS headers of a response to `origin`."""
        if not origin or not self.allows(origin):
            return {}
        return {
            "access-control-allow-origin": origin,
            "access-control-expose-headers": _EXPOSED,
            "vary": "origin",
        }

    def preflight_headers(self, asked: str) -> dict[str, str]:
        """Return what a preflight adds; `asked` is its list of request headers.

        OpenAI's clients send headers of their own whose names have no end, so those are granted
        by prefix: the protocol has no pattern for them.
        """
        names = (name.strip().lower() for name in asked.split(","))
        own = sorted(
            {n for n in names if n.startswith(_STAINLESS) and n.replace("-", "").isalnum()}
        )
        return {
            "access-control-allow-methods": "GET, POST, OPTIONS",
            "access-control-allow-headers": ", ".join((_ALLOWED_HEADERS, *own)),
            "access-control-max-age": str(_PREFLIGHT_AGE_S),
        }


def _host_of(origin: str) -> str:
    try:
        return urlsplit(origin).hostname or ""
    except ValueError:
        return ""


def _refusal(what: str) -> PermissionDenied:
    return PermissionDenied(
        f"{what} may not call this mesh; allow it in `cors_origins`",
        reason=Reason.ORIGIN_NOT_ALLOWED,
    )
