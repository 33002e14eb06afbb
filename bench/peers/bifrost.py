"""Bifrost's HTTP gateway, a Go program."""

from pathlib import Path

import orjson

from bench.peers.place import BIFROST, FOLDER, INSTALL, http_target
from bench.process import Processes, free_port
from bench.target import Target

COMMAND = FOLDER / "bifrost/bin/bifrost-http"


class Bifrost:
    """Configured by file, without its stores."""

    name = "bifrost"
    label = f"Bifrost {BIFROST} (Go)"
    missing = f"{INSTALL}; it needs go, and a module proxy that serves Bifrost"

    def is_installed(self) -> bool:
        return COMMAND.exists()

    async def start(self, processes: Processes, folder: Path, upstream_url: str) -> Target:
        home = folder / self.name
        home.mkdir(exist_ok=True)
        key = {"name": "bench", "value": "none", "models": ["*"], "weight": 1.0}
        network = {"base_url": upstream_url.removesuffix("/v1"), "max_retries": 0}
        config = {
            "client": {"enable_logging": False, "drop_excess_requests": False},
            "providers": {"openai": {"keys": [key], "network_config": network}},
            "config_store": {"enabled": False},
            "logs_store": {"enabled": False},
        }
        (home / "config.json").write_bytes(orjson.dumps(config))
        port = free_port()
        argv = [str(COMMAND), "-app-dir", str(home), "-host", "127.0.0.1", "-port", str(port)]
        process = await processes.start(self.name, argv, port=port, cwd=home)
        return http_target(self.name, process, prefix="openai/")
