"""A lease: the permission to store one answer. It says all that any replica needs to store it.

It is no secret and needs no signature: what is stored under it lands in the caller's own
tenant, under a key that the caller could have asked for anyway.
"""

import binascii
import struct
from dataclasses import dataclass
from typing import Final

from services.cache.keys import KEY_BYTES

NONCE_BYTES: Final = 16
TOKEN_BYTES: Final = 8
_FORM: Final = struct.Struct(f">B{NONCE_BYTES}s{KEY_BYTES}s{TOKEN_BYTES}s{TOKEN_BYTES}sq")
_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Tokens:
    """What entries of a tenant are valid for; both change at random, and only equality counts.

    A new epoch ends all entries. A new generation ends those in processes, after single ones
    were removed from Redis.
    """

    epoch: bytes
    generation: bytes


UNKNOWN: Final = Tokens(bytes(TOKEN_BYTES), bytes(TOKEN_BYTES))
"""Stands in while Redis has not been reached yet; never equal to tokens from Redis."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A leader's lease on one key. `expires_ms` is Unix time, the same for every replica."""

    nonce: bytes
    key: bytes
    tokens: Tokens
    expires_ms: int

    def encode(self) -> str:
        """Return the text that the leader is given."""
        return _FORM.pack(
            _VERSION,
            self.nonce,
            self.key,
            self.tokens.epoch,
            self.tokens.generation,
            self.expires_ms,
        ).hex()


def decode_lease(text: str) -> Lease | None:
    """Return the lease in `text`; None when it is none of ours."""
    try:
        version, nonce, key, epoch, generation, expires_ms = _FORM.unpack(binascii.unhexlify(text))
    except (binascii.Error, struct.error, ValueError):
        return None
    if version != _VERSION:
        return None
    return Lease(nonce, key, Tokens(epoch, generation), expires_ms)
