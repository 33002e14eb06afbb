"""Where peers are installed, which versions, and what all HTTP peers have in common."""

from collections.abc import Mapping
from pathlib import Path

from bench.http_client import HttpChat
from bench.process import Process
from bench.prompts import fresh_prompts
from bench.target import CalledTarget

FOLDER = Path(__file__).resolve().parent.parent / ".peers"

LITELLM = "1.105.3"
PORTKEY = "1.15.2"
BIFROST = "1.6.4"
TENSORZERO = "2026.6.0"

INSTALL = "run `make bench-peers`"


def http_target(
    name: str,
    process: Process,
    *,
    headers: Mapping[str, str] | None = None,
    prefix: str = "",
) -> CalledTarget:
    """Return the target of a peer that speaks OpenAI's dialect; `prefix` goes before the model."""
    url = f"{process.ready['http_url']}/v1"
    return CalledTarget(
        name,
        (process.pid,),
        lambda model: HttpChat(
            url, f"{prefix}{model}", prompt=fresh_prompts(1), headers=headers or {}
        ),
    )
