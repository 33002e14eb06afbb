"""Peers: other gateways, each in an environment of its own under `bench/.peers`.

`make bench-peers` installs them; the versions are pinned in `bench.peers.install`. A peer that is
not there is left out of the run, with a line that says how to get it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from bench.peers.bifrost import Bifrost
from bench.peers.litellm import LiteLLM
from bench.peers.portkey import Portkey
from bench.peers.tensorzero import TensorZero
from bench.process import Processes
from bench.target import Target


class Peer(Protocol):
    """One gateway that is not ours."""

    name: str
    label: str
    """With its version, as in the tables."""
    missing: str
    """How to get it when it is not there."""

    def is_installed(self) -> bool:
        """Whether it can be started."""
        ...

    async def start(self, processes: Processes, folder: Path, upstream_url: str) -> Target:
        """Start it in front of the upstream; raises NotStarted."""
        ...


PEERS: Sequence[Peer] = (LiteLLM(), Portkey(), Bifrost(), TensorZero())
