"""Errors: one meaning on both sides of a call, and one list of reasons in code and contract."""

import ast
from collections.abc import Iterator
from pathlib import Path

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from mesh import errors
from mesh.errors import (
    STATUS_DETAILS_KEY,
    Internal,
    InvalidArgument,
    NotFound,
    PlexusError,
    Reason,
    ResourceExhausted,
    Unavailable,
    from_failure,
    from_rpc_error,
    from_rpc_status,
    to_failure,
    to_rpc_status,
    trailing_metadata,
)
from plexus.common.v1 import error_pb2

ROOT = Path(__file__).resolve().parents[3]
PREFIX = "ERROR_REASON_"
CLASSES = [
    cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, PlexusError)
]


def test_code_and_contract_list_the_same_reasons() -> None:
    contract = {name.removeprefix(PREFIX) for name in error_pb2.ErrorReason.keys()}  # noqa: SIM118
    assert {reason.value for reason in Reason} == contract - {"UNSPECIFIED"}
    assert all(reason.name == reason.value for reason in Reason)


def reasons_named(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_bytes())):
        match node:
            case ast.Attribute(value=ast.Name(id="Reason"), attr=name):
                yield node.lineno, name
            case _:
                pass


def test_every_reason_named_in_code_exists() -> None:
    named = [
        (f"{path.relative_to(ROOT)}:{line}", name)
        for folder in ("mesh", "services", "gateway", "cli")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line, name in reasons_named(path)
    ]
    assert named, "the scan looks at the wrong folder"
    assert [where for where, name in named if name not in Reason.__members__] == []


def test_every_error_has_a_code_of_its_own_and_a_known_reason() -> None:
    derived = [cls for cls in CLASSES if cls is not PlexusError]
    assert len({cls.code for cls in derived}) == len(derived)
    assert all(cls.default_reason in Reason for cls in derived)


words = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@given(
    st.sampled_from([cls for cls in CLASSES if cls is not PlexusError]),
    words,
    st.sampled_from(list(Reason)),
    st.dictionaries(words, words, max_size=3),
    st.one_of(st.none(), st.integers(0, 10**9).map(lambda us: us / 1e6)),
    st.lists(st.tuples(words, words), max_size=3),
)
def test_a_status_holds_the_whole_error(
    cls: type[PlexusError],
    message: str,
    reason: Reason,
    metadata: dict[str, str],
    retry_after_s: float | None,
    violations: list[tuple[str, str]],
) -> None:
    error = cls(
        message,
        reason=reason,
        metadata=metadata,
        retry_after_s=retry_after_s,
        violations=violations,
    )
    got = from_rpc_status(to_rpc_status(error))
    assert type(got) is cls
    assert vars(got) == vars(error)


def rpc_error(
    code: grpc.StatusCode, details: str | None = None, *trailers: tuple[str, str | bytes]
) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(
        code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailers), details=details
    )


def test_an_error_without_details_keeps_its_code_and_text() -> None:
    got = from_rpc_error(rpc_error(grpc.StatusCode.NOT_FOUND, "nothing here"))
    assert isinstance(got, NotFound)
    assert (got.message, got.reason) == ("nothing here", Reason.NOT_FOUND)
    assert from_rpc_error(rpc_error(grpc.StatusCode.UNAVAILABLE)).message == "UNAVAILABLE"


def test_an_unknown_code_is_internal() -> None:
    assert isinstance(from_rpc_error(rpc_error(grpc.StatusCode.UNKNOWN, "?")), Internal)


@pytest.mark.parametrize("data", [b"\xff\xff\xff", b"", b"\x08\x00"])
def test_details_that_cannot_be_read_are_ignored(data: bytes) -> None:
    got = from_rpc_error(rpc_error(grpc.StatusCode.UNAVAILABLE, "down", (STATUS_DETAILS_KEY, data)))
    assert isinstance(got, Unavailable)
    assert got.message == "down"


def test_another_domains_reason_is_not_ours() -> None:
    status = status_pb2.Status(code=grpc.StatusCode.NOT_FOUND.value[0])
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="API_DISABLED", domain="x.com"))
    assert from_rpc_status(status).reason == Reason.NOT_FOUND


def test_a_message_too_large_is_told_from_overload() -> None:
    text = "CLIENT: Received message larger than max (5000005 vs. 4194304)"
    got = from_rpc_error(rpc_error(grpc.StatusCode.RESOURCE_EXHAUSTED, text))
    assert isinstance(got, ResourceExhausted)
    assert got.reason == Reason.MESSAGE_TOO_LARGE


@pytest.mark.parametrize("retry_after_s", [None, 0.5])
def test_handlers_failures_are_never_retried_by_the_transport(retry_after_s: float | None) -> None:
    trailers = dict(trailing_metadata(Unavailable("down", retry_after_s=retry_after_s)))
    assert trailers["grpc-retry-pushback-ms"] == "-1"


def test_long_texts_are_cut_to_what_trailers_hold() -> None:
    error = InvalidArgument("ü" * 9999, violations=[("f" * 999, "w" * 999)] * 99)
    assert len(error.message.encode()) <= errors.MAX_MESSAGE_BYTES
    assert error.message.endswith("ü…")
    assert len(error.violations) == errors.MAX_DETAILS
    assert len(to_rpc_status(error).SerializeToString()) < 4096


def test_a_failure_holds_what_a_stream_needs() -> None:
    error = Unavailable("down", reason=Reason.MEMORY_UNAVAILABLE, retry_after_s=0.0004)
    failure = to_failure(error)
    assert failure.retry_after_ms == 1, "0 would say that trying again is not advised"
    got = from_failure(failure)
    assert (type(got), got.message, got.reason) == (Unavailable, "down", error.reason)
    assert from_failure(to_failure(NotFound("x"))).retry_after_s is None
