"""The port: what the memory service needs of a store, in its own words.

Two adapters serve it, `edge_store` (an engine in a process of its own) and `server_store` (Qdrant
over gRPC); one conformance suite holds both to it. Methods for callers take the tenant first, and
the store adds it to every filter together with expiry. Errors are `mesh.errors`:
Unavailable(MEMORY_UNAVAILABLE) when the store cannot be reached, in which case a write may or may
not have happened.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal, Protocol

from services.memory.filters import EVERYTHING, Filter

ANY_VERSION = -1
"""`Draft.expected_version`: write over whatever is there."""

RRF_K = 2
"""The tuned rank constant: larger ones throw rank information away on conversational text."""
DENSE_WEIGHT = 1.0
LEXICAL_WEIGHT = 2.0
"""The tuned weights: words are the stronger leg on single turns, which are short."""
IMPORTANCE_GAIN = 0.25
"""How much an importance of 1 raises a score, as a share of it."""


class Embedding(Enum):
    """What has become of an item's embedding."""

    PENDING = 0
    DONE = 1
    REFUSED = 2
    """The embedder calls the text invalid; it is not tried again until the text changes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One memory as stored. Times are microseconds since 1970; `expires_us` 0 means never."""

    id: str
    kind: int
    text: str
    agent_id: str = ""
    conversation_id: str = ""
    user_id: str = ""
    role: int = 0
    attributes: Mapping[str, str] = field(default_factory=dict[str, str])
    importance: float = 0.0
    event_us: int = 0
    created_us: int = 0
    expires_us: int = 0
    version: int = 0
    embedding: Embedding = Embedding.PENDING
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """An item to write. The store decides its version; a replaced item keeps its `created_us`."""

    item: Item
    expected_version: int = ANY_VERSION
    """0: only if the id is new. Positive: only over this version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """Makes a write repeatable: whoever comes with the same name gets the first outcome."""

    name: str
    """Unique for the mutation within the tenant."""
    fingerprint: str
    """Of the request; the same name with another one is refused."""
    expires_us: int
    """Until when the receipt is kept."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a draft: the version written, or None when the expected one was not there."""

    id: str
    version: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """A place in a scan: after the items of this creation time that `seen` names."""

    created_us: int
    seen: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A part of a scan; `end` is the place after its last item, `next` the same unless over."""

    items: Sequence[Item]
    end: Position
    next: Position | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A search. Without `text` it is by meaning alone, without `vector` by words alone."""

    text: str | None
    vector: bytes | None
    """Little-endian float32."""
    where: Filter = EVERYTHING
    limit: int = 10
    rrf_k: int = RRF_K
    dense_weight: float = DENSE_WEIGHT
    lexical_weight: float = LEXICAL_WEIGHT
    min_cosine: float | None = None
    """Below this similarity the leg by meaning finds nothing; None takes everything."""
    explain: bool = False


@dataclass(frozen=True, slots=True)
class Leg:
    """A hit's place in one leg; rank 0 means that the leg did not find it."""

    rank: int = 0
    score: float = 0.0


NOT_FOUND = Leg()


@dataclass(frozen=True, slots=True)
class Hit:
    """An item found, and with `explain` each leg's part."""

    item: Item
    score: float
    lexical: Leg = NOT_FOUND
    dense: Leg = NOT_FOUND


@dataclass(frozen=True, slots=True)
class Pending:
    """An item without an embedding. `revision` changes with every write of the item."""

    tenant: str
    id: str
    revision: str
    text: str


@dataclass(frozen=True, slots=True)
class Embedded:
    """A vector for one revision of an item; None when the embedder refuses the text."""

    id: str
    revision: str
    vector: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreStatistics:
    """A snapshot of a store's own counters."""

    calls: int
    failures: int
    in_flight: int
    restarts: int = 0


class MemoryStore(Protocol):
    """Where memories are kept. Concurrency-safe within one event loop."""

    @property
    def name(self) -> Literal["edge", "server"]:
        """Which adapter this is."""
        ...

    async def open(self) -> None:
        """Connect and make the schema. Fails with one sentence that says what to do."""
        ...

    async def close(self) -> None:
        """Flush what is acknowledged and let go; idempotent."""
        ...

    def is_ready(self) -> bool:
        """Whether calls have a chance now."""
        ...

    def statistics(self) -> StoreStatistics:
        """Counters since the start."""
        ...

    # For callers: one tenant each, expired items do not exist.

    async def write(
        self,
        tenant: str,
        drafts: Sequence[Draft],
        *,
        receipt: Receipt | None = None,
        synced: bool = False,
    ) -> Sequence[Outcome]:
        """Write drafts with distinct ids; each has its own outcome, in order.

        Acknowledged writes survive a crash of any process, with `synced` a loss of power. With a
        receipt repeating is harmless and gives the first outcomes; InvalidArgument
        (IDEMPOTENCY_KEY_REUSED) when its name stands for another request.
        """
        ...

    async def get(self, tenant: str, ids: Sequence[str]) -> Mapping[str, Item]:
        """Return those of the items that exist, by id."""
        ...

    async def scan(
        self,
        tenant: str,
        where: Filter = EVERYTHING,
        *,
        newest_first: bool,
        limit: int,
        after: Position | None = None,
    ) -> Page:
        """Return a page in order of creation. Writes meanwhile neither repeat nor hide an item."""
        ...

    async def count(self, tenant: str, where: Filter = EVERYTHING) -> int:
        """Count the items that match."""
        ...

    async def search(self, tenant: str, query: Query) -> Sequence[Hit]:
        """Return the best items, best first; equal scores newest first. One engine call."""
        ...

    async def delete(self, tenant: str, where: Filter) -> int:
        """Delete what matches, the expired included; return how many readable items went."""
        ...

    async def delete_ids(self, tenant: str, ids: Sequence[str]) -> int:
        """Delete these items; return how many readable items went."""
        ...

    async def attach(self, tenant: str, embedded: Sequence[Embedded], *, model: str) -> int:
        """Give items their vectors, unless they were rewritten meanwhile; return how many took."""
        ...

    async def read_record(self, tenant: str, name: str) -> str | None:
        """Return a record that was put and has not expired."""
        ...

    async def put_record(self, tenant: str, name: str, body: str, *, expires_us: int = 0) -> None:
        """Keep a small text under a name; replaces what is there."""
        ...

    # Maintenance: across tenants, for the component itself.

    async def pending(self, limit: int, *, skip_tenants: Sequence[str] = ()) -> Sequence[Pending]:
        """Return items that await their embedding, of any tenants but those to skip."""
        ...

    async def pending_count(self, tenant: str) -> int:
        """Count the tenant's items that await their embedding."""
        ...

    async def adopt_model(self, model: str) -> int:
        """Drop vectors that another model made, so that they become pending; return how many."""
        ...

    async def sweep(self) -> None:
        """Remove expired items and records. Reads do not depend on it."""
        ...

    async def flush(self) -> None:
        """Return when everything acknowledged is on disk."""
        ...
