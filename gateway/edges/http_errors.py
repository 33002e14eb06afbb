"""The one place where an error becomes an HTTP status and an OpenAI error object.

`code` is the stable reason as in ErrorReason; `type` follows from the status. Clients of OpenAI
choose their exception by status and obey `x-should-retry`, so both are decided here.
"""

import math

import grpc
import orjson

from gateway.edges.json_fields import Json
from mesh.errors import PlexusError, Reason

_STATUS_BY_CODE = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.FAILED_PRECONDITION: 422,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
_STATUS_BY_REASON = {
    Reason.CONTEXT_TOO_LONG: 400,
    Reason.CONTENT_REFUSED: 400,
    Reason.UPSTREAM_REJECTED: 400,
    Reason.IDEMPOTENCY_KEY_REUSED: 409,
    Reason.MESSAGE_TOO_LARGE: 413,
    Reason.METADATA_TOO_LARGE: 431,
    # Our own credentials were refused, not the caller's.
    Reason.UPSTREAM_UNAUTHENTICATED: 502,
}
_TYPE_BY_STATUS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    504: "timeout_error",
}
_FINAL_REASONS = (Reason.UPSTREAM_UNAUTHENTICATED, Reason.INVALID_SETTINGS)
_PARAM_PREFIXES = ("turn.", "request.", "sampling.", "scope.")
_PARAM_NAMES = {"max_output_tokens": "max_tokens", "user_id": "user", "texts": "input"}


def http_status(error: PlexusError) -> int:
    """Return the HTTP status of an error."""
    by_reason = _STATUS_BY_REASON.get(error.reason)  # pyright: ignore[reportArgumentType]
    return by_reason or _STATUS_BY_CODE.get(error.code, 500)


def should_retry(error: PlexusError) -> bool:
    """Whether the same request may succeed later.

    A refusal for lack of room says when to come back; one that does not, such as a spent budget,
    is final. A passed deadline is not retried: the caller's time is up.
    """
    if error.reason in _FINAL_REASONS:
        return False
    if error.code is grpc.StatusCode.UNAVAILABLE:
        return True
    return error.code is grpc.StatusCode.RESOURCE_EXHAUSTED and error.retry_after_s is not None


def error_headers(error: PlexusError) -> dict[str, str]:
    """Return the headers that tell a client what to do next."""
    headers = {"x-should-retry": "true" if should_retry(error) else "false"}
    if error.retry_after_s is not None:
        headers["retry-after-ms"] = str(math.ceil(error.retry_after_s * 1000))
        headers["retry-after"] = str(math.ceil(error.retry_after_s))
    if error.code is grpc.StatusCode.UNAUTHENTICATED:
        headers["www-authenticate"] = "Bearer"
    return headers


def error_json(error: PlexusError, request_id: str, *, status: int | None = None) -> bytes:
    """Return the error body; `retryable` and `request_id` repeat what the headers say."""
    param = _param_of(error)
    said: Json = {
        "message": f"{param}: {error.violations[0][1]}" if param else error.message,
        "type": _type_of(status or http_status(error)),
        "param": param,
        "code": str(error.reason),
        "retryable": should_retry(error),
        "request_id": request_id,
    }
    if error.retry_after_s is not None:
        said["retry_after_ms"] = math.ceil(error.retry_after_s * 1000)
    return orjson.dumps({"error": said})


def error_record(error: PlexusError, request_id: str) -> bytes:
    """Return the record that ends a stream which failed; no end mark may follow it."""
    return b"data: " + error_json(error, request_id) + b"\n\n"


def _type_of(status: int) -> str:
    default = "api_error" if status >= 500 else "invalid_request_error"
    return _TYPE_BY_STATUS.get(status, default)


def _param_of(error: PlexusError) -> str | None:
    """Return the first wrong field, by the name that OpenAI's request has for it."""
    if not error.violations:
        return None
    field = error.violations[0][0]
    for prefix in _PARAM_PREFIXES:
        field = field.removeprefix(prefix)
    field = field.replace(".parts", ".content")
    return _PARAM_NAMES.get(field, field)
