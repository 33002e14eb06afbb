"""Settings, names and discovery."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from mesh.errors import FailedPrecondition, NotFound, Reason
from mesh.settings import load
from mesh.testing.upstream import Script, ScriptedUpstream
from plexus.common.v1 import message_pb2, model_pb2
from services.router.build import build
from services.router.catalogue import Catalogue
from services.router.discovery import OLLAMA_ADDRESS, discover, probe_models
from services.router.estimate import estimate_input_tokens
from services.router.settings import ProviderSettings, RouterSettings

YAML = """
router:
  providers:
    local: {kind: openai, base_url: "http://127.0.0.1:9/v1"}
    claude: {kind: anthropic, api_key_env: SOME_KEY}
  groups:
    default: [local/small, claude/big]
    only: [claude/big]
  context_windows: {local/small: 8192}
"""


def test_the_section_of_the_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "plexus.yaml"
    file.write_text(YAML)
    settings = load(
        RouterSettings, "router", file=file, environ={"PLEXUS_ROUTER_MAX_ATTEMPTS": "5"}
    )
    assert settings.max_attempts == 5
    catalogue = Catalogue(settings)
    assert [d.name for d in catalogue.candidates("")] == ["local/small", "claude/big"]
    assert catalogue.candidates("default")[0].context_window_tokens == 8192
    names = [model.name for model in catalogue.models()]
    assert names == ["default", "only", "claude/big", "local/small"]
    assert catalogue.models()[0].context_window_tokens == 0


@pytest.mark.parametrize(
    "section",
    [
        "groups: {default: [nowhere/m]}",
        "groups: {default: []}",
        "groups: {other: [offline/extractive]}",
        "groups: {default: [noslash]}",
        "providers: {a/b: {kind: openai}}",
        "providers: {a: {kind: telepathy}}",
        "max_attempts: 0",
        "idle_timeout_s: 0",
    ],
)
def test_wrong_settings_are_refused(tmp_path: Path, section: str) -> None:
    file = tmp_path / "plexus.yaml"
    file.write_text(f"router:\n  {section}\n")
    with pytest.raises(FailedPrecondition) as caught:
        load(RouterSettings, "router", file=file, environ={})
    assert caught.value.reason == Reason.INVALID_SETTINGS


async def test_a_key_that_is_not_set_is_refused_by_its_name() -> None:
    provider = ProviderSettings(kind="openai", api_key_env="SOME_KEY")
    settings = RouterSettings(providers={"p": provider}, groups={"default": ("p/m",)})
    with pytest.raises(FailedPrecondition, match="SOME_KEY"):
        await build(settings, environ={})


async def test_an_embedding_model_needs_a_provider_that_embeds() -> None:
    with pytest.raises(FailedPrecondition, match="embedding_model"):
        await build(RouterSettings(embedding_model="offline/x"), environ={})


@pytest.mark.parametrize("name", ["nope", "nowhere/m", "offline/", "/x"])
def test_an_unknown_model_is_not_found(name: str) -> None:
    with pytest.raises(NotFound) as caught:
        Catalogue(RouterSettings()).candidates(name)
    assert caught.value.reason == Reason.MODEL_NOT_FOUND


def test_the_offline_model_needs_no_declaration() -> None:
    provider = ProviderSettings(kind="openai", base_url="http://127.0.0.1:9/v1")
    groups = {"default": ("up/m", "offline/extractive")}
    settings = RouterSettings(providers={"up": provider}, groups=groups)
    assert [d.provider for d in Catalogue(settings).candidates("")] == ["up", "offline"]


def test_a_model_that_no_group_lists_may_be_named_unless_settings_forbid_it() -> None:
    (found,) = Catalogue(RouterSettings()).candidates("offline/other/model")
    assert (found.provider, found.model) == ("offline", "other/model")
    with pytest.raises(NotFound):
        Catalogue(RouterSettings(allow_unlisted_models=False)).candidates("offline/other")


async def nothing(_: str) -> Sequence[str]:
    raise ConnectionRefusedError


async def test_nothing_found_means_offline() -> None:
    found = await discover({}, nothing)
    assert found.settings.groups == {"default": ("offline/extractive",)}
    assert "offline" in found.lines[0]


async def test_keys_come_first_and_are_not_copied() -> None:
    environ = {
        "OPENAI_API_KEY": "sk-secret",
        "OPENAI_BASE_URL": "http://gw/v1",
        "ANTHROPIC_API_KEY": "sk-other",
    }

    async def local(url: str) -> Sequence[str]:
        return ["nomic-embed-text", "qwen3"] if url == f"{OLLAMA_ADDRESS}/v1" else []

    found = await discover(environ, local)
    (group,) = found.settings.groups.values()
    assert [name.partition("/")[0] for name in group] == ["openai", "anthropic", "ollama"]
    assert group[2] == "ollama/qwen3"
    assert found.settings.providers["openai"].base_url == "http://gw/v1"
    assert "sk-" not in repr(found)
    assert len(found.lines) == 3


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("", "http://127.0.0.1:11434/v1"),
        ("0.0.0.0", "http://127.0.0.1:11434/v1"),
        ("10.0.0.7:9", "http://10.0.0.7:9/v1"),
        ("https://far.example/", "https://far.example/v1"),
    ],
)
async def test_ollama_host_in_all_its_forms(host: str, url: str) -> None:
    probed: list[str] = []

    async def note(base_url: str) -> Sequence[str]:
        probed.append(base_url)
        return []

    await discover({"OLLAMA_HOST": host}, note)
    assert probed[0] == url


async def test_a_server_that_hangs_delays_no_start() -> None:
    async def hang(_: str) -> Sequence[str]:
        await asyncio.Event().wait()
        return []

    async with asyncio.timeout(5):
        found = await discover({}, hang)
    assert found.settings.groups == {"default": ("offline/extractive",)}


async def test_a_real_server_is_probed() -> None:
    async with ScriptedUpstream() as upstream:
        upstream.by_model["served"] = Script()
        assert await probe_models(upstream.openai_url) == ["served"]


def test_the_estimate_counts_everything_that_is_sent() -> None:
    def tokens(**fields: object) -> int:
        return estimate_input_tokens(model_pb2.ModelRequest(**fields))  # pyright: ignore[reportArgumentType]

    hello = message_pb2.Message(parts=[message_pb2.Part(text="hello there")])
    thought = message_pb2.Message(
        parts=[message_pb2.Part(text="hello there"), message_pb2.Part(reasoning="x" * 999)]
    )
    picture = message_pb2.Message(parts=[message_pb2.Part(image=message_pb2.Image(url="u"))])
    tool = message_pb2.Tool(name="look", description="Looks around.")
    assert tokens(messages=[hello]) == tokens(messages=[thought]) == 7
    assert tokens(messages=[picture]) > 500
    assert tokens(messages=[hello], tools=[tool]) > tokens(messages=[hello])
    claude = estimate_input_tokens(model_pb2.ModelRequest(messages=[hello] * 9), "claude-x")
    assert claude > tokens(messages=[hello] * 9)
