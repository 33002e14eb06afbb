"""The outbox: durable, in order, once each, and never stopped by one bad file."""

import asyncio
from pathlib import Path

import pytest

from gateway.outbox import Outbox
from gateway.settings import GatewaySettings
from mesh.call import Identity
from mesh.errors import (
    FailedPrecondition,
    Internal,
    InvalidArgument,
    Reason,
    ResourceExhausted,
    Unavailable,
)
from mesh.testing.clock import ManualClock
from plexus.memory.v1 import memory_service_pb2 as memory_pb
from plexus.metrics.v1 import metrics_service_pb2 as metrics_pb
from tests.unit.gateway.conftest import ACME, Rig, until


def outbox(rig: Rig, clock: ManualClock, **settings: int) -> Outbox:
    chosen = GatewaySettings(**settings)  # pyright: ignore[reportArgumentType]
    return Outbox(rig.data_dir / "outbox", rig.clients, chosen, clock)


def saying(text: str) -> memory_pb.WriteMemoriesRequest:
    return memory_pb.WriteMemoriesRequest(writes=[memory_pb.MemoryWrite(text=text)])


def usage(event_id: str) -> metrics_pb.RecordUsageRequest:
    return metrics_pb.RecordUsageRequest(events=[metrics_pb.UsageEvent(event_id=event_id)])


def files(rig: Rig) -> list[Path]:
    return sorted(path for path in (rig.data_dir / "outbox").rglob("*") if path.is_file())


async def test_writes_of_one_moment_are_sent_in_their_order(rig: Rig) -> None:
    said = [str(at) for at in range(20)]
    box = outbox(rig, ManualClock())
    (rig.data_dir / "outbox").mkdir()
    for text in said:
        await box.put_memory(ACME, saying(text))
    await box.start()
    await until(lambda: not box.pending_count)
    await box.close()
    assert rig.memory.texts() == said
    assert files(rig) == []


async def test_what_a_killed_process_left_is_sent_and_its_unfinished_file_removed(rig: Rig) -> None:
    rig.memory.failure = Unavailable("down")
    first = outbox(rig, ManualClock())
    await first.start()
    await first.put_memory(ACME, saying("kept"))
    await first.close()
    (rig.data_dir / "outbox" / "00000000000000000001-aa.tmp").write_bytes(b"half")
    rig.memory.failure = None
    second = outbox(rig, ManualClock())
    await second.start()
    assert second.pending_count == 1
    await until(lambda: not second.pending_count)
    await second.close()
    assert rig.memory.texts() == ["kept"]
    assert files(rig) == []


async def test_a_damaged_file_is_moved_aside_and_stops_nothing(rig: Rig) -> None:
    folder = rig.data_dir / "outbox"
    folder.mkdir()
    for at, damaged in enumerate((b"", b"\xff", b"\x00\x02\xff\xff", b"\x00\x01aGARBAGE")):
        (folder / f"{at:020d}-aa.memory").write_bytes(damaged)
    box = outbox(rig, ManualClock())
    await box.start()
    await box.put_memory(ACME, saying("after"))
    await until(lambda: not box.pending_count)
    await box.close()
    assert rig.memory.texts() == ["after"]
    assert {path.parent.name for path in files(rig)} == {"refused"}


async def test_a_permanent_refusal_is_moved_aside_and_kept(rig: Rig) -> None:
    rig.memory.failure = InvalidArgument("no")
    box = outbox(rig, ManualClock())
    await box.start()
    await box.put_memory(ACME, saying("bad"))
    await until(lambda: not box.pending_count)
    await box.close()
    (kept,) = files(rig)
    assert kept.parent.name == "refused"


async def test_a_component_that_is_down_is_asked_once_a_round_and_holds_up_only_its_own(
    rig: Rig,
) -> None:
    clock = ManualClock()
    rig.memory.failure = Unavailable("down")
    box = outbox(rig, clock)
    (rig.data_dir / "outbox").mkdir()
    for text in ("one", "two"):
        await box.put_memory(ACME, saying(text))
    await box.put_usage(ACME, usage("bill"))
    await box.start()
    await clock.wait_for_sleepers()
    assert len(rig.memory.tried) == 1
    assert list(rig.metrics.booked) == ["bill"]
    rig.memory.failure = None
    await clock.advance(1)
    await until(lambda: not box.pending_count)
    await box.close()
    assert rig.memory.texts() == ["one", "two"]


async def test_a_write_that_fails_for_itself_does_not_hold_up_those_behind_it(rig: Rig) -> None:
    clock = ManualClock()
    rig.memory.failure = Internal("a fault")
    box = outbox(rig, clock)
    (rig.data_dir / "outbox").mkdir()
    for text in ("one", "two"):
        await box.put_memory(ACME, saying(text))
    await box.start()
    await clock.wait_for_sleepers()
    await box.close()
    assert len(rig.memory.tried) == 2
    assert len(files(rig)) == 2


async def test_each_write_goes_out_for_its_tenant(rig: Rig) -> None:
    box = outbox(rig, ManualClock())
    await box.start()
    tenants = ("acme", "rival")
    for tenant in tenants:
        await box.put_memory(Identity(tenant, "key:a"), saying(tenant))
    await until(lambda: not box.pending_count)
    await box.close()
    assert rig.memory.tenants == [*tenants]


async def test_a_full_outbox_refuses(rig: Rig) -> None:
    rig.memory.failure = Unavailable("down")
    box = outbox(rig, ManualClock(), outbox_limit=1)
    await box.start()
    await box.put_memory(ACME, saying("one"))
    with pytest.raises(ResourceExhausted):
        await box.put_memory(ACME, saying("two"))
    await box.close()


async def test_a_disk_that_refuses_leaves_no_count_and_no_half_of_a_file(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    box = outbox(rig, ManualClock())
    (rig.data_dir / "outbox").mkdir()
    monkeypatch.setattr("gateway.outbox.os.fsync", no_space)
    with pytest.raises(Unavailable):
        await box.put_memory(ACME, saying("one"))
    assert box.pending_count == 0
    assert files(rig) == []


async def test_a_write_whose_turn_is_cancelled_is_on_disk_or_not_counted(rig: Rig) -> None:
    box = outbox(rig, ManualClock())
    await box.start()
    putting = asyncio.create_task(box.put_memory(ACME, saying("late")))
    await until(lambda: box.pending_count == 1)
    putting.cancel()
    await asyncio.wait([putting])
    await until(lambda: not box.pending_count)
    await box.close()
    assert rig.memory.texts() == ["late"]


async def test_closing_in_mid_send_keeps_the_write(rig: Rig) -> None:
    rig.memory.wait_for = asyncio.Event()
    box = outbox(rig, ManualClock())
    await box.start()
    await box.put_memory(ACME, saying("kept"))
    await rig.memory.asked.wait()
    await box.close()
    assert len(files(rig)) == 1


async def test_a_folder_that_cannot_be_made_is_said_in_one_sentence(rig: Rig) -> None:
    (rig.data_dir / "outbox").write_text("a file")
    with pytest.raises(FailedPrecondition) as raised:
        await outbox(rig, ManualClock()).start()
    assert raised.value.reason == Reason.INVALID_SETTINGS
