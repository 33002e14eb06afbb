"""Puts metrics together."""

import asyncio
from dataclasses import dataclass

from mesh.clock import SYSTEM_CLOCK, Clock
from mesh.redis_link import MIN_CONNECT_TIMEOUT_S, RedisLink, RedisLinkSettings, RedisLinkStatistics
from services.metrics.accounts import Accounts, AccountStatistics
from services.metrics.catalogue import PriceCatalogue
from services.metrics.latency import Latencies
from services.metrics.ledger import Ledger
from services.metrics.overrides import read_overrides
from services.metrics.service import MetricsService
from services.metrics.settings import MetricsSettings


@dataclass(frozen=True, kw_only=True)
class MetricsComponentStatistics:
    """Snapshots of the accounts and of their link to Redis."""

    accounts: AccountStatistics
    redis: RedisLinkStatistics


class MetricsComponent:
    """Metrics as the mesh hosts it."""

    def __init__(
        self,
        settings: MetricsSettings,
        *,
        clock: Clock,
        redis_url: str,
        prices: PriceCatalogue,
    ) -> None:
        self._link = RedisLink(
            RedisLinkSettings(
                url=settings.redis_url or redis_url,
                name="metrics",
                timeout_s=settings.redis_timeout_ms / 1000,
                connect_timeout_s=max(MIN_CONNECT_TIMEOUT_S, settings.redis_timeout_ms / 1000),
                connections=settings.redis_connections,
            ),
            clock=clock,
        )
        self.accounts = Accounts(
            settings,
            ledger=Ledger(self._link),
            latencies=Latencies(self._link),
            prices=prices,
            clock=clock,
        )
        self.servicer = MetricsService(self.accounts)

    async def start(self) -> None:
        """Begin to flush latencies; does not wait for Redis."""
        await self.accounts.start()

    async def close(self) -> None:
        """Flush once more, bounded by the link's time limit, and close the link."""
        await self.accounts.close()
        await self._link.close()

    def readiness(self) -> bool:
        """Always: without Redis a typed answer here is worth more than no answer at all."""
        return True

    def statistics(self) -> MetricsComponentStatistics:
        """A snapshot."""
        return MetricsComponentStatistics(
            accounts=self.accounts.statistics(), redis=self._link.statistics()
        )


async def build(
    settings: MetricsSettings, *, redis_url: str, clock: Clock = SYSTEM_CLOCK
) -> MetricsComponent:
    """Return the metrics component; FailedPrecondition when the prices file is wrong.

    `redis_url` is the mesh's Redis; the settings' own wins.
    """
    file = settings.prices_file
    prices = PriceCatalogue(await asyncio.to_thread(read_overrides, file) if file else None)
    return MetricsComponent(settings, clock=clock, redis_url=redis_url, prices=prices)
