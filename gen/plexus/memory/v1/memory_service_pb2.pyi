import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from plexus.common.v1 import error_pb2 as _error_pb2
from plexus.common.v1 import message_pb2 as _message_pb2
from plexus.common.v1 import scope_pb2 as _scope_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class MemoryKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MEMORY_KIND_UNSPECIFIED: _ClassVar[MemoryKind]
    MEMORY_KIND_TURN: _ClassVar[MemoryKind]
    MEMORY_KIND_NOTE: _ClassVar[MemoryKind]
    MEMORY_KIND_DOCUMENT: _ClassVar[MemoryKind]
    MEMORY_KIND_SUMMARY: _ClassVar[MemoryKind]
    MEMORY_KIND_FACT: _ClassVar[MemoryKind]
    MEMORY_KIND_ENTITY: _ClassVar[MemoryKind]

class Durability(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DURABILITY_UNSPECIFIED: _ClassVar[Durability]
    DURABILITY_LOG: _ClassVar[Durability]
    DURABILITY_SYNCED: _ClassVar[Durability]

class Order(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ORDER_UNSPECIFIED: _ClassVar[Order]
    ORDER_NEWEST_FIRST: _ClassVar[Order]
    ORDER_OLDEST_FIRST: _ClassVar[Order]

class SearchMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SEARCH_MODE_UNSPECIFIED: _ClassVar[SearchMode]
    SEARCH_MODE_LEXICAL: _ClassVar[SearchMode]
    SEARCH_MODE_DENSE: _ClassVar[SearchMode]
    SEARCH_MODE_HYBRID: _ClassVar[SearchMode]

class RecallReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RECALL_REASON_UNSPECIFIED: _ClassVar[RecallReason]
    RECALL_REASON_WINDOW: _ClassVar[RecallReason]
    RECALL_REASON_RELEVANT: _ClassVar[RecallReason]
    RECALL_REASON_SUMMARY: _ClassVar[RecallReason]
    RECALL_REASON_FACT: _ClassVar[RecallReason]
MEMORY_KIND_UNSPECIFIED: MemoryKind
MEMORY_KIND_TURN: MemoryKind
MEMORY_KIND_NOTE: MemoryKind
MEMORY_KIND_DOCUMENT: MemoryKind
MEMORY_KIND_SUMMARY: MemoryKind
MEMORY_KIND_FACT: MemoryKind
MEMORY_KIND_ENTITY: MemoryKind
DURABILITY_UNSPECIFIED: Durability
DURABILITY_LOG: Durability
DURABILITY_SYNCED: Durability
ORDER_UNSPECIFIED: Order
ORDER_NEWEST_FIRST: Order
ORDER_OLDEST_FIRST: Order
SEARCH_MODE_UNSPECIFIED: SearchMode
SEARCH_MODE_LEXICAL: SearchMode
SEARCH_MODE_DENSE: SearchMode
SEARCH_MODE_HYBRID: SearchMode
RECALL_REASON_UNSPECIFIED: RecallReason
RECALL_REASON_WINDOW: RecallReason
RECALL_REASON_RELEVANT: RecallReason
RECALL_REASON_SUMMARY: RecallReason
RECALL_REASON_FACT: RecallReason

class Memory(_message.Message):
    __slots__ = ("id", "scope", "kind", "text", "role", "attributes", "importance", "event_time", "create_time", "expire_time", "version", "embedded", "source")
    class AttributesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    IMPORTANCE_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIME_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    EMBEDDED_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    id: str
    scope: _scope_pb2.Scope
    kind: MemoryKind
    text: str
    role: _message_pb2.Role
    attributes: _containers.ScalarMap[str, str]
    importance: float
    event_time: _timestamp_pb2.Timestamp
    create_time: _timestamp_pb2.Timestamp
    expire_time: _timestamp_pb2.Timestamp
    version: int
    embedded: bool
    source: str
    def __init__(self, id: _Optional[str] = ..., scope: _Optional[_Union[_scope_pb2.Scope, _Mapping]] = ..., kind: _Optional[_Union[MemoryKind, str]] = ..., text: _Optional[str] = ..., role: _Optional[_Union[_message_pb2.Role, str]] = ..., attributes: _Optional[_Mapping[str, str]] = ..., importance: _Optional[float] = ..., event_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., version: _Optional[int] = ..., embedded: _Optional[bool] = ..., source: _Optional[str] = ...) -> None: ...

class MemoryWrite(_message.Message):
    __slots__ = ("id", "kind", "text", "role", "attributes", "importance", "event_time", "expire_time", "expected_version", "source", "scope")
    class AttributesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    IMPORTANCE_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIME_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_VERSION_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    id: str
    kind: MemoryKind
    text: str
    role: _message_pb2.Role
    attributes: _containers.ScalarMap[str, str]
    importance: float
    event_time: _timestamp_pb2.Timestamp
    expire_time: _timestamp_pb2.Timestamp
    expected_version: int
    source: str
    scope: _scope_pb2.Scope
    def __init__(self, id: _Optional[str] = ..., kind: _Optional[_Union[MemoryKind, str]] = ..., text: _Optional[str] = ..., role: _Optional[_Union[_message_pb2.Role, str]] = ..., attributes: _Optional[_Mapping[str, str]] = ..., importance: _Optional[float] = ..., event_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., expected_version: _Optional[int] = ..., source: _Optional[str] = ..., scope: _Optional[_Union[_scope_pb2.Scope, _Mapping]] = ...) -> None: ...

class WriteMemoriesRequest(_message.Message):
    __slots__ = ("scope", "writes", "idempotency_key", "durability")
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    WRITES_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    scope: _scope_pb2.Scope
    writes: _containers.RepeatedCompositeFieldContainer[MemoryWrite]
    idempotency_key: str
    durability: Durability
    def __init__(self, scope: _Optional[_Union[_scope_pb2.Scope, _Mapping]] = ..., writes: _Optional[_Iterable[_Union[MemoryWrite, _Mapping]]] = ..., idempotency_key: _Optional[str] = ..., durability: _Optional[_Union[Durability, str]] = ...) -> None: ...

class WriteMemoriesResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[WriteResult]
    def __init__(self, results: _Optional[_Iterable[_Union[WriteResult, _Mapping]]] = ...) -> None: ...

class WriteResult(_message.Message):
    __slots__ = ("written", "failure")
    WRITTEN_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    written: WrittenMemory
    failure: _error_pb2.Failure
    def __init__(self, written: _Optional[_Union[WrittenMemory, _Mapping]] = ..., failure: _Optional[_Union[_error_pb2.Failure, _Mapping]] = ...) -> None: ...

class WrittenMemory(_message.Message):
    __slots__ = ("id", "version")
    ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    id: str
    version: int
    def __init__(self, id: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class GetMemoriesRequest(_message.Message):
    __slots__ = ("scope", "ids")
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    scope: _scope_pb2.Scope
    ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, scope: _Optional[_Union[_scope_pb2.Scope, _Mapping]] = ..., ids: _Optional[_Iterable[str]] = ...) -> None: ...

class GetMemoriesResponse(_message.Message):
    __slots__ = ("memories", "missing_ids")
    MEMORIES_FIELD_NUMBER: _ClassVar[int]
    MISSING_IDS_FIELD_NUMBER: _ClassVar[int]
    memories: _containers.RepeatedCompositeFieldContainer[Memory]
    missing_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, memories: _Optional[_Iterable[_Union[Memory, _Mapping]]] = ..., missing_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class MemoryFilter(_message.Message):
    __slots__ = ("kinds", "attributes", "event_time_from", "event_time_until", "sources", "roles")
    class AttributesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    KINDS_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIME_FROM_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIME_UNTIL_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    ROLES_FIELD_NUMBER: _ClassVar[int]
    kinds: _containers.RepeatedScalarFieldContainer[MemoryKind]
    attributes: _containers.ScalarMap[str, str]
    event_time_from: _timestamp_pb2.Timestamp
    event_time_until: _timestamp_pb2.Timestamp
    sources: _containers.RepeatedScalarFieldContainer[str]
    roles: _containers.RepeatedScalarFieldContainer[_message_pb2.Role]
    def __init__(self, kinds: _Optional[_Iterable[_Union[MemoryKind, str]]] = ..., attributes: _Optional[_Mapping[str, str]] = ..., event_time_from: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., event_time_until: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., sources: _Optional[_Iterable[str]] = ..., roles: _Optional[_Iterable[_Union[_message_pb2.Role, str]]] = ...) -> None: ...

class ListMemoriesRequest(_message.Message):
    __slots__ = ("scope", "filter", "order", "page_size", "page_token")
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    scope: _scope_pb2.Scope
    filter: MemoryFilter
    order: Order
    page_size: int
    page_token: str
    def __init__(self, scope: _Optional[_Union[_scope_pb2.Scope, _Mapping]] = ..., filter: _Optional[_Union[MemoryFilter, _Mapping]] = ..., order: _Optional[_Union[Order, str]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListMemoriesResponse(_message.Message):
    __slots__ = ("memories", "next_page_token")
    MEMORIES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    memories: _containers.RepeatedCompositeFieldContainer[Memory]
    next_page_token: str
    def __init__(self, memories: _Optional[_Iterable[_Union[Memory, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class StreamMemoriesRequest(_message.Message):
    __slots__ = ("scope", "filter", "cursor")
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    scope: _scope_pb2.Scope
    filter: MemoryFilter
    cursor: str
    def __init__(self, scope: _Optional[_Union[_scope_pb2.Scope, _Mapping]] = ..., filter: _Optional[_Union[MemoryFilter, _Mapping]] = ..., cursor: _Optional[str] = ...) -> None: ...

class StreamMemoriesResponse(_message.Message):
    __slots__ = ("memories", "cursor")
    MEMORIES_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    memories: _containers.RepeatedCompositeFieldContainer[Memory]
    cursor: str
    def __init__(self, memories: _Optional[_Iterable[_Union[Memory, _Mapping]]] = ..., cursor: _Optional[str] = ...) -> None: ...

class DeleteMemoriesRequest(_message.Message):
    __slots__ = ("scope", "ids", "filter", "idempotency_key")
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    scope: _scope_pb2.Scope
    ids: MemoryIds
    filter: MemoryFilter
    idempotency_key: str
    def __init__(self, scope: _Optional[_Union[_scope_pb2.Scope, _Mapping]] = ..., ids: _Optional[_Union[MemoryIds, _Mapping]] = ..., filter: _Optional[_Union[MemoryFilter, _Mapping]] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class MemoryIds(_message.Message):
    __slots__ = ("ids",)
    IDS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, ids: _Optional[_Iterable[str]] = ...) -> None: ...

class DeleteMemoriesResponse(_message.Message):
    __slots__ = ("deleted_count",)
    DELETED_COUNT_FIELD_NUMBER: _ClassVar[int]
    deleted_count: int
    def __init__(self, deleted_count: _Optional[int] = ...) -> None: ...

class SearchMemoriesRequest(_message.Message):
    __slots__ = ("scope", "query", "filter", "mode", "limit", "fusion", "explain")
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    QUERY_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    FUSION_FIELD_NUMBER: _ClassVar[int]
    EXPLAIN_FIELD_NUMBER: _ClassVar[int]
    scope: _scope_pb2.Scope
    query: str
    filter: MemoryFilter
    mode: SearchMode
    limit: int
    fusion: Fusion
    explain: bool
    def __init__(self, scope: _Optional[_Union[_scope_pb2.Scope, _Mapping]] = ..., query: _Optional[str] = ..., filter: _Optional[_Union[MemoryFilter, _Mapping]] = ..., mode: _Optional[_Union[SearchMode, str]] = ..., limit: _Optional[int] = ..., fusion: _Optional[_Union[Fusion, _Mapping]] = ..., explain: _Optional[bool] = ...) -> None: ...

class Fusion(_message.Message):
    __slots__ = ("rrf_k", "dense_weight", "lexical_weight")
    RRF_K_FIELD_NUMBER: _ClassVar[int]
    DENSE_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    LEXICAL_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    rrf_k: int
    dense_weight: float
    lexical_weight: float
    def __init__(self, rrf_k: _Optional[int] = ..., dense_weight: _Optional[float] = ..., lexical_weight: _Optional[float] = ...) -> None: ...

class SearchMemoriesResponse(_message.Message):
    __slots__ = ("hits", "degraded", "degraded_reason")
    HITS_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_REASON_FIELD_NUMBER: _ClassVar[int]
    hits: _containers.RepeatedCompositeFieldContainer[SearchHit]
    degraded: bool
    degraded_reason: str
    def __init__(self, hits: _Optional[_Iterable[_Union[SearchHit, _Mapping]]] = ..., degraded: _Optional[bool] = ..., degraded_reason: _Optional[str] = ...) -> None: ...

class SearchHit(_message.Message):
    __slots__ = ("memory", "score", "explanation")
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    memory: Memory
    score: float
    explanation: SearchExplanation
    def __init__(self, memory: _Optional[_Union[Memory, _Mapping]] = ..., score: _Optional[float] = ..., explanation: _Optional[_Union[SearchExplanation, _Mapping]] = ...) -> None: ...

class SearchExplanation(_message.Message):
    __slots__ = ("lexical_rank", "lexical_score", "dense_rank", "dense_score")
    LEXICAL_RANK_FIELD_NUMBER: _ClassVar[int]
    LEXICAL_SCORE_FIELD_NUMBER: _ClassVar[int]
    DENSE_RANK_FIELD_NUMBER: _ClassVar[int]
    DENSE_SCORE_FIELD_NUMBER: _ClassVar[int]
    lexical_rank: int
    lexical_score: float
    dense_rank: int
    dense_score: float
    def __init__(self, lexical_rank: _Optional[int] = ..., lexical_score: _Optional[float] = ..., dense_rank: _Optional[int] = ..., dense_score: _Optional[float] = ...) -> None: ...

class RecallRequest(_message.Message):
    __slots__ = ("scope", "query", "token_budget", "window_turns", "relevant_limit", "exclude_texts")
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    QUERY_FIELD_NUMBER: _ClassVar[int]
    TOKEN_BUDGET_FIELD_NUMBER: _ClassVar[int]
    WINDOW_TURNS_FIELD_NUMBER: _ClassVar[int]
    RELEVANT_LIMIT_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_TEXTS_FIELD_NUMBER: _ClassVar[int]
    scope: _scope_pb2.Scope
    query: str
    token_budget: int
    window_turns: int
    relevant_limit: int
    exclude_texts: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, scope: _Optional[_Union[_scope_pb2.Scope, _Mapping]] = ..., query: _Optional[str] = ..., token_budget: _Optional[int] = ..., window_turns: _Optional[int] = ..., relevant_limit: _Optional[int] = ..., exclude_texts: _Optional[_Iterable[str]] = ...) -> None: ...

class RecallResponse(_message.Message):
    __slots__ = ("items", "token_count", "degraded", "degraded_reason")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_REASON_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[RecalledItem]
    token_count: int
    degraded: bool
    degraded_reason: str
    def __init__(self, items: _Optional[_Iterable[_Union[RecalledItem, _Mapping]]] = ..., token_count: _Optional[int] = ..., degraded: _Optional[bool] = ..., degraded_reason: _Optional[str] = ...) -> None: ...

class RecalledItem(_message.Message):
    __slots__ = ("memory", "reason", "token_count", "score")
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    memory: Memory
    reason: RecallReason
    token_count: int
    score: float
    def __init__(self, memory: _Optional[_Union[Memory, _Mapping]] = ..., reason: _Optional[_Union[RecallReason, str]] = ..., token_count: _Optional[int] = ..., score: _Optional[float] = ...) -> None: ...

class IngestDocumentRequest(_message.Message):
    __slots__ = ("header", "chunk")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    header: DocumentHeader
    chunk: bytes
    def __init__(self, header: _Optional[_Union[DocumentHeader, _Mapping]] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class DocumentHeader(_message.Message):
    __slots__ = ("scope", "document_id", "media_type", "title", "size_bytes")
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_ID_FIELD_NUMBER: _ClassVar[int]
    MEDIA_TYPE_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    scope: _scope_pb2.Scope
    document_id: str
    media_type: str
    title: str
    size_bytes: int
    def __init__(self, scope: _Optional[_Union[_scope_pb2.Scope, _Mapping]] = ..., document_id: _Optional[str] = ..., media_type: _Optional[str] = ..., title: _Optional[str] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class IngestDocumentResponse(_message.Message):
    __slots__ = ("piece_count", "unchanged", "replaced_count")
    PIECE_COUNT_FIELD_NUMBER: _ClassVar[int]
    UNCHANGED_FIELD_NUMBER: _ClassVar[int]
    REPLACED_COUNT_FIELD_NUMBER: _ClassVar[int]
    piece_count: int
    unchanged: bool
    replaced_count: int
    def __init__(self, piece_count: _Optional[int] = ..., unchanged: _Optional[bool] = ..., replaced_count: _Optional[int] = ...) -> None: ...

class GetMemoryStatsRequest(_message.Message):
    __slots__ = ("scope",)
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    scope: _scope_pb2.Scope
    def __init__(self, scope: _Optional[_Union[_scope_pb2.Scope, _Mapping]] = ...) -> None: ...

class GetMemoryStatsResponse(_message.Message):
    __slots__ = ("memory_count", "pending_embedding_count", "store", "embedding_model")
    MEMORY_COUNT_FIELD_NUMBER: _ClassVar[int]
    PENDING_EMBEDDING_COUNT_FIELD_NUMBER: _ClassVar[int]
    STORE_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_MODEL_FIELD_NUMBER: _ClassVar[int]
    memory_count: int
    pending_embedding_count: int
    store: str
    embedding_model: str
    def __init__(self, memory_count: _Optional[int] = ..., pending_embedding_count: _Optional[int] = ..., store: _Optional[str] = ..., embedding_model: _Optional[str] = ...) -> None: ...
