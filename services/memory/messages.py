"""Between the contract's messages and the store's types: decoding checks every documented limit."""

import math
from collections.abc import Iterable, Mapping

from google.protobuf.timestamp_pb2 import Timestamp

from mesh.errors import Conflict, to_failure
from mesh.validation import check_bytes, check_count, invalid, require
from plexus.common.v1 import message_pb2, scope_pb2
from plexus.memory.v1 import memory_service_pb2 as pb
from services.memory import payload as fields
from services.memory.filters import Filter, all_of, between, equals, one_of
from services.memory.ids import IdClock, canonical_id, fingerprint
from services.memory.store import ANY_VERSION, Draft, Embedding, Hit, Item, Outcome

MAX_BATCH = 500
MAX_TEXT_BYTES = 32 * 1024
MAX_QUERY_BYTES = 8 * 1024
MAX_KEY_BYTES = 128
MAX_ATTRIBUTES = 16
MAX_LABEL_BYTES = 128
MAX_NAME_BYTES = 256
MAX_FILTER_VALUES = 100
MAX_TIME_US = 2**53
"""The store compares times as doubles; this is the year 2255."""

Scope = scope_pb2.Scope


def check_scope(scope: Scope, field: str = "scope") -> None:
    """Require the scope's names to be short."""
    for name in ("agent_id", "conversation_id", "user_id"):
        check_bytes(getattr(scope, name), f"{field}.{name}", high=MAX_NAME_BYTES)


def drafts_from(request: pb.WriteMemoriesRequest, tenant: str, ids: IdClock) -> list[Draft]:
    """Return the items to write; the whole batch is checked before the first is given an id."""
    check_count(len(request.writes), "writes", low=1, high=MAX_BATCH)
    check_bytes(request.idempotency_key, "idempotency_key", high=MAX_KEY_BYTES)
    check_scope(request.scope)
    for index, write in enumerate(request.writes):
        _check_write(write, f"writes[{index}]", tenant)
    given = [canonical_id(write.id) for write in request.writes if write.id]
    require(len(set(given)) == len(given), "writes", "two items have the same id")
    return [_draft(write, request.scope, ids) for write in request.writes]


def _check_write(write: pb.MemoryWrite, field: str, tenant: str) -> None:
    if write.id:
        memory_ids([write.id], f"{field}.id")
    check_bytes(write.text, f"{field}.text", low=1, high=MAX_TEXT_BYTES)
    _check_labels(write.attributes, f"{field}.attributes")
    check_bytes(write.source, f"{field}.source", high=MAX_NAME_BYTES)
    require(write.kind in pb.MemoryKind.values(), f"{field}.kind", "is not a known kind")
    require(
        write.kind != pb.MEMORY_KIND_TURN or write.role != message_pb2.ROLE_UNSPECIFIED,
        f"{field}.role",
        "a turn needs a role",
    )
    require(write.role in message_pb2.Role.values(), f"{field}.role", "is not a known role")
    finite = math.isfinite(write.importance) and 0 <= write.importance <= 1
    require(finite, f"{field}.importance", "must be 0 to 1")
    require(write.expected_version >= 0, f"{field}.expected_version", "must not be negative")
    for name in ("event_time", "expire_time"):
        if write.HasField(name):
            microseconds(getattr(write, name), f"{field}.{name}")
    if write.HasField("scope"):
        check_scope(write.scope, f"{field}.scope")
        require(write.scope.tenant in ("", tenant), f"{field}.scope.tenant", "an item cannot leave")


def _check_labels(labels: Mapping[str, str], field: str) -> None:
    pairs = dict(labels)
    check_count(len(pairs), field, high=MAX_ATTRIBUTES)
    for key, value in pairs.items():
        check_bytes(key, f"{field} key", low=1, high=MAX_LABEL_BYTES)
        check_bytes(value, f"{field} value", high=MAX_LABEL_BYTES)
        require(key.isprintable(), f"{field} key", "must be printable")


def _draft(write: pb.MemoryWrite, request_scope: Scope, ids: IdClock) -> Draft:
    created_us = ids.next_us()
    scope = write.scope if write.HasField("scope") else request_scope
    event_us = microseconds(write.event_time) if write.HasField("event_time") else created_us
    item = Item(
        id=canonical_id(write.id) if write.id else ids.new_id(created_us),
        kind=write.kind or pb.MEMORY_KIND_NOTE,
        text=write.text,
        agent_id=scope.agent_id,
        conversation_id=scope.conversation_id,
        user_id=scope.user_id,
        role=write.role,
        attributes=dict(write.attributes),
        importance=write.importance,
        event_us=event_us,
        created_us=created_us,
        expires_us=microseconds(write.expire_time) if write.HasField("expire_time") else 0,
        source=write.source,
    )
    versioned = write.HasField("expected_version")
    return Draft(item=item, expected_version=write.expected_version if versioned else ANY_VERSION)


