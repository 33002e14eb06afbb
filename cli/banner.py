"""What `plexus up` shows once it is ready: where everything is, and what to type next."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich.text import Text

from cli.version import plexus_version, program

ORDER = ("gateway", "memory", "router", "cache", "metrics")

KEY_HINT = "set OPENAI_API_KEY or ANTHROPIC_API_KEY, or start Ollama, to have a language model"

_LABEL = "dim"
_VALUE = "cyan"
_INDENT = "  "


def render_banner(
    listeners: Mapping[str, str],
    http_url: str,
    data_dir: Path | str,
    provider_lines: Sequence[str],
    version: str = "",
    *,
    ready_s: float | None = None,
) -> Text:
    """Return the banner; a console that is no terminal prints it without colour.

    `listeners` maps components to the addresses of their gRPC servers; `http_url` is the base of
    the HTTP edge, without a path. Print it only when the mesh is ready.
    """
    base_url = f"{http_url}/v1"
    rows: list[tuple[str, str]] = [(name, listeners[name]) for name in _ordered(listeners)]
    rows += [("openai", base_url), ("data", str(data_dir))]
    rows += [("" if at else "models", line) for at, line in enumerate(_hinted(provider_lines))]
    banner = Text()
    banner.append("Plexus", style="bold").append(f" {version or plexus_version()}")
    if ready_s is not None:
        banner.append(f", ready in {ready_s:.1f} s")
    banner.append("\n\n")
    width = max(len(label) for label, _ in rows) + 2
    for label, value in rows:
        style = _VALUE if label in listeners or label == "openai" else ""
        banner.append(f"{_INDENT}{label:<{width}}", style=_LABEL).append(f"{value}\n", style=style)
    for title, lines in _suggestions(base_url, _chat(listeners)):
        banner.append(f"\n{_INDENT}{title}\n", style=_LABEL)
        banner.append("".join(f"{_INDENT * 2}{line}\n" for line in lines))
    banner.append(f"\n{_INDENT}Ctrl-C stops it; what is stored stays.", style=_LABEL)
    return banner


def _ordered(listeners: Mapping[str, str]) -> Iterable[str]:
    known = [name for name in ORDER if name in listeners]
    return [*known, *(name for name in listeners if name not in ORDER)]


def _hinted(provider_lines: Sequence[str]) -> Sequence[str]:
    """Say which variable brings a language model when only the offline one answers."""
    if any("offline" not in line for line in provider_lines):
        return provider_lines
    return [*provider_lines, KEY_HINT]


def _chat(listeners: Mapping[str, str]) -> str:
    address = listeners.get("gateway", "")
    chat = f"{program()} chat"
    return chat if address.endswith(":50050") else f"{chat} --address {address}"


def _suggestions(base_url: str, chat: str) -> list[tuple[str, list[str]]]:
    said = '{"role": "user", "content": "My name is Ada. What is my name?"}'
    body = f'{{"model": "default", "messages": [{said}]}}'
    return [
        ("talk to it, from another terminal", [chat]),
        (
            "with curl",
            [
                f"curl {base_url}/chat/completions -H 'content-type: application/json' \\",
                f"{_INDENT}-d '{body}'",
            ],
        ),
        (
            "with the OpenAI client: change base_url, and nothing else",
            [
                "from openai import OpenAI",
                f'client = OpenAI(base_url="{base_url}", api_key="any")',
            ],
        ),
    ]
