"""How keys are made and kept, and when a server takes and refuses them."""

import io
import json
import os
import stat
import threading
from pathlib import Path

import pytest

from mesh.errors import FailedPrecondition, InvalidArgument, NotFound, Reason, Unauthenticated
from mesh.identity import Authenticator
from mesh.keys import KEY_PREFIX, MAX_FILE_BYTES, ApiKey, KeyRing, KeysFile, digest_of, shown_time
from mesh.logs import configure
from mesh.settings import KeySettings, MeshSettings
from mesh.testing.clock import ManualClock

NOW_S = 1_700_000_000


@pytest.fixture
def file(tmp_path: Path) -> KeysFile:
    return KeysFile(tmp_path / "data" / "keys.json")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(epoch_ns=NOW_S * 1_000_000_000)


def create(
    file: KeysFile, tenant: str = "acme", expires_s: int | None = None
) -> tuple[str, ApiKey]:
    return file.create(tenant=tenant, name="", expires_s=expires_s, now_s=NOW_S)


def ring(file: KeysFile, clock: ManualClock, **keys: KeySettings) -> KeyRing:
    return KeyRing(MeshSettings(keys_file=file.path, keys=keys), clock=clock)


def tenant_of(ring: KeyRing, key: str) -> str:
    found = ring.find(key)
    return found.tenant if found else ""


def test_a_key_is_long_random_and_kept_nowhere(file: KeysFile) -> None:
    key, made = create(file)
    other, _ = create(file)
    assert key != other
    assert len(key.removeprefix(KEY_PREFIX)) * 6 >= 192
    text = file.path.read_text()
    assert key not in text
    assert key.removeprefix(KEY_PREFIX) not in text
    assert file.read()[made.id].sha256 == digest_of(key)
    assert repr(made).find(key) == -1


def test_only_the_owner_reads_the_file_and_its_folder(file: KeysFile) -> None:
    create(file)
    create(file)
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.path.parent.stat().st_mode) == 0o700
    assert os.listdir(file.path.parent) == ["keys.json"], "nothing is left behind"


def test_what_is_written_is_read_again(file: KeysFile) -> None:
    _, made = file.create(tenant="acme", name="team-a", expires_s=NOW_S + 60, now_s=NOW_S)
    assert file.read() == {made.id: made}
    assert made.id.startswith("team-a-")


def test_no_file_is_no_key(file: KeysFile) -> None:
    assert file.read() == {}


def test_keys_made_at_the_same_time_are_all_kept(file: KeysFile) -> None:
    threads = [threading.Thread(target=create, args=(file,)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(file.read()) == 16


def test_only_a_key_that_exists_can_be_revoked(file: KeysFile) -> None:
    _, kept = create(file)
    _, gone = create(file)
    assert file.revoke(gone.id) == gone
    assert list(file.read()) == [kept.id]
    with pytest.raises(NotFound):
        file.revoke(gone.id)


@pytest.mark.parametrize("name", ["a b", "", "ü", "x" * 129])
def test_a_name_must_be_fit_for_a_log(file: KeysFile, name: str) -> None:
    with pytest.raises(InvalidArgument):
        create(file, tenant=name)
    assert not file.path.exists()


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FailedPrecondition, match="PLEXUS_KEYS_FILE") as raised:
        create(KeysFile(tmp_path / "file" / "keys.json"))
    assert raised.value.reason == Reason.INVALID_SETTINGS


GOOD = {"tenant": "acme", "sha256": "0" * 64}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "not a keys file"),
        ("{", "not a keys file"),
        ("[]", "must be"),
        ('{"keys": [], "more": 1}', "must be"),
        ('{"keys": []}', "map of ids"),
        (json.dumps({"keys": {"a b": GOOD}}), "key id"),
        (json.dumps({"keys": {"a": "x"}}), "must be a map"),
        (json.dumps({"keys": {"a": {"sha256": "0" * 64}}}), "tenant"),
        (json.dumps({"keys": {"a": {**GOOD, "sha256": "plx_oops"}}}), "64 hex digits"),
        (json.dumps({"keys": {"a": {**GOOD, "expiry": "2030-01-01T00:00:00Z"}}}), "expiry"),
        (json.dumps({"keys": {"a": {**GOOD, "expires": "soon"}}}), "not a keys file"),
        (json.dumps({"keys": {"a": {**GOOD, "expires": "2030-01-01T00:00:00"}}}), "time zone"),
        (json.dumps({"keys": {"a": {**GOOD, "expires": 5}}}), "must be text"),
        (" " * (MAX_FILE_BYTES + 1), "at most"),
    ],
)
def test_what_is_not_understood_is_refused_and_never_ignored(
    file: KeysFile, clock: ManualClock, content: str, said: str
) -> None:
    file.path.parent.mkdir()
    file.path.write_text(content)
    with pytest.raises(FailedPrecondition, match=said) as raised:
        ring(file, clock)
    assert str(file.path) in raised.value.message
    assert "plx_oops" not in raised.value.message


