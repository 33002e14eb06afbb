"""The `plexus` command: which subcommands there are, and what happens when one fails.

A subcommand's module is imported when it is run, so that `plexus --help` costs no gRPC.
"""

import io
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

COMPONENTS = ("gateway", "memory", "router", "cache", "metrics")

LOADED = {
    "chat": "Talk through a running mesh; answers stream.",
    "demo": "A guided tour: a document, a conversation, memory, cache, cost.",
    "cost": "What was spent and saved, by model, and how long it took.",
    "doctor": "Check this machine and the mesh that runs on it.",
    "keys": "Make, list and revoke API keys.",
    "config": "Show the effective settings and where each comes from.",
    "bench": "Measure the mesh beside a bare relay and beside peers.",
}

CALLING = ("chat", "demo", "cost", "doctor")
"""Subcommands that call a running mesh, which may speak TLS."""


class Commands(TyperGroup):
    """Loads a subcommand when it is called, and gives each failure its exit code.

    An error of ours is one sentence on standard error and code 1. Ctrl-C is code 130, said by
    Typer. A bug of ours keeps its traceback: that is what a bug report needs.
    """

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, _load(name) if name in LOADED else command, rest

    def invoke(self, ctx: Any) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")  # a narrow locale shows ?, and does not fail
        try:
            return super().invoke(ctx)
        except Exception as error:
            if not _is_ours(error):
                raise
            typer.echo(f"plexus: {error}", err=True)
            raise typer.Exit(1) from error


def _load(name: str) -> Any:
    loaded: Any = getattr(import_module(f"cli.{name}"), name)
    if isinstance(loaded, typer.Typer):
        return typer.main.get_command(loaded)
    alone = typer.Typer(add_completion=False, rich_markup_mode=None)
    alone.command(name)(loaded)
    command: Any = typer.main.get_command(alone)
    if name in CALLING:
        from cli.tls_options import TLS_OPTIONS

        command.params.extend(TLS_OPTIONS)
    return command


def _is_ours(error: Exception) -> bool:
    """Whether it is a PlexusError, without importing what defines it before it can exist."""
    errors = sys.modules.get("mesh.errors")
    return errors is not None and isinstance(error, errors.PlexusError)


def _version(wanted: bool) -> None:
    if wanted:
        from cli.version import plexus_version

        typer.echo(f"plexus {plexus_version()}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Plexus: a gRPC mesh for LLM-agent pipelines. Start with `plexus up`."""


SettingsFile = Annotated[
    Path | None,
    typer.Option("--file", metavar="PATH", help="Settings; ./plexus.yaml if there is one."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON line when ready, and no more.")]


Workers = Annotated[
    int,
    typer.Option(
        "--workers", min=1, metavar="N", help="Processes of gateway, router and cache: the cores."
    ),
]


def _up(file: SettingsFile = None, as_json: Json = False, workers: Workers = 1) -> None:
    """Start the whole mesh here: five components, one process, no key."""
    from cli.up import up

    up(file=file, as_json=as_json, workers=workers)


def _serve(
    component: Annotated[
        str, typer.Argument(help="gateway, memory, router, cache or metrics.", show_default=False)
    ],
    file: SettingsFile = None,
    as_json: Json = False,
) -> None:
    """Start one component, to be deployed and scaled alone."""
    if component not in COMPONENTS:
        raise typer.BadParameter(f"there is no {component!r}; known: {', '.join(COMPONENTS)}")
    from cli.up import serve

    serve(component, file=file, as_json=as_json)


def _placeholder() -> None:
    """Stands for a subcommand in the list of them."""


def build_app() -> typer.Typer:
    """Return the application."""
    app = typer.Typer(
        cls=Commands,
        add_completion=False,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    app.callback()(_root)
    app.command("up")(_up)
    app.command("serve")(_serve)
    for name, summary in LOADED.items():
        app.command(name, help=summary)(_placeholder)
    return app


def main() -> None:
    """Run the command line; leaves by SystemExit."""
    build_app()(prog_name="plexus")


if __name__ == "__main__":
    main()
