"""The part of a run that other gateways see: its events, its lease and its key, in Redis.

A run's keys share the hash tag of its execution, so that they work on a cluster: `e` its events,
one stream entry each, whose id is the sequence number; `m` its tenant, token and flags; `l` the
lease of the gateway that runs it; `r` that somebody reads it elsewhere. An idempotency key has
one record of its own. Everything has a lifetime; nothing needs to be cleaned up.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast

from mesh.redis_link import RedisLink, Script

PREFIX: Final = "plexus:g:"

EVENTS_PER_CALL: Final = 256
"""How many events one call to Redis carries at most, either way."""

# KEYS: events, meta, lease, reader. ARGV: tenant, token, first sequence number, whether the run
# ends with these events, lease and lifetime in ms, events. Without events it only renews.
# A number that is there already is passed over, so sending twice is harmless; before a gap nothing
# is written, and the last number that is there says from where to go on.
_APPEND: Final = Script("""\
if redis.call('EXISTS', KEYS[2]) == 0 then redis.call('DEL', KEYS[1]) end
redis.call('HSET', KEYS[2], 't', ARGV[1], 'k', ARGV[2])
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
local last = 0
if newest[1] then last = tonumber(string.match(newest[1][1], '^%d+')) end
local first = tonumber(ARGV[3])
local ended = ARGV[4]
if first > last + 1 then
  ended = '0'
else
  for at = 7, #ARGV do
    local sequence = first + at - 7
    if sequence > last then
      redis.call('XADD', KEYS[1], sequence .. '-0', 'e', ARGV[at])
      last = sequence
    end
  end
end
if ended == '1' then
  redis.call('HSET', KEYS[2], 'd', '1')
  redis.call('DEL', KEYS[3])
else
  redis.call('SET', KEYS[3], '1', 'PX', ARGV[5])
