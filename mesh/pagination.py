"""Opaque page tokens: bound to the query they continue, and checked, so that none can be made up.

A token is base64url(checksum | json). The checksum covers the kind of listing, the
fingerprint of the query and the position. It detects mistakes and hand-made tokens; it
is no secret, and a position never grants access: the tenant filter is applied anew.
"""

import base64
import binascii
import hashlib
from typing import cast

import orjson

from mesh.errors import InvalidArgument, Reason

_CHECKSUM_BYTES = 8
MAX_PAGE_TOKEN_BYTES = 2048


def encode_page_token(kind: str, fingerprint: bytes, position: dict[str, object]) -> str:
    """Return the token that continues listing `kind` for the same query at `position`."""
    body = orjson.dumps(position, option=orjson.OPT_SORT_KEYS)
    checksum = _checksum(kind, fingerprint, body)
    return base64.urlsafe_b64encode(checksum + body).rstrip(b"=").decode()


def decode_page_token(kind: str, fingerprint: bytes, token: str) -> dict[str, object]:
    """Return the position in `token`; raise InvalidArgument(INVALID_PAGE_TOKEN) for any other."""
    if len(token) > MAX_PAGE_TOKEN_BYTES:
        raise _invalid()
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise _invalid() from error
    checksum, body = raw[:_CHECKSUM_BYTES], raw[_CHECKSUM_BYTES:]
    if checksum != _checksum(kind, fingerprint, body):
        raise _invalid()
    return cast("dict[str, object]", orjson.loads(body))


def _checksum(kind: str, fingerprint: bytes, body: bytes) -> bytes:
    digest = hashlib.blake2b(digest_size=_CHECKSUM_BYTES, person=b"plexus-page")
    for field in (kind.encode(), fingerprint, body):
        digest.update(len(field).to_bytes(4, "big"))
        digest.update(field)
    return digest.digest()


def _invalid() -> InvalidArgument:
    why = "not a page token of this listing with these arguments; start from the first page"
    return InvalidArgument(
        f"page_token: {why}",
        reason=Reason.INVALID_PAGE_TOKEN,
        violations=[("page_token", why)],
    )
