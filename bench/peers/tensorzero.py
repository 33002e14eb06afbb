"""TensorZero embedded in a Python process; that process is its own load generator.

There is no server to call: what embeds it pays for it, so the caller's cost is part of its figure.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from bench.peers.place import FOLDER, INSTALL, TENSORZERO
from bench.process import Process, Processes
from bench.schedule import Load
from bench.target import Target, nothing
from bench.upstream import FAST, last_token
from bench.window import Timing, Window

WORKER = Path(__file__).with_name("tensorzero_worker.py")
PYTHON = FOLDER / "tensorzero/bin/python"
CONFIG = """\
[gateway]
observability.enabled = false
[models.scripted]
routing = ["upstream"]
[models.scripted.providers.upstream]
type = "openai"
model_name = "{model}"
api_base = "{url}"
api_key_location = "none"
"""


class TensorZero:
    """Without its database: nothing is observed."""

    name = "tensorzero"
    label = f"TensorZero {TENSORZERO}, embedded in Python"
    missing = INSTALL

    def is_installed(self) -> bool:
        return PYTHON.exists()

    async def start(self, processes: Processes, folder: Path, upstream_url: str) -> Target:
        config = folder / "tensorzero.toml"
        config.write_text(CONFIG.format(model=FAST, url=upstream_url))
        # -P: the folder of the worker holds modules that are named as the peers are.
        argv = [str(PYTHON), "-P", str(WORKER), str(config)]
        environ = {"RUST_LOG": "error", "PYTHONUNBUFFERED": "1"}
        return WorkerTarget(self.name, await processes.start(self.name, argv, environ=environ))


class WorkerTarget:
    """A target that drives itself when told to."""

    def __init__(self, name: str, process: Process) -> None:
        self.name = name
        self.pids: Sequence[int] = (process.pid,)
        self._process = process

    async def closed(self, load: Load, *, warm_up_s: float, window_s: float) -> Window:
        asked: dict[str, Any] = {
            "kind": load.kind,
            "concurrency": load.concurrency,
            "warm_up_s": warm_up_s,
            "window_s": window_s,
            "last": last_token(FAST),
        }
        child = self._process.child
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(orjson.dumps(asked) + b"\n")
        await child.stdin.drain()
        said: dict[str, Any] = orjson.loads(await child.stdout.readline())
        window = Window(elapsed_s=said["elapsed_s"], calls=said["calls"])
        window.failures = said["failures"]
        for timing in said["timings"]:
            window.add(Timing(timing["total_s"], timing["first_s"]))
        return window

    async def settle(self) -> None:
        await nothing()

    async def close(self) -> None:
        """Its process ends with the others."""
