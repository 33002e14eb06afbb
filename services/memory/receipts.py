"""The text of a receipt record, and the rule that decides a draft's version."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.memory.payload import CREATED, EXPIRES, VERSION
from services.memory.store import ANY_VERSION


@dataclass(frozen=True, slots=True)
class ReceiptBody:
    """What is kept under a receipt's name. Without versions it is a claim: the write had begun."""

    fingerprint: str
    ids: Sequence[str]
    versions: Sequence[int | None] | None

    def encode(self) -> str:
        """Return the text to store."""
        return json.dumps([self.fingerprint, list(self.ids), self.versions], separators=(",", ":"))


def decode_receipt(text: str) -> ReceiptBody:
    """Return what `encode` was given."""
    fingerprint, ids, versions = json.loads(text)
    return ReceiptBody(fingerprint, ids, versions)


def is_expired(payload: Mapping[str, Any], now_us: int) -> bool:
    """Whether the point may not be read any more."""
    expires_us = payload.get(EXPIRES)
    return expires_us is not None and expires_us <= now_us


def next_version(
    expected_version: int, kept: Mapping[str, Any] | None, now_us: int
) -> tuple[int, int | None] | None:
    """Return the version to write and the creation time to keep, or None when the draft must not.

    What has expired counts as absent, but an item's version never repeats while its point exists.
    """
    if kept is None:
        return (1, None) if expected_version in (ANY_VERSION, 0) else None
    version = int(kept[VERSION])
    if is_expired(kept, now_us):
        return (version + 1, None) if expected_version in (ANY_VERSION, 0) else None
    if expected_version not in (ANY_VERSION, version):
        return None
    return version + 1, int(kept[CREATED])
