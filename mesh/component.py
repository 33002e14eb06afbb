"""What a component is to the fabric that hosts it."""

from collections.abc import Callable
from typing import Protocol

from mesh.handlers import ServiceTable


class Component(Protocol):
    """One of memory, router, cache, metrics, gateway.

    The host calls `register` once, `start` once before traffic, `close` once after it.
    """

    name: str

    def register(self, table: ServiceTable) -> None:
        """Add the component's servicers to `table`."""
        ...

    async def start(self) -> None:
        """Open what the component needs; return when it can serve."""
        ...

    async def close(self) -> None:
        """Finish or hand over the component's own work, bounded in time, and free everything."""
        ...

    def readiness(self) -> bool:
        """Whether it can take traffic now."""
        ...


class Hosted:
    """A `Component` made of a servicer's parts; what `services.*.build` return fits as well."""

    def __init__(self, name: str, component: "Built", add_to: Callable[..., None]) -> None:
        self.name = name
        self.built = component
        self._add_to = add_to

    def register(self, table: ServiceTable) -> None:
        self._add_to(self.built.servicer, table)

    async def start(self) -> None:
        await self.built.start()

    async def close(self) -> None:
        await self.built.close()

    def readiness(self) -> bool:
        return self.built.readiness()


class Built(Protocol):
    """What a service's `build` returns."""

    @property
    def servicer(self) -> object:
        """The gRPC servicer."""
        ...

    async def start(self) -> None:
        """See `Component.start`."""
        ...

    async def close(self) -> None:
        """See `Component.close`."""
        ...

    def readiness(self) -> bool:
        """See `Component.readiness`."""
        ...
