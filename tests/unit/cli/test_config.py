"""`plexus config`: what is in effect, from where, with secrets masked; and what is wrong."""

import dataclasses
from pathlib import Path
from typing import Any, cast

import orjson
import pytest
import yaml
from typer.testing import CliRunner, Result

from cli.components import SECTIONS
from cli.main import build_app
from mesh.settings import load

SECRET = "a-secret-of-more-than-16-bytes"
FILE = """\
mesh:
  log_level: warning

cache:
  default_ttl_ms: 1234
  key_secret: a-secret-of-more-than-16-bytes
router:
  providers:
    local: {kind: openai, base_url: "http://127.0.0.1:1/v1", api_key_env: LOCAL_KEY}
  groups:
    default: [local/m]
"""


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("PLEXUS_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(build_app(), ["config", *arguments])


def settings_file(text: str) -> Path:
    path = Path("plexus.yaml")
    path.write_text(text)
    return path


def all_settings() -> dict[str, object]:
    return {name: load(cls, name) for name, cls in SECTIONS.items()}


def test_each_value_names_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    settings_file(FILE)
    monkeypatch.setenv("PLEXUS_MEMORY_DIMENSIONS", "42")
    monkeypatch.setenv("PLEXUS_AUTH", "keys")
    shown = orjson.loads(run("--json").stdout)
    assert shown["mesh"]["log_level"] == {"value": "warning", "source": "plexus.yaml line 2"}
    assert shown["mesh"]["auth"] == {"value": "keys", "source": "PLEXUS_AUTH"}
    assert shown["memory"]["dimensions"] == {"value": 42, "source": "PLEXUS_MEMORY_DIMENSIONS"}
    assert shown["cache"]["default_ttl_ms"] == {"value": 1234, "source": "plexus.yaml line 5"}
    assert shown["gateway"]["port"] == {"value": 50050, "source": "default"}


def test_the_environment_is_named_when_it_wins_over_the_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings_file(FILE)
    monkeypatch.setenv("PLEXUS_CACHE_DEFAULT_TTL_MS", "99")
    shown = orjson.loads(run("--json").stdout)["cache"]["default_ttl_ms"]
    assert shown == {"value": 99, "source": "PLEXUS_CACHE_DEFAULT_TTL_MS"}


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_secrets_are_masked(form: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    settings_file(FILE)
    monkeypatch.setenv("PLEXUS_MESH_TOKEN", SECRET)
    result = run(*form)
    assert result.exit_code == 0
    assert SECRET not in result.output
    assert "***" in result.output


def test_what_is_printed_is_a_settings_file_with_the_same_effect() -> None:
    settings_file(FILE.replace(f"  key_secret: {SECRET}\n", ""))
    before = all_settings()
    settings_file(run().stdout)
    assert all_settings() == before


def test_every_setting_is_shown() -> None:
    shown = cast("dict[str, dict[str, Any]]", yaml.safe_load(run().stdout))
    for name, cls in SECTIONS.items():
        fields = dataclasses.fields(cast("Any", cls))
        assert list(shown[name]) == [field.name for field in fields]


def test_valid_settings_pass_the_check() -> None:
    settings_file(FILE)
    result = run("--check")
    assert (result.exit_code, result.stdout) == (0, "The settings are valid.\n")
    assert orjson.loads(run("--check", "--json").stdout) == {"valid": True}


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("mesh:\n  data_dir: x\n  nonsense: 1\n", "plexus.yaml line 3: mesh.nonsense: unknown"),
        ("cache:\n\n  default_ttl_ms: soon\n", "plexus.yaml line 3: cache.default_ttl_ms: must be"),
        (
            "router:\n  providers:\n    p:\n      kind: telepathy\n",
            "plexus.yaml line 4: router.providers.p.kind: must be one of",
        ),
        ("mesh: {\n", "plexus.yaml: line 2: not valid YAML"),
        ("nonsense:\n  x: 1\n", "nonsense: unknown section"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(text: str, place: str) -> None:
    settings_file(text)
    for arguments in ([], ["--check"]):
        result = run(*arguments)
        assert result.exit_code == 1
        assert place in result.stderr
        assert result.stdout == ""


def test_all_that_is_wrong_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    settings_file("mesh:\n  log_level: loud\n")
    monkeypatch.setenv("PLEXUS_MEMORY_DIMENSIONS", "many")
    result = run("--check")
    assert result.exit_code == 1
    assert "plexus.yaml line 2: mesh.log_level" in result.stderr
    assert "PLEXUS_MEMORY_DIMENSIONS" in result.stderr
    problems = orjson.loads(run("--check", "--json").stdout)["problems"]
    assert len(problems) == 2


def test_a_file_that_is_named_must_exist() -> None:
    result = run("--file", "absent.yaml")
    assert result.exit_code == 1
    assert "absent.yaml" in result.stderr
