"""Settings: what wins, what is understood, and that everything else is refused by name."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from mesh.errors import FailedPrecondition, Reason
from mesh.settings import KeySettings, MeshSettings, Secret, describe, load


@dataclass(frozen=True, kw_only=True)
class Upstream:
    """A nested setting."""

    url: str
    weight: float = 1.0
    key: Secret = Secret("")


@dataclass(frozen=True, kw_only=True)
class Everything:
    """One field of every shape."""

    count: int = 1
    ratio: float = 0.5
    enabled: bool = False
    name: str = "n"
    folder: Path = Path("here")
    mode: Literal["fast", "slow"] = "fast"
    secret: Secret = Secret("")
    maybe: int | None = None
    maybe_on: bool | None = None
    words: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict[str, int])
    upstream: Upstream | None = None
    upstreams: tuple[Upstream, ...] = ()
    by_name: Mapping[str, Upstream] = field(default_factory=dict[str, Upstream])

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError("count must not be negative")


def read(tmp_path: Path, yaml: str = "", **environ: str) -> Everything:
    file = tmp_path / "plexus.yaml"
    file.write_text(yaml)
    variables = {f"PLEXUS_MEMORY_{name.upper()}": value for name, value in environ.items()}
    return load(Everything, "memory", file=file, environ=variables)


def refusal(tmp_path: Path, yaml: str = "", **environ: str) -> str:
    with pytest.raises(FailedPrecondition) as caught:
        read(tmp_path, yaml, **environ)
    assert caught.value.reason == Reason.INVALID_SETTINGS
    return caught.value.message


def test_the_environment_wins_over_the_file_and_the_file_over_the_default(tmp_path: Path) -> None:
    yaml = "memory: {count: 2, name: file}"
    got = read(tmp_path, yaml, count="3")
    assert (got.count, got.name, got.ratio) == (3, "file", 0.5)


def test_overrides_win_over_everything(tmp_path: Path) -> None:
    file = tmp_path / "plexus.yaml"
    file.write_text("memory: {count: 2}")
    environ = {"PLEXUS_MEMORY_COUNT": "3"}
    got = load(Everything, "memory", file=file, environ=environ, overrides={"count": 4})
    assert got.count == 4


def test_the_fabric_has_no_component_in_its_variables(tmp_path: Path) -> None:
    file = tmp_path / "plexus.yaml"
    file.write_text("mesh: {host: 10.0.0.1}\nmemory: {count: 2}")
    got = load(MeshSettings, "mesh", file=file, environ={"PLEXUS_TENANTS": "a,b"})
    assert (got.host, got.tenants) == ("10.0.0.1", ("a", "b"))


@pytest.mark.parametrize("yaml", ["", "# nothing\n", "memory:\n", "router: {x: 1}\n"])
def test_an_empty_section_is_all_defaults(tmp_path: Path, yaml: str) -> None:
    assert read(tmp_path, yaml) == Everything()


def test_an_absent_default_file_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load(Everything, "memory", environ={}) == Everything()


YAML = """
memory:
  count: 7
  ratio: 2
  enabled: true
  folder: /data
  mode: slow
  maybe: 4
  words: [a, b]
  counts: [1, 2]
  sizes: {a: 1}
  upstream: {url: u, weight: 3}
  upstreams: [{url: x}, {url: y, key: k}]
  by_name: {main: {url: z}}
