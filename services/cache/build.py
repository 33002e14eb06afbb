"""Puts the cache together."""

from dataclasses import dataclass

from mesh.clock import SYSTEM_CLOCK, Clock
from mesh.redis_link import MIN_CONNECT_TIMEOUT_S, RedisLink, RedisLinkSettings, RedisLinkStatistics
from services.cache.cache import Cache, CacheStatistics
from services.cache.service import CacheService
from services.cache.settings import CacheSettings
from services.cache.shared import SharedLevel


@dataclass(frozen=True, kw_only=True)
class CacheComponentStatistics:
    """Snapshots of the cache and of its link to Redis."""

    cache: CacheStatistics
    redis: RedisLinkStatistics


class CacheComponent:
    """The cache as the mesh hosts it."""

    def __init__(self, settings: CacheSettings, *, clock: Clock, redis_url: str) -> None:
        self._link = RedisLink(
            RedisLinkSettings(
                url=settings.redis_url or redis_url,
                name="cache",
                timeout_s=settings.redis_timeout_ms / 1000,
                connect_timeout_s=max(MIN_CONNECT_TIMEOUT_S, settings.redis_timeout_ms / 1000),
                connections=settings.redis_connections,
            ),
            clock=clock,
        )
        self.cache = Cache(settings, SharedLevel(self._link), clock=clock)
        self.servicer = CacheService(self.cache)

    async def start(self) -> None:
        """Nothing to wait for: the cache serves with or without Redis."""

    async def close(self) -> None:
        """Close the link; answers that were not stored yet are not stored."""
        await self._link.close()

    def readiness(self) -> bool:
        """Always: a cache without Redis still serves, and never fails its callers."""
        return True

    def statistics(self) -> CacheComponentStatistics:
        """A snapshot."""
        return CacheComponentStatistics(
            cache=self.cache.statistics(), redis=self._link.statistics()
        )


async def build(
    settings: CacheSettings, *, redis_url: str, clock: Clock = SYSTEM_CLOCK
) -> CacheComponent:
    """Return the cache component. `redis_url` is the mesh's Redis; the settings' own wins."""
    return CacheComponent(settings, clock=clock, redis_url=redis_url)
