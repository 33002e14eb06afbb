"""The interceptors: what is counted and logged of every end of a call, and who is let past."""

import asyncio
import io
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from mesh import logs, metrics
from mesh.admission import Admission
from mesh.call import current_call
from mesh.clock import SYSTEM_CLOCK
from mesh.errors import InvalidArgument, NotFound
from mesh.handlers import Context, ServiceTable
from mesh.identity import Authenticator
from mesh.inprocess import InProcessChannel
from mesh.interceptors import InFlight, interceptors
from mesh.settings import MeshSettings
from mesh.testing.clock import ManualClock

TENANT = (("plexus-tenant", "acme"),)


class Bench:
    """Handlers behind the real list of interceptors, called in process."""

    def __init__(self, service: str, handler: Any, *, clock: Any = SYSTEM_CLOCK) -> None:
        self.path = f"{service}/Call"
        self.admission = Admission(clock, limit=1, queue_limit=4)
        table = ServiceTable(
            interceptors(
                service,
                clock=clock,
                authenticator=Authenticator(MeshSettings()),
                admission=self.admission,
                default_deadline_s=60.0,
            )
        )
        rpc = grpc.unary_unary_rpc_method_handler(
            handler, StringValue.FromString, StringValue.SerializeToString
        )
        table.add_registered_method_handlers(service, {"Call": rpc})
        self._channel = InProcessChannel(table)

    def call(self, **options: Any) -> Any:
        method = self._channel.unary_unary(
            f"/{self.path}", StringValue.SerializeToString, StringValue.FromString
        )
        return method(StringValue(), **{"metadata": TENANT, "timeout": 10.0, **options})

    async def close(self) -> None:
        await self._channel.close()

    def count(self, code: str) -> float:
        labels = {"rpc_method": self.path, "rpc_status_code": code}
        name = "rpc_server_call_duration_seconds_count"
        return metrics.REGISTRY.get_sample_value(name, labels) or 0.0


async def answer(request: Any, context: Context) -> Any:
    return request


async def refuse(request: Any, context: Context) -> Any:
    raise NotFound("no")


async def abort(request: Any, context: Context) -> Any:
    await context.abort(grpc.StatusCode.OUT_OF_RANGE, "past the end")


async def fail(request: Any, context: Context) -> Any:
    raise ValueError("secret")


async def hang(request: Any, context: Context) -> Any:
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("handler", "code"),
    [(answer, "OK"), (refuse, "NOT_FOUND"), (abort, "OUT_OF_RANGE"), (fail, "INTERNAL")],
)
async def test_every_end_is_counted_as_what_it_was(handler: Callable[..., Any], code: str) -> None:
    bench = Bench(f"test.{code}", handler)
    assert (await bench.call().code()).name == code
    assert bench.count(code) == 1
    await bench.close()


async def test_a_passed_deadline_is_not_counted_as_a_caller_that_went_away() -> None:
    bench = Bench("test.Deadline", hang)
    assert await bench.call(timeout=0.05).code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await bench.close()
    assert (bench.count("DEADLINE_EXCEEDED"), bench.count("CANCELLED")) == (1, 0)


async def test_a_caller_that_went_away_is_counted_as_cancelled() -> None:
    bench = Bench("test.Cancelled", hang)
    call = bench.call()
    await asyncio.sleep(0)
    call.cancel()
    await bench.close()
    assert bench.count("CANCELLED") == 1


async def test_a_fault_is_logged_with_its_request_and_without_its_text() -> None:
    lines = io.StringIO()
    logs.configure("debug", lines)
    bench = Bench("test.Fault", fail)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await bench.call(metadata=(*TENANT, ("x-request-id", "r-17")))
    assert "r-17" in str(caught.value.details())
    fault, call = lines.getvalue().splitlines()
    assert "request_id=r-17" in fault
    assert "error=ValueError" in fault
    assert "code=INTERNAL" in call
    assert "tenant=acme" in call
    assert "secret" not in lines.getvalue() + str(caught.value.details())
    await bench.close()


