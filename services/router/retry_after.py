"""How long a provider asks to be left alone."""

import math
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

LONGEST_S = 86_400.0
"""A day: what asks for more is cut to it."""


def retry_after_s(headers: Mapping[str, str], *, now_s: float) -> float | None:
    """Return the seconds to wait, or None when nothing readable is said.

    `now_s` is the Unix time, for the form of the header that is a date. Header names are
    looked up as given, so pass a case-insensitive mapping.
    """
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return _bounded(milliseconds / 1000)
    said = headers.get("retry-after", "").strip()
    seconds = _number(said)
    if seconds is None:
        seconds = _seconds_until(said, now_s)
    return None if seconds is None else _bounded(seconds)


def _bounded(seconds: float) -> float:
    return min(max(seconds, 0.0), LONGEST_S)


def _number(said: str) -> float | None:
    try:
        number = float(said)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _seconds_until(said: str, now_s: float) -> float | None:
    try:
        return parsedate_to_datetime(said).timestamp() - now_s
    except (ValueError, OverflowError):
        return None