def write_fingerprint(request: pb.WriteMemoriesRequest) -> str:
    """Return what tells this batch from another under the same idempotency key."""
    items = (write.SerializeToString(deterministic=True) for write in request.writes)
    return fingerprint(*scope_parts(request.scope), *items)


def scope_parts(scope: Scope) -> tuple[str, str, str]:
    """Return the scope without its tenant, which the identity decides."""
    return (scope.agent_id, scope.conversation_id, scope.user_id)


def memory_ids(ids: Iterable[str], field: str = "ids") -> list[str]:
    """Return ids in their one spelling; refuse what is no UUID."""
    given = list(ids)
    check_count(len(given), field, low=1, high=MAX_BATCH)
    try:
        return [canonical_id(each) for each in given]
    except ValueError as error:
        raise invalid(field, "must be UUIDs") from error


def filter_from(scope: Scope, wanted: pb.MemoryFilter) -> Filter:
    """Return the filter that a scope and a MemoryFilter mean together."""
    check_scope(scope)
    for name in ("kinds", "sources", "roles"):
        check_count(len(getattr(wanted, name)), f"filter.{name}", high=MAX_FILTER_VALUES)
    _check_labels(wanted.attributes, "filter.attributes")
    parts: list[Filter] = [
        equals(key, value)
        for key, value in zip(
            (fields.AGENT, fields.CONVERSATION, fields.USER), scope_parts(scope), strict=True
        )
        if value
    ]
    if wanted.kinds and pb.MEMORY_KIND_UNSPECIFIED not in wanted.kinds:
        parts.append(one_of(fields.KIND, [int(kind) for kind in wanted.kinds]))
    if wanted.roles:
        parts.append(one_of(fields.ROLE, [int(role) for role in wanted.roles]))
    if wanted.sources:
        parts.append(one_of(fields.SOURCE, list(wanted.sources)))
    parts += [
        equals(fields.LABELS, fields.label(key, value))
        for key, value in sorted(wanted.attributes.items())
    ]
    low = _optional_us(wanted, "event_time_from")
    below = _optional_us(wanted, "event_time_until")
    if low is not None or below is not None:
        parts.append(between(fields.EVENT, low, below))
    return all_of(*parts)


def _optional_us(wanted: pb.MemoryFilter, name: str) -> int | None:
    if not wanted.HasField(name):
        return None
    return microseconds(getattr(wanted, name), f"filter.{name}")


def microseconds(time: Timestamp, field: str = "time") -> int:
    """Return a timestamp as microseconds since 1970; refuse what the store cannot compare."""
    value = time.seconds * 1_000_000 + time.nanos // 1000
    require(0 <= value < MAX_TIME_US, field, "must be between the years 1970 and 2255")
    return value


def timestamp(time_us: int) -> Timestamp:
    """Return microseconds since 1970 as a timestamp."""
    seconds, rest_us = divmod(time_us, 1_000_000)
    return Timestamp(seconds=seconds, nanos=rest_us * 1000)


def memory_from(tenant: str, item: Item) -> pb.Memory:
    """Return an item as the contract shows it."""
    return pb.Memory(
        id=item.id,
        scope=Scope(
            tenant=tenant,
            agent_id=item.agent_id,
            conversation_id=item.conversation_id,
            user_id=item.user_id,
        ),
        kind=item.kind,  # pyright: ignore[reportArgumentType]
        text=item.text,
        role=item.role,  # pyright: ignore[reportArgumentType]
        attributes=item.attributes,
        importance=item.importance,
        event_time=timestamp(item.event_us),
        create_time=timestamp(item.created_us),
        expire_time=timestamp(item.expires_us) if item.expires_us else None,
        version=item.version,
        embedded=item.embedding is Embedding.DONE,
        source=item.source,
    )


def result_from(outcome: Outcome) -> pb.WriteResult:
    """Return what became of one write."""
    if outcome.version is not None:
        return pb.WriteResult(written=pb.WrittenMemory(id=outcome.id, version=outcome.version))
    lost = Conflict(f"memory {outcome.id} does not have the expected version; read it again")
    return pb.WriteResult(failure=to_failure(lost))


def hit_from(tenant: str, hit: Hit, *, explain: bool) -> pb.SearchHit:
    """Return a hit, with its explanation if asked for."""
    explanation = pb.SearchExplanation(
        lexical_rank=hit.lexical.rank,
        lexical_score=hit.lexical.score,
        dense_rank=hit.dense.rank,
        dense_score=hit.dense.score,
    )
    return pb.SearchHit(
        memory=memory_from(tenant, hit.item),
        score=hit.score,
        explanation=explanation if explain else None,
    )
