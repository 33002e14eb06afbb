import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from plexus.common.v1 import model_pb2 as _model_pb2
from plexus.common.v1 import scope_pb2 as _scope_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Verdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERDICT_UNSPECIFIED: _ClassVar[Verdict]
    VERDICT_EXACT_HIT: _ClassVar[Verdict]
    VERDICT_JOINED_HIT: _ClassVar[Verdict]
    VERDICT_MISS: _ClassVar[Verdict]
    VERDICT_BYPASS: _ClassVar[Verdict]
    VERDICT_UNAVAILABLE: _ClassVar[Verdict]
    VERDICT_SEMANTIC_HIT: _ClassVar[Verdict]
VERDICT_UNSPECIFIED: Verdict
VERDICT_EXACT_HIT: Verdict
VERDICT_JOINED_HIT: Verdict
VERDICT_MISS: Verdict
VERDICT_BYPASS: Verdict
VERDICT_UNAVAILABLE: Verdict
VERDICT_SEMANTIC_HIT: Verdict

class CacheControl(_message.Message):
    __slots__ = ("no_cache", "no_store", "max_age_ms", "ttl_ms")
    NO_CACHE_FIELD_NUMBER: _ClassVar[int]
    NO_STORE_FIELD_NUMBER: _ClassVar[int]
    MAX_AGE_MS_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    no_cache: bool
    no_store: bool
    max_age_ms: int
    ttl_ms: int
    def __init__(self, no_cache: _Optional[bool] = ..., no_store: _Optional[bool] = ..., max_age_ms: _Optional[int] = ..., ttl_ms: _Optional[int] = ...) -> None: ...

class LookupRequest(_message.Message):
    __slots__ = ("scope", "request", "control", "max_wait_ms")
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    CONTROL_FIELD_NUMBER: _ClassVar[int]
    MAX_WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    scope: _scope_pb2.Scope
    request: _model_pb2.ModelRequest
    control: CacheControl
    max_wait_ms: int
    def __init__(self, scope: _Optional[_Union[_scope_pb2.Scope, _Mapping]] = ..., request: _Optional[_Union[_model_pb2.ModelRequest, _Mapping]] = ..., control: _Optional[_Union[CacheControl, _Mapping]] = ..., max_wait_ms: _Optional[int] = ...) -> None: ...

class LookupResponse(_message.Message):
    __slots__ = ("verdict", "response", "lease", "store_time", "level", "entry_id")
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    STORE_TIME_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    ENTRY_ID_FIELD_NUMBER: _ClassVar[int]
    verdict: Verdict
    response: _model_pb2.ModelResponse
    lease: str
    store_time: _timestamp_pb2.Timestamp
    level: str
    entry_id: str
    def __init__(self, verdict: _Optional[_Union[Verdict, str]] = ..., response: _Optional[_Union[_model_pb2.ModelResponse, _Mapping]] = ..., lease: _Optional[str] = ..., store_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., level: _Optional[str] = ..., entry_id: _Optional[str] = ...) -> None: ...

class StoreRequest(_message.Message):
    __slots__ = ("scope", "lease", "response", "control")
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    CONTROL_FIELD_NUMBER: _ClassVar[int]
    scope: _scope_pb2.Scope
    lease: str
    response: _model_pb2.ModelResponse
    control: CacheControl
    def __init__(self, scope: _Optional[_Union[_scope_pb2.Scope, _Mapping]] = ..., lease: _Optional[str] = ..., response: _Optional[_Union[_model_pb2.ModelResponse, _Mapping]] = ..., control: _Optional[_Union[CacheControl, _Mapping]] = ...) -> None: ...

class StoreResponse(_message.Message):
    __slots__ = ("stored", "why_not")
    STORED_FIELD_NUMBER: _ClassVar[int]
    WHY_NOT_FIELD_NUMBER: _ClassVar[int]
    stored: bool
    why_not: str
    def __init__(self, stored: _Optional[bool] = ..., why_not: _Optional[str] = ...) -> None: ...

class ReleaseRequest(_message.Message):
    __slots__ = ("scope", "lease")
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    scope: _scope_pb2.Scope
    lease: str
    def __init__(self, scope: _Optional[_Union[_scope_pb2.Scope, _Mapping]] = ..., lease: _Optional[str] = ...) -> None: ...

class ReleaseResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class InvalidateRequest(_message.Message):
    __slots__ = ("scope", "entry_id", "all")
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    ENTRY_ID_FIELD_NUMBER: _ClassVar[int]
    ALL_FIELD_NUMBER: _ClassVar[int]
    scope: _scope_pb2.Scope
    entry_id: str
    all: bool
    def __init__(self, scope: _Optional[_Union[_scope_pb2.Scope, _Mapping]] = ..., entry_id: _Optional[str] = ..., all: _Optional[bool] = ...) -> None: ...

class InvalidateResponse(_message.Message):
    __slots__ = ("removed_count",)
    REMOVED_COUNT_FIELD_NUMBER: _ClassVar[int]
    removed_count: int
    def __init__(self, removed_count: _Optional[int] = ...) -> None: ...
