"""Qdrant's own messages and stubs, without the client library around them.

Importing `qdrant_client` costs 0.9 seconds and 60 MB of models that nobody here uses, and
importing any of its modules imports all of it. So its two packages are stood in for by empty ones
with the right search path while the generated modules are imported, and left to the real import
afterwards.
"""

import importlib.util
import sys
from collections.abc import Generator
from contextlib import contextmanager
from types import ModuleType

_PACKAGES = ("qdrant_client", "qdrant_client.grpc")


@contextmanager
def _bare_packages() -> Generator[None]:
    if "qdrant_client" in sys.modules:
        yield
        return
    spec = importlib.util.find_spec("qdrant_client")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("store: server needs the package qdrant-client")
    (folder,) = spec.submodule_search_locations
    for name, path in zip(_PACKAGES, (folder, f"{folder}/grpc"), strict=True):
        package = ModuleType(name)
        package.__path__ = [path]
        sys.modules[name] = package
    try:
        yield
    finally:
        for name in _PACKAGES:
            del sys.modules[name]


with _bare_packages():
    from qdrant_client.grpc import (
        collections_pb2,
        collections_service_pb2_grpc,
        json_with_int_pb2,
        points_pb2,
        points_service_pb2_grpc,
        qdrant_common_pb2,
        qdrant_pb2,
    )

    # qdrant_pb2_grpc would import the same; its one method is called by path.

__all__ = [
    "collections_pb2",
    "collections_service_pb2_grpc",
    "json_with_int_pb2",
    "points_pb2",
    "points_service_pb2_grpc",
    "qdrant_common_pb2",
    "qdrant_pb2",
]