"""


def test_the_file_says_every_shape(tmp_path: Path) -> None:
    assert read(tmp_path, YAML) == Everything(
        count=7,
        ratio=2.0,
        enabled=True,
        folder=Path("/data"),
        mode="slow",
        maybe=4,
        words=("a", "b"),
        counts=(1, 2),
        sizes={"a": 1},
        upstream=Upstream(url="u", weight=3.0),
        upstreams=(Upstream(url="x"), Upstream(url="y", key=Secret("k"))),
        by_name={"main": Upstream(url="z")},
    )


def test_the_environment_says_every_shape(tmp_path: Path) -> None:
    got = read(
        tmp_path,
        count="7",
        ratio="2",
        enabled="yes",
        folder="/data",
        mode="slow",
        maybe="4",
        maybe_on="true",
        words=" a, b ,",
        counts="1,2",
        sizes="a=1, b=2",
        upstream='{"url": "u", "weight": 3}',
        upstreams='[{"url": "x"}, {"url": "y", "key": "k"}]',
        by_name='{"main": {"url": "z"}}',
    )
    file = read(tmp_path, YAML)
    assert got.sizes == {"a": 1, "b": 2}
    assert got.maybe_on is True
    for name in ("count", "ratio", "enabled", "folder", "mode", "maybe", "words", "counts"):
        assert getattr(got, name) == getattr(file, name), name
    for name in ("upstream", "upstreams", "by_name"):
        assert getattr(got, name) == getattr(file, name), name


def test_an_empty_variable_unsets_what_may_be_unset(tmp_path: Path) -> None:
    assert read(tmp_path, "memory: {maybe: 4}", maybe="").maybe is None


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"count": "many"}, "PLEXUS_MEMORY_COUNT: must be a whole number, is 'many'"),
        ({"count": ""}, "PLEXUS_MEMORY_COUNT: must be a whole number"),
        ({"count": "1.5"}, "PLEXUS_MEMORY_COUNT: must be a whole number"),
        ({"ratio": "nan"}, "PLEXUS_MEMORY_RATIO: must be a finite number"),
        ({"enabled": "maybe"}, "PLEXUS_MEMORY_ENABLED: must be true or false, is 'maybe'"),
        ({"mode": "medium"}, "PLEXUS_MEMORY_MODE: must be one of fast, slow, is 'medium'"),
        ({"sizes": "a=1,b"}, "PLEXUS_MEMORY_SIZES: must be key=value pairs"),
        ({"sizes": "{a"}, "PLEXUS_MEMORY_SIZES: not valid JSON"),
        ({"sizes": "a=x"}, "PLEXUS_MEMORY_SIZES.a: must be a whole number"),
        ({"upstream": "u"}, "PLEXUS_MEMORY_UPSTREAM: must be a map"),
        ({"upstream": '{"weight": 1}'}, "PLEXUS_MEMORY_UPSTREAM: missing 1 required"),
        ({"count": "-1"}, "memory: count must not be negative"),
    ],
)
def test_a_wrong_variable_is_refused_by_name(
    tmp_path: Path, environ: dict[str, str], says: str
) -> None:
    assert says in refusal(tmp_path, **environ)


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ("{cuont: 1}", "memory.cuont: unknown; known: count, ratio"),
        ("{count: true}", "memory.count: must be a whole number, is True"),
        ("{count: 1.5}", "memory.count: must be a whole number, is 1.5"),
        ("{count: [1]}", "memory.count: must be a whole number"),
        ("{count: null}", "memory.count: must be a whole number"),
        ("{ratio: .inf}", "memory.ratio: must be a finite number"),
        ("{enabled: 1}", "memory.enabled: must be true or false, is 1"),
        ("{words: a}", "memory.words: must be a list"),
        ("{sizes: [a]}", "memory.sizes: must be a map"),
        ("{name: {a: b}}", "memory.name: must be text"),
        ("{upstream: {url: u, wieght: 1}}", "memory.upstream.wieght: unknown; known: url"),
        ("{upstreams: [{url: u}, {weight: 2}]}", "memory.upstreams: missing 1 required"),
        ("{by_name: {main: {url: u, weight: x}}}", "memory.by_name.main.weight: must be a number"),
        ("[1]", "memory: must be a map"),
    ],
)
def test_a_wrong_line_is_refused_by_name(tmp_path: Path, section: str, says: str) -> None:
    assert says in refusal(tmp_path, f"memory: {section}")


@pytest.mark.parametrize(
    ("yaml", "says"),
    [
        ("memory: {count: 1}\nmemroy: {}\n", "memroy: unknown section; known: mesh, memory"),
        ("memory:\n  count: 1\n bad: [\n", "line 3: not valid YAML"),
        ("- memory\n", "must be a map of sections"),
    ],
)
def test_a_broken_file_is_refused_with_its_line(tmp_path: Path, yaml: str, says: str) -> None:
    assert says in refusal(tmp_path, yaml)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="cannot be read"):
        load(Everything, "memory", file=tmp_path / "none.yaml", environ={})
    (tmp_path / "latin.yaml").write_bytes(b"memory: {name: \xfc}")
    with pytest.raises(FailedPrecondition, match="must be UTF-8"):
        load(Everything, "memory", file=tmp_path / "latin.yaml", environ={})


def test_secrets_are_shown_nowhere(tmp_path: Path) -> None:
    got = read(tmp_path, "memory: {by_name: {a: {url: u, key: hush}}}", secret="hush")
    assert got.secret == "hush"
    shown: list[object] = [repr(got), describe(got), f"{got!r}"]
    assert "hush" not in str(shown)
    assert describe(got)["secret"] == "***"
    assert describe(Everything())["secret"] == ""
    assert "hush" not in refusal(tmp_path, "memory: {secret: [hush]}")


def test_a_description_is_plain_data(tmp_path: Path) -> None:
    described = describe(read(tmp_path, YAML))
    assert described["folder"] == "/data"
    assert described["words"] == ["a", "b"]
    assert described["upstream"] == {"url": "u", "weight": 3.0, "key": ""}


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_concurrent_calls": 0},
        {"max_queued_calls": -1},
        {"max_message_bytes": 0},
        {"default_deadline_s": 0.0},
        {"drain_grace_s": -1.0},
        {"tenants": ("has space",)},
        {"tenants": ("mün",)},
        {"keys": {"new\nline": KeySettings(sha256="0" * 64, tenant="acme")}},
    ],
)
def test_settings_that_could_not_work_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        MeshSettings(**wrong)


def test_a_key_in_the_place_of_its_hash_is_refused_and_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "plexus.yaml"
    file.write_text("mesh: {keys: {laptop: {sha256: sk-plain, tenant: acme}}}")
    with pytest.raises(FailedPrecondition) as caught:
        load(MeshSettings, "mesh", file=file, environ={})
    assert "mesh.keys.laptop: sha256 must be the 64 hex digits" in caught.value.message
    assert "sk-plain" not in caught.value.message