def test_a_full_file_takes_no_more_and_stays_as_it_is(file: KeysFile) -> None:
    entry = {"keys": {f"k{n}": {**GOOD, "name": "n" * 100} for n in range(4_500)}}
    file.path.parent.mkdir()
    file.path.write_text(json.dumps(entry))
    before = file.path.read_bytes()
    with pytest.raises(FailedPrecondition, match="full"):
        create(file)
    assert file.path.read_bytes() == before


async def test_a_server_takes_a_new_key_and_drops_a_revoked_one_within_a_second(
    file: KeysFile, clock: ManualClock
) -> None:
    keys = ring(file, clock)
    key, made = create(file)
    await clock.advance(0.9)
    assert tenant_of(keys, key) == "", "it does not look at the file at every call"
    await clock.advance(0.1)
    assert tenant_of(keys, key) == "acme"
    file.revoke(made.id)
    await clock.advance(1)
    assert tenant_of(keys, key) == ""


def test_keys_of_the_settings_and_of_the_file_are_good_together(
    file: KeysFile, clock: ManualClock
) -> None:
    key, _ = create(file)
    given = KeySettings(tenant="globex", sha256=digest_of("given").upper())
    keys = ring(file, clock, laptop=given)
    assert tenant_of(keys, key) == "acme"
    assert tenant_of(keys, "given") == "globex"
    assert keys.knows_tenant("acme")
    assert not keys.knows_tenant("initech")


async def test_a_file_that_breaks_leaves_the_last_good_keys_and_is_logged_once(
    file: KeysFile, clock: ManualClock
) -> None:
    key, made = create(file)
    keys = ring(file, clock)
    logged = io.StringIO()
    configure("info", logged)
    good = file.path.read_bytes()
    file.path.write_text("{ broken")
    for _ in range(5):
        await clock.advance(2)
        assert tenant_of(keys, key) == "acme"
    assert logged.getvalue().count("kept the last good one") == 1
    assert key not in logged.getvalue()
    file.path.write_bytes(good)
    file.revoke(made.id)
    await clock.advance(2)
    assert tenant_of(keys, key) == ""


async def test_a_file_that_is_gone_holds_no_key(file: KeysFile, clock: ManualClock) -> None:
    key, _ = create(file)
    keys = ring(file, clock)
    assert tenant_of(keys, key) == "acme"
    file.path.unlink()
    await clock.advance(1)
    assert tenant_of(keys, key) == ""


async def test_a_key_expires_while_the_server_runs(file: KeysFile, clock: ManualClock) -> None:
    key, made = create(file, expires_s=NOW_S + 60)
    settings = MeshSettings(auth="keys", keys_file=file.path)
    authenticator = Authenticator(settings, clock=clock)
    sent = {"authorization": f"Bearer {key}"}
    await clock.advance(59.5)
    identity = authenticator.authenticate(sent)
    assert (identity.tenant, identity.principal) == ("acme", f"key:{made.id}")
    await clock.advance(0.5)
    with pytest.raises(Unauthenticated, match="expired") as raised:
        authenticator.authenticate(sent)
    assert raised.value.reason == Reason.INVALID_KEY


def test_times_are_for_people_and_for_machines() -> None:
    assert shown_time(NOW_S) == "2023-11-14T22:13:20Z"
