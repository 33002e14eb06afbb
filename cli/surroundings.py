"""Doctor's checks of what a mesh would find here: settings, Redis, model, data folder, contract."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from cli.checks import Finding, failed, ok, skipped
from cli.config import problems
from cli.machine import CHECKOUT
from mesh.errors import PlexusError
from mesh.redis_binary import find_redis_server
from mesh.settings import SETTINGS_FILE, MeshSettings, load
from services.cache.settings import CacheSettings
from services.memory.settings import MemorySettings
from services.router.embedding.weights import REVISION, find_model
from services.router.settings import MINILM, RouterSettings

GENERATE_TIMEOUT_S: Final = 60.0
"""How long protoc may take for all protos."""


def surrounding_findings(file: Path | None) -> Iterator[Finding]:
    """Yield the findings; those that need valid settings are left out when they are not."""
    found = problems(file, os.environ)
    if found:
        path = file or Path(SETTINGS_FILE)
        for problem in found:
            yield failed(
                "settings", problem, f"correct {path} or the variable, then run this again"
            )
    else:
        yield ok("settings", _origin(file))
        mesh = load(MeshSettings, "mesh", file=file)
        yield redis_server(load(CacheSettings, "cache", file=file).redis_url)
        yield embedding_model(file)
        yield data_folder(mesh.data_dir)
    yield generated_code(CHECKOUT)


def redis_server(configured_url: str) -> Finding:
    """Find the redis-server that an embedded mesh starts; needless with a Redis that is set."""
    if configured_url:
        return skipped("redis-server", "a Redis is configured; none is started")
    try:
        binary = find_redis_server()
    except PlexusError as error:
        return failed("redis-server", "not found", str(error))
    return ok("redis-server", f"{'.'.join(map(str, binary.version))} at {binary.path}")


def embedding_model(file: Path | None) -> Finding:
    """Find the weights of the built-in embedding model, when it is the one to use."""
    wanted = load(RouterSettings, "router", file=file).embedding_model
    if wanted != MINILM:
        return skipped("embeddings", f"computed by {wanted}, as configured")
    if not load(MemorySettings, "memory", file=file).embedding:
        return skipped("embeddings", "turned off: search is by words")
    try:
        folder = find_model()
    except PlexusError as error:
        return failed("embeddings", "the model's weights are missing", str(error))
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    return ok("embeddings", f"{REVISION}, {size // (1 << 20)} MiB")


def data_folder(path: Path) -> Finding:
    """See whether the data folder can be written, and whether a mesh uses it. Creates nothing."""
    existing = path.resolve()
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        remedy = "make it writable, or set PLEXUS_DATA_DIR to another folder"
        return failed("data folder", f"{path} cannot be written", remedy)
    if not path.exists():
        return ok("data folder", f"{path} will be made on the first start")
    return ok("data folder", f"{path}, {'in use by a mesh' if is_owned(path) else 'free'}")


def is_owned(folder: Path) -> bool:
    """Whether a running mesh holds the folder's lock."""
    try:
        with (folder / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def generated_code(root: Path) -> Finding:
    """Compare gen/ with protos/ in a checkout that has the compiler."""
    script = root / "protos" / "generate.py"
    if not script.is_file():
        return skipped("contract", "not a checkout: the generated code is part of the package")
    if find_spec("grpc_tools") is None:
        return skipped("contract", "no compiler installed; `make proto` installs it")
    try:
        done = subprocess.run(
            [sys.executable, str(script), "--check"],
            capture_output=True,
            text=True,
            timeout=GENERATE_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return failed("contract", "the compiler does not end", "run `make proto`")
    if done.returncode:
        return failed("contract", "gen/ is not what protos/ says", "run `make proto`")
    return ok("contract", "gen/ is what protos/ says")


def _origin(file: Path | None) -> str:
    path = file or Path(SETTINGS_FILE)
    if path.exists():
        return f"{path} is valid"
    return f"valid; there is no {path}, which is fine"
