"""What is generated from settings."""

import subprocess
import sys
from pathlib import Path

from tests.manifests.kustomize import K8S, ROOT

SCRIPT = K8S / "drain.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=30,
        check=False,
    )


def test_the_drain_is_what_the_settings_say() -> None:
    assert run("--check").returncode == 0


def test_a_longer_grace_makes_it_stale(tmp_path: Path) -> None:
    (tmp_path / "mesh.env").write_text("PLEXUS_DRAIN_GRACE_S=300\n")
    assert run("--check", str(tmp_path)).returncode == 1
    assert run(str(tmp_path)).returncode == 0
    # 5 s of sleep, 2 of hold, the grace, 5 to settle, 15 to close.
    assert "terminationGracePeriodSeconds: 327\n" in (tmp_path / "drain.yaml").read_text()
    assert run("--check", str(tmp_path)).returncode == 0
