"""The taxonomy: what each status and code means, and that errors leak nothing."""

import pytest

from mesh.errors import Reason
from services.router.failure import RULES, FailureKind, UpstreamFailure, classify, to_error
from services.router.wire.openai_stream import failure_of

K = FailureKind


@pytest.mark.parametrize(
    ("status", "codes", "message", "kind"),
    [
        (401, (), "", K.KEY_FATAL),
        (401, ("invalid_request_error",), "", K.KEY_FATAL),
        (404, ("server_error",), "", K.MODEL_MISSING),
        (500, ("invalid_request_error",), "", K.TRANSIENT),
        (0, ("invalid_request_error",), "", K.REQUEST_FATAL),
        (403, (), "", K.KEY_FATAL),
        (429, (), "", K.KEY_THROTTLED),
        (429, ("insufficient_quota",), "", K.KEY_FATAL),
        (404, ("model_not_found",), "", K.MODEL_MISSING),
        (404, (), "", K.MODEL_MISSING),
        (408, (), "", K.TRANSIENT),
        (500, (), "", K.TRANSIENT),
        (529, ("overloaded_error",), "", K.TRANSIENT),
        (400, (), "", K.REQUEST_FATAL),
        (422, ("unheard_of",), "", K.REQUEST_FATAL),
        (400, ("context_length_exceeded",), "", K.CONTEXT_TOO_LONG),
        (400, ("BadRequestError",), "This model's maximum context length is 8", K.CONTEXT_TOO_LONG),
        (400, ("invalid_request_error",), "prompt is too long: 9 > 8", K.CONTEXT_TOO_LONG),
        (400, ("content_filter",), "", K.POLICY_REFUSAL),
        (0, ("overloaded_error",), "", K.TRANSIENT),
        (0, (), "", K.TRANSIENT),
    ],
)
def test_a_failure_is_classified(
    status: int, codes: tuple[str, ...], message: str, kind: FailureKind
) -> None:
    assert classify(status, codes, message) is kind


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        (
            {"error": {"message": "no", "type": "invalid_request_error", "code": None}},
            400,
            K.REQUEST_FATAL,
        ),
        ({"error": "model 'x' not found"}, 404, K.MODEL_MISSING),
        ({"object": "error", "message": "bad", "code": 400}, 0, K.REQUEST_FATAL),
        ({"error": {"code": 429, "message": "slow down"}}, 0, K.KEY_THROTTLED),
        ({"type": "error", "error": {"type": "rate_limit_error"}}, 429, K.KEY_THROTTLED),
        ({"detail": "Internal"}, 500, K.TRANSIENT),
        ({}, 503, K.TRANSIENT),
    ],
)
def test_every_servers_error_body_is_understood(
    body: dict[str, object], status: int, kind: FailureKind
) -> None:
    assert failure_of(body, status=status).kind is kind


def test_every_kind_has_a_rule() -> None:
    assert set(RULES) == set(FailureKind)


def test_an_error_shows_codes_and_never_what_the_provider_wrote() -> None:
    body = {
        "error": {
            "message": "key sk-secret: no 'my prompt'",
            "code": "invalid_api_key",
            "type": "a b",
        }
    }
    error = to_error(failure_of(body, status=401), "up/m")
    assert error.reason == Reason.UPSTREAM_UNAUTHENTICATED
    assert "invalid_api_key" in error.message
    assert "HTTP 401" in error.message
    assert "sk-secret" not in error.message
    assert "prompt" not in error.message
    assert "a b" not in error.message


def test_a_throttled_error_says_when_to_come_back() -> None:
    failure = UpstreamFailure(K.KEY_THROTTLED, retry_after_s=7.0)
    assert to_error(failure, "up/m").retry_after_s == 7.0
