"""API keys: how they are made, the file that keeps their digests, and the ring a server asks.

A key is 256 random bits and is kept nowhere; the file holds its SHA-256. A digest without a
salt is enough for that: there is nothing to guess, and nothing to find it by.
"""

import fcntl
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast

import orjson

from mesh.clock import SYSTEM_CLOCK, Clock
from mesh.errors import FailedPrecondition, InvalidArgument, NotFound, Reason
from mesh.settings import MeshSettings, check_name
from mesh.watched_files import WatchedFiles

KEY_PREFIX = "plx_"
KEY_BYTES = 32
MAX_FILE_BYTES = 1024 * 1024
"""Of a keys file: what a Kubernetes Secret can hold, several thousand keys."""
_FIELDS = ("tenant", "sha256", "name", "created", "expires")


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiKey:
    """What is known of a key."""

    id: str
    """Names the key in logs, in the ledger and to `plexus keys revoke`."""
    tenant: str
    """The tenant that it speaks for."""
    sha256: str
    """The hex SHA-256 of the key, in lower case."""
    name: str = ""
    """What people call it."""
    created_s: int | None = None
    """When it was made, in seconds of the epoch."""
    expires_s: int | None = None
    """From when on it is refused, in seconds of the epoch; None for never."""
    source: Literal["file", "settings"] = "file"
    """Where it comes from: the keys file, or `keys` of the settings."""

    def has_expired(self, now_s: float) -> bool:
        """Whether it is refused at `now_s`."""
        return self.expires_s is not None and now_s >= self.expires_s


def digest_of(key: str) -> str:
    """Return the hex SHA-256 of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


class KeysFile:
    """The file of keys. Writers exclude each other; a reader sees a whole file, old or new."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, ApiKey]:
        """Return the keys by id; no file is no key. Raises FailedPrecondition if it is broken."""
        try:
            size = self.path.stat().st_size
            if size > MAX_FILE_BYTES:
                raise self._broken(f"has {size} bytes; at most {MAX_FILE_BYTES} are read")
            text = self.path.read_bytes()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise self._broken(f"cannot be read: {error.strerror}") from error
        try:
            return _decode(orjson.loads(text))
        except ValueError as error:
            raise self._broken(f"is not a keys file: {error}") from error

    def create(
        self, *, tenant: str, name: str, expires_s: int | None, now_s: int
    ) -> tuple[str, ApiKey]:
        """Add a key and return it, for the only time, with what is kept of it.

        Raises InvalidArgument for names that cannot be a log field, FailedPrecondition when the
        file cannot be written.
        """
        try:
            check_name("tenant", tenant)
            check_name("name", name or tenant)
        except ValueError as error:
            raise InvalidArgument(str(error)) from error
        key = KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)
        made = ApiKey(
            id=f"{(name or tenant)[:64]}-{secrets.token_hex(4)}",
            tenant=tenant,
            sha256=digest_of(key),
            name=name,
            created_s=now_s,
            expires_s=expires_s,
        )
        self._change(lambda keys: {**keys, made.id: made})
        return key, made

    def revoke(self, key_id: str) -> ApiKey:
        """Remove a key and return it; raises NotFound."""
        revoked = self.read().get(key_id)
        if revoked is None:
            raise NotFound(f"there is no key {key_id!r} in {self.path}: see `plexus keys list`")
        self._change(lambda keys: {id: key for id, key in keys.items() if id != key_id})
        return revoked

    def _change(self, change: Callable[[dict[str, ApiKey]], dict[str, ApiKey]]) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with _exclusively(self.path.parent) as folder:
                encoded = _encode(change(self.read()))
                if len(encoded) > MAX_FILE_BYTES:
                    raise self._broken("is full: revoke keys that nobody uses")
                self._replace(encoded, folder)
        except OSError as error:
            raise FailedPrecondition(
                f"cannot write the keys file {self.path} ({error.strerror}): change it where it "
                "is made, or name another with PLEXUS_KEYS_FILE",
                reason=Reason.INVALID_SETTINGS,
            ) from error

    def _replace(self, content: bytes, folder: int) -> None:
        """Put a new file in the place of the old one, durably and readable by the owner only."""
        fresh = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(fresh, self.path)
            os.fsync(folder)
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise

    def _broken(self, why: str) -> FailedPrecondition:
        return FailedPrecondition(
            f"the keys file {self.path} {why}", reason=Reason.INVALID_SETTINGS
        )


