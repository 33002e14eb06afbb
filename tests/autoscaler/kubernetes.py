"""Kubernetes' own controller: builds it, asks it, and keeps what it said.

    python -m tests.autoscaler.kubernetes

builds the harness in `go/` and writes `kubernetes.json`: what the controller decided in every
scenario. It takes some three minutes and 1 GB the first time, seconds after that.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import orjson

from tests.autoscaler.scenarios import Scenario, scenarios

GO = Path(__file__).parent / "go"
HARNESS = GO / "build" / "replay.test"
RECORD = Path(__file__).with_name("kubernetes.json")
BUILD_TIMEOUT_S = 1200
RUN_TIMEOUT_S = 120


def why_not() -> str:
    """Return why the controller cannot be asked here; empty if it can."""
    if not shutil.which("go"):
        return "no go: what Kubernetes' controller said is checked from the record alone"
    if not HARNESS.exists() and os.environ.get("CI") != "true":
        return (
            "Kubernetes' controller is not built here: `python -m tests.autoscaler.kubernetes` "
            "does it (3 min, 1 GB); until then the record is what is checked"
        )
    return ""


def build() -> None:
    """Build the harness; quick when nothing has changed."""
    done = subprocess.run(
        ["go", "test", "-c", "-o", str(HARNESS), "."],
        cwd=GO,
        capture_output=True,
        text=True,
        timeout=BUILD_TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-4000:])


def decisions(asked: Sequence[Scenario]) -> list[list[int]]:
    """Return what the controller decides after each sync of each scenario."""
    with tempfile.TemporaryDirectory() as folder:
        given, said = Path(folder, "scenarios.json"), Path(folder, "decisions.json")
        given.write_bytes(as_bytes(asked))
        done = subprocess.run(
            [str(HARNESS), "-test.run", "^TestReplay$"],
            env={**os.environ, "SCENARIOS": str(given), "DECISIONS": str(said)},
            capture_output=True,
            text=True,
            timeout=RUN_TIMEOUT_S,
            check=False,
        )
        if not said.exists():
            raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])
        return orjson.loads(said.read_bytes())


def as_bytes(asked: Sequence[Scenario]) -> bytes:
    """Return scenarios as the harness reads them."""
    return orjson.dumps([scenario.as_json() for scenario in asked])


def fingerprint(asked: Sequence[Scenario]) -> str:
    """Return what changes when a scenario does."""
    return hashlib.sha256(as_bytes(asked)).hexdigest()


def main() -> None:
    """Build, ask, and write the record."""
    build()
    asked = scenarios()
    said = decisions(asked)
    lines = b",\n".join(orjson.dumps(decided) for decided in said)
    head = f'{{"scenarios": "{fingerprint(asked)}", "decisions": [\n'.encode()
    RECORD.write_bytes(head + lines + b"\n]}\n")
    sys.stdout.write(f"{len(said)} scenarios, {sum(map(len, said))} syncs\n")


if __name__ == "__main__":
    main()
