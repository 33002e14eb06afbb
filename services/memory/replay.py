"""Mutations that answer with a count, made safe to repeat by a record of their first answer."""

import json
from collections.abc import Coroutine
from typing import Any

from services.memory.engine_link import key_reused
from services.memory.ids import IdClock
from services.memory.store import MemoryStore

KEPT_US = 24 * 3600 * 1_000_000
"""A day: how long a key protects."""


class Replay:
    """Keeps first answers in the store itself, so that they live as long as what they speak of."""

    def __init__(self, store: MemoryStore, ids: IdClock) -> None:
        self._store = store
        self._ids = ids

    def expires_us(self) -> int:
        """Return until when a key that is used now protects."""
        return self._ids.now_us() + KEPT_US

    async def count(
        self, tenant: str, kind: str, key: str, mark: str, mutation: Coroutine[Any, Any, int]
    ) -> int:
        """Await the mutation, or close it and return its first answer.

        Raises InvalidArgument(IDEMPOTENCY_KEY_REUSED) when the key stands for another request.
        """
        if not key:
            return await mutation
        name = f"{kind}:{key}"
        try:
            kept = await self._store.read_record(tenant, name)
        except BaseException:
            mutation.close()
            raise
        if kept is None:
            count = await mutation
            body = json.dumps([mark, count])
            await self._store.put_record(tenant, name, body, expires_us=self.expires_us())
            return count
        mutation.close()
        first_mark, first_count = json.loads(kept)
        if first_mark != mark:
            raise key_reused()
        return first_count