class KeyRing:
    """The keys that are good now: those of the settings, and those of the keys file.

    The file is looked at once a second at most, when a key is asked for; a key that was revoked
    is refused from then on. A file that is gone holds no key. Raises FailedPrecondition if the
    file is broken at the start; one that breaks later leaves the last good keys in place.
    """

    def __init__(self, settings: MeshSettings, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        given = keys_of(settings).values()
        file = KeysFile(settings.keys_path)

        def read() -> Mapping[str, ApiKey]:
            return {key.sha256: key for key in (*given, *file.read().values())}

        self._keys = WatchedFiles("keys", [file.path], read, clock=clock)

    def find(self, key: str) -> ApiKey | None:
        """Return what is known of a key, also when it has expired; None for one that is unknown.

        The search is by digest: how long it takes may depend on digests, never on keys.
        """
        digest = digest_of(key)
        found = self._keys.current().get(digest)
        return found if found and hmac.compare_digest(found.sha256, digest) else None

    def has_expired(self, key: ApiKey) -> bool:
        """Whether a key that was found is refused by now."""
        return key.has_expired(self._clock.time_ns() / 1e9)

    def knows_tenant(self, tenant: str) -> bool:
        """Whether a key speaks for this tenant."""
        return any(key.tenant == tenant for key in self._keys.current().values())


def keys_of(settings: MeshSettings) -> dict[str, ApiKey]:
    """Return the keys of the settings, by id."""
    return {
        id: ApiKey(id=id, tenant=key.tenant, sha256=key.sha256.lower(), source="settings")
        for id, key in settings.keys.items()
    }


def _encode(keys: Mapping[str, ApiKey]) -> bytes:
    entries = {
        id: {
            "tenant": key.tenant,
            "sha256": key.sha256,
            **({"name": key.name} if key.name else {}),
            **({"created": shown_time(key.created_s)} if key.created_s is not None else {}),
            **({"expires": shown_time(key.expires_s)} if key.expires_s is not None else {}),
        }
        for id, key in keys.items()
    }
    return orjson.dumps({"keys": entries}, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _decode(loaded: object) -> dict[str, ApiKey]:
    """Return the keys; raise ValueError for what is not understood, so that nothing is ignored."""
    if not isinstance(loaded, dict) or set(cast("dict[str, Any]", loaded)) != {"keys"}:
        raise ValueError('it must be {"keys": {...}}')
    entries: object = cast("dict[str, Any]", loaded)["keys"]
    if not isinstance(entries, dict):
        raise ValueError("`keys` must be a map of ids")
    return {id: _decode_key(id, entry) for id, entry in cast("dict[str, Any]", entries).items()}


def _decode_key(key_id: str, entry: object) -> ApiKey:
    check_name("key id", key_id)
    if not isinstance(entry, dict):
        raise ValueError(f"{key_id}: must be a map")
    fields = cast("dict[str, object]", entry)
    for name, value in fields.items():
        if name not in _FIELDS:
            raise ValueError(f"{key_id}: unknown field {name!r}; known: {', '.join(_FIELDS)}")
        if not isinstance(value, str):
            raise ValueError(f"{key_id}: {name} must be text")
    said = cast("dict[str, str]", fields)
    check_name(f"{key_id}: tenant", said.get("tenant", ""))
    sha256 = said.get("sha256", "").lower()
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise ValueError(f"{key_id}: sha256 must be the 64 hex digits of the key's SHA-256")
    return ApiKey(
        id=key_id,
        tenant=said["tenant"],
        sha256=sha256,
        name=said.get("name", ""),
        created_s=_time_s(key_id, said.get("created")),
        expires_s=_time_s(key_id, said.get("expires")),
    )


def shown_time(seconds: int) -> str:
    """Return a time as the file and people have it: RFC 3339, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _time_s(key_id: str, text: str | None) -> int | None:
    if text is None:
        return None
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{key_id}: {text} has no time zone; write 2030-01-31T00:00:00Z")
    return int(moment.timestamp())


@contextmanager
def _exclusively(folder: Path) -> Generator[int]:
    """Hold the folder's lock inside the block; the kernel drops it when the process ends."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)
