"""The arrows between our packages, as the code has them: who may import whom."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Where each top-level package of ours lives; `plexus` is the generated code.
FOLDERS = {
    "plexus": "gen/plexus",
    "mesh": "mesh",
    "services": "services",
    "gateway": "gateway",
    "cli": "cli",
}
# Besides itself. Each folder under services is a part of its own, so none may reach another.
MAY_IMPORT = {
    "plexus": frozenset[str](),
    "mesh": frozenset({"plexus"}),
    "services": frozenset({"plexus", "mesh"}),
    "gateway": frozenset({"plexus", "mesh"}),
}


def part(module: str) -> str:
    """What an arrow starts from or points to: `services.memory` for a service, else the package."""
    return ".".join(module.split(".")[: 2 if module.startswith("services.") else 1])


def imported(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """Every module that `tree` names in an import, with its line; relative ones are resolved.

    `from a import b` counts as `a.b`, for b may be a module. Strings given to import_module count.
    """
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                above = package.split(".")[: len(package.split(".")) - level + 1] if level else []
                base = ".".join([*above, *([module] if module else [])])
                yield from ((node.lineno, f"{base}.{alias.name}") for alias in names)
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__")
                | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield node.lineno, name
            case _:
                pass


def forbidden(source: str, target: str) -> bool:
    """Whether the module `source` may not import the module `target`."""
    origin, package = part(source), target.split(".")[0]
    if origin == "cli" or package not in FOLDERS or part(target) == origin:
        return False
    return target.split(".")[0] not in MAY_IMPORT[source.split(".")[0]]


def violations(root: Path) -> list[str]:
    """Every import under `root` that goes against the arrows, as `file:line imports module`."""
    found: list[str] = []
    for name, folder in FOLDERS.items():
        for path in sorted((root / folder).rglob("*.py")):
            inside = [name, *path.relative_to(root / folder).with_suffix("").parts]
            source = ".".join(inside).removesuffix(".__init__")
            modules = imported(ast.parse(path.read_bytes()), ".".join(inside[:-1]))
            found += [
                f"{path.relative_to(root).as_posix()}:{line} imports {target}"
                for line, target in modules
                if forbidden(source, target)
            ]
    return found


def test_our_code_follows_the_arrows() -> None:
    assert any((ROOT / "mesh").rglob("*.py")), "the checker looks at the wrong folder"
    assert violations(ROOT) == []


@pytest.mark.parametrize(
    ("path", "statement", "target"),
    [
        ("gen/plexus/memory/v1/a_pb2.py", "import mesh.clock", "mesh.clock"),
        ("mesh/server.py", "from services.memory import service", "services.memory.service"),
        ("mesh/testing/clock.py", "from gateway import pipeline", "gateway.pipeline"),
        ("services/cache/service.py", "import services.memory.store", "services.memory.store"),
        ("services/cache/service.py", "from services import memory", "services.memory"),
        ("services/cache/service.py", "from ..memory import store", "services.memory.store"),
        ("services/cache/__init__.py", "from .. import memory", "services.memory"),
        ("services/cache/service.py", "import gateway", "gateway"),
        ("services/__init__.py", "from . import memory", "services.memory"),
        ("gateway/pipeline.py", "def f():\n    import services.router", "services.router"),
        ("gateway/stages/a.py", "import_module('services.cache')", "services.cache"),
        ("gateway/pipeline.py", "from cli.main import main", "cli.main.main"),
    ],
)
def test_an_import_against_the_arrows_is_found(
    tmp_path: Path, path: str, statement: str, target: str
) -> None:
    write(tmp_path, path, statement)
    line = statement.count("\n") + 1
    assert violations(tmp_path) == [f"{path}:{line} imports {target}"]


@pytest.mark.parametrize(
    ("path", "statement"),
    [
        ("gen/plexus/memory/v1/a_pb2.py", "from plexus.common.v1 import scope_pb2"),
        (
            "mesh/server.py",
            "import grpc\nfrom plexus.common.v1 import scope_pb2\nfrom . import clock",
        ),
        ("mesh/testing/__init__.py", "from ..clock import Clock"),
        ("services/cache/service.py", "from mesh import clock\nfrom . import store"),
        (
            "services/cache/adapters/redis.py",
            "from services.cache import store\nfrom .. import port",
        ),
        ("gateway/stages/cache.py", "from plexus.cache.v1 import x\nfrom gateway import pipeline"),
        ("cli/main.py", "import mesh, gateway.pipeline, services.memory.service, plexus.common"),
    ],
)
def test_an_import_along_the_arrows_is_free(tmp_path: Path, path: str, statement: str) -> None:
    write(tmp_path, path, statement)
    assert violations(tmp_path) == []


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True)
    (root / path).write_text(text)
