"""Writes what Kubernetes must know of the drain, from the settings that the servers drain by.

    python deploy/k8s/drain.py [--check] [FOLDER ...]

Reads FOLDER/mesh.env (the base's, then that of each overlay that has one, over the base's) and
writes FOLDER/drain.yaml, a patch of every Deployment. A pod that is deleted sleeps first, until
nobody is told its address any more; then come SIGTERM and the drain of `mesh.host.Host`. Killed
before that is over, it would cut streams off, so the grace period is the sum of all parts.
"""

import math
import sys
from pathlib import Path

from mesh.server import SETTLE_S
from mesh.settings import MeshSettings, load

HERE = Path(__file__).parent
BASE = HERE / "base"

PRE_STOP_S = 5
"""What the withdrawal of an address takes to reach those who use it."""
MARGIN_S = 15
"""For closing the component, its last writes among it, and for the process to end."""

HEADER = "# Written by deploy/k8s/drain.py from mesh.env; a test fails when the two disagree.\n"
PATCH = """\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: any
spec:
  template:
    spec:
      terminationGracePeriodSeconds: {grace_s}
      containers:
        - name: plexus
          lifecycle:
            preStop: {{sleep: {{seconds: {pre_stop_s}}}}}
"""


def main(arguments: list[str]) -> int:
    """Write the files, or with --check say which are stale and return 1."""
    checking = "--check" in arguments
    folders = [Path(a) for a in arguments if a != "--check"] or default_folders()
    stale = [folder for folder in folders if not is_current(folder)]
    for folder in stale:
        if checking:
            sys.stderr.write(f"{folder}/drain.yaml is not what mesh.env says: run {__file__}\n")
        else:
            (folder / "drain.yaml").write_text(drain_of(folder))
    return 1 if stale and checking else 0


def default_folders() -> list[Path]:
    """Return the base and every overlay with settings of its own."""
    return [BASE, *sorted(path.parent for path in HERE.glob("overlays/*/mesh.env"))]


def is_current(folder: Path) -> bool:
    """Whether drain.yaml is what it would be written as."""
    path = folder / "drain.yaml"
    return path.exists() and path.read_text() == drain_of(folder)


def drain_of(folder: Path) -> str:
    """Return the patch for the settings of `folder`."""
    environ = read_env(BASE / "mesh.env") | read_env(folder / "mesh.env")
    settings = load(MeshSettings, "mesh", environ=environ)
    return HEADER + PATCH.format(grace_s=grace_s(settings), pre_stop_s=PRE_STOP_S)


def grace_s(settings: MeshSettings) -> int:
    """Return the seconds from the deletion of a pod to the latest end of its drain."""
    drain_s = settings.drain_hold_s + settings.drain_grace_s + SETTLE_S
    return math.ceil(PRE_STOP_S + drain_s + MARGIN_S)


def read_env(path: Path) -> dict[str, str]:
    """Return the variables of a file of `NAME=value` lines."""
    lines = (line.strip() for line in path.read_text().splitlines())
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
