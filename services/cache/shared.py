"""The shared level: entries in Redis, and the tokens that end them.

A tenant's keys share one hash tag, so that a script may touch its tokens and an entry at once.
Redis may forget anything at any time: lost tokens are drawn anew, and old entries then miss.
"""

import secrets
from dataclasses import dataclass
from typing import Final

from mesh.redis_link import RedisLink, Reply, Script
from services.cache.lease import TOKEN_BYTES, Tokens

PREFIX: Final = "plexus:c"

# KEYS: tokens, entry. ARGV: an epoch and a generation to use when there are none.
_GET: Final = Script("""\
local tokens = redis.call('HMGET', KEYS[1], 'e', 'g')
if not tokens[1] or not tokens[2] then
  redis.call('HSET', KEYS[1], 'e', ARGV[1], 'g', ARGV[2])
  return {ARGV[1], ARGV[2]}
end
local value = redis.call('GET', KEYS[2])
if not value then return tokens end
return {tokens[1], tokens[2], value, redis.call('PTTL', KEYS[2])}
""")

# KEYS: tokens, entry. ARGV: the epoch and generation of the lease, value, lifetime in ms.
_PUT: Final = Script("""\
local tokens = redis.call('HMGET', KEYS[1], 'e', 'g')
if tokens[1] ~= ARGV[1] or tokens[2] ~= ARGV[2] then return 0 end
redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[4])
return 1
""")

# KEYS: tokens, entry. ARGV: the new generation. Entries in processes end with the old one.
_REMOVE: Final = Script("""\
local removed = redis.call('UNLINK', KEYS[2])
redis.call('HSET', KEYS[1], 'g', ARGV[1])
return removed
""")


@dataclass(frozen=True, slots=True)
class Found:
    """What Redis holds: the tenant's tokens, and the entry with its time to live, if any."""

    tokens: Tokens
    value: bytes | None
    ttl_ms: int


class SharedLevel:
    """Entries by tenant and key. Every method raises RedisUnavailable within the link's limit."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link

    async def get(self, tenant: bytes, key: bytes) -> Found:
        """Read the tokens and the entry in one round trip."""
        fresh = [_token(), _token()]
        reply = _list(
            await self._link.run(_GET, keys=_keys(tenant, key), arguments=fresh),
        )
        tokens = Tokens(_bytes(reply[0]), _bytes(reply[1]))
        if len(reply) < 4:
            return Found(tokens, None, 0)
        ttl_ms = reply[3]
        return Found(tokens, _bytes(reply[2]), ttl_ms if isinstance(ttl_ms, int) else 0)

    async def put(
        self, tenant: bytes, key: bytes, value: bytes, *, tokens: Tokens, ttl_ms: int
    ) -> bool:
        """Store the entry unless the tokens have changed since; False then."""
        arguments = [tokens.epoch, tokens.generation, value, ttl_ms]
        return await self._link.run(_PUT, keys=_keys(tenant, key), arguments=arguments) == 1

    async def remove(self, tenant: bytes, key: bytes) -> int:
        """Remove one entry and end what processes hold of the tenant; return how many went."""
        removed = await self._link.run(_REMOVE, keys=_keys(tenant, key), arguments=[_token()])
        return removed if isinstance(removed, int) else 0

    async def end_epoch(self, tenant: bytes) -> None:
        """End all entries of the tenant; Redis forgets them when their time is up."""
        await self._link.execute("HSET", _keys(tenant, b"")[0], "e", _token(), "g", _token())


def _keys(tenant: bytes, key: bytes) -> list[str]:
    tag = f"{PREFIX}:{{{tenant.hex()}}}"
    return [f"{tag}:t", f"{tag}:e:{key.hex()}"]


def _token() -> bytes:
    """Random, so that no token ever comes back; never zero, which is `UNKNOWN`."""
    return secrets.token_bytes(TOKEN_BYTES - 1) + b"\x01"


def _list(reply: Reply) -> list[Reply]:
    return reply if isinstance(reply, list) else [None, None]


def _bytes(reply: Reply) -> bytes:
    return reply if isinstance(reply, bytes) else bytes(TOKEN_BYTES)