end
redis.call('PEXPIRE', KEYS[1], ARGV[6])
redis.call('PEXPIRE', KEYS[2], ARGV[6])
return {last, redis.call('HEXISTS', KEYS[2], 'c'), redis.call('EXISTS', KEYS[4])}
""")

# KEYS: events, meta, lease, reader. ARGV: first sequence number, how many events, for how long
# the reader counts as present in ms.
_READ: Final = Script("""\
redis.call('SET', KEYS[4], '1', 'PX', ARGV[3])
local found = redis.call('XRANGE', KEYS[1], ARGV[1] .. '-0', '+', 'COUNT', ARGV[2])
local events = {}
for at, entry in ipairs(found) do events[at] = entry[2][2] end
local meta = redis.call('HMGET', KEYS[2], 't', 'd')
local begun = meta[1] and 1 or 0
local ended = meta[2] and 1 or 0
return {begun, ended, redis.call('EXISTS', KEYS[3]), events}
""")

# KEYS: meta, lease.
_CANCEL: Final = Script("""\
if redis.call('EXISTS', KEYS[1], KEYS[2]) < 2 then return 0 end
redis.call('HSET', KEYS[1], 'c', '1')
return 1
""")

# KEYS: the key's record. ARGV: fingerprint, execution, lease in ms.
_CLAIM: Final = Script("""\
local held = redis.call('HMGET', KEYS[1], 'f', 'x')
if held[1] and (held[1] ~= ARGV[1] or held[2] ~= ARGV[2]) then return held end
redis.call('HSET', KEYS[1], 'f', ARGV[1], 'x', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return {ARGV[1], ARGV[2]}
""")

# KEYS: the key's record. ARGV: execution, lifetime in ms; 0 frees the key.
_KEEP: Final = Script("""\
if redis.call('HGET', KEYS[1], 'x') ~= ARGV[1] then return 0 end
if ARGV[2] == '0' then return redis.call('DEL', KEYS[1]) end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
""")


@dataclass(frozen=True, slots=True)
class Appended:
    """What the owner of a run learns whenever it writes or renews."""

    last: int
    """The sequence number of the last event in Redis."""
    cancelled: bool
    """Whether somebody asked another gateway to cancel the run."""
    is_read: bool
    """Whether another gateway has a reader of the run."""


@dataclass(frozen=True, slots=True)
class Tail:
    """What a reader on another gateway learns."""

    events: Sequence[bytes]
    begun: bool
    """Whether its owner has written anything."""
    ended: bool
    """Whether the terminal event is in Redis."""
    owned: bool
    """Whether the owner's lease holds."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Who holds an idempotency key."""

    fingerprint: bytes
    execution: str


class SharedLog:
    """Runs in Redis. Each method is one round trip and raises RedisUnavailable within its limit."""

    def __init__(self, link: RedisLink, *, lease_s: float, retention_s: float) -> None:
        """The lease ends `lease_s` after the last append; an ended run stays `retention_s`."""
        self._link = link
        self._lease_ms = round(lease_s * 1000)
        self._retention_ms = round(retention_s * 1000)

    async def append(
        self,
        execution: str,
        *,
        tenant: str,
        token: str,
        first: int,
        events: Sequence[bytes] = (),
        ended: bool = False,
    ) -> Appended:
        """Write events from sequence number `first` on, and renew the lease, or end it."""
        lifetime_ms = self._retention_ms if ended else self._retention_ms + self._lease_ms
        reply = await self._link.run(
            _APPEND,
            keys=_keys(execution, "emlr"),
            arguments=(
                *(tenant, token, first, int(ended)),
                *(self._lease_ms, lifetime_ms, *events),
            ),
        )
        last, cancelled, is_read = cast("list[int]", reply)
        return Appended(last, bool(cancelled), bool(is_read))

    async def read(self, execution: str, *, after: int, present_s: float) -> Tail:
        """Return events after sequence number `after`; counts as a reader for `present_s`."""
        reply = await self._link.run(
            _READ,
            keys=_keys(execution, "emlr"),
            arguments=(after + 1, EVENTS_PER_CALL, round(present_s * 1000)),
        )
        begun, ended, owned, events = cast("tuple[int, int, int, list[bytes]]", reply)
        return Tail(events, bool(begun), bool(ended), bool(owned))

    async def find(self, execution: str) -> tuple[str, str] | None:
        """Return tenant and resume token of a run."""
        (meta,) = _keys(execution, "m")
        tenant, token = cast(
            "list[bytes | None]", await self._link.execute("HMGET", meta, "t", "k")
        )
        return None if tenant is None or token is None else (tenant.decode(), token.decode())

    async def cancel(self, execution: str) -> bool:
        """Ask the owner to cancel; False when the run has ended or its owner is gone."""
        return await self._link.run(_CANCEL, keys=_keys(execution, "ml")) == 1

    async def claim(self, tenant: str, key: str, *, fingerprint: bytes, execution: str) -> Claim:
        """Take an idempotency key for a lease's time, or return who holds it."""
        reply = await self._link.run(
            _CLAIM,
            keys=(_key_record(tenant, key),),
            arguments=(fingerprint, execution, self._lease_ms),
        )
        held_fingerprint, holder = cast("list[bytes]", reply)
        return Claim(held_fingerprint, holder.decode())

    async def keep_key(self, tenant: str, key: str, *, execution: str) -> None:
        """Hold a key of ours for another lease's time."""
        await self._keep(tenant, key, execution, self._lease_ms)

    async def settle_key(self, tenant: str, key: str, *, execution: str, keep: bool) -> None:
        """The run has ended: hold its key for the retention, or free it for a repeat."""
        await self._keep(tenant, key, execution, self._retention_ms if keep else 0)

    async def _keep(self, tenant: str, key: str, execution: str, lifetime_ms: int) -> None:
        record = _key_record(tenant, key)
        await self._link.run(_KEEP, keys=(record,), arguments=(execution, lifetime_ms))


def _keys(execution: str, names: str) -> tuple[str, ...]:
    return tuple(f"{PREFIX}{{{execution}}}:{name}" for name in names)


def _key_record(tenant: str, key: str) -> str:
    named = hashlib.blake2b(f"{tenant}\0{key}".encode(), digest_size=16).hexdigest()
    return f"{PREFIX}{{{named}}}:k"
