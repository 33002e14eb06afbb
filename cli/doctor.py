"""`plexus doctor`: what would keep Plexus from running well here, each with its remedy.

The checks of the machine come first and need nothing but Python: they must be able to say that
a dependency is missing. So what a check needs is imported inside it.
"""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from cli.checks import FAILED, OK, SKIPPED, Finding
from cli.console import output, plain
from cli.machine import dependencies, machine_findings

_MARKS = {OK: ("ok", "green"), FAILED: ("failed", "bold red"), SKIPPED: ("–", "dim")}


def doctor(
    file: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Settings; ./plexus.yaml if there is one."),
    ] = None,
    key: Annotated[
        str, typer.Option(envvar="PLEXUS_API_KEY", help="An API key.", show_default=False)
    ] = "",
    probe: Annotated[
        bool, typer.Option("--probe", help="Also have the mesh generate a few words.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check this machine and the mesh that runs on it.

    One line for each check; a failed one says what to do. A mesh that does not run is no failure,
    one that runs and is ill is. Exit code 1 when anything failed.
    """
    findings: list[Finding] = []
    for finding in _findings(file, key, probe):
        findings.append(finding)
        if not as_json:
            _show(finding)
    failed = sum(finding.status == FAILED for finding in findings)
    if as_json:
        import json

        shown = {"healthy": not failed, "checks": [finding.as_dict() for finding in findings]}
        typer.echo(json.dumps(shown, indent=2))
    else:
        output().print(f"\n{failed} failed" if failed else "\nAll is well.", style="bold")
    if failed:
        raise typer.Exit(1)


def _findings(file: Path | None, key: str, probe: bool) -> Iterator[Finding]:
    yield from machine_findings()
    needed = dependencies()
    yield needed
    if needed.status == FAILED:
        return
    from cli.running import running_findings
    from cli.surroundings import surrounding_findings

    settings_are_valid = True
    for finding in surrounding_findings(file):
        settings_are_valid &= finding.name != "settings" or finding.status != FAILED
        yield finding
    if settings_are_valid:
        yield from asyncio.run(running_findings(file, key=key, probe=probe))


def _show(finding: Finding) -> None:
    word, style = _MARKS[finding.status]
    screen = output()
    screen.print(f"{word:<7}", style=style, end="")
    screen.print(f" {finding.name:<13} {plain(finding.detail)}", soft_wrap=True)
    if finding.remedy:
        screen.print(f"{'':<21} → {plain(finding.remedy)}", soft_wrap=True)
    sys.stdout.flush()
