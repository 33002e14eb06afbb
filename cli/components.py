"""Makes each component from its settings; the only place that knows them all."""

import dataclasses
import difflib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import grpc.aio

from gateway.settings import GatewaySettings
from mesh.clock import SYSTEM_CLOCK
from mesh.component import Component, Hosted
from mesh.errors import FailedPrecondition, Reason
from mesh.settings import MeshSettings, load, read_file, variable
from plexus.cache.v1 import cache_service_pb2_grpc
from plexus.memory.v1 import memory_service_pb2_grpc
from plexus.metrics.v1 import metrics_service_pb2_grpc
from plexus.router.v1 import router_service_pb2_grpc
from services.cache.settings import CacheSettings
from services.memory.settings import MemorySettings
from services.metrics.settings import MetricsSettings
from services.router.settings import RouterSettings

T = TypeVar("T")

DEFAULT_REDIS_URL = "redis://127.0.0.1:6379/0"
"""Where a component that runs alone looks for Redis when nothing else is said."""

NAMES = ("router", "cache", "metrics", "memory", "gateway")
"""In the order in which they start: each after those it calls."""


class Listening(Protocol):
    """Settings of a component: each has a gRPC port."""

    @property
    def port(self) -> int:
        """The gRPC port; 0 picks a free one."""
        ...


SETTINGS_CLASSES: Mapping[str, type[Listening]] = {
    "memory": MemorySettings,
    "router": RouterSettings,
    "cache": CacheSettings,
    "metrics": MetricsSettings,
    "gateway": GatewaySettings,
}


SECTIONS: Mapping[str, type[object]] = {"mesh": MeshSettings, **SETTINGS_CLASSES}
"""The settings class of each section of plexus.yaml."""


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What components are made from: where settings come from and where data goes."""

    mesh: MeshSettings
    file: Path | None = None
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    redis_url: str = DEFAULT_REDIS_URL
    """The Redis of components whose settings name none."""
    discover_providers: bool = False
    """Look for keys and local model servers when no providers are configured."""


def port_of(component: str, environment: Environment) -> int:
    """Return the gRPC port of a component by its settings."""
    cls = SETTINGS_CLASSES[component]
    settings: Listening = load(cls, component, file=environment.file, environ=environment.environ)
    return settings.port


class Maker:
    """Makes components for one process. `lines` says what was found on the way."""

    def __init__(
        self, environment: Environment, channel_to: Callable[[str], grpc.aio.Channel]
    ) -> None:
        self._environment = environment
        self._channel_to = channel_to
        self.provider_lines: list[str] = []

    async def make(self, name: str) -> Component:
        """Return the component, not started; raises FailedPrecondition for wrong settings."""
        makers = {
            "router": self._router,
            "cache": self._cache,
            "metrics": self._metrics,
            "memory": self._memory,
            "gateway": self._gateway,
        }
        return await makers[name]()

    async def _router(self) -> Component:
        from services.router.build import build
        from services.router.discovery import discover

        environment = self._environment
        settings = self._load(RouterSettings, "router")
        settings = replace(settings, data_dir=settings.data_dir or environment.mesh.data_dir)
        if environment.discover_providers and not self._has_providers():
            discovery = await discover(environment.environ, base=settings)
            settings = discovery.settings
            self.provider_lines = list(discovery.lines)
        else:
            groups = settings.groups.items()
            self.provider_lines = [f"{name}: {', '.join(chain)}" for name, chain in groups]
        built = await build(settings, clock=SYSTEM_CLOCK, environ=environment.environ)
        return Hosted("router", built, router_service_pb2_grpc.add_RouterServiceServicer_to_server)

    async def _cache(self) -> Component:
        from services.cache.build import build

        settings = self._load(CacheSettings, "cache")
        built = await build(settings, redis_url=self._environment.redis_url, clock=SYSTEM_CLOCK)
        return Hosted("cache", built, cache_service_pb2_grpc.add_CacheServiceServicer_to_server)

    async def _metrics(self) -> Component:
        from services.metrics.build import build

        settings = self._load(MetricsSettings, "metrics")
        built = await build(settings, redis_url=self._environment.redis_url, clock=SYSTEM_CLOCK)
        return Hosted(
            "metrics", built, metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server
        )

    async def _memory(self) -> Component:
        from services.memory.build import build

        settings = self._load(MemorySettings, "memory")
        data_dir = settings.data_dir or self._environment.mesh.data_dir / "memory"
        settings = replace(settings, data_dir=data_dir)
        built = await build(settings, clock=SYSTEM_CLOCK, router=self._channel_to("router"))
        return Hosted("memory", built, memory_service_pb2_grpc.add_MemoryServiceServicer_to_server)

    async def _gateway(self) -> Component:
        from gateway.build import Gateway

        return Gateway(
            self._load(GatewaySettings, "gateway"),
            data_dir=self._environment.mesh.data_dir,
            channel_to=self._channel_to,
            clock=SYSTEM_CLOCK,
            redis_url=self._environment.redis_url,
        )

    def _has_providers(self) -> bool:
        section = read_file(self._environment.file).get("router")
        names = ("providers", "groups")
        in_file = isinstance(section, dict) and any(name in section for name in names)
        environ = self._environment.environ
        return in_file or any(variable("router", name) in environ for name in names)

    def _load(self, cls: type[T], component: str) -> T:
        environment = self._environment
        return load(cls, component, file=environment.file, environ=environment.environ)


_OF_THE_CLIENT = frozenset({"PLEXUS_ADDRESS", "PLEXUS_API_KEY"})
"""Variables that the commands which talk to a mesh read; they are no settings of a mesh."""


def check_environment(environ: Mapping[str, str]) -> None:
    """Refuse a PLEXUS_ variable that is no setting: a mistyped one would do nothing, silently."""
    known = {
        variable(section, setting.name)
        for section, cls in SECTIONS.items()
        for setting in dataclasses.fields(cast("Any", cls))
    }
    for name in environ:
        if name.startswith("PLEXUS_") and name not in known and name not in _OF_THE_CLIENT:
            near = difflib.get_close_matches(name.replace("_MESH_", "_"), known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ": see `plexus config`"
            raise FailedPrecondition(
                f"{name} in the environment is not a setting{hint}", reason=Reason.INVALID_SETTINGS
            )
