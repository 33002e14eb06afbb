"""`plexus keys`: make, list and revoke the API keys of the keys file."""

import re
from pathlib import Path
from typing import Annotated, Final

import orjson
import typer
from rich.table import Table

from cli.console import errors, output, plain
from mesh.clock import SYSTEM_CLOCK
from mesh.errors import FailedPrecondition, Reason
from mesh.keys import ApiKey, KeysFile, keys_of, shown_time
from mesh.settings import MeshSettings, load

UNITS_S: Final = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800, "y": 31_536_000}
MAX_LIFETIME_S: Final = 100 * UNITS_S["y"]

SettingsFile = Annotated[
    Path | None,
    typer.Option("--file", metavar="PATH", help="Settings; ./plexus.yaml if there is one."),
]

keys = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Make, list and revoke API keys.",
)


@keys.command()
def create(
    tenant: Annotated[
        str, typer.Option(help="The tenant that the key speaks for.", show_default=False)
    ],
    name: Annotated[str, typer.Option(help="What to call it; its id begins with it.")] = "",
    expires: Annotated[
        str, typer.Option(metavar="90d", help="How long it is good: 12h, 90d, 1y; else for ever.")
    ] = "",
    file: SettingsFile = None,
) -> None:
    """Make a key and show it, this once: only its SHA-256 is kept.

    The key alone goes to standard output. Servers that read the keys file take it within a second.
    """
    now_s = SYSTEM_CLOCK.time_ns() // 1_000_000_000
    lifetime_s = _lifetime_s(expires) if expires else None
    settings = load(MeshSettings, "mesh", file=file)
    key, made = KeysFile(settings.keys_path).create(
        tenant=tenant,
        name=name,
        expires_s=None if lifetime_s is None else now_s + lifetime_s,
        now_s=now_s,
    )
    until = f"until {shown_time(made.expires_s)}" if made.expires_s is not None else "for ever"
    screen = errors()
    screen.print(f"Key {made.id} speaks for tenant {made.tenant} {until}.", highlight=False)
    screen.print("It is shown this once; keep it where secrets are kept.", style="dim")
    if settings.auth == "open":
        screen.print("The mesh set here asks for no key: set PLEXUS_AUTH=keys.", style="yellow")
    typer.echo(key)


@keys.command("list")
def list_keys(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    file: SettingsFile = None,
) -> None:
    """List the keys by id, those of the settings among them; never a key itself."""
    settings = load(MeshSettings, "mesh", file=file)
    known = [*KeysFile(settings.keys_path).read().values(), *keys_of(settings).values()]
    now_s = SYSTEM_CLOCK.time_ns() / 1e9
    if as_json:
        listed = {"keys": [_data(key, now_s) for key in known]}
        typer.echo(orjson.dumps(listed, option=orjson.OPT_INDENT_2).decode())
    elif known:
        output().print(_table(known, now_s))
    else:
        errors().print(f"No key: neither in {settings.keys_path} nor in the settings.")


@keys.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As `plexus keys list` shows it.")],
    file: SettingsFile = None,
) -> None:
    """Remove a key: within a second no server that reads the keys file takes it any more."""
    settings = load(MeshSettings, "mesh", file=file)
    keys_file = KeysFile(settings.keys_path)
    given = keys_of(settings)
    if key_id in given and key_id not in keys_file.read():
        raise FailedPrecondition(
            f"the key {key_id} is in `keys` of plexus.yaml or in PLEXUS_KEYS: remove it there and "
            "restart what reads it",
            reason=Reason.INVALID_SETTINGS,
        )
    revoked = keys_file.revoke(key_id)
    screen = errors()
    screen.print(f"Revoked {revoked.id} of tenant {revoked.tenant}.", highlight=False)
    for other in given.values():
        if other.sha256 == revoked.sha256:
            screen.print(f"The same key is still in the settings, as {other.id}!", style="bold red")


def _lifetime_s(text: str) -> int:
    found = re.fullmatch(r"([1-9][0-9]{0,8})([mhdwy])", text)
    lifetime_s = int(found[1]) * UNITS_S[found[2]] if found else 0
    if not 0 < lifetime_s <= MAX_LIFETIME_S:
        raise typer.BadParameter("say it as 30m, 12h, 90d, 8w or 1y", param_hint="--expires")
    return lifetime_s


def _status(key: ApiKey, now_s: float) -> str:
    return "expired" if key.has_expired(now_s) else "active"


def _data(key: ApiKey, now_s: float) -> dict[str, str | None]:
    return {
        "id": key.id,
        "tenant": key.tenant,
        "name": key.name,
        "status": _status(key, now_s),
        "created": None if key.created_s is None else shown_time(key.created_s),
        "expires": None if key.expires_s is None else shown_time(key.expires_s),
        "source": key.source,
    }


def _table(known: list[ApiKey], now_s: float) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("id", "tenant", "status", "created", "expires", "source"):
        table.add_column(column)
    for key in known:
        data = _data(key, now_s)
        shown = (data[column.header] for column in table.columns if isinstance(column.header, str))
        table.add_row(*(plain(value or "–") for value in shown))
    return table
