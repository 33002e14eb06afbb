"""Installs the peers, each into an environment of its own: `make bench-peers`.

Versions are pinned in `bench.peers.place`; where packages come from is what pip, npm and go are set
to on this machine. A peer that cannot be had here is reported, and does not keep the others out.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable

from bench.peers.place import BIFROST, FOLDER, LITELLM, PORTKEY, TENSORZERO

TIMEOUT_S = 900
TAIL_CHARS = 400


def install() -> bool:
    """Install every peer; return whether at least one is there."""
    FOLDER.mkdir(exist_ok=True)
    steps: dict[str, Callable[[], None]] = {
        f"litellm {LITELLM}": lambda: _python("litellm", f"litellm[proxy]=={LITELLM}"),
        f"tensorzero {TENSORZERO}": lambda: _python("tensorzero", f"tensorzero=={TENSORZERO}"),
        f"portkey {PORTKEY}": _portkey,
        f"bifrost {BIFROST}": _bifrost,
    }
    installed = 0
    for name, step in steps.items():
        sys.stdout.write(f"{name} … ")
        sys.stdout.flush()
        try:
            step()
        except (subprocess.SubprocessError, FileNotFoundError) as error:
            sys.stdout.write(f"not installed: {_why(error)}\n")
        else:
            installed += 1
            sys.stdout.write("installed\n")
    return installed > 0


def _python(name: str, requirement: str) -> None:
    folder = FOLDER / name
    if not (folder / "bin/python").exists():
        _run(sys.executable, "-m", "venv", str(folder))
    pip = (str(folder / "bin/python"), "-m", "pip", "--disable-pip-version-check", "install", "-q")
    _run(*pip, "--only-binary", ":all:", requirement)


def _portkey() -> None:
    folder = str(FOLDER / "portkey")
    wanted = f"@portkey-ai/gateway@{PORTKEY}"
    _run(
        _found("npm"), "install", "--silent", "--no-fund", "--no-audit", "--prefix", folder, wanted
    )


def _bifrost() -> None:
    module = f"github.com/maximhq/bifrost/transports/bifrost-http@v{BIFROST}"
    _run("env", f"GOBIN={FOLDER / 'bifrost/bin'}", _found("go"), "install", module)


def _found(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise FileNotFoundError(f"there is no {program} here")
    return path


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True, text=True, timeout=TIMEOUT_S)


def _why(error: Exception) -> str:
    """Return the end of what the installer said, on one line."""
    said = getattr(error, "stderr", "") or str(error)
    return " ".join(str(said).split())[-TAIL_CHARS:]


if __name__ == "__main__":
    sys.exit(0 if install() else 1)
