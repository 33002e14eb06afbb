"""The ledger in Redis: one script books a batch, so an event is in it once, and whole, or not.

Entries are numbered per tenant without gaps in the order of booking. The number is what pages are
cut by: entries that are booked while somebody reads shift nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from mesh.redis_link import Argument, RedisLink, Reply, Script
from plexus.metrics.v1 import metrics_service_pb2 as pb

PREFIX: Final = "plexus:m"

MAX_MODELS: Final = 1000
"""Models that a tenant's totals tell apart; later ones are summed as `other`."""

SUMS: Final = (
    "cached",
    "input",
    "cached_input",
    "cache_write",
    "output",
    "reasoning",
    "estimated",
    "cost",
    "saved",
    "unpriced",
)
"""What is summed, besides the number of entries: the order in which the script is given it."""

_SEPARATOR: Final = "\x1f"
_OTHER: Final = _SEPARATOR.join(("other", "other"))

# KEYS: ids, entries, totals, models. ARGV: the number of sums and their names, the limit on
# models and the name of the rest; then for each event its id, entry, model and sums.
# Numbers pass as text: Lua's own are doubles, HINCRBY's are 64-bit integers.
_BOOK: Final = Script("""\
local width, names, at = tonumber(ARGV[1]), {}, 2
for i = 1, width do names[i] = ARGV[at]; at = at + 1 end
local limit, other = tonumber(ARGV[at]), ARGV[at + 1]
at = at + 2
local first = {}
while at <= #ARGV do
  local id, entry, model = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  at = at + 3
  local number = redis.call('HGET', KEYS[1], id)
  if number then
    first[#first + 1] = redis.call('HGET', KEYS[2], number)
  else
    first[#first + 1] = ''
    number = redis.call('HINCRBY', KEYS[3], 'events', 1)
    redis.call('HSET', KEYS[1], id, number)
    redis.call('HSET', KEYS[2], number, entry)
    if redis.call('HEXISTS', KEYS[4], model .. '\\31events') == 0 then
      if redis.call('HINCRBY', KEYS[3], 'models', 1) > limit then model = other end
    end
    redis.call('HINCRBY', KEYS[4], model .. '\\31events', 1)
    for i = 1, width do
      local amount = ARGV[at + i - 1]
      if amount ~= '0' then
        redis.call('HINCRBY', KEYS[3], names[i], amount)
        redis.call('HINCRBY', KEYS[4], model .. '\\31' .. names[i], amount)
      end
    end
  end
  at = at + width
end
return first
""")

# KEYS: entries, totals. ARGV: entries below this number, 0 for the newest; how many at most.
_PAGE: Final = Script("""\
local below, size = tonumber(ARGV[1]), tonumber(ARGV[2])
if below == 0 then below = tonumber(redis.call('HGET', KEYS[2], 'events') or '0') + 1 end
local page = {tostring(math.max(1, below - size))}
for number = below - 1, math.max(1, below - size), -1 do
  page[#page + 1] = redis.call('HGET', KEYS[1], number) or ''
end
return page
""")


@dataclass(frozen=True, slots=True)
class Booking:
    """One event to book: its entry, and what it adds to the sums."""

    entry: pb.LedgerEntry
    sums: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Page:
    """Entries, newest first. `next_below` continues; 0 after the last page."""

    entries: list[pb.LedgerEntry]
    next_below: int


@dataclass(frozen=True, slots=True)
class Sums:
    """A tenant's sums in all and by (provider, model)."""

    totals: Mapping[str, int]
    models: Mapping[tuple[str, str], Mapping[str, int]]


class Ledger:
    """Reads and writes ledgers. Every method raises RedisUnavailable within the link's limit.

    After a failed `book` the events may or may not be in the ledger; booking them again is right
    in both cases.
    """

    def __init__(self, link: RedisLink) -> None:
        self._link = link

    async def book(self, tenant: str, bookings: Sequence[Booking]) -> list[pb.LedgerEntry]:
        """Book each event once; return its entry, or the first entry marked as a duplicate."""
        arguments: list[Argument] = [len(SUMS), *SUMS, MAX_MODELS, _OTHER]
        for booking in bookings:
            event = booking.entry.event
            arguments += [event.event_id, booking.entry.SerializeToString(), _model_field(event)]
            arguments += [str(booking.sums.get(name, 0)) for name in SUMS]
        keys = [_key(tenant, part) for part in ("ids", "entries", "totals", "models")]
        first = _list(await self._link.run(_BOOK, keys=keys, arguments=arguments))
        return [
            _duplicate(found) if isinstance(found, bytes) and found else booking.entry
            for booking, found in zip(bookings, first, strict=True)
        ]

    async def page(self, tenant: str, *, below: int, size: int) -> Page:
        """Read the `size` entries booked before number `below`, or the newest when it is 0."""
        keys = [_key(tenant, part) for part in ("entries", "totals")]
        reply = _list(await self._link.run(_PAGE, keys=keys, arguments=[below, size]))
        lowest, *found = [item if isinstance(item, bytes) else b"" for item in reply]
        entries = [pb.LedgerEntry.FromString(item) for item in found if item]
        return Page(entries, int(lowest) if found and int(lowest) > 1 else 0)

    async def sums(self, tenant: str) -> Sums:
        """Read the sums over the tenant's whole ledger."""
        totals, models = await self._link.execute_many(
            [("HGETALL", _key(tenant, part)) for part in ("totals", "models")]
        )
        by_model: dict[tuple[str, str], dict[str, int]] = {}
        for field, amount in pairs(models):
            provider, model, name = field.decode().split(_SEPARATOR)
            by_model.setdefault((provider, model), {})[name] = int(amount)
        return Sums({field.decode(): int(amount) for field, amount in pairs(totals)}, by_model)


def pairs(reply: Reply) -> list[tuple[bytes, bytes]]:
    """Return the fields and values of an HGETALL reply."""
    items = [item for item in _list(reply) if isinstance(item, bytes)]
    return list(zip(items[::2], items[1::2], strict=True))


def _key(tenant: str, part: str) -> str:
    """A tenant's keys share a hash tag; hex keeps its braces out of it."""
    return f"{PREFIX}:{{{tenant.encode().hex()}}}:{part}"


def _model_field(event: pb.UsageEvent) -> str:
    return f"{event.provider}{_SEPARATOR}{event.model}"


def _duplicate(data: bytes) -> pb.LedgerEntry:
    entry = pb.LedgerEntry.FromString(data)
    entry.duplicate = True
    return entry


def _list(reply: Reply) -> list[Reply]:
    return reply if isinstance(reply, list) else []
