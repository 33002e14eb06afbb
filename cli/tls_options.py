"""The options of every subcommand that calls a mesh which may speak TLS.

Each stands for an environment variable and wins over it by being put there, so that whatever
opens a connection later need not be handed them. Needs no dependency: see `plexus doctor`.
"""

import os
from collections.abc import Callable
from typing import Annotated, Any, Final

import typer

CA_VARIABLE: Final = "PLEXUS_CA_FILE"
CERT_VARIABLE: Final = "PLEXUS_CLIENT_CERT_FILE"
CERT_KEY_VARIABLE: Final = "PLEXUS_CLIENT_KEY_FILE"


def _option(variable: str, text: str) -> Any:
    return typer.Option(
        metavar="PATH",
        help=text,
        envvar=variable,
        callback=_into(variable),
        expose_value=False,
        show_default=False,
    )


def _into(variable: str) -> Callable[[str], None]:
    def put(value: str) -> None:
        if value:
            os.environ[variable] = value

    return put


def _options(
    ca: Annotated[
        str, _option(CA_VARIABLE, "Authorities of a mesh that speaks TLS, or `public`.")
    ] = "",
    cert: Annotated[
        str, _option(CERT_VARIABLE, "A client certificate, for a mesh that wants one.")
    ] = "",
    cert_key: Annotated[str, _option(CERT_KEY_VARIABLE, "The certificate's private key.")] = "",
) -> None:
    """Stands for a subcommand; only its options are used."""


def _made() -> list[Any]:
    carrier = typer.Typer(add_completion=False)
    carrier.command()(_options)
    return list(typer.main.get_command(carrier).params)


TLS_OPTIONS: Final = _made()
