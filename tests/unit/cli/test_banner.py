"""The banner: everything that a newcomer needs, aligned, and plain where nobody looks."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from cli.banner import KEY_HINT, render_banner

LISTENERS = {
    name: f"127.0.0.1:{port}"
    for port, name in enumerate(("memory", "router", "cache", "metrics", "gateway"), 50046)
}
OFFLINE = "no key found: answers come from the offline model"


def shown(*, is_terminal: bool = False, lines: tuple[str, ...] = (OFFLINE,)) -> str:
    screen = Console(file=io.StringIO(), force_terminal=is_terminal, width=200)
    banner = render_banner(
        LISTENERS, "http://127.0.0.1:8080", Path("/data"), lines, "1.2.3", ready_s=0.56
    )
    screen.print(banner, soft_wrap=True)
    assert isinstance(screen.file, io.StringIO)
    return screen.file.getvalue()


def test_every_component_has_an_aligned_line_with_the_gateway_first() -> None:
    lines = [
        line for line in shown().splitlines() if "127.0.0.1:500" in line and "chat" not in line
    ]
    assert lines[0] == "  gateway  127.0.0.1:50050"
    assert len(lines) == len(LISTENERS)
    assert len({line.index("127") for line in lines}) == 1


@pytest.mark.parametrize(
    "needed",
    [
        "Plexus 1.2.3, ready in 0.6 s",
        "curl http://127.0.0.1:8080/v1/chat/completions",
        'client = OpenAI(base_url="http://127.0.0.1:8080/v1", api_key="any")',
        "plexus chat",
        "/data",
        "Ctrl-C",
        OFFLINE,
    ],
)
def test_it_says_what_a_newcomer_needs(needed: str) -> None:
    assert needed in shown()


def test_the_variable_to_set_is_named_only_when_there_is_no_language_model() -> None:
    assert KEY_HINT in shown()
    assert KEY_HINT not in shown(lines=("OPENAI_API_KEY is set: openai/gpt",))


def test_chat_is_told_the_address_unless_it_would_find_it() -> None:
    elsewhere = str(render_banner({"gateway": "127.0.0.1:7"}, "http://h", Path("/d"), []))
    assert "plexus chat --address 127.0.0.1:7\n" in elsewhere
    assert "--address" not in shown()


def test_only_a_terminal_gets_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    assert "\x1b[" not in shown()
    assert "\x1b[36m" in shown(is_terminal=True)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "36m" not in shown(is_terminal=True)
