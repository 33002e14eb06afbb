"""The cache itself: in-process level, single-flight, Redis, in this order.

What it promises:

- *Never an error.* Redis that is down or frozen costs a lookup or a store at most the link's
  time limit, then nothing until it is back; the in-process level and single-flight go on.
- *No stale answer after Invalidate.* An entry that was invalidated is served by no replica later
  than `max_staleness_s` after Invalidate began, because a replica that has not read the tenant's
  tokens for that long reads them first; Invalidate returns after that time. While a replica
  cannot reach Redis, the bound is the in-process lifetime instead.
- *Nothing across tenants.* Without a tenant nothing is read or stored; with one, all names in
  both levels and in single-flight begin with it.
"""

import asyncio
import random
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from mesh.clock import Clock
from mesh.redis_link import RedisUnavailable
from plexus.common.v1 import model_pb2
from services.cache.flights import Flights, FlightStatistics, Landed
from services.cache.keys import is_keyable, request_key, tenant_digest
from services.cache.lease import UNKNOWN, Lease, Tokens, decode_lease
from services.cache.local import LocalLevel, LocalStatistics
from services.cache.record import Record, decode, encode, is_complete
from services.cache.settings import CacheSettings
from services.cache.shared import Found, SharedLevel

Verdict = Literal["exact_hit", "joined_hit", "miss", "bypass", "unavailable"]
Level = Literal["", "l1", "l2"]
WhyNot = Literal["", "lease_lost", "no_store", "too_large", "incomplete", "unavailable"]

MAX_TENANTS: Final = 10_000
"""Tenants whose tokens are remembered; one that is forgotten costs a round trip."""

CODE_IN_THREAD_BYTES: Final = 64 << 10
"""Above this size (de)compressing takes long enough to be noticed by others on the loop."""


@dataclass(frozen=True, kw_only=True)
class Control:
    """How one call is to be treated; times in milliseconds, 0 means not given."""

    no_cache: bool = False
    no_store: bool = False
    max_age_ms: int = 0
    ttl_ms: int = 0


@dataclass(frozen=True, kw_only=True)
class Lookup:
    """How a lookup went. With a lease, call `store` or `release`."""

    verdict: Verdict
    key: bytes = b""
    record: Record | None = None
    level: Level = ""
    lease: str = ""


@dataclass(frozen=True, kw_only=True)
class CacheStatistics:
    """A snapshot; counts never go down."""

    lookups: Mapping[Verdict, int]
    stored: int
    not_stored: Mapping[WhyNot, int]
    unreadable: int
    local: LocalStatistics
    flights: FlightStatistics


@dataclass(frozen=True, slots=True)
class _Held:
    """An entry in the process: valid while the tenant's tokens are these."""

    record: Record
    tokens: Tokens


@dataclass(frozen=True, slots=True)
class _Lead:
    """A caller that found nothing so far and leads."""

    name: bytes
    key: bytes
    tokens: Tokens
    nonce: bytes | None


