"""The operator's own prices, which win over the built-in ones.

version: "2026-11"            # kept with every entry that these prices made
models:
  openai/gpt-4o:              # provider/model as in the ledger, or provider/* for all others
    input: "2.50"             # USD per million tokens, as text, so that nothing is rounded
    cached_input: "1.25"      # absent: as input
    cache_write: "2.50"       # absent: as input
    output: "10.00"
"""

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Final, cast

import yaml

from mesh.errors import FailedPrecondition, Reason
from services.metrics.price import Price, Rates, flat, to_rate

MAX_FILE_BYTES: Final = 4 << 20

_FIELDS: Final = ("input", "cached_input", "cache_write", "output")


def read_overrides(path: Path) -> Mapping[str, Price]:
    """Return the prices by `provider/model`; FailedPrecondition names what is wrong. Blocks."""
    try:
        text = path.read_bytes()
        if len(text) > MAX_FILE_BYTES:
            raise _wrong(path, "is larger than 4 MiB")
        loaded: object = yaml.safe_load(text)
    except OSError as error:
        raise _wrong(path, f"cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise _wrong(path, "is not YAML") from error
    return parse_overrides(loaded, path)


def parse_overrides(loaded: object, path: Path) -> Mapping[str, Price]:
    """Return the prices in a loaded file. Pure."""
    top = _table(loaded, path, "the file")
    models = _table(top.get("models", {}), path, "models")
    if unknown := set(top) - {"version", "models"}:
        raise _wrong(path, f"has an unknown entry {min(unknown)!r}")
    version = str(top.get("version", ""))
    return {name: _price(name, entry, version, path) for name, entry in models.items()}


def _price(name: str, entry: object, version: str, path: Path) -> Price:
    fields = _table(entry, path, name)
    if "/" not in name:
        raise _wrong(path, f"{name}: must be named provider/model")
    if unknown := set(fields) - set(_FIELDS):
        raise _wrong(path, f"{name}: unknown field {min(unknown)!r}")
    rates = {field: _rate(name, field, value, path) for field, value in fields.items()}
    if "input" not in rates or "output" not in rates:
        raise _wrong(path, f"{name}: input and output are required")
    return flat(
        Rates(
            input=rates["input"],
            cached_input=rates.get("cached_input", rates["input"]),
            cache_write=rates.get("cache_write", rates["input"]),
            output=rates["output"],
            reasoning=rates["output"],
        ),
        source="override",
        version=version,
    )


def _rate(name: str, field: str, value: object, path: Path) -> int:
    if not isinstance(value, str):
        raise _wrong(path, f"{name}.{field}: write the price in quotes")
    try:
        return to_rate(Decimal(value))
    except InvalidOperation as error:
        raise _wrong(path, f"{name}.{field}: {value!r} is not a number") from error
    except ValueError as error:
        raise _wrong(path, f"{name}.{field}: {error}") from error


def _table(value: object, path: Path, what: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise _wrong(path, f"{what} must be a map")
    return {str(key): item for key, item in cast("dict[object, object]", value).items()}


def _wrong(path: Path, why: str) -> FailedPrecondition:
    return FailedPrecondition(f"prices file {path}: {why}", reason=Reason.INVALID_SETTINGS)
