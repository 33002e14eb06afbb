"""What a stored point carries besides its vectors, for both adapters.

The key set is the store's schema: `INDEXES` is made before the first write, because an index
added later makes every earlier query a scan. Engine code reads payloads by these keys and never
builds one.
"""

from collections.abc import Mapping
from typing import Any, Literal

from services.memory.store import Embedding, Item

Payload = dict[str, Any]

DENSE = "dense"
LEXICAL = "bm25"

KIND, ROLE, USER, AGENT = "kind", "role", "user", "agent"
CONVERSATION, LABELS, SOURCE = "conversation", "labels", "source"
EVENT, CREATED, EXPIRES = "event_us", "created_us", "expires_us"
VERSION, REVISION, PREVIOUS = "version", "revision", "previous"
EMBEDDING, MODEL = "embedding", "model"
TENANT, ID, TEXT, IMPORTANCE = "tenant", "id", "text", "importance"

# A record has no `tenant` field: no filter for callers can match it.
RECORD_TENANT, RECORD_BODY = "record_tenant", "body"

IndexKind = Literal["tenant", "keyword", "match", "range", "order", "number"]

INDEXES: Mapping[str, IndexKind] = {
    TENANT: "tenant",
    CREATED: "order",
    EXPIRES: "range",
    EVENT: "range",
    VERSION: "match",
    KIND: "match",
    ROLE: "match",
    EMBEDDING: "match",
    USER: "keyword",
    AGENT: "keyword",
    CONVERSATION: "keyword",
    LABELS: "keyword",
    SOURCE: "keyword",
    MODEL: "keyword",
    IMPORTANCE: "number",
}

_SEPARATOR = "\x1f"


def label(key: str, value: str) -> str:
    """Return an attribute as one keyword, so that a single index serves all attributes."""
    return f"{key}{_SEPARATOR}{value}"


def to_payload(tenant: str, item: Item, revision: str) -> Payload:
    """Return a new revision's payload; version and creation time are the store's to correct."""
    payload: Payload = {
        TENANT: tenant,
        ID: item.id,
        AGENT: item.agent_id,
        CONVERSATION: item.conversation_id,
        USER: item.user_id,
        KIND: item.kind,
        ROLE: item.role,
        TEXT: item.text,
        LABELS: [label(key, value) for key, value in sorted(item.attributes.items())],
        IMPORTANCE: item.importance,
        EVENT: item.event_us,
        CREATED: item.created_us,
        VERSION: item.version,
        REVISION: revision,
        EMBEDDING: Embedding.PENDING.value,
        SOURCE: item.source,
    }
    if item.expires_us:
        payload[EXPIRES] = item.expires_us
    return payload


def to_item(payload: Mapping[str, Any]) -> Item:
    """Return the item that a payload holds."""
    return Item(
        id=payload[ID],
        agent_id=payload[AGENT],
        conversation_id=payload[CONVERSATION],
        user_id=payload[USER],
        kind=payload[KIND],
        role=payload[ROLE],
        text=payload[TEXT],
        attributes=dict(each.split(_SEPARATOR, 1) for each in payload[LABELS]),
        importance=payload[IMPORTANCE],
        event_us=payload[EVENT],
        created_us=payload[CREATED],
        expires_us=payload.get(EXPIRES, 0),
        version=payload[VERSION],
        embedding=Embedding(payload[EMBEDDING]),
        source=payload[SOURCE],
    )
