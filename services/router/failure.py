"""What can go wrong upstream, and what each kind means: the one table of the router.

Everything that reacts to a failure (fall over, try again, speak to the breaker, tell the
caller) reads `RULES`; everything that sees one (a status, an error record, a broken
connection) ends in `classify` or names a kind itself.
"""

import re
from dataclasses import dataclass
from enum import StrEnum

from mesh.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PlexusError,
    Reason,
    ResourceExhausted,
    Unavailable,
)
from plexus.common.v1 import model_pb2


class FailureKind(StrEnum):
    """Why an attempt failed."""

    KEY_FATAL = "key_fatal"
    KEY_THROTTLED = "key_throttled"
    MODEL_MISSING = "model_missing"
    TRANSIENT = "transient"
    SILENT = "silent"
    REQUEST_FATAL = "request_fatal"
    POLICY_REFUSAL = "policy_refusal"
    CONTEXT_TOO_LONG = "context_too_long"


class Exclusion(StrEnum):
    """What a failure rules out for the rest of the request."""

    NOTHING = "nothing"
    DEPLOYMENT = "deployment"
    PROVIDER = "provider"
    SMALLER_WINDOWS = "smaller_windows"
    EVERYTHING = "everything"


class Verdict(StrEnum):
    """What a failure says about the deployment's health."""

    ILL = "ill"
    WELL = "well"
    BUSY = "busy"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What follows from one kind of failure."""

    excludes: Exclusion
    verdict: Verdict
    error: type[PlexusError]
    reason: Reason
    advice: str


RULES: dict[FailureKind, Rule] = {
    # A refused key stays refused: every deployment behind it is out, others go on at once.
    FailureKind.KEY_FATAL: Rule(
        excludes=Exclusion.PROVIDER,
        verdict=Verdict.ILL,
        error=FailedPrecondition,
        reason=Reason.UPSTREAM_UNAUTHENTICATED,
        advice="the provider refused the configured key; check the key, its rights and its quota",
    ),
    # Busy is not ill: the deployment is left alone for Retry-After and its breaker stays closed.
    FailureKind.KEY_THROTTLED: Rule(
        excludes=Exclusion.NOTHING,
        verdict=Verdict.BUSY,
        error=ResourceExhausted,
        reason=Reason.UPSTREAM_RATE_LIMITED,
        advice="the provider asked to be left alone for a while",
    ),
    FailureKind.MODEL_MISSING: Rule(
        excludes=Exclusion.DEPLOYMENT,
        verdict=Verdict.WELL,
        error=NotFound,
        reason=Reason.MODEL_NOT_FOUND,
        advice="the provider does not know the configured model",
    ),
    FailureKind.TRANSIENT: Rule(
        excludes=Exclusion.NOTHING,
        verdict=Verdict.ILL,
        error=Unavailable,
        reason=Reason.UPSTREAM_UNAVAILABLE,
        advice="the provider failed",
    ),
    # Waiting twice for the same silence would spend the caller's deadline on nothing.
    FailureKind.SILENT: Rule(
        excludes=Exclusion.DEPLOYMENT,
        verdict=Verdict.ILL,
        error=Unavailable,
        reason=Reason.UPSTREAM_UNAVAILABLE,
        advice="the provider sent nothing in the time it was given",
    ),
    FailureKind.REQUEST_FATAL: Rule(
        excludes=Exclusion.EVERYTHING,
        verdict=Verdict.WELL,
        error=InvalidArgument,
        reason=Reason.UPSTREAM_REJECTED,
        advice="the provider called the request invalid",
    ),
    # Routing around a policy would answer what was refused, at another's risk.
    FailureKind.POLICY_REFUSAL: Rule(
        excludes=Exclusion.EVERYTHING,
        verdict=Verdict.WELL,
        error=FailedPrecondition,
        reason=Reason.CONTENT_REFUSED,
        advice="the provider refused the content by its policy",
    ),
    FailureKind.CONTEXT_TOO_LONG: Rule(
        excludes=Exclusion.SMALLER_WINDOWS,
        verdict=Verdict.WELL,
        error=InvalidArgument,
        reason=Reason.CONTEXT_TOO_LONG,
        advice="the prompt does not fit the model's context window; shorten it",
    ),
}


class UpstreamFailure(Exception):
    """One attempt's failure. It holds no text of the provider: that may echo prompt or key."""

    def __init__(
        self,
        kind: FailureKind,
        detail: str = "",
        *,
        retry_after_s: float | None = None,
        usage: model_pb2.Usage | None = None,
    ) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail
        self.retry_after_s = retry_after_s
        self.usage = usage

    @property
    def rule(self) -> Rule:
        """What follows from it."""
        return RULES[self.kind]


