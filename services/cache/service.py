"""The gRPC edge of the cache: decode, call, encode."""

from typing import Any, Final

import grpc.aio

from mesh.call import resolve_tenant
from mesh.errors import Reason, Unavailable
from mesh.redis_link import RedisUnavailable
from mesh.validation import invalid, require
from plexus.cache.v1 import cache_service_pb2 as pb
from plexus.cache.v1 import cache_service_pb2_grpc as pb_grpc
from services.cache.cache import Cache, Control, Lookup, Verdict
from services.cache.keys import KEY_BYTES

_VERDICTS: Final[dict[Verdict, pb.Verdict]] = {
    "exact_hit": pb.VERDICT_EXACT_HIT,
    "joined_hit": pb.VERDICT_JOINED_HIT,
    "miss": pb.VERDICT_MISS,
    "bypass": pb.VERDICT_BYPASS,
    "unavailable": pb.VERDICT_UNAVAILABLE,
}

MAX_LEASE_CHARS: Final = 512

Context = grpc.aio.ServicerContext[Any, Any]


class CacheService(pb_grpc.CacheServiceServicer):
    """Serves `plexus.cache.v1.CacheService`; the contract is in its proto."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    async def Lookup(self, request: pb.LookupRequest, context: Context) -> pb.LookupResponse:
        tenant = resolve_tenant(request.scope)
        require(bool(request.request.messages), "request.messages", "must not be empty")
        require(request.max_wait_ms >= 0, "max_wait_ms", "must not be negative")
        if request.max_wait_ms:
            # Says at once that the cache works: waiting for another caller's answer may take long.
            await context.send_initial_metadata(())
        found = await self._cache.look_up(
            tenant,
            request.request,
            _control(request.control),
            max_wait_ms=request.max_wait_ms,
        )
        return _lookup_response(found)

    async def Store(self, request: pb.StoreRequest, context: Context) -> pb.StoreResponse:
        tenant = resolve_tenant(request.scope)
        _check_lease(request.lease)
        control = _control(request.control)
        why_not = await self._cache.store(tenant, request.lease, request.response, control)
        return pb.StoreResponse(stored=not why_not, why_not=why_not)

    async def Release(self, request: pb.ReleaseRequest, context: Context) -> pb.ReleaseResponse:
        tenant = resolve_tenant(request.scope)
        _check_lease(request.lease)
        self._cache.release(tenant, request.lease)
        return pb.ReleaseResponse()

    async def Invalidate(
        self, request: pb.InvalidateRequest, context: Context
    ) -> pb.InvalidateResponse:
        tenant = resolve_tenant(request.scope)
        try:
            if request.WhichOneof("target") == "entry_id":
                removed = await self._cache.invalidate(tenant, _entry_key(request.entry_id))
                return pb.InvalidateResponse(removed_count=removed)
            require(request.all, "target", "must be an entry_id, or all set to true")
            await self._cache.invalidate_all(tenant)
            return pb.InvalidateResponse()
        except RedisUnavailable as error:
            raise Unavailable(
                "The cache's store cannot be reached, so nothing was invalidated for certain.",
                reason=Reason.CACHE_UNAVAILABLE,
                retry_after_s=error.retry_after_s,
            ) from error


def _lookup_response(found: Lookup) -> pb.LookupResponse:
    response = pb.LookupResponse(
        verdict=_VERDICTS[found.verdict],
        lease=found.lease,
        level=found.level,
        entry_id=found.key.hex(),
    )
    if found.record is not None:
        response.response.CopyFrom(found.record.response)
        response.store_time.FromMilliseconds(found.record.store_time_ms)
    return response


def _control(control: pb.CacheControl) -> Control:
    require(control.max_age_ms >= 0, "control.max_age_ms", "must not be negative")
    require(control.ttl_ms >= 0, "control.ttl_ms", "must not be negative")
    return Control(
        no_cache=control.no_cache,
        no_store=control.no_store,
        max_age_ms=control.max_age_ms,
        ttl_ms=control.ttl_ms,
    )


def _check_lease(lease: str) -> None:
    require(0 < len(lease) <= MAX_LEASE_CHARS, "lease", "must be the lease from Lookup")


def _entry_key(entry_id: str) -> bytes:
    try:
        key = bytes.fromhex(entry_id)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise invalid("entry_id", "must be an entry_id from Lookup")
    return key
