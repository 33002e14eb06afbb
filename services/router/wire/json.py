"""JSON of strangers: objects that may lack what they should have."""

from typing import Any, cast

import orjson

Json = dict[str, Any]


def parse_object(data: bytes | str) -> Json | None:
    """Return the JSON object in `data`, or None when it is anything else."""
    try:
        value: object = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return cast("Json", value) if isinstance(value, dict) else None


def child(parent: Json, key: str) -> Json:
    """Return the object under `key`; an empty one when there is none."""
    value: object = parent.get(key)
    return cast("Json", value) if isinstance(value, dict) else {}


def items(parent: Json, key: str) -> list[Json]:
    """Return the objects in the list under `key`; none when there is no list."""
    value: object = parent.get(key)
    if not isinstance(value, list):
        return []
    return [cast("Json", item) for item in cast("list[object]", value) if isinstance(item, dict)]


def text(parent: Json, key: str) -> str:
    """Return the text under `key`; empty when there is none."""
    value: object = parent.get(key)
    return value if isinstance(value, str) else ""


def count(parent: Json, key: str) -> int:
    """Return the whole number under `key`; 0 when there is none or it is negative."""
    value: object = parent.get(key)
    return max(0, value) if isinstance(value, int) else 0
