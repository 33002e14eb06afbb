"""`plexus config`: what is set, where it comes from, and whether it is valid."""

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import orjson
import typer
import yaml

from cli.components import SECTIONS
from cli.console import output
from mesh.errors import FailedPrecondition, Reason
from mesh.settings import SETTINGS_FILE, describe, load, read_file

_REFUSAL = re.compile(r"^setting (?P<file>\S+): (?P<path>[\w.-]+): (?P<why>.*)$", re.DOTALL)
_PLAIN = re.compile(r"[A-Za-z0-9_./][A-Za-z0-9_./:@ +-]*")


@dataclass(frozen=True, kw_only=True)
class Value:
    """One effective setting; secrets are masked."""

    section: str
    name: str
    value: object
    source: str
    """`default`, the file with the line, or the environment variable."""


def config(
    file: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Settings; ./plexus.yaml if there is one."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Say only whether the settings are valid.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the effective settings and where each comes from.

    The output is a valid plexus.yaml, except that secrets are masked. Everything wrong is listed.
    """
    found = problems(file, os.environ)
    if found:
        if as_json:
            typer.echo(orjson.dumps({"valid": False, "problems": found}).decode())
        *others, last = found
        for problem in others:
            typer.echo(f"plexus: {problem}", err=True)
        raise FailedPrecondition(last, reason=Reason.INVALID_SETTINGS)
    if check:
        typer.echo(orjson.dumps({"valid": True}).decode() if as_json else "The settings are valid.")
        return
    values = list(effective(file, os.environ))
    output().print(_as_json(values) if as_json else _as_yaml(values), soft_wrap=True)


def problems(file: Path | None, environ: Mapping[str, str]) -> list[str]:
    """Return what is wrong with the settings, a sentence for each section, in order."""
    found: list[str] = []
    for section, cls in SECTIONS.items():
        try:
            load(cls, section, file=file, environ=environ)
        except FailedPrecondition as error:
            sentence = _with_line(error.message, file)
            if sentence not in found:
                found.append(sentence)
    return found


def effective(file: Path | None, environ: Mapping[str, str]) -> Iterator[Value]:
    """Yield every setting in effect, section by section; the settings must be valid."""
    in_file = read_file(file)
    lines = lines_of(file)
    for section, cls in SECTIONS.items():
        given = cast("dict[str, object]", in_file.get(section) or {})
        shown = describe(load(cls, section, file=file, environ=environ))
        for name in (field.name for field in dataclasses.fields(cast("Any", cls))):
            variable = variable_of(section, name)
            if variable in environ:
                source = variable
            elif name in given:
                source = _place(file, lines.get((section, name)))
            else:
                source = "default"
            yield Value(section=section, name=name, value=shown[name], source=source)


def variable_of(section: str, name: str) -> str:
    """Return the environment variable of a setting."""
    prefix = "PLEXUS_" if section == "mesh" else f"PLEXUS_{section.upper()}_"
    return prefix + name.upper()


def lines_of(file: Path | None) -> dict[tuple[str, ...], int]:
    """Return the line of each key in the settings file; nothing when there is no readable file."""
    path = file or Path(SETTINGS_FILE)
    try:
        root: yaml.Node | None = yaml.compose(path.read_text(), Loader=yaml.SafeLoader)
    except (OSError, yaml.YAMLError):
        return {}
    return dict(_keys(root, ()))


def _keys(node: yaml.Node | None, above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], int]]:
    if not isinstance(node, yaml.MappingNode):
        return
    pairs = cast("list[tuple[yaml.Node, yaml.Node]]", node.value)
    for key, value in pairs:
        if isinstance(key, yaml.ScalarNode):
            path = (*above, str(key.value))
            yield path, key.start_mark.line + 1
            yield from _keys(value, path)


def _with_line(message: str, file: Path | None) -> str:
    """Name the line in a refusal that names a setting of the file."""
    refusal = _REFUSAL.match(message)
    if refusal is None:
        return message
    lines, path = lines_of(file), tuple(refusal["path"].split("."))
    while path and path not in lines:
        path = path[:-1]
    if not path:
        return message
    return f"setting {_place(file, lines[path])}: {refusal['path']}: {refusal['why']}"


def _place(file: Path | None, line: int | None) -> str:
    name = str(file or SETTINGS_FILE)
    return f"{name} line {line}" if line else name


def _as_json(values: Sequence[Value]) -> str:
    sections: dict[str, dict[str, object]] = {}
    for each in values:
        shown = {"value": each.value, "source": each.source}
        sections.setdefault(each.section, {})[each.name] = shown
    return orjson.dumps(sections, option=orjson.OPT_INDENT_2).decode()


def _as_yaml(values: Sequence[Value]) -> str:
    lines: list[str] = []
    section = ""
    for each in values:
        if each.section != section:
            section = each.section
            lines += [f"{section}:"] if not lines else ["", f"{section}:"]
        setting = f"  {each.name}: {_flow(each.value)}"
        lines.append(f"{setting:<56} # {each.source}")
    return "\n".join(lines)


def _flow(value: object) -> str:
    """Return a value on one line of YAML; JSON is YAML, and plain words need no quotes."""
    if isinstance(value, str) and _PLAIN.fullmatch(value) and yaml.safe_load(value) == value:
        return value
    return orjson.dumps(value).decode()
