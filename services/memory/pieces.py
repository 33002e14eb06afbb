"""Cuts a document into pieces by its structure.

Headings, paragraphs and fenced code are the natural borders; pieces fill up to about
`PIECE_TOKENS` without crossing a heading. A block that is too long alone is cut at sentences,
then words, then characters. No text is lost and none is repeated; each piece knows the headings
it stands under.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from mesh.tokens import estimate_tokens

PIECE_TOKENS = 180
"""Short enough for a small embedding model's window, long enough to stand alone."""

_HEADING = re.compile(r"^(#{1,6})\s+(.*?)\s*#*\s*$")
_FENCE = re.compile(r"^\s*(```|~~~)")
_SENTENCE_END = re.compile(r"(?<=[.!?。！？])\s+")


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a document and the headings above it, outermost first."""

    text: str
    headings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Block:
    text: str
    headings: tuple[str, ...]


def split(document: str, *, markdown: bool, piece_tokens: int = PIECE_TOKENS) -> list[Piece]:
    """Return the document's pieces in order; none of them is blank."""
    pieces: list[Piece] = []
    held: list[str] = []
    held_under: tuple[str, ...] = ()
    held_tokens = 0

    def release() -> None:
        nonlocal held, held_tokens
        if held:
            pieces.append(Piece("\n\n".join(held), held_under))
        held, held_tokens = [], 0

    for block in _blocks(document, markdown=markdown):
        for part in _fitting(block.text, piece_tokens):
            cost = estimate_tokens(part) + 1
            if block.headings != held_under or held_tokens + cost > piece_tokens:
                release()
            held_under = block.headings
            held.append(part)
            held_tokens += cost
    release()
    return pieces


def _blocks(document: str, *, markdown: bool) -> Iterator[_Block]:
    """Yield paragraphs and whole fenced blocks, each under its headings."""
    headings: list[tuple[int, str]] = []
    lines: list[str] = []
    fence = ""

    def block() -> list[_Block]:
        text = "\n".join(lines).strip()
        lines.clear()
        return [_Block(text, tuple(title for _, title in headings))] if text else []

    for line in document.splitlines():
        opening = _FENCE.match(line) if markdown else None
        if opening and fence in ("", opening[1]):
            if not fence:
                yield from block()
            lines.append(line)
            if fence:
                yield from block()
            fence = "" if fence else opening[1]
        elif fence:
            lines.append(line)
        elif markdown and (heading := _HEADING.match(line)):
            yield from block()
            level = len(heading[1])
            headings = [each for each in headings if each[0] < level]
            headings.append((level, heading[2]))
        elif line.strip():
            lines.append(line)
        else:
            yield from block()
    yield from block()


def _fitting(text: str, piece_tokens: int) -> Iterator[str]:
    """Yield the text whole, or cut at the best borders that give parts that fit."""
    if estimate_tokens(text) < piece_tokens:
        yield text
        return
    for border in ("\n", _SENTENCE_END, " "):
        parts = border.split(text) if isinstance(border, re.Pattern) else text.split(border)
        if len(parts) > 1:
            joint = border if isinstance(border, str) else " "
            yield from _refilled(parts, joint, piece_tokens)
            return
    half = len(text) // 2
    yield from _fitting(text[:half], piece_tokens)
    yield from _fitting(text[half:], piece_tokens)


def _refilled(parts: list[str], joint: str, piece_tokens: int) -> Iterator[str]:
    """Join neighbours again as long as they fit together."""
    held = ""
    for part in parts:
        joined = f"{held}{joint}{part}" if held else part
        if estimate_tokens(joined) < piece_tokens:
            held = joined
            continue
        if held.strip():
            yield held
        held = ""
        if estimate_tokens(part) < piece_tokens:
            held = part
        else:
            yield from _fitting(part, piece_tokens)
    if held.strip():
        yield held
