"""One folder for each gateway; nothing that waits is forgotten or sent by two."""

from pathlib import Path

import pytest

from gateway.outbox_folder import OutboxFolder
from mesh.errors import FailedPrecondition


def test_each_gateway_has_its_own(tmp_path: Path) -> None:
    folders = [OutboxFolder.own(tmp_path) for _ in range(3)]
    assert [each.path.name for each in folders] == ["outbox", "outbox-2", "outbox-3"]
    folders[1].release()
    again = OutboxFolder.own(tmp_path)
    assert again.path.name == "outbox-2"
    for each in (*folders, again):
        each.release()


def test_what_waits_goes_to_the_next_gateway_unless_its_owner_lives(tmp_path: Path) -> None:
    first, second, third = (OutboxFolder.own(tmp_path) for _ in range(3))
    (second.path / "1.memory").write_bytes(b"left")
    (third.path / "2.usage").write_bytes(b"mine")
    first.release()
    second.release()
    next_one = OutboxFolder.own(tmp_path)
    assert sorted(path.name for path in next_one.path.iterdir()) == ["1.memory"]
    assert (third.path / "2.usage").read_bytes() == b"mine"
    next_one.release()
    third.release()


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FailedPrecondition, match="PLEXUS_DATA_DIR"):
        OutboxFolder.own(tmp_path / "file")
