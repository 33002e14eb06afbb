"""The one module that reads settings: environment over plexus.yaml over defaults.

A settings class is a frozen dataclass. Field `flush_interval_ms` of component `memory` is
`memory: {flush_interval_ms: 200}` in the file and PLEXUS_MEMORY_FLUSH_INTERVAL_MS in the
environment; fields of the fabric itself (`mesh:`) are PLEXUS_<FIELD>. In the environment lists
are separated by commas, maps are `key=value` pairs separated by commas, and both may be JSON
instead, as nested settings must be. What cannot be understood is refused with the setting's
name; an unknown name in the file is an error, not a no-op.
"""

import dataclasses
import math
import os
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import orjson
import yaml

from mesh.addresses import target_of
from mesh.errors import FailedPrecondition, Reason

SETTINGS_FILE = "plexus.yaml"
SECTIONS = ("mesh", "memory", "router", "cache", "metrics", "gateway")

T = TypeVar("T")


class Secret(str):
    """Text that is masked wherever it is shown; compare and use it as a string."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'" if self else "''"


@dataclass(frozen=True, kw_only=True)
class KeySettings:
    """One API key. The key itself is kept nowhere."""

    sha256: str
    """The hex SHA-256 of the key."""
    tenant: str
    """The tenant that the key speaks for."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9a-fA-F]{64}", self.sha256):
            raise ValueError("sha256 must be the 64 hex digits of the key's SHA-256, not the key")
        check_name("tenant", self.tenant)


@dataclass(frozen=True, kw_only=True)
class MeshSettings:
    """Settings of the fabric, the same for every component."""

    data_dir: Path = Path(".plexus")
    """Where everything that must survive a restart is kept."""
    host: str = "127.0.0.1"
    """The address to listen on; other than loopback needs `auth: keys`, or client certificates."""
    log_level: Literal["auto", "debug", "info", "warning", "error"] = "auto"
    """The least severe level that is logged; `auto` is `info`, and `warning` on a terminal."""
    auth: Literal["open", "keys"] = "open"
    """`open`: no key, loopback only. `keys`: each call needs an API key or the mesh token."""
    tenants: tuple[str, ...] = ("default",)
    """Tenants known here besides those of `keys`; the first is used when a caller names none."""
    keys: Mapping[str, KeySettings] = field(default_factory=dict[str, KeySettings])
    """API keys by id; the id appears in logs, the key never."""
    keys_file: Path | None = None
    """More keys, made by `plexus keys create` and read again when it changes; `keys.json` in
    `data_dir` if unset."""
    mesh_token: Secret = Secret("")
    """Shared by the components of one mesh; who presents it may speak for any tenant."""
    tls_cert_file: Path | None = None
    """This process's certificate and its chain, PEM; with it every port but the admin's is TLS.
    Read again when it changes, as are the other two."""
    tls_key_file: Path | None = None
    """The private key of the certificate, PEM, without a passphrase."""
    tls_ca_file: Path | None = None
    """The authorities whose certificates are believed, PEM; if unset, the public ones."""
    tls_client_auth: Literal["none", "require"] = "none"
    """`require`: a gRPC client needs a certificate of `tls_ca_file`; the HTTP edge takes one."""
    tls_trust_domain: str = "plexus"
    """Whose certificates speak for tenants and components: `spiffe://<trust domain>/tenant/acme`,
    `spiffe://<trust domain>/component/memory`."""
    placement: Mapping[str, str] = field(default_factory=dict[str, str])
    """Where components are: name to `local`, `host:port`, or the IP addresses of several replicas
    separated by commas; the usual loopback ports if unset."""
    max_message_bytes: int = 4 * 1024 * 1024
    """The largest message that is accepted."""
    max_concurrent_calls: int = 512
    """Calls in progress per component before others queue."""
    max_queued_calls: int = 1024
    """Calls that may queue per component before others are shed."""
    default_deadline_s: float = 120.0
    """The deadline of calls that come without one."""
    drain_hold_s: float = 0.5
    """After SIGTERM: how long calls are still accepted while `readiness` is not serving."""
    drain_grace_s: float = 30.0
    """After the hold: how long running calls may take to finish."""
    admin_port: int = 9464
    """The port of `/metrics` and `/healthz` of a component that runs alone; 0 picks a free one."""

    def __post_init__(self) -> None:
        for name in (*self.tenants, *self.keys):
            check_name("tenants and keys", name)
        lows = {
            "max_message_bytes": 1024,
            "max_concurrent_calls": 1,
            "max_queued_calls": 0,
            "drain_hold_s": 0,
            "drain_grace_s": 0,
            "admin_port": 0,
        }
        for name, low in lows.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}")
        if self.default_deadline_s <= 0:
            raise ValueError("default_deadline_s must be more than 0")
        self._check_tls()
        for name, address in self.placement.items():
            try:
                target_of(address)
            except ValueError as error:
                raise ValueError(f"placement of {name}: {error}") from None

    def _check_tls(self) -> None:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("tls_cert_file and tls_key_file go together: set both")
        if self.tls_client_auth == "require" and not (self.tls_cert_file and self.tls_ca_file):
            raise ValueError(
                "tls_client_auth: require also needs tls_cert_file, tls_key_file and tls_ca_file"
            )
        if not re.fullmatch(r"[a-z0-9._-]{1,255}", self.tls_trust_domain):
            raise ValueError("tls_trust_domain: use 1 to 255 of a-z 0-9 . _ -")

    @property
    def keys_path(self) -> Path:
        """Where the keys file is, or would be."""
        return self.keys_file or self.data_dir / "keys.json"


