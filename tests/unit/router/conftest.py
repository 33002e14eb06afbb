"""The scripted upstream, and what the providers' tests need to talk to it."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from mesh.clock import SYSTEM_CLOCK
from mesh.testing.upstream import ScriptedUpstream
from services.router.providers.anthropic import AnthropicProvider
from services.router.providers.http import HttpLimits
from services.router.providers.openai import OpenAIProvider
from services.router.providers.provider import Provider

Dialect = Callable[[ScriptedUpstream], AbstractAsyncContextManager[Provider]]


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as server:
        yield server


@asynccontextmanager
async def openai(upstream: ScriptedUpstream) -> AsyncGenerator[Provider]:
    provider = OpenAIProvider(
        base_url=upstream.openai_url, api_key="k", limits=HttpLimits(), clock=SYSTEM_CLOCK
    )
    try:
        yield provider
    finally:
        await provider.close()


@asynccontextmanager
async def anthropic(upstream: ScriptedUpstream) -> AsyncGenerator[Provider]:
    provider = AnthropicProvider(
        base_url=upstream.base_url, api_key="k", limits=HttpLimits(), clock=SYSTEM_CLOCK
    )
    try:
        yield provider
    finally:
        await provider.close()


@pytest.fixture(params=[openai, anthropic], ids=["openai", "anthropic"])
def dialect(request: pytest.FixtureRequest) -> Dialect:
    """Both dialects in turn: what is promised is promised of each."""
    return request.param
