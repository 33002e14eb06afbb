"""Every error that a caller may see, and its one translation into gRPC.

PlexusError
 ├─ InvalidArgument      the request breaks a documented limit
 ├─ OutOfRange           a position past the end
 ├─ Unauthenticated      no key, or a wrong one
 ├─ PermissionDenied     a key for something else
 ├─ NotFound             not in the caller's scope
 ├─ AlreadyExists        and the request did not allow replacing it
 ├─ Conflict             compare-and-set lost (ABORTED)
 ├─ FailedPrecondition   not in this state
 ├─ ResourceExhausted    shed; says when to come back
 ├─ DeadlineExceeded     out of time
 ├─ Cancelled            the caller went away
 ├─ Unavailable          something we need is down; nothing was acknowledged
 ├─ DataLoss             data on disk cannot be read
 ├─ Unimplemented        in the contract, not served here
 └─ Internal             a fault of ours

Status code and `google.rpc.ErrorInfo` are made here and nowhere else; the HTTP
status is made at the edge (`gateway.edges`), from the same class and reason.
"""

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import ClassVar

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from plexus.common.v1 import error_pb2

DOMAIN = "plexus"
STATUS_DETAILS_KEY = "grpc-status-details-bin"
# A status travels twice in the trailers, once with three bytes for each that is not ASCII, and
# clients refuse trailers beyond 8 KiB: instead of the error they would see RESOURCE_EXHAUSTED.
MAX_MESSAGE_BYTES = 768
MAX_FIELD_BYTES = 64
MAX_WHY_BYTES = 160
MAX_DETAILS = 8


class Reason(StrEnum):
    """Stable reasons; the meaning of each is written in protos/plexus/common/v1/error.proto."""

    INVALID_FIELD = "INVALID_FIELD"
    INVALID_PAGE_TOKEN = "INVALID_PAGE_TOKEN"
    INVALID_RESUME_TOKEN = "INVALID_RESUME_TOKEN"
    MALFORMED_BODY = "MALFORMED_BODY"
    MESSAGE_TOO_LARGE = "MESSAGE_TOO_LARGE"
    IDEMPOTENCY_KEY_REUSED = "IDEMPOTENCY_KEY_REUSED"
    METADATA_TOO_LARGE = "METADATA_TOO_LARGE"
    MISSING_KEY = "MISSING_KEY"
    INVALID_KEY = "INVALID_KEY"
    UNKNOWN_TENANT = "UNKNOWN_TENANT"
    TENANT_MISMATCH = "TENANT_MISMATCH"
    TENANT_REQUIRED = "TENANT_REQUIRED"
    ORIGIN_NOT_ALLOWED = "ORIGIN_NOT_ALLOWED"
    MODEL_NOT_FOUND = "MODEL_NOT_FOUND"
    CONTEXT_TOO_LONG = "CONTEXT_TOO_LONG"
    CONTENT_REFUSED = "CONTENT_REFUSED"
    UPSTREAM_REJECTED = "UPSTREAM_REJECTED"
    UPSTREAM_UNAVAILABLE = "UPSTREAM_UNAVAILABLE"
    UPSTREAM_RATE_LIMITED = "UPSTREAM_RATE_LIMITED"
    UPSTREAM_UNAUTHENTICATED = "UPSTREAM_UNAUTHENTICATED"
    STREAM_INTERRUPTED = "STREAM_INTERRUPTED"
    NOT_FOUND = "NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    VERSION_CONFLICT = "VERSION_CONFLICT"
    OVERLOADED = "OVERLOADED"
    DRAINING = "DRAINING"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    CANCELLED = "CANCELLED"
    MEMORY_UNAVAILABLE = "MEMORY_UNAVAILABLE"
    LEDGER_UNAVAILABLE = "LEDGER_UNAVAILABLE"
    CACHE_UNAVAILABLE = "CACHE_UNAVAILABLE"
    EMBEDDER_UNAVAILABLE = "EMBEDDER_UNAVAILABLE"
    DIMENSION_MISMATCH = "DIMENSION_MISMATCH"
    COMPONENT_UNAVAILABLE = "COMPONENT_UNAVAILABLE"
    DATA_CORRUPT = "DATA_CORRUPT"
    INVALID_SETTINGS = "INVALID_SETTINGS"
    DATA_IN_USE = "DATA_IN_USE"
    RESUME_UNAVAILABLE = "RESUME_UNAVAILABLE"
    NOT_SERVED = "NOT_SERVED"
    INTERNAL = "INTERNAL"


