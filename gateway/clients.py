"""The stubs through which the gateway reaches the other components."""

from collections.abc import Callable
from dataclasses import dataclass

import grpc.aio

from plexus.cache.v1 import cache_service_pb2_grpc
from plexus.memory.v1 import memory_service_pb2_grpc
from plexus.metrics.v1 import metrics_service_pb2_grpc
from plexus.router.v1 import router_service_pb2_grpc


@dataclass(frozen=True, slots=True)
class Clients:
    """One stub per component, local or remote alike."""

    memory: memory_service_pb2_grpc.MemoryServiceStub
    router: router_service_pb2_grpc.RouterServiceStub
    cache: cache_service_pb2_grpc.CacheServiceStub
    metrics: metrics_service_pb2_grpc.MetricsServiceStub

    @classmethod
    def over(cls, channel_to: Callable[[str], grpc.aio.Channel]) -> "Clients":
        """Return stubs over the channels that `channel_to(component)` gives."""
        return cls(
            memory_service_pb2_grpc.MemoryServiceStub(channel_to("memory")),
            router_service_pb2_grpc.RouterServiceStub(channel_to("router")),
            cache_service_pb2_grpc.CacheServiceStub(channel_to("cache")),
            metrics_service_pb2_grpc.MetricsServiceStub(channel_to("metrics")),
        )
