import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from plexus.common.v1 import model_pb2 as _model_pb2
from plexus.common.v1 import scope_pb2 as _scope_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTCOME_UNSPECIFIED: _ClassVar[Outcome]
    OUTCOME_COMPLETED: _ClassVar[Outcome]
    OUTCOME_FAILED: _ClassVar[Outcome]
    OUTCOME_CANCELLED: _ClassVar[Outcome]
OUTCOME_UNSPECIFIED: Outcome
OUTCOME_COMPLETED: Outcome
OUTCOME_FAILED: Outcome
OUTCOME_CANCELLED: Outcome

class UsageEvent(_message.Message):
    __slots__ = ("event_id", "scope", "event_time", "operation", "provider", "model", "requested_model", "usage", "outcome", "cached", "stages", "time_to_first_token_ms", "duration_ms", "request_id", "upstream_ms")
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIME_FIELD_NUMBER: _ClassVar[int]
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REQUESTED_MODEL_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    CACHED_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    TIME_TO_FIRST_TOKEN_MS_FIELD_NUMBER: _ClassVar[int]
    DURATION_MS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    UPSTREAM_MS_FIELD_NUMBER: _ClassVar[int]
    event_id: str
    scope: _scope_pb2.Scope
    event_time: _timestamp_pb2.Timestamp
    operation: str
    provider: str
    model: str
    requested_model: str
    usage: _model_pb2.Usage
    outcome: Outcome
    cached: bool
    stages: _containers.RepeatedCompositeFieldContainer[StageTiming]
    time_to_first_token_ms: float
    duration_ms: float
    request_id: str
    upstream_ms: float
    def __init__(self, event_id: _Optional[str] = ..., scope: _Optional[_Union[_scope_pb2.Scope, _Mapping]] = ..., event_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., operation: _Optional[str] = ..., provider: _Optional[str] = ..., model: _Optional[str] = ..., requested_model: _Optional[str] = ..., usage: _Optional[_Union[_model_pb2.Usage, _Mapping]] = ..., outcome: _Optional[_Union[Outcome, str]] = ..., cached: _Optional[bool] = ..., stages: _Optional[_Iterable[_Union[StageTiming, _Mapping]]] = ..., time_to_first_token_ms: _Optional[float] = ..., duration_ms: _Optional[float] = ..., request_id: _Optional[str] = ..., upstream_ms: _Optional[float] = ...) -> None: ...

class StageTiming(_message.Message):
    __slots__ = ("stage", "duration_ms")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    DURATION_MS_FIELD_NUMBER: _ClassVar[int]
    stage: str
    duration_ms: float
    def __init__(self, stage: _Optional[str] = ..., duration_ms: _Optional[float] = ...) -> None: ...

class RecordUsageRequest(_message.Message):
    __slots__ = ("events",)
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[UsageEvent]
    def __init__(self, events: _Optional[_Iterable[_Union[UsageEvent, _Mapping]]] = ...) -> None: ...

class RecordUsageResponse(_message.Message):
    __slots__ = ("entries",)
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[LedgerEntry]
    def __init__(self, entries: _Optional[_Iterable[_Union[LedgerEntry, _Mapping]]] = ...) -> None: ...

class LedgerEntry(_message.Message):
    __slots__ = ("event_id", "cost", "saved", "event", "duplicate")
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    SAVED_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    event_id: str
    cost: _model_pb2.Cost
    saved: _model_pb2.Cost
    event: UsageEvent
    duplicate: bool
    def __init__(self, event_id: _Optional[str] = ..., cost: _Optional[_Union[_model_pb2.Cost, _Mapping]] = ..., saved: _Optional[_Union[_model_pb2.Cost, _Mapping]] = ..., event: _Optional[_Union[UsageEvent, _Mapping]] = ..., duplicate: _Optional[bool] = ...) -> None: ...

class ListLedgerRequest(_message.Message):
    __slots__ = ("scope", "page_size", "page_token")
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    scope: _scope_pb2.Scope
    page_size: int
    page_token: str
    def __init__(self, scope: _Optional[_Union[_scope_pb2.Scope, _Mapping]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListLedgerResponse(_message.Message):
    __slots__ = ("entries", "next_page_token")
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[LedgerEntry]
    next_page_token: str
    def __init__(self, entries: _Optional[_Iterable[_Union[LedgerEntry, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetSummaryRequest(_message.Message):
    __slots__ = ("scope", "window_s")
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    WINDOW_S_FIELD_NUMBER: _ClassVar[int]
    scope: _scope_pb2.Scope
    window_s: int
    def __init__(self, scope: _Optional[_Union[_scope_pb2.Scope, _Mapping]] = ..., window_s: _Optional[int] = ...) -> None: ...

class GetSummaryResponse(_message.Message):
    __slots__ = ("totals", "models", "latencies")
    TOTALS_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    LATENCIES_FIELD_NUMBER: _ClassVar[int]
    totals: Totals
    models: _containers.RepeatedCompositeFieldContainer[ModelTotals]
    latencies: _containers.RepeatedCompositeFieldContainer[LatencySummary]
    def __init__(self, totals: _Optional[_Union[Totals, _Mapping]] = ..., models: _Optional[_Iterable[_Union[ModelTotals, _Mapping]]] = ..., latencies: _Optional[_Iterable[_Union[LatencySummary, _Mapping]]] = ...) -> None: ...

class Totals(_message.Message):
    __slots__ = ("event_count", "cached_count", "usage", "cost_nano_usd", "saved_nano_usd", "unpriced_count")
    EVENT_COUNT_FIELD_NUMBER: _ClassVar[int]
    CACHED_COUNT_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    COST_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    SAVED_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    UNPRICED_COUNT_FIELD_NUMBER: _ClassVar[int]
    event_count: int
    cached_count: int
    usage: _model_pb2.Usage
    cost_nano_usd: int
    saved_nano_usd: int
    unpriced_count: int
    def __init__(self, event_count: _Optional[int] = ..., cached_count: _Optional[int] = ..., usage: _Optional[_Union[_model_pb2.Usage, _Mapping]] = ..., cost_nano_usd: _Optional[int] = ..., saved_nano_usd: _Optional[int] = ..., unpriced_count: _Optional[int] = ...) -> None: ...

class ModelTotals(_message.Message):
    __slots__ = ("provider", "model", "totals")
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TOTALS_FIELD_NUMBER: _ClassVar[int]
    provider: str
    model: str
    totals: Totals
    def __init__(self, provider: _Optional[str] = ..., model: _Optional[str] = ..., totals: _Optional[_Union[Totals, _Mapping]] = ...) -> None: ...

class LatencySummary(_message.Message):
    __slots__ = ("kind", "name", "count", "p50_ms", "p95_ms", "p99_ms")
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    P50_MS_FIELD_NUMBER: _ClassVar[int]
    P95_MS_FIELD_NUMBER: _ClassVar[int]
    P99_MS_FIELD_NUMBER: _ClassVar[int]
    kind: str
    name: str
    count: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    def __init__(self, kind: _Optional[str] = ..., name: _Optional[str] = ..., count: _Optional[int] = ..., p50_ms: _Optional[float] = ..., p95_ms: _Optional[float] = ..., p99_ms: _Optional[float] = ...) -> None: ...
