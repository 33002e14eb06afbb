"""Runs kustomize, from wherever this machine has one that knows components."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
K8S = ROOT / "deploy" / "k8s"
NAMESPACES = {"overlays/dev": "plexus-dev"}
BUILD_TIMEOUT_S = 30
WANTED = (
    "no kustomize 5: put `kustomize` into .venv/bin or on PATH "
    "(go install sigs.k8s.io/kustomize/kustomize/v5@v5.7.1), or a kubectl of 1.27 or newer"
)

# Pure Python takes ten times as long for the fifty builds.
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Object = dict[str, Any]


@dataclass(frozen=True)
class Kustomize:
    """A command that turns a folder into YAML."""

    command: tuple[str, ...]

    def build(self, folder: Path) -> list[Object]:
        """Return the objects; raise AssertionError with what kustomize says."""
        done = subprocess.run(
            [*self.command, str(folder)],
            capture_output=True,
            text=True,
            timeout=BUILD_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, f"{folder}: {done.stderr}"
        return [found for found in yaml.load_all(done.stdout, Loader=LOADER) if found]

    def compose(self, folder: Path, base: str, components: tuple[str, ...]) -> list[Object]:
        """Build `base` with `components` from a new overlay in `folder`."""
        folder.mkdir()
        overlay = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            # A component's own objects get the namespace of the overlay that takes it in.
            "namespace": NAMESPACES.get(base, "plexus"),
            "resources": [os.path.relpath(K8S / base, folder.resolve())],
            "components": [
                os.path.relpath(K8S / "components" / name, folder.resolve()) for name in components
            ],
        }
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
        return self.build(folder)


def find_kustomize() -> Kustomize:
    """Return the first that will do. Without one: skip, and fail where CI says so."""
    beside = Path(sys.executable).with_name("kustomize")
    alone = str(beside) if beside.exists() else shutil.which("kustomize")
    if alone:
        return Kustomize((alone, "build"))
    kubectl = shutil.which("kubectl")
    if kubectl and _kustomize_of(kubectl) >= 5:
        return Kustomize((kubectl, "kustomize"))
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(WANTED)
    pytest.skip(WANTED)


def _kustomize_of(kubectl: str) -> int:
    """Return the major version of the kustomize inside, 0 if it cannot be told."""
    done = subprocess.run(
        [kubectl, "version", "--client", "-o", "json"],
        capture_output=True,
        text=True,
        timeout=BUILD_TIMEOUT_S,
        check=False,
    )
    try:
        version = str(json.loads(done.stdout)["kustomizeVersion"])
    except (ValueError, KeyError):
        return 0
    return int(version.removeprefix("v").split(".")[0])
