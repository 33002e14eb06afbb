"""Every `*.txt` here is a scenario: commands at the margin, what they give indented below them.

`PLEXUS_REWRITE=1 pytest tests/scenarios` writes what they give now into the files; read the
difference before you keep it. A new case is a new file and needs no code.
"""

import os
import tempfile
from pathlib import Path

import pytest

from mesh.testing.upstream import ScriptedUpstream
from tests.scenarios.stage import Stage

FOLDER = Path(__file__).parent
SCENARIOS = sorted(path.stem for path in FOLDER.glob("*.txt"))
INDENT = "    "


@pytest.mark.parametrize("name", SCENARIOS)
async def test_scenario(name: str) -> None:
    path = FOLDER / f"{name}.txt"
    expected = path.read_text()
    # Short, so that the names of unix sockets fit.
    with tempfile.TemporaryDirectory(prefix="plx-") as folder:
        async with ScriptedUpstream() as upstream:
            stage = Stage(Path(folder) / "data", upstream)
            try:
                played = await play(expected, stage)
            finally:
                await stage.close()
    if os.environ.get("PLEXUS_REWRITE"):
        path.write_text(played)
    else:
        assert played.splitlines() == expected.splitlines()


async def play(scenario: str, stage: Stage) -> str:
    """Return the scenario with what its commands give now."""
    lines: list[str] = []
    for line in scenario.splitlines():
        if line.startswith(INDENT):
            continue
        lines.append(line)
        if line and not line.startswith("#"):
            lines += [INDENT + given for given in await stage.play(line)]
    return "\n".join(lines) + "\n"