async def test_health_passes_identity_and_admission() -> None:
    bench = Bench("grpc.health.v1.Health", answer)
    await bench.admission.acquire()
    assert await bench.call(metadata=()) == StringValue()
    await bench.close()


async def test_every_other_service_does_not() -> None:
    bench = Bench("grpc.healthy.v1.Health", answer)
    assert await bench.call(metadata=()).code() is grpc.StatusCode.PERMISSION_DENIED
    assert bench.admission.statistics().running == 0
    await bench.close()


@pytest.mark.parametrize("handler", [answer, refuse, abort, fail])
async def test_a_place_is_given_back_at_every_end(handler: Callable[..., Any]) -> None:
    bench = Bench("test.Place", handler)
    await bench.call().code()
    call = bench.call()
    call.cancel()
    await bench.close()
    assert bench.admission.statistics().running == 0


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_priority_is_one_digit_and_anything_else_is_the_default() -> None:
    order: list[str] = []

    async def note(request: Any, context: Context) -> Any:
        order.append(current_call().request_id)
        return request

    bench = Bench("test.Priority", note)
    await bench.admission.acquire()
    calls: list[Any] = []
    for priority in ("12", "x", "2", "0"):
        sent = (*TENANT, ("plexus-priority", priority), ("x-request-id", f"asked-{priority}"))
        calls.append(bench.call(metadata=sent))
        await settle()
    bench.admission.release()
    for call in calls:
        await call
    assert order == ["asked-0", "asked-12", "asked-x", "asked-2"]
    await bench.close()


async def test_a_queued_calls_deadline_is_that_of_the_admissions_clock() -> None:
    clock = ManualClock()
    bench = Bench("test.Queue", answer, clock=clock)
    await bench.admission.acquire()
    call = bench.call(timeout=30.0)
    await clock.wait_for_sleepers()
    await clock.advance(31.0)
    assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert bench.admission.statistics().queued == 0
    await bench.close()


async def test_a_deadline_stays_on_the_machines_clock() -> None:
    """A test's clock must not decide how long calls to others may take."""

    async def left(request: Any, context: Context) -> Any:
        deadline_s = current_call().deadline_s
        assert deadline_s is not None
        return StringValue(value=str(deadline_s - SYSTEM_CLOCK.monotonic_s()))

    bench = Bench("test.Clock", left, clock=ManualClock())
    assert 0 < float((await bench.call(timeout=10.0)).value) <= 10.0
    await bench.close()


async def test_an_rpc_left_to_the_generated_base_is_unimplemented() -> None:
    def base(self: Any, request: Any, context: Any) -> Any:
        raise NotImplementedError

    base.__module__ = "plexus.memory.v1.memory_service_pb2_grpc"
    bench = Bench("test.Base", base)
    assert await bench.call().code() is grpc.StatusCode.UNIMPLEMENTED
    await bench.close()


def test_a_handler_that_would_run_in_a_thread_is_refused() -> None:
    def plain(request: Any, context: Any) -> Any:
        return request

    with pytest.raises(TypeError, match="must be a coroutine function"):
        Bench("test.Plain", plain)


async def test_settling_waits_for_handlers_and_not_for_ever() -> None:
    in_flight, go = InFlight(), asyncio.Event()

    async def handler(request: Any, context: Any) -> Any:
        await go.wait()
        raise InvalidArgument("done")

    behavior = in_flight.intercept(None, handler)  # pyright: ignore[reportArgumentType]
    running = asyncio.ensure_future(behavior(None, None))  # pyright: ignore[reportArgumentType]
    await settle()
    await in_flight.settle(0.01)
    assert not running.done()
    settling = asyncio.create_task(in_flight.settle(10.0))
    await settle()
    assert not settling.done()
    go.set()
    await settling
    with pytest.raises(InvalidArgument):
        await running
