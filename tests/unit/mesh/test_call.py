"""The call's context: deadlines, tenants, request ids and traces."""

import asyncio
import math

import pytest

from mesh.call import (
    Identity,
    Trace,
    current_call,
    current_call_or_none,
    new_trace,
    outgoing_call,
    parse_traceparent,
    remaining_s,
    resolve_tenant,
)
from mesh.clock import SYSTEM_CLOCK
from mesh.errors import PermissionDenied, Reason
from mesh.outgoing import DEFAULT_TIMEOUT_S, outgoing
from plexus.common.v1 import scope_pb2

ANA = Identity("acme", "key:ana")
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def test_outside_of_a_call_there_is_none() -> None:
    assert current_call_or_none() is None
    with pytest.raises(LookupError):
        current_call()
    assert remaining_s(5.0) == 5.0


def test_a_call_is_current_inside_its_block_only() -> None:
    with outgoing_call(ANA, request_id="r-1") as call:
        assert current_call() is call
        with outgoing_call(Identity("globex", "job")):
            assert current_call().identity.tenant == "globex"
        assert current_call() is call
    assert current_call_or_none() is None


async def test_tasks_inherit_the_call_they_began_in() -> None:
    async def tenant() -> str:
        return current_call().identity.tenant

    with outgoing_call(ANA):
        task = asyncio.create_task(tenant())
    assert await task == "acme"


def test_time_left_never_goes_below_zero() -> None:
    with outgoing_call(ANA, timeout_s=-1):
        assert remaining_s(9.0) == 0.0
    with outgoing_call(ANA):
        assert remaining_s(9.0) == 9.0


def test_the_tenant_is_the_callers_own() -> None:
    with outgoing_call(ANA):
        assert resolve_tenant(scope_pb2.Scope()) == "acme"
        assert resolve_tenant(scope_pb2.Scope(tenant="acme")) == "acme"
        with pytest.raises(PermissionDenied) as caught:
            resolve_tenant(scope_pb2.Scope(tenant="globex"))
    assert caught.value.reason == Reason.TENANT_MISMATCH


@pytest.mark.parametrize("given", ["r-1", "~" * 64])
def test_a_good_request_id_is_kept(given: str) -> None:
    with outgoing_call(ANA, request_id=given) as call:
        assert call.request_id == given


@pytest.mark.parametrize("given", [None, "", "a b", "a\n", "ü", "x" * 65])
def test_any_other_request_id_is_replaced(given: str | None) -> None:
    with outgoing_call(ANA, request_id=given) as call:
        assert len(call.request_id) == 32
        assert call.request_id != given


def test_a_trace_is_read_back() -> None:
    trace = Trace(TRACE, SPAN, sampled=True)
    assert parse_traceparent(trace.traceparent()) == trace
    child = trace.child()
    assert (child.trace_id, child.sampled) == (TRACE, True)
    assert child.span_id != SPAN
    assert parse_traceparent(new_trace().traceparent()) is not None
    assert parse_traceparent(f"01-{TRACE}-{SPAN}-02-later-fields") == Trace(TRACE, SPAN)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "00",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-zz",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-0x{TRACE[2:]}-{SPAN}-01",
        f"00-{TRACE[:-2]}_1-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01\n",
    ],
)
def test_a_malformed_trace_is_dropped(header: str) -> None:
    assert parse_traceparent(header) is None


def test_outside_of_a_call_nothing_is_added_but_a_deadline() -> None:
    assert outgoing("/s/m", (), None) == ((), DEFAULT_TIMEOUT_S)
    assert outgoing("/s/m", (("k", "v"),), 3.0, mesh_token="t") == ((("k", "v"),), 3.0)


def test_a_call_puts_itself_into_what_goes_out() -> None:
    with outgoing_call(ANA, request_id="r-1") as call:
        metadata, _ = outgoing("/s/m", (), None, mesh_token="token")
    sent = dict(metadata)
    assert (sent["plexus-tenant"], sent["plexus-principal"]) == ("acme", "key:ana")
    assert (sent["x-request-id"], sent["plexus-mesh-token"]) == ("r-1", "token")
    trace = parse_traceparent(str(sent["traceparent"]))
    assert trace is not None
    assert trace.trace_id == call.trace.trace_id


def test_what_the_caller_set_itself_stays() -> None:
    with outgoing_call(ANA):
        metadata, _ = outgoing("/s/m", (("plexus-tenant", "globex"),), None)
    assert [value for key, value in metadata if key == "plexus-tenant"] == ["globex"]


def as_the_wire_rounds(timeout_s: float) -> float:
    """gRPC sends three digits, or whole milliseconds, and rounds up."""
    step = 0.001 if timeout_s < 1 else 10.0 ** (math.floor(math.log10(timeout_s)) - 2)
    return math.ceil(timeout_s / step) * step


@pytest.mark.parametrize("budget_s", [0.5, 1.0, 3.3333, 42.0, 250.0, 4000.0])
def test_a_hop_gets_less_than_its_caller_has_and_nearly_all_of_it(budget_s: float) -> None:
    with outgoing_call(ANA, timeout_s=budget_s) as call:
        _, left_s = outgoing("/s/m", (), None)
        assert call.deadline_s is not None
        assert as_the_wire_rounds(left_s) < call.deadline_s - SYSTEM_CLOCK.monotonic_s()
        assert outgoing("/s/m", (), 0.25)[1] == 0.25
        assert outgoing("/s/m", (), budget_s * 2)[1] <= left_s
    # Three digits, as the wire has them, and the margins.
    assert left_s > budget_s * 0.98 - 0.1


def test_a_spent_budget_leaves_nothing() -> None:
    with outgoing_call(ANA, timeout_s=-1):
        assert outgoing("/s/m", (), None)[1] == 0.0