def check_name(field_name: str, name: str) -> None:
    """Raise ValueError for what cannot be a metadata value and a log field as it is."""
    if not re.fullmatch(r"[A-Za-z0-9._:@-]{1,128}", name):
        raise ValueError(f"{field_name}: use 1 to 128 of A-Z a-z 0-9 . _ : @ -, not {name!r}")


def load(
    cls: type[T],
    component: str,
    *,
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
) -> T:
    """Return the settings of `component`; raise FailedPrecondition(INVALID_SETTINGS) if wrong.

    `file` None means plexus.yaml in the current folder if there is one. `overrides` (from the
    command line) win over everything.
    """
    environ = os.environ if environ is None else environ
    section = _section(component, file)
    values: dict[str, object] = {}
    hints = typing.get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cast("Any", cls))]
    for name in section:
        if name not in names:
            raise _wrong(
                f"{SETTINGS_FILE}: {component}.{name}", f"unknown; known: {', '.join(names)}"
            )
    for name in names:
        env = variable(component, name)
        if overrides and name in overrides:
            values[name] = overrides[name]
        elif env in environ:
            shaped = _from_text(hints[name], environ[env], env)
            values[name] = _convert(hints[name], shaped, env)
        elif name in section:
            where = f"{SETTINGS_FILE}: {component}.{name}"
            values[name] = _convert(hints[name], section[name], where)
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise _wrong(component, _why(cls, error)) from error


def read_file(file: Path | None) -> dict[str, object]:
    """Return the sections of the settings file; an absent default file is empty."""
    path = file or Path(SETTINGS_FILE)
    if file is None and not path.exists():
        return {}
    try:
        loaded: object = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise _wrong(str(path), f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise _wrong(str(path), "must be UTF-8") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        raise _wrong(str(path), f"{line}not valid YAML: {getattr(error, 'problem', '')}") from error
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise _wrong(str(path), "must be a map of sections")
    for name in cast("dict[str, object]", loaded):
        if name not in SECTIONS:
            raise _wrong(f"{path}: {name}", f"unknown section; known: {', '.join(SECTIONS)}")
    return cast("dict[str, object]", loaded)


def _section(component: str, file: Path | None) -> dict[str, object]:
    section: object = read_file(file).get(component) or {}
    if not isinstance(section, dict):
        raise _wrong(f"{SETTINGS_FILE}: {component}", "must be a map")
    return cast("dict[str, object]", section)


def variable(component: str, name: str) -> str:
    """Return the environment variable of a setting."""
    prefix = "PLEXUS_" if component == "mesh" else f"PLEXUS_{component.upper()}_"
    return prefix + name.upper()


def _wrong(where: str, why: str) -> FailedPrecondition:
    return FailedPrecondition(f"setting {where}: {why}", reason=Reason.INVALID_SETTINGS)


def _why(cls: type, error: Exception) -> str:
    return str(error).replace(f"{cls.__name__}.__init__() ", "")


def _from_text(hint: Any, text: str, where: str) -> object:
    """Give environment text the shape that YAML would have."""
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        return None if text == "" else _from_text(_of_optional(hint), text, where)
    structured = origin in (Mapping, dict, tuple) or dataclasses.is_dataclass(hint)
    if structured and text.lstrip().startswith(("{", "[")):
        try:
            return cast("object", orjson.loads(text))
        except orjson.JSONDecodeError as error:
            raise _wrong(where, "not valid JSON") from error
    items = [item.strip() for item in text.split(",") if item.strip()]
    if origin in (Mapping, dict):
        return _pairs(items, where, lists=typing.get_args(hint)[1] is str)
    if origin is tuple:
        return items
    if hint is bool:
        return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}.get(
            text.lower(), text
        )
    return text