def to_error(
    failure: UpstreamFailure, deployment: str, *, retry_after_s: float | None = None
) -> PlexusError:
    """Return what a caller is told when this failure ends the request."""
    rule = failure.rule
    detail = f" ({failure.detail})" if failure.detail else ""
    return rule.error(
        f"{deployment}: {rule.advice}{detail}",
        reason=rule.reason,
        metadata={"deployment": deployment},
        retry_after_s=failure.retry_after_s if retry_after_s is None else retry_after_s,
    )


def interrupted(deployment: str, detail: str) -> PlexusError:
    """Return the error for an answer that broke off after output had begun."""
    return Unavailable(
        f"{deployment}: the answer broke off ({detail}); what was sent is incomplete",
        reason=Reason.STREAM_INTERRUPTED,
        metadata={"deployment": deployment},
    )


def out_of_time(deployment: str) -> PlexusError:
    """Return the error for a deadline that passed during an attempt."""
    where = f" while {deployment} was answering" if deployment else ""
    return DeadlineExceeded(f"the call's deadline passed{where}")


_BY_STATUS: dict[int, FailureKind] = {
    401: FailureKind.KEY_FATAL,
    402: FailureKind.KEY_FATAL,
    403: FailureKind.KEY_FATAL,
    404: FailureKind.MODEL_MISSING,
    408: FailureKind.TRANSIENT,
    409: FailureKind.TRANSIENT,
    425: FailureKind.TRANSIENT,
    429: FailureKind.KEY_THROTTLED,
}

_BY_CODE: dict[str, FailureKind] = {
    # OpenAI and what imitates it
    "insufficient_quota": FailureKind.KEY_FATAL,
    "invalid_api_key": FailureKind.KEY_FATAL,
    "billing_hard_limit_reached": FailureKind.KEY_FATAL,
    "rate_limit_exceeded": FailureKind.KEY_THROTTLED,
    "model_not_found": FailureKind.MODEL_MISSING,
    "context_length_exceeded": FailureKind.CONTEXT_TOO_LONG,
    "exceed_context_size_error": FailureKind.CONTEXT_TOO_LONG,
    "string_above_max_length": FailureKind.CONTEXT_TOO_LONG,
    "content_filter": FailureKind.POLICY_REFUSAL,
    "content_policy_violation": FailureKind.POLICY_REFUSAL,
    "responsibleaipolicyviolation": FailureKind.POLICY_REFUSAL,
    # Anthropic
    "authentication_error": FailureKind.KEY_FATAL,
    "permission_error": FailureKind.KEY_FATAL,
    "billing_error": FailureKind.KEY_FATAL,
    "rate_limit_error": FailureKind.KEY_THROTTLED,
    "not_found_error": FailureKind.MODEL_MISSING,
    "request_too_large": FailureKind.REQUEST_FATAL,
    "overloaded_error": FailureKind.TRANSIENT,
    "timeout_error": FailureKind.TRANSIENT,
}

_VAGUE = ("invalid_request_error", "badrequesterror")
"""Codes that some servers put on every 4xx, so they count only where there is no status."""

_TOO_LONG = re.compile(
    r"maximum context length|context (length|window|size)|prompt is too long"
    r"|too many (input )?tokens",
    re.IGNORECASE,
)
"""How servers without a code for it say that a prompt is too long."""

_CODE = re.compile(r"[A-Za-z0-9_.\-]{1,64}\Z")


def classify(status: int, codes: tuple[str, ...], message: str) -> FailureKind:
    """Return the kind of a failure from its HTTP status (0 inside a stream), codes and message.

    Codes count before the status, the first that is known wins: a 429 may mean an empty
    account and a 400 a policy. An unknown failure of a stream is taken as transient.
    """
    lowered = [code.lower() for code in codes]
    known = [_BY_CODE[code] for code in lowered if code in _BY_CODE]
    if not status and not known and any(code in _VAGUE for code in lowered):
        known = [FailureKind.REQUEST_FATAL]
    kind = known[0] if known else _kind_of_status(status)
    if kind is FailureKind.REQUEST_FATAL and _TOO_LONG.search(message):
        return FailureKind.CONTEXT_TOO_LONG
    return kind


def safe_detail(status: int, codes: tuple[str, ...]) -> str:
    """Return a detail that is safe to show: the status and codes, never the provider's prose."""
    shown = [f"HTTP {status}"] if status else []
    shown += [code for code in dict.fromkeys(codes) if _CODE.match(code)]
    return ", ".join(shown)


def _kind_of_status(status: int) -> FailureKind:
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if 400 <= status < 500:
        return FailureKind.REQUEST_FATAL
    return FailureKind.TRANSIENT
