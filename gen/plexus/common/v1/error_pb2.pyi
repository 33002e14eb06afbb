from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class ErrorReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ERROR_REASON_UNSPECIFIED: _ClassVar[ErrorReason]
    ERROR_REASON_INVALID_FIELD: _ClassVar[ErrorReason]
    ERROR_REASON_INVALID_PAGE_TOKEN: _ClassVar[ErrorReason]
    ERROR_REASON_INVALID_RESUME_TOKEN: _ClassVar[ErrorReason]
    ERROR_REASON_MALFORMED_BODY: _ClassVar[ErrorReason]
    ERROR_REASON_MESSAGE_TOO_LARGE: _ClassVar[ErrorReason]
    ERROR_REASON_IDEMPOTENCY_KEY_REUSED: _ClassVar[ErrorReason]
    ERROR_REASON_METADATA_TOO_LARGE: _ClassVar[ErrorReason]
    ERROR_REASON_MISSING_KEY: _ClassVar[ErrorReason]
    ERROR_REASON_INVALID_KEY: _ClassVar[ErrorReason]
    ERROR_REASON_UNKNOWN_TENANT: _ClassVar[ErrorReason]
    ERROR_REASON_TENANT_MISMATCH: _ClassVar[ErrorReason]
    ERROR_REASON_TENANT_REQUIRED: _ClassVar[ErrorReason]
    ERROR_REASON_ORIGIN_NOT_ALLOWED: _ClassVar[ErrorReason]
    ERROR_REASON_MODEL_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_CONTEXT_TOO_LONG: _ClassVar[ErrorReason]
    ERROR_REASON_CONTENT_REFUSED: _ClassVar[ErrorReason]
    ERROR_REASON_UPSTREAM_REJECTED: _ClassVar[ErrorReason]
    ERROR_REASON_UPSTREAM_UNAVAILABLE: _ClassVar[ErrorReason]
    ERROR_REASON_UPSTREAM_RATE_LIMITED: _ClassVar[ErrorReason]
    ERROR_REASON_UPSTREAM_UNAUTHENTICATED: _ClassVar[ErrorReason]
    ERROR_REASON_STREAM_INTERRUPTED: _ClassVar[ErrorReason]
    ERROR_REASON_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_ALREADY_EXISTS: _ClassVar[ErrorReason]
    ERROR_REASON_VERSION_CONFLICT: _ClassVar[ErrorReason]
    ERROR_REASON_OVERLOADED: _ClassVar[ErrorReason]
    ERROR_REASON_DRAINING: _ClassVar[ErrorReason]
    ERROR_REASON_DEADLINE_EXCEEDED: _ClassVar[ErrorReason]
    ERROR_REASON_CANCELLED: _ClassVar[ErrorReason]
    ERROR_REASON_MEMORY_UNAVAILABLE: _ClassVar[ErrorReason]
    ERROR_REASON_LEDGER_UNAVAILABLE: _ClassVar[ErrorReason]
    ERROR_REASON_CACHE_UNAVAILABLE: _ClassVar[ErrorReason]
    ERROR_REASON_EMBEDDER_UNAVAILABLE: _ClassVar[ErrorReason]
    ERROR_REASON_DIMENSION_MISMATCH: _ClassVar[ErrorReason]
    ERROR_REASON_COMPONENT_UNAVAILABLE: _ClassVar[ErrorReason]
    ERROR_REASON_DATA_CORRUPT: _ClassVar[ErrorReason]
    ERROR_REASON_INVALID_SETTINGS: _ClassVar[ErrorReason]
    ERROR_REASON_DATA_IN_USE: _ClassVar[ErrorReason]
    ERROR_REASON_RESUME_UNAVAILABLE: _ClassVar[ErrorReason]
    ERROR_REASON_NOT_SERVED: _ClassVar[ErrorReason]
    ERROR_REASON_INTERNAL: _ClassVar[ErrorReason]
ERROR_REASON_UNSPECIFIED: ErrorReason
ERROR_REASON_INVALID_FIELD: ErrorReason
ERROR_REASON_INVALID_PAGE_TOKEN: ErrorReason
ERROR_REASON_INVALID_RESUME_TOKEN: ErrorReason
ERROR_REASON_MALFORMED_BODY: ErrorReason
ERROR_REASON_MESSAGE_TOO_LARGE: ErrorReason
ERROR_REASON_IDEMPOTENCY_KEY_REUSED: ErrorReason
ERROR_REASON_METADATA_TOO_LARGE: ErrorReason
ERROR_REASON_MISSING_KEY: ErrorReason
ERROR_REASON_INVALID_KEY: ErrorReason
ERROR_REASON_UNKNOWN_TENANT: ErrorReason
ERROR_REASON_TENANT_MISMATCH: ErrorReason
ERROR_REASON_TENANT_REQUIRED: ErrorReason
ERROR_REASON_ORIGIN_NOT_ALLOWED: ErrorReason
ERROR_REASON_MODEL_NOT_FOUND: ErrorReason
ERROR_REASON_CONTEXT_TOO_LONG: ErrorReason
ERROR_REASON_CONTENT_REFUSED: ErrorReason
ERROR_REASON_UPSTREAM_REJECTED: ErrorReason
ERROR_REASON_UPSTREAM_UNAVAILABLE: ErrorReason
ERROR_REASON_UPSTREAM_RATE_LIMITED: ErrorReason
ERROR_REASON_UPSTREAM_UNAUTHENTICATED: ErrorReason
ERROR_REASON_STREAM_INTERRUPTED: ErrorReason
ERROR_REASON_NOT_FOUND: ErrorReason
ERROR_REASON_ALREADY_EXISTS: ErrorReason
ERROR_REASON_VERSION_CONFLICT: ErrorReason
ERROR_REASON_OVERLOADED: ErrorReason
ERROR_REASON_DRAINING: ErrorReason
ERROR_REASON_DEADLINE_EXCEEDED: ErrorReason
ERROR_REASON_CANCELLED: ErrorReason
ERROR_REASON_MEMORY_UNAVAILABLE: ErrorReason
ERROR_REASON_LEDGER_UNAVAILABLE: ErrorReason
ERROR_REASON_CACHE_UNAVAILABLE: ErrorReason
ERROR_REASON_EMBEDDER_UNAVAILABLE: ErrorReason
ERROR_REASON_DIMENSION_MISMATCH: ErrorReason
ERROR_REASON_COMPONENT_UNAVAILABLE: ErrorReason
ERROR_REASON_DATA_CORRUPT: ErrorReason
ERROR_REASON_INVALID_SETTINGS: ErrorReason
ERROR_REASON_DATA_IN_USE: ErrorReason
ERROR_REASON_RESUME_UNAVAILABLE: ErrorReason
ERROR_REASON_NOT_SERVED: ErrorReason
ERROR_REASON_INTERNAL: ErrorReason

class Failure(_message.Message):
    __slots__ = ("code", "reason", "message", "retry_after_ms")
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    code: int
    reason: str
    message: str
    retry_after_ms: int
    def __init__(self, code: _Optional[int] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., retry_after_ms: _Optional[int] = ...) -> None: ...
