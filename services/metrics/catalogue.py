"""Which price a model has: free, the operator's own, the built-in one, or none that is known."""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

from services.metrics.builtin import PriceAt, find_price
from services.metrics.price import FREE, Price

OFFLINE: Final = "offline"
"""The provider that runs inside the mesh."""

MAX_MODELS: Final = 4096
"""Models that are remembered, known or not; one that was forgotten is looked up again."""

SLOT_S: Final = 900
"""Prices are taken at the last quarter of an hour: no provider changes them in between."""


class PriceCatalogue:
    """Finds prices, off the event loop when it takes long. The same model is looked up once."""

    def __init__(self, overrides: Mapping[str, Price] | None = None) -> None:
        self._overrides = overrides or {}
        self._builtin: OrderedDict[tuple[str, str], PriceAt | None] = OrderedDict()
        self._slots: OrderedDict[tuple[str, str, int], Price | None] = OrderedDict()
        self._asking = asyncio.Lock()

    async def find(self, provider: str, model: str, *, at_s: int) -> Price | None:
        """Return the price at a moment of Unix time; None means unknown, which is not free."""
        if provider == OFFLINE:
            return FREE
        for name in (f"{provider}/{model}", f"{provider}/*"):
            if name in self._overrides:
                return self._overrides[name]
        slot_s = at_s - at_s % SLOT_S
        key = (provider, model, slot_s)
        if key not in self._slots:
            price_at = await self._find_builtin(provider, model)
            self._slots[key] = price_at(slot_s) if price_at is not None else None
            if len(self._slots) > MAX_MODELS:
                self._slots.popitem(last=False)
        return self._slots[key]

    async def _find_builtin(self, provider: str, model: str) -> PriceAt | None:
        async with self._asking:
            key = (provider, model)
            if key not in self._builtin:
                self._builtin[key] = await asyncio.to_thread(find_price, provider, model)
                if len(self._builtin) > MAX_MODELS:
                    self._builtin.popitem(last=False)
            return self._builtin[key]
