"""The machine a result was measured on."""

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

PACKAGES = ("grpcio", "protobuf", "uvloop", "aiohttp", "orjson", "qdrant-edge-py", "redis")


def describe() -> dict[str, object]:
    """Return what a reader must know to judge the figures; the load is that of right now."""
    return {
        "cores": os.cpu_count() or 0,
        "usable_cores": _usable_cores(),
        "processor": _processor(),
        "memory_gib": round(_memory_bytes() / 2**30, 1),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "revision": _revision(),
        "load_before": [round(load, 2) for load in os.getloadavg()],
    }


def _usable_cores() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 0


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


def _revision() -> str:
    """Return the commit, with a plus sign when files differ from it; empty outside git."""
    command = ["git", "describe", "--always", "--dirty=+"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return said.stdout.strip()