class Cache:
    """See the module. Belongs to one event loop; every method may be cancelled."""

    def __init__(
        self,
        settings: CacheSettings,
        shared: SharedLevel,
        *,
        clock: Clock,
        jitter: random.Random | None = None,
    ) -> None:
        self._settings = settings
        self._shared = shared
        self._clock = clock
        self._jitter = jitter or random.Random()
        self._local: LocalLevel[_Held] = LocalLevel(clock, max_bytes=settings.local_bytes)
        self._flights: Flights[Record] = Flights(
            clock,
            lease_s=settings.lease_ms / 1000,
            max_flights=settings.max_flights,
            max_waiters=settings.max_waiters,
        )
        self._tokens: OrderedDict[bytes, tuple[Tokens, float]] = OrderedDict()
        self._lookups: Counter[Verdict] = Counter()
        self._stored = 0
        self._not_stored: Counter[WhyNot] = Counter()
        self._unreadable = 0

    async def look_up(
        self,
        tenant: str,
        request: model_pb2.ModelRequest,
        control: Control,
        *,
        max_wait_ms: int = 0,
    ) -> Lookup:
        """Find the answer, wait for it, or lead."""
        lookup = await self._look_up(tenant, request, control, max_wait_ms / 1000)
        self._lookups[lookup.verdict] += 1
        return lookup

    async def store(
        self,
        tenant: str,
        lease_text: str,
        response: model_pb2.ModelResponse,
        control: Control,
    ) -> WhyNot:
        """Keep the leader's answer and give it to those who wait; return why not, or "".

        `unavailable` means that Redis has it not: this process and those who wait do.
        """
        why_not = await self._store(tenant, lease_text, response, control)
        if why_not:
            self._not_stored[why_not] += 1
        else:
            self._stored += 1
        return why_not

    def release(self, tenant: str, lease_text: str) -> None:
        """End a lease without an answer; one of those who wait leads. Twice is no error."""
        lease = decode_lease(lease_text)
        if tenant and lease is not None:
            place = _place(self._name(tenant), lease.key, lease.tokens)
            self._flights.finish(lease.nonce, place)

    async def invalidate(self, tenant: str, key: bytes) -> int:
        """Remove one entry everywhere; raise RedisUnavailable when that cannot be promised."""
        name = self._name(tenant)
        self._forget(name)
        self._local.discard(name + key)
        removed = await self._shared.remove(name, key)
        self._forget(name)
        await self._clock.sleep(self._settings.max_staleness_ms / 1000)
        return removed

    async def invalidate_all(self, tenant: str) -> None:
        """End all of the tenant's entries; raise RedisUnavailable as `invalidate` does."""
        name = self._name(tenant)
        await self._shared.end_epoch(name)
        self._forget(name)
        await self._clock.sleep(self._settings.max_staleness_ms / 1000)

    def statistics(self) -> CacheStatistics:
        """A snapshot."""
        return CacheStatistics(
            lookups=dict(self._lookups),
            stored=self._stored,
            not_stored=dict(self._not_stored),
            unreadable=self._unreadable,
            local=self._local.statistics(),
            flights=self._flights.statistics(),
        )

    async def _look_up(
        self, tenant: str, request: model_pb2.ModelRequest, control: Control, max_wait_s: float
    ) -> Lookup:
        if not tenant or not is_keyable(request) or (control.no_cache and control.no_store):
            return Lookup(verdict="bypass")
        key = request_key(tenant, request, secret=self._settings.key_secret)
        name = self._name(tenant)
        tokens, asked, seen = await self._current_tokens(name, key)
        if control.no_cache:
            return self._lead_alone(key, tokens)
        held = self._local.get(name + key)
        if held is not None and held.tokens == tokens and self._is_young(held.record, control):
            return Lookup(verdict="exact_hit", key=key, record=held.record, level="l1")
        record = await self._read(name + key, seen, control) if seen else None
        if record is not None:
            return Lookup(verdict="exact_hit", key=key, record=record, level="l2")
        max_wait_s = min(max_wait_s, self._settings.max_wait_ms / 1000)
        place = _place(name, key, tokens)
        entered = await self._flights.enter(place, max_wait_s=max_wait_s)
        if isinstance(entered, Landed):
            return Lookup(verdict="joined_hit", key=key, record=entered.answer)
        lead = _Lead(name, key, tokens, entered.nonce)
        if asked and not entered.waited:
            return self._missed(lead, reached=seen is not None)
        return await self._lead(lead, control)

    async def _lead(self, lead: _Lead, control: Control) -> Lookup:
        """As the leader, look into Redis; what is found there is given to those who wait."""
        place = _place(lead.name, lead.key, lead.tokens)
        try:
            asked_s = self._clock.monotonic_s()
            found = await self._shared.get(lead.name, lead.key)
            self._remember(lead.name, found.tokens, asked_s)
            record = await self._read(lead.name + lead.key, found, control)
        except RedisUnavailable:
            return self._missed(lead, reached=False)
        except BaseException:
            if lead.nonce is not None:
                self._flights.finish(lead.nonce, place)
            raise
        if record is None and found.tokens != lead.tokens:
            return await self._lead_anew(replace(lead, tokens=found.tokens), place)
        if record is None:
            return self._missed(lead, reached=True)
        if lead.nonce is not None:
            self._flights.land(lead.nonce, place, record)
            self._flights.finish(lead.nonce, place)
        return Lookup(verdict="exact_hit", key=lead.key, record=record, level="l2")

    async def _lead_anew(self, lead: _Lead, place: bytes) -> Lookup:
        """The tokens changed while the caller began to lead: what it stores belongs to the new."""
        if lead.nonce is not None:
            self._flights.finish(lead.nonce, place)
        new_place = _place(lead.name, lead.key, lead.tokens)
        entered = await self._flights.enter(new_place, max_wait_s=0)
        if isinstance(entered, Landed):
            return Lookup(verdict="joined_hit", key=lead.key, record=entered.answer)
        return self._missed(replace(lead, nonce=entered.nonce), reached=True)

    def _missed(self, lead: _Lead, *, reached: bool) -> Lookup:
        lease = self._lease(lead.nonce, lead.key, lead.tokens)
        return Lookup(verdict="miss" if reached else "unavailable", key=lead.key, lease=lease)

    async def _read(self, place: bytes, found: Found, control: Control) -> Record | None:
        """The entry that Redis gave, also put into the process for the rest of its life."""
        if found.value is None or found.ttl_ms <= 0:
            return None
        record = await self._decode(found.value)
        if record is None:
            self._unreadable += 1
            return None
        if record.epoch != found.tokens.epoch or not self._is_young(record, control):
            return None
        self._hold(place, record, found.tokens, found.ttl_ms)
        return record

    async def _store(
        self,
        tenant: str,
        lease_text: str,
        response: model_pb2.ModelResponse,
        control: Control,
    ) -> WhyNot:
        lease = decode_lease(lease_text)
        if not tenant or lease is None or lease.expires_ms <= self._now_ms():
            return "lease_lost"
        name = self._name(tenant)
        place = _place(name, lease.key, lease.tokens)
        try:
            if control.no_store:
                return "no_store"
            if not is_complete(response):
                return "incomplete"
            record = Record(response, response.ByteSize(), lease.tokens.epoch, self._now_ms())
            self._flights.land(lease.nonce, place, record)
            if record.size_bytes > self._settings.max_entry_bytes:
                return "too_large"
            return await self._keep(name, lease, record, self._ttl_ms(control.ttl_ms))
        finally:
            self._flights.finish(lease.nonce, place)

    async def _keep(self, name: bytes, lease: Lease, record: Record, ttl_ms: int) -> WhyNot:
        """Into the process first, so that no equal request falls between landing and Redis."""
        known = self._tokens.get(name)
        if known is not None and known[0] != lease.tokens:
            return "lease_lost"
        self._hold(name + lease.key, record, lease.tokens, ttl_ms)
        try:
            value = await self._encode(record)
            stored = await self._shared.put(
                name, lease.key, value, tokens=lease.tokens, ttl_ms=ttl_ms
            )
        except RedisUnavailable:
            return "unavailable"
        if not stored:
            self._local.discard(name + lease.key)
            self._forget(name)
        return "" if stored else "lease_lost"

    async def _decode(self, value: bytes) -> Record | None:
        limit = self._settings.max_entry_bytes
        if len(value) <= CODE_IN_THREAD_BYTES:
            return decode(value, max_bytes=limit)
        return await asyncio.to_thread(decode, value, max_bytes=limit)

    async def _encode(self, record: Record) -> bytes:
        above = self._settings.compress_above_bytes
        if record.size_bytes <= CODE_IN_THREAD_BYTES:
            return encode(record, compress_above_bytes=above)
        return await asyncio.to_thread(encode, record, compress_above_bytes=above)

    async def _current_tokens(self, name: bytes, key: bytes) -> tuple[Tokens, bool, Found | None]:
        """The tenant's tokens, at most `max_staleness_ms` old; older ones while Redis is away.

        With them whether Redis had to be asked, and what it then said about `key`.
        """
        known = self._tokens.get(name)
        now_s = self._clock.monotonic_s()
        if known is not None and (now_s - known[1]) * 1000 < self._settings.max_staleness_ms:
            return known[0], False, None
        try:
            found = await self._shared.get(name, key)
        except RedisUnavailable:
            return (known[0] if known is not None else UNKNOWN), True, None
        self._remember(name, found.tokens, now_s)
        return found.tokens, True, found

    def _remember(self, name: bytes, tokens: Tokens, asked_s: float) -> None:
        """Tokens are as old as the question, not as the answer."""
        known = self._tokens.get(name)
        if known is None or known[1] <= asked_s:
            self._tokens[name] = (tokens, asked_s)
            self._tokens.move_to_end(name)
            if len(self._tokens) > MAX_TENANTS:
                self._tokens.popitem(last=False)

    def _forget(self, name: bytes) -> None:
        self._tokens.pop(name, None)

    def _hold(self, place: bytes, record: Record, tokens: Tokens, ttl_ms: int) -> None:
        ttl_s = min(ttl_ms, self._settings.local_ttl_ms) / 1000
        self._local.put(place, _Held(record, tokens), size_bytes=record.size_bytes, ttl_s=ttl_s)

    def _lead_alone(self, key: bytes, tokens: Tokens) -> Lookup:
        """A caller that does not want old answers may still provide a new one."""
        return Lookup(verdict="bypass", key=key, lease=self._lease(bytes(16), key, tokens))

    def _lease(self, nonce: bytes | None, key: bytes, tokens: Tokens) -> str:
        expires_ms = self._now_ms() + self._settings.lease_ms
        return Lease(nonce, key, tokens, expires_ms).encode() if nonce is not None else ""

    def _ttl_ms(self, asked_ms: int) -> int:
        """The lifetime of an entry: varied, and never longer than asked for or allowed."""
        settings = self._settings
        base_ms = min(asked_ms or settings.default_ttl_ms, settings.max_ttl_ms)
        varied_ms = base_ms * (1 + self._jitter.uniform(-settings.ttl_jitter, settings.ttl_jitter))
        limit_ms = base_ms if asked_ms else settings.max_ttl_ms
        return max(1, min(int(varied_ms), limit_ms))

    def _is_young(self, record: Record, control: Control) -> bool:
        age_ms = self._now_ms() - record.store_time_ms
        return not control.max_age_ms or age_ms <= control.max_age_ms

    def _now_ms(self) -> int:
        return self._clock.time_ns() // 1_000_000

    def _name(self, tenant: str) -> bytes:
        return tenant_digest(tenant, secret=self._settings.key_secret)


def _place(name: bytes, key: bytes, tokens: Tokens) -> bytes:
    """Where equal requests meet: not across an invalidation, which the later one must not join."""
    return name + key + tokens.epoch + tokens.generation
