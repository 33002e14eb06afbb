"""Which series a PromQL expression reads: names, and the labels it asks of them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

KEYWORDS = {"and", "or", "unless", "bool", "offset", "inf", "nan", "group_left", "group_right"}
_TEMPLATES = re.compile(r"\$__\w+|\$\w+|<<\.\w+>>")
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)")
_SELECTOR = re.compile(r"([A-Za-z_:][\w:]*)?\s*\{([^}]*)\}")
_MATCHER = re.compile(r'([A-Za-z_]\w*)\s*(=~|!~|!=|=)\s*"((?:[^"\\]|\\.)*)"')
_NAME = re.compile(r"(?<![\w:.$])([A-Za-z_:][\w:]*)(?!\s*\()(?![\w:])")


@dataclass(frozen=True)
class Series:
    """One selector: a name and its matchers."""

    name: str
    matchers: tuple[tuple[str, str, str], ...] = ()


def series_of(expression: str) -> set[Series]:
    """Return every selector in the expression."""
    return set(_series(expression))


def groupings_of(expression: str) -> set[str]:
    """Return every label that the expression groups by."""
    found = _GROUPING.findall(_TEMPLATES.sub("", expression))
    return {label.strip() for labels in found for label in labels.split(",") if label.strip()}


def _series(expression: str) -> Iterator[Series]:
    for match in _SELECTOR.finditer(expression):
        if match[1]:
            yield Series(match[1], tuple(_MATCHER.findall(match[2])))
    rest = _SELECTOR.sub(" ", expression)
    rest = _GROUPING.sub(" ", rest)
    rest = re.sub(r"\[[^\]]*\]", " ", rest)
    rest = _TEMPLATES.sub(" ", rest)
    for match in _NAME.finditer(rest):
        if match[1].lower() not in KEYWORDS:
            yield Series(match[1])
