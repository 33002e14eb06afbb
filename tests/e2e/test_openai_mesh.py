"""The OpenAI edge over the real pipeline, in both topologies, with the unmodified client."""

import uuid
from collections.abc import AsyncGenerator
from typing import Any, cast

import openai
import pytest
import pytest_asyncio
from openai.types.chat import ChatCompletionMessageParam

from tests.e2e.processes import Mesh

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(loop_scope="session")
async def client(mesh: Mesh) -> AsyncGenerator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{mesh.http_url}/v1", api_key="any", max_retries=0, timeout=20
    ) as one:
        yield one


def ask(words: str) -> list[ChatCompletionMessageParam]:
    return [{"role": "user", "content": words}]


def fresh(prefix: str) -> str:
    return f"{prefix}-{uuid.uuid4().hex[:8]}"


def plexus_of(model: object) -> dict[str, Any]:
    return cast("dict[str, dict[str, Any]]", getattr(model, "model_extra", {}))["plexus"]


async def test_an_answer_says_what_the_mesh_did(client: openai.AsyncOpenAI) -> None:
    user = fresh("u")
    answer = await client.chat.completions.create(
        model="default", messages=ask("What is a mesh?"), user=user
    )
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0
    plexus = plexus_of(answer)
    assert answer.id == f"chatcmpl-{plexus['request_id']}"
    assert plexus["cache"] == "miss"
    assert {"recall", "compose", "cache", "generate", "account"} <= plexus["stages"].keys()
    assert plexus["warnings"] == []


async def test_a_stream_says_the_same_as_the_whole_answer(client: openai.AsyncOpenAI) -> None:
    user, headers = fresh("u"), {"cache-control": "no-store"}
    words = ask("Name three colours.")
    whole = await client.chat.completions.create(
        model="default",
        messages=words,
        user=user,
        extra_headers={**headers, "x-plexus-memory": "off"},
    )
    stream = await client.chat.completions.create(
        model="default",
        messages=words,
        user=user,
        stream=True,
        stream_options={"include_usage": True},
        extra_headers={**headers, "x-plexus-memory": "off"},
    )
    chunks = [chunk async for chunk in stream]
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert said == whole.choices[0].message.content
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 0
    assert plexus_of(chunks[-1])["conversation_id"].startswith("conv-")


async def test_the_same_question_again_is_answered_from_the_cache(
    client: openai.AsyncOpenAI,
) -> None:
    question = ask(f"What does {fresh('word')} mean?")
    off = {"x-plexus-memory": "off"}
    first, again = [
        await client.chat.completions.create(model="default", messages=question, extra_headers=off)
        for _ in range(2)
    ]
    assert plexus_of(first)["cache"] == "miss"
    assert plexus_of(again)["cache"] == "exact"
    assert again.choices[0].message.content == first.choices[0].message.content


async def test_an_unknown_model_is_not_found(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        await client.chat.completions.create(model="no-such-model", messages=ask("Hi"))
    assert raised.value.code == "MODEL_NOT_FOUND"
    with pytest.raises(openai.NotFoundError):
        await client.chat.completions.create(model="no-such-model", messages=ask("Hi"), stream=True)


async def test_the_models_are_listed(client: openai.AsyncOpenAI) -> None:
    assert "default" in [model.id for model in (await client.models.list()).data]


async def test_texts_are_embedded(client: openai.AsyncOpenAI) -> None:
    answer = await client.embeddings.create(model="", input=["a cat", "a kitten", "tax law"])
    cat, kitten, law = (each.embedding for each in answer.data)
    assert sum(x * y for x, y in zip(cat, kitten, strict=True)) > sum(
        x * y for x, y in zip(cat, law, strict=True)
    )


async def test_a_field_out_of_range_is_named_as_the_client_knows_it(
    client: openai.AsyncOpenAI,
) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        await client.chat.completions.create(model="default", messages=ask("Hi"), temperature=9)
    assert raised.value.param == "temperature"