class PlexusError(Exception):
    """The root of the tree. `message` is for people and holds no prompt text and no secret.

    Texts longer than their MAX_…_BYTES, and more than MAX_DETAILS entries of metadata or
    violations, are cut.
    """

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL
    default_reason: ClassVar[Reason] = Reason.INTERNAL

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
        violations: Sequence[tuple[str, str]] = (),
    ) -> None:
        self.message = _cut(message, MAX_MESSAGE_BYTES)
        super().__init__(self.message)
        self.reason: str = reason or self.default_reason
        pairs = [] if metadata is None else list(metadata.items())[:MAX_DETAILS]
        self.metadata = {_cut(k, MAX_FIELD_BYTES): _cut(v, MAX_WHY_BYTES) for k, v in pairs}
        self.retry_after_s = retry_after_s
        self.violations = tuple(
            (_cut(field, MAX_FIELD_BYTES), _cut(why, MAX_WHY_BYTES))
            for field, why in violations[:MAX_DETAILS]
        )


def _cut(text: str, limit: int) -> str:
    if len(text) * 4 <= limit or len(text.encode()) <= limit:
        return text
    return text.encode()[: limit - 3].decode(errors="ignore") + "…"


class InvalidArgument(PlexusError):
    """The request breaks a documented limit; sending it again cannot help."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    default_reason = Reason.INVALID_FIELD


class OutOfRange(PlexusError):
    """A position past the end of what exists."""

    code = grpc.StatusCode.OUT_OF_RANGE
    default_reason = Reason.INVALID_FIELD


class Unauthenticated(PlexusError):
    """The caller did not say who it is, or not believably."""

    code = grpc.StatusCode.UNAUTHENTICATED
    default_reason = Reason.INVALID_KEY


class PermissionDenied(PlexusError):
    """The caller may not do this to that."""

    code = grpc.StatusCode.PERMISSION_DENIED
    default_reason = Reason.TENANT_MISMATCH


class NotFound(PlexusError):
    """There is no such thing in the caller's scope."""

    code = grpc.StatusCode.NOT_FOUND
    default_reason = Reason.NOT_FOUND


class AlreadyExists(PlexusError):
    """There is such a thing already."""

    code = grpc.StatusCode.ALREADY_EXISTS
    default_reason = Reason.ALREADY_EXISTS


class Conflict(PlexusError):
    """Compare-and-set lost; read again, then retry at a higher level."""

    code = grpc.StatusCode.ABORTED
    default_reason = Reason.VERSION_CONFLICT


class FailedPrecondition(PlexusError):
    """The system is not in a state for this call; retrying as is cannot help."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    default_reason = Reason.INVALID_SETTINGS


class ResourceExhausted(PlexusError):
    """Shed on purpose; `retry_after_s` says when to come back."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    default_reason = Reason.OVERLOADED


