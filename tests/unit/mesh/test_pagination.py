"""Page tokens: they continue the listing they came from, and no other."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import InvalidArgument, Reason
from mesh.pagination import MAX_PAGE_TOKEN_BYTES, decode_page_token, encode_page_token

positions = st.dictionaries(
    st.text(max_size=8), st.one_of(st.integers(-(2**53), 2**53), st.text(max_size=20)), max_size=4
)


@given(st.text(max_size=10), st.binary(max_size=32), positions)
def test_a_token_gives_back_its_position(
    kind: str, fingerprint: bytes, position: dict[str, object]
) -> None:
    token = encode_page_token(kind, fingerprint, position)
    assert decode_page_token(kind, fingerprint, token) == position
    assert token.isascii()


def refused(kind: str, fingerprint: bytes, token: str) -> InvalidArgument:
    with pytest.raises(InvalidArgument) as caught:
        decode_page_token(kind, fingerprint, token)
    assert caught.value.reason == Reason.INVALID_PAGE_TOKEN
    return caught.value


def test_a_token_is_bound_to_its_listing_and_query() -> None:
    token = encode_page_token("memories", b"query", {"after": 1})
    refused("messages", b"query", token)
    refused("memories", b"other", token)
    # What separates the fields is their length, not their content.
    refused("memoriesq", b"uery", token)


@given(st.text(max_size=60))
def test_no_token_can_be_made_up(token: str) -> None:
    assert refused("memories", b"", token).violations[0][0] == "page_token"


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_changed_token_is_refused(place: int, change: int) -> None:
    token = encode_page_token("memories", b"q", {"after": "m-123"})
    raw = bytearray(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    raw[place % len(raw)] ^= change
    refused("memories", b"q", base64.urlsafe_b64encode(raw).rstrip(b"=").decode())


def test_a_huge_token_is_refused_unread() -> None:
    refused("memories", b"", "A" * (MAX_PAGE_TOKEN_BYTES + 1))
