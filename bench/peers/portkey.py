"""Portkey's gateway on Node."""

import shutil
from pathlib import Path

from bench.peers.place import FOLDER, INSTALL, PORTKEY, http_target
from bench.process import Processes, free_port
from bench.target import Target

SCRIPT = FOLDER / "portkey/node_modules/@portkey-ai/gateway/build/start-server.js"


class Portkey:
    """A gateway that keeps no state: each request names its upstream in headers."""

    name = "portkey"
    label = f"Portkey gateway {PORTKEY} (Node)"
    missing = f"{INSTALL}; it needs node"

    def is_installed(self) -> bool:
        return SCRIPT.exists() and shutil.which("node") is not None

    async def start(self, processes: Processes, folder: Path, upstream_url: str) -> Target:
        port = free_port()
        process = await processes.start(
            self.name,
            ["node", str(SCRIPT), f"--port={port}", "--headless"],
            environ={"NODE_ENV": "production"},
            port=port,
            cwd=folder,
        )
        headers = {
            "Authorization": "Bearer none",
            "x-portkey-provider": "openai",
            "x-portkey-custom-host": upstream_url,
        }
        return http_target(self.name, process, headers=headers)