class DeadlineExceeded(PlexusError):
    """The caller's time is up."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED
    default_reason = Reason.DEADLINE_EXCEEDED


class Cancelled(PlexusError):
    """The caller went away."""

    code = grpc.StatusCode.CANCELLED
    default_reason = Reason.CANCELLED


class Unavailable(PlexusError):
    """Something that the call needs is down; nothing was acknowledged, a retry may help."""

    code = grpc.StatusCode.UNAVAILABLE
    default_reason = Reason.COMPONENT_UNAVAILABLE


class DataLoss(PlexusError):
    """Data on disk cannot be read."""

    code = grpc.StatusCode.DATA_LOSS
    default_reason = Reason.DATA_CORRUPT


class Unimplemented(PlexusError):
    """In the contract, and not served here."""

    code = grpc.StatusCode.UNIMPLEMENTED
    default_reason = Reason.NOT_SERVED


class Internal(PlexusError):
    """A fault of ours."""


_BY_CODE: dict[grpc.StatusCode, type[PlexusError]] = {
    cls.code: cls
    for cls in (
        InvalidArgument,
        OutOfRange,
        Unauthenticated,
        PermissionDenied,
        NotFound,
        AlreadyExists,
        Conflict,
        FailedPrecondition,
        ResourceExhausted,
        DeadlineExceeded,
        Cancelled,
        Unavailable,
        DataLoss,
        Unimplemented,
        Internal,
    )
}
_BY_NUMBER: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


def to_rpc_status(error: PlexusError) -> status_pb2.Status:
    """Return the status with ErrorInfo, and RetryInfo or BadRequest where they apply."""
    details = [
        _pack(
            error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata)
        )
    ]
    if error.retry_after_s is not None:
        delay = duration_pb2.Duration()
        delay.FromMicroseconds(round(error.retry_after_s * 1e6))
        details.append(_pack(error_details_pb2.RetryInfo(retry_delay=delay)))
    if error.violations:
        bad = error_details_pb2.BadRequest()
        for field, why in error.violations:
            bad.field_violations.add(field=field, description=why)
        details.append(_pack(bad))
    return status_pb2.Status(code=error.code.value[0], message=error.message, details=details)


def from_rpc_status(status: status_pb2.Status) -> PlexusError:
    """Return the error that `to_rpc_status` was given; another domain's reasons are ignored."""
    info = error_details_pb2.ErrorInfo()
    retry = error_details_pb2.RetryInfo()
    bad = error_details_pb2.BadRequest()
    retry_after_s: float | None = None
    for detail in status.details:
        if detail.Unpack(retry):
            retry_after_s = retry.retry_delay.ToMicroseconds() / 1e6
        elif not detail.Unpack(info):
            detail.Unpack(bad)
    if info.domain != DOMAIN:
        info.Clear()
    return _BY_CODE.get(_BY_NUMBER.get(status.code, grpc.StatusCode.UNKNOWN), Internal)(
        status.message,
        reason=info.reason or None,
        metadata=dict(info.metadata),
        retry_after_s=retry_after_s,
        violations=[(v.field, v.description) for v in bad.field_violations],
    )


def from_rpc_error(error: grpc.aio.AioRpcError) -> PlexusError:
    """Return a failed call's error as one of ours, also when the peer is not Plexus."""
    status = status_pb2.Status()
    for key, value in error.trailing_metadata() or ():
        if key == STATUS_DETAILS_KEY and isinstance(value, bytes):
            try:
                status.ParseFromString(value)
            except DecodeError:
                status.Clear()
    # What gRPC itself says counts; the details only add to it.
    status.code = error.code().value[0]
    status.message = error.details() or error.code().name
    found = from_rpc_status(status)
    if not status.details and "message larger than max" in status.message:
        found.reason = Reason.MESSAGE_TOO_LARGE
    return found


def to_failure(error: PlexusError) -> error_pb2.Failure:
    """Return the error as data, for terminal stream events and per-item outcomes."""
    return error_pb2.Failure(
        code=error.code.value[0],
        reason=error.reason,
        message=error.message,
        retry_after_ms=math.ceil((error.retry_after_s or 0) * 1000),
    )


def from_failure(failure: error_pb2.Failure) -> PlexusError:
    """Return the error that `to_failure` was given."""
    cls = _BY_CODE.get(_BY_NUMBER.get(failure.code, grpc.StatusCode.UNKNOWN), Internal)
    retry_after_s = failure.retry_after_ms / 1000 if failure.retry_after_ms else None
    return cls(failure.message, reason=failure.reason or None, retry_after_s=retry_after_s)


def trailing_metadata(error: PlexusError) -> tuple[tuple[str, str | bytes], ...]:
    """Return the trailers that carry the details, and push-back for gRPC's own retries."""
    trailers: list[tuple[str, str | bytes]] = [
        (STATUS_DETAILS_KEY, to_rpc_status(error).SerializeToString())
    ]
    # A handler that failed has done its own retries: -1 keeps the client's transport from
    # multiplying them, also when RetryInfo invites the caller to come back later.
    trailers.append(("grpc-retry-pushback-ms", "-1"))
    return tuple(trailers)


def _pack(
    message: error_details_pb2.ErrorInfo
    | error_details_pb2.RetryInfo
    | error_details_pb2.BadRequest,
) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
