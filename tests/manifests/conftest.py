"""Everything that can be deployed, built once: overlays, and every fitting set of components."""

import itertools
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.manifests.kustomize import K8S, Kustomize, Object, find_kustomize

ALTERNATIVES = (
    ("network-policies",),
    ("monitoring",),
    ("custom-metrics-hpa", "keda"),
    ("mtls",),
    ("external-secrets",),
)
"""Of each line at most one may be chosen."""

Built = dict[str, list[Object]]


def combinations() -> list[tuple[str, ...]]:
    """Return every set of components that may be chosen, the empty one first."""
    chosen = itertools.product(*(("", *names) for names in ALTERNATIVES))
    return [tuple(name for name in names if name) for names in chosen]


@pytest.fixture(scope="session")
def kustomize() -> Kustomize:
    return find_kustomize()


@pytest.fixture(scope="session")
def built(kustomize: Kustomize, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Every build by its name, such as `base + mtls + keda`; tests must not change them."""
    folder: Path = tmp_path_factory.mktemp("overlays")
    wanted: list[tuple[str, tuple[str, ...]]] = [("base", names) for names in combinations()]
    wanted += [("overlays/dev", ()), ("overlays/dev", ("network-policies", "mtls"))]
    wanted += [("overlays/prod", ()), ("overlays/prod", ("mtls",))]

    def build(number: int) -> list[Object]:
        return kustomize.compose(folder / str(number), *wanted[number])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        builds = pool.map(build, range(len(wanted)))
        names = (" + ".join((base, *components)) for base, components in wanted)
        return dict(zip(names, builds, strict=True))


@pytest.fixture
def prod(built: Built) -> list[Object]:
    """A copy of everything at once, to break."""
    return json.loads(json.dumps(built["overlays/prod + mtls"]))


@pytest.fixture(scope="session")
def folders() -> set[str]:
    """The components there are."""
    return {path.name for path in (K8S / "components").iterdir()}