def _pairs(items: list[str], where: str, *, lists: bool) -> dict[str, object]:
    """Return `key=value` items as a map. With `lists` an item without `=` goes on with the value
    before it, as in `memory=10.0.0.1:50051,10.0.0.2:50051,router=…`.
    """
    pairs: dict[str, object] = {}
    name = ""
    for item in items:
        key, equals, value = item.partition("=")
        if equals:
            name = key.strip()
            pairs[name] = value.strip()
        elif name and lists:
            pairs[name] = f"{pairs[name]},{item}"
        else:
            raise _wrong(where, "must be key=value pairs separated by commas, or JSON")
    return pairs


def _of_optional(hint: Any) -> Any:
    return next(a for a in typing.get_args(hint) if a is not type(None))


def _convert(hint: Any, value: object, where: str) -> object:
    """Return `value` as the type `hint`, or refuse it by name."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in args:
            return None
        return _convert(_of_optional(hint), value, where)
    if origin is Literal:
        if value not in args:
            raise _wrong(where, f"must be one of {', '.join(map(str, args))}, is {value!r}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise _wrong(where, "must be a list")
        return tuple(_convert(args[0], item, where) for item in cast("list[object]", value))
    if origin in (Mapping, dict):
        if not isinstance(value, dict):
            raise _wrong(where, "must be a map")
        pairs = cast("dict[str, object]", value).items()
        return {str(key): _convert(args[1], item, f"{where}.{key}") for key, item in pairs}
    if dataclasses.is_dataclass(hint):
        return _convert_dataclass(cast("type[Any]", hint), value, where)
    return _convert_scalar(hint, value, where)


def _convert_dataclass(hint: type[Any], value: object, where: str) -> object:
    if not isinstance(value, dict):
        raise _wrong(where, "must be a map")
    hints = typing.get_type_hints(hint)
    values: dict[str, object] = {}
    for name, item in cast("dict[str, object]", value).items():
        if name not in hints:
            raise _wrong(f"{where}.{name}", f"unknown; known: {', '.join(hints)}")
        values[name] = _convert(hints[name], item, f"{where}.{name}")
    try:
        return hint(**values)
    except (TypeError, ValueError) as error:
        raise _wrong(where, _why(hint, error)) from error


def _convert_scalar(hint: Any, value: object, where: str) -> object:
    known = hint in (Any, object) or type(value) is hint
    scalar = value if known else _scalar(hint, value, where)
    if isinstance(scalar, float) and not math.isfinite(scalar):
        raise _wrong(where, f"must be a finite number, is {scalar}")
    return scalar


def _scalar(hint: Any, value: object, where: str) -> object:
    try:
        lossy = hint is int and isinstance(value, float) and not value.is_integer()
        if lossy or hint is bool or isinstance(value, bool | list | dict) or value is None:
            raise TypeError
        return cast("Callable[[object], object]", hint)(value)
    except (TypeError, ValueError) as error:
        names: dict[Any, str] = {bool: "true or false", int: "a whole number", float: "a number"}
        shown = "" if hint is Secret else f", is {value!r}"
        raise _wrong(where, f"must be {names.get(hint, 'text')}{shown}") from error


def describe(settings: object) -> dict[str, object]:
    """Return the settings as plain data with secrets masked, for `plexus config`."""
    return {
        f.name: _plain(getattr(settings, f.name)) for f in dataclasses.fields(cast("Any", settings))
    }


def _plain(value: object) -> object:
    if isinstance(value, Secret):
        return "***" if value else ""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return describe(value)
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in cast("Mapping[object, object]", value).items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in cast("tuple[object, ...]", value)]
    return str(value) if isinstance(value, Path) else value
