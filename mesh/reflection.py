"""Server reflection, under its old and its present name, for services and methods alike."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from google.protobuf import descriptor_pool
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from mesh.handlers import ServiceTable

V1ALPHA = reflection.SERVICE_NAME
V1 = "grpc.reflection.v1.ServerReflection"
"""The same messages under the name that newer tools ask for first."""


def add_reflection(table: ServiceTable, service_names: Sequence[str]) -> None:
    """Serve reflection of `service_names`, and of reflection itself, on `table`."""
    # V1 is answered and not listed: to list it would promise a descriptor that is not at hand.
    names = (*service_names, V1ALPHA)
    add = cast(
        "Callable[[object, object], None]",
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server,  # pyright: ignore[reportUnknownMemberType]
    )
    add(reflection.aio.ReflectionServicer(names, _Pool()), _UnderBothNames(table))


class _UnderBothNames:
    """Takes the generated registration and repeats it under the present name."""

    def __init__(self, table: ServiceTable) -> None:
        self._table = table

    def add_generic_rpc_handlers(self, generic_rpc_handlers: object) -> None:
        """The form without method names is of no use here either."""

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, object]
    ) -> None:
        for name in (service_name, V1):
            self._table.add_registered_method_handlers(name, method_handlers)


class _Pool:
    """The default pool, which also finds the file of a method: tools describe methods too."""

    def __getattr__(self, name: str) -> Any:
        return getattr(descriptor_pool.Default(), name)

    def FindFileContainingSymbol(self, symbol: str) -> Any:
        pool = descriptor_pool.Default()
        try:
            return pool.FindFileContainingSymbol(symbol)
        except KeyError:
            return pool.FindFileContainingSymbol(symbol.rpartition(".")[0])
