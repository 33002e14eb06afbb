"""The Dockerfile and compose.yaml: linted, valid, and in step with what the manifests deploy."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import check_jsonschema
import jsonschema.validators
import pytest
import yaml

from tests.manifests.configuration import OTHERS, PROCESS, known_variables
from tests.manifests.conftest import Built
from tests.manifests.kustomize import ROOT
from tests.manifests.objects import COMPONENTS, containers, of_kind
from tests.manifests.scrapes import LOCKS

DOCKERFILE = ROOT / "deploy" / "docker" / "Dockerfile"
COMPOSE = ROOT / "compose.yaml"
SCHEMA = Path(check_jsonschema.__file__).parent / "builtin_schemas" / "vendor" / "compose-spec.json"


def stages() -> dict[str, str]:
    """Return the text of each stage of the Dockerfile by its name."""
    parts = re.split(r"^FROM (\S+) AS (\S+)$", DOCKERFILE.read_text(), flags=re.MULTILINE)
    return {parts[i + 1]: f"FROM {parts[i]}\n{parts[i + 2]}" for i in range(1, len(parts), 3)}


def services() -> dict[str, Any]:
    """Return the services of compose.yaml."""
    return yaml.safe_load(COMPOSE.read_text())["services"]


def linted(path: Path) -> subprocess.CompletedProcess[str]:
    beside = Path(sys.executable).with_name("hadolint")
    found = str(beside) if beside.exists() else shutil.which("hadolint")
    if not found:
        pytest.skip("no hadolint for this platform; its wheel is for Linux on x86_64")
    return subprocess.run(
        [found, str(path)], capture_output=True, text=True, timeout=30, check=False
    )


def test_the_dockerfile_is_linted() -> None:
    done = linted(DOCKERFILE)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_linter_can_fail(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM python:latest\nRUN cd / && pip install grpcio\n")
    assert linted(tmp_path / "Dockerfile").returncode == 1


@pytest.mark.parametrize("component", [*COMPONENTS, "mesh"])
def test_an_image_is_small_and_not_root(component: str) -> None:
    found = stages()
    assert found[component].startswith("FROM runtime\n")
    assert "RUN" not in found[component]
    assert f"COPY --from={component}-venv /opt/plexus /opt/plexus" in found[component]
    runtime = found["runtime"]
    assert re.search(r"^USER 10001:10001$", runtime, re.MULTILINE)
    assert "STOPSIGNAL SIGTERM" in runtime
    assert not re.search(r"apt-get|gcc|build-essential|HEALTHCHECK", DOCKERFILE.read_text())
    assert not re.search(r"requirements/dev|/tests", DOCKERFILE.read_text())


@pytest.mark.parametrize("component", COMPONENTS)
def test_an_image_has_the_locks_that_are_tested(component: str) -> None:
    installed = re.findall(r"requirements/([\w-]+)\.txt", stages()[f"{component}-venv"])
    assert tuple(installed) == LOCKS[component]
    assert f'CMD ["serve", "{component}"]' in stages()[component]


def test_what_is_copied_is_let_in() -> None:
    allowed = {
        line[1:].rstrip("/")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE.read_text(), re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert any(f"{source}/".startswith(f"{each}/") for each in allowed), source


def test_what_is_deployed_has_a_target(built: Built) -> None:
    for objects in built.values():
        for deployment in of_kind(objects, "Deployment"):
            (container,) = containers(deployment)
            component = deployment["metadata"]["name"]
            assert container["image"].startswith(f"plexus-{component}:")
            assert f"CMD {json.dumps(container['args'])}" in stages()[component]
            ports = {str(port["containerPort"]) for port in container["ports"]}
            (exposed,) = re.findall(r"^EXPOSE (.*)$", stages()[component], re.MULTILINE)
            assert ports == set(exposed.split())


def test_compose_is_valid() -> None:
    schema: Any = json.loads(SCHEMA.read_text())
    dialect: Any = jsonschema.validators.validator_for(schema)
    validator: Any = dialect(schema)
    loaded = yaml.safe_load(COMPOSE.read_text())
    assert [error.message for error in validator.iter_errors(loaded)] == []
    loaded["services"]["cache"]["readonly"] = True
    assert list(validator.iter_errors(loaded))


def test_compose_runs_the_distributed_mesh() -> None:
    found = services()
    assert set(found) == {*COMPONENTS, "qdrant", "redis"}
    known = known_variables() | PROCESS | OTHERS
    for service, spec in found.items():
        assert spec["healthcheck"]["test"]
        assert spec["read_only"] is True
        assert spec["cap_drop"] == ["ALL"]
        assert spec["deploy"]["resources"]["limits"]["memory"]
        if service in COMPONENTS:
            assert spec["build"]["target"] in stages()
            assert set(spec["environment"]) <= known
        for needed in spec.get("depends_on", {}).values():
            assert needed == {"condition": "service_healthy"}


def test_compose_publishes_the_gateway_alone() -> None:
    found = services()
    assert [name for name, spec in found.items() if "ports" in spec] == ["gateway"]
    networks = yaml.safe_load(COMPOSE.read_text())["networks"]
    assert networks["stores"] == networks["mesh"] == {"internal": True}
    for store in ("qdrant", "redis"):
        assert found[store]["networks"] == ["stores"]
    inside = {name for name, spec in found.items() if set(spec["networks"]) <= {"mesh", "stores"}}
    assert set(found) - inside == {"gateway", "router"}


def test_compose_holds_no_secret() -> None:
    for variable, value in services()["gateway"]["environment"].items():
        if variable in ("PLEXUS_MESH_TOKEN", "PLEXUS_KEYS"):
            assert ":?" in value
