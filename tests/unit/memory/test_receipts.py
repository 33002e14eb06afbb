"""Versions: what a draft may be written over, and as which version."""

import pytest

from services.memory.receipts import ReceiptBody, decode_receipt, next_version
from services.memory.store import ANY_VERSION

LIVE = {"version": 4, "created_us": 7}
EXPIRED = {"version": 4, "created_us": 7, "expires_us": 100}


@pytest.mark.parametrize(
    ("expected_version", "kept", "decided"),
    [
        (ANY_VERSION, None, (1, None)),
        (0, None, (1, None)),
        (1, None, None),
        (ANY_VERSION, LIVE, (5, 7)),
        (0, LIVE, None),
        (4, LIVE, (5, 7)),
        (3, LIVE, None),
        (ANY_VERSION, EXPIRED, (5, None)),
        (0, EXPIRED, (5, None)),
        (4, EXPIRED, None),
    ],
)
def test_the_version_to_write(
    expected_version: int, kept: dict[str, int] | None, decided: tuple[int, int | None] | None
) -> None:
    assert next_version(expected_version, kept, 100) == decided


def test_what_expires_later_is_live() -> None:
    assert next_version(4, EXPIRED, 99) == (5, 7)


@pytest.mark.parametrize("versions", [None, [1, None]])
def test_a_receipt_reads_back_as_written(versions: list[int | None] | None) -> None:
    body = ReceiptBody("mark", ["a", "b"], versions)
    assert decode_receipt(body.encode()) == body
