"""Cache: look the composed request up, store what was generated, give a lease up on failure."""

import asyncio

import grpc.aio

from gateway.clients import Clients
from gateway.settings import GatewaySettings
from gateway.turn import TurnInProgress
from mesh import metrics
from mesh.errors import Reason, Unavailable
from plexus.cache.v1 import cache_service_pb2 as pb
from plexus.common.v1 import model_pb2

VERDICTS = {
    pb.VERDICT_EXACT_HIT: "exact hit",
    pb.VERDICT_SEMANTIC_HIT: "semantic hit",
    pb.VERDICT_JOINED_HIT: "joined hit",
    pb.VERDICT_MISS: "miss",
    pb.VERDICT_BYPASS: "bypass",
    pb.VERDICT_UNAVAILABLE: "unavailable",
}


async def lookup(
    work: TurnInProgress, clients: Clients, settings: GatewaySettings
) -> pb.LookupResponse:
    """Return the verdict; a cache that cannot be reached is a warning, never a failure."""
    wait_s = settings.cache_join_wait_s
    request = pb.LookupRequest(
        scope=work.turn.scope,
        request=work.request,
        control=work.turn.cache,
        max_wait_ms=int(wait_s * 1000),
    )
    call = clients.cache.Lookup(request, timeout=settings.cache_timeout_s + wait_s)
    try:
        async with asyncio.timeout(settings.cache_timeout_s):
            # Comes as soon as the cache has the call: a frozen cache is not one that waits.
            await call.initial_metadata()
        found = await call
    except (grpc.aio.AioRpcError, TimeoutError):
        found = pb.LookupResponse(verdict=pb.VERDICT_UNAVAILABLE)
    finally:
        call.cancel()
    if found.verdict == pb.VERDICT_UNAVAILABLE:
        why = Unavailable("the cache cannot be reached", reason=Reason.CACHE_UNAVAILABLE)
        work.warn("cache", why)
    metrics.CACHE_LOOKUPS.labels(VERDICTS.get(found.verdict, "unknown").replace(" ", "_")).inc()
    return found


async def store(
    work: TurnInProgress,
    response: model_pb2.ModelResponse,
    clients: Clients,
    settings: GatewaySettings,
) -> None:
    """Store a complete answer under the lease, if there is one; failing costs nothing but a hit."""
    if not work.lookup.lease:
        return
    request = pb.StoreRequest(
        scope=work.turn.scope, lease=work.lookup.lease, response=response, control=work.turn.cache
    )
    try:
        await clients.cache.Store(request, timeout=settings.cache_timeout_s)
    except grpc.aio.AioRpcError:
        await release(work, clients, settings)
    else:
        work.lookup.lease = ""


async def release(work: TurnInProgress, clients: Clients, settings: GatewaySettings) -> None:
    """Give the lease up, so that one of those who wait leads instead."""
    if not work.lookup.lease:
        return
    request = pb.ReleaseRequest(scope=work.turn.scope, lease=work.lookup.lease)
    try:
        await clients.cache.Release(request, timeout=settings.cache_timeout_s)
    except grpc.aio.AioRpcError:
        return
    work.lookup.lease = ""
