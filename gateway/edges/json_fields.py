"""Typed reading of a JSON request body. An error names the field, never its value."""

from typing import cast

import orjson

from mesh.errors import InvalidArgument, Reason
from mesh.validation import invalid

Json = dict[str, object]


class Fields:
    """One JSON object. Null counts as absent. What was not read can be asked for with `rest`."""

    __slots__ = ("_path", "_read", "_values")

    def __init__(self, values: Json, path: str = "") -> None:
        self._values = values
        self._path = path
        self._read: set[str] = set()

    @classmethod
    def parse(cls, body: bytes) -> "Fields":
        """Return the object in `body`; raise InvalidArgument(MALFORMED_BODY) if it is none."""
        try:
            value: object = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise malformed(f"is not JSON: line {error.lineno}, column {error.colno}") from None
        if not isinstance(value, dict):
            raise malformed("must be a JSON object")
        return cls(cast("Json", value))

    def where(self, name: str) -> str:
        """Return the path of a field, for errors."""
        return f"{self._path}.{name}" if self._path else name

    def take(self, name: str) -> object:
        """Return the value as it is; None when absent."""
        self._read.add(name)
        return self._values.get(name)

    def text(self, name: str, default: str = "") -> str:
        """Return a string."""
        value = self.take(name)
        if value is None:
            return default
        if not isinstance(value, str):
            raise invalid(self.where(name), "must be a string")
        return value

    def required_text(self, name: str) -> str:
        """Return a string that must be there and not be empty."""
        value = self.text(name)
        if not value:
            raise invalid(self.where(name), "is required")
        return value

    def flag(self, name: str) -> bool:
        """Return a boolean; absent is false."""
        value = self.take(name)
        if value is not None and not isinstance(value, bool):
            raise invalid(self.where(name), "must be true or false")
        return bool(value)

    def number(self, name: str) -> float | None:
        """Return a number; None when absent."""
        value = self.take(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise invalid(self.where(name), "must be a number")
        return float(value)

    def integer(self, name: str, *, low: int, high: int) -> int | None:
        """Return a whole number from `low` to `high`; None when absent."""
        value = self.take(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            raise invalid(self.where(name), "must be a whole number")
        if not low <= value <= high:
            raise invalid(self.where(name), f"must be {low} to {high}")
        return value

    def items(self, name: str) -> list[object]:
        """Return a list; absent is empty."""
        value = self.take(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise invalid(self.where(name), "must be a list")
        return cast("list[object]", value)

    def child(self, name: str) -> "Fields | None":
        """Return an object; None when absent."""
        value = self.take(name)
        return None if value is None else Fields.of(value, self.where(name))

    def required_child(self, name: str) -> "Fields":
        """Return an object that must be there."""
        return Fields.of(self.take(name), self.where(name))

    def children(self, name: str) -> list["Fields"]:
        """Return a list of objects; absent is empty."""
        path = self.where(name)
        return [Fields.of(item, f"{path}[{n}]") for n, item in enumerate(self.items(name))]

    def rest(self) -> Json:
        """Return the fields that nobody has read and that are not null."""
        return {
            name: value
            for name, value in self._values.items()
            if name not in self._read and value is not None
        }

    @staticmethod
    def of(value: object, path: str) -> "Fields":
        """Return `value` as an object."""
        if not isinstance(value, dict):
            raise invalid(path, "must be an object")
        return Fields(cast("Json", value), path)


def malformed(why: str) -> InvalidArgument:
    """Return the error for a body that is not what the edge expects."""
    return InvalidArgument(f"the request body {why}", reason=Reason.MALFORMED_BODY)
