"""Both transports, and the promise that no test leaves a task behind."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from mesh.settings import MeshSettings
from tests.contract.probe import SETTINGS, Handler, Peer, Serve, serve_probe

SETTLE_S = 10.0


@pytest.fixture(params=["inprocess", "wire"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def serve(transport: str) -> AsyncGenerator[Serve]:
    """Serves probes over the transport; afterwards no task that they or the test began is left."""
    before = asyncio.all_tasks()
    peers: list[Peer] = []

    async def start(settings: dict[str, Any] | None = None, **handlers: Handler) -> Peer:
        peer = await serve_probe(
            transport, MeshSettings(**{**SETTINGS, **(settings or {})}), handlers
        )
        peers.append(peer)
        return peer

    yield start
    for peer in reversed(peers):
        await peer.close()
    begun = asyncio.all_tasks() - before - {asyncio.current_task()}
    if begun:
        _, left = await asyncio.wait(begun, timeout=SETTLE_S)
        assert not left, f"tasks left behind: {left}"
