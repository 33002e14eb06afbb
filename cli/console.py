"""Where the command writes: answers to standard output, everything about them to standard error.

Colour and cursor movement are for terminals only; NO_COLOR turns colour off there, too. What
comes from a model or a server is shown without control characters: it must not be able to
move a reader's cursor or set their clipboard.
"""

import re
import sys
from typing import Final

from rich.console import Console

PIPE_WIDTH: Final = 160
"""Columns when nobody looks: tables in a pipe are not to be folded at 80."""

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def output() -> Console:
    """Return a console on standard output."""
    return _console(stderr=False, is_terminal=sys.stdout.isatty())


def errors() -> Console:
    """Return a console on standard error."""
    return _console(stderr=True, is_terminal=sys.stderr.isatty())


def plain(text: str) -> str:
    """Return `text` without control characters other than line feed and tab."""
    return _CONTROLS.sub("", text)


def _console(*, stderr: bool, is_terminal: bool) -> Console:
    return Console(
        stderr=stderr,
        markup=False,
        highlight=False,
        emoji=False,
        width=None if is_terminal else PIPE_WIDTH,
        force_terminal=is_terminal,
    )
