"""The built-in embedding model: its known vectors, its files, and the loop beside it."""

import asyncio
from pathlib import Path

import pytest

from mesh.errors import Reason, Unavailable
from services.router.embedding import weights
from services.router.embedding.embedder import LocalEmbedder
from services.router.embedding.minilm import MAX_TOKENS, RUN_TOKENS, MiniLm
from services.router.embedding.queue import Encoded
from services.router.embedding.weights import NOTE, SHA256, find_model, verify

REFERENCE = (0.0677, 0.0635, 0.0487, 0.0793, 0.0374)


@pytest.fixture(scope="module")
def model() -> MiniLm:
    return MiniLm(find_model(), threads=1)


def vector(encoded: Encoded) -> list[float]:
    return list(encoded.vector.values)


def cosine(one: Encoded, other: Encoded) -> float:
    return sum(a * b for a, b in zip(vector(one), vector(other), strict=True))


def test_the_published_vector_is_reproduced(model: MiniLm) -> None:
    (encoded,) = model.encode(["This is an example sentence"])
    assert vector(encoded)[:5] == pytest.approx(REFERENCE, abs=1e-4)
    assert len(encoded.vector.values) == 384
    assert encoded.input_tokens == 7
    assert cosine(encoded, encoded) == pytest.approx(1.0, abs=1e-5)


def test_company_in_a_batch_changes_no_vector(model: MiniLm) -> None:
    texts = ["short", "a text of a middling length, more or less", "long " * 300, "é世界😀"]
    together = model.encode(texts)
    for text, encoded in zip(texts, together, strict=True):
        (alone,) = model.encode([text])
        assert vector(alone) == pytest.approx(vector(encoded), abs=1e-5)


def test_long_texts_are_cut_and_large_batches_are_split(model: MiniLm) -> None:
    count = 2 * RUN_TOKENS // MAX_TOKENS
    encoded = model.encode(["word " * 5_000] * count)
    assert [each.input_tokens for each in encoded] == [MAX_TOKENS] * count


def test_meaning_is_nearer_than_noise(model: MiniLm) -> None:
    cat, kitten, tax = model.encode(["A cat sleeps.", "A kitten naps.", "Taxes are due in May."])
    assert cosine(cat, kitten) > 0.5 > cosine(cat, tax)


def test_verified_files_are_noted_and_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verify(find_model(), tmp_path)
    assert (tmp_path / NOTE).exists()

    def unread(*_: object) -> None:
        raise AssertionError("the file was hashed again")

    monkeypatch.setattr(weights.hashlib, "file_digest", unread)
    verify(find_model(), tmp_path)


def test_a_file_that_changed_is_refused_in_spite_of_the_note(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in SHA256:
        (folder / name).write_bytes(b"not the published bytes")
    data_dir = tmp_path / "data"
    verify(find_model(), data_dir)
    with pytest.raises(Unavailable) as caught:
        verify(folder, data_dir)
    assert caught.value.reason == Reason.EMBEDDER_UNAVAILABLE


def test_a_missing_package_is_told_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "PACKAGE", "no_such_package")
    with pytest.raises(Unavailable, match="make install") as caught:
        find_model()
    assert caught.value.reason == Reason.EMBEDDER_UNAVAILABLE


async def test_a_missing_package_is_told_to_whoever_embeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "PACKAGE", "no_such_package")
    embedder = LocalEmbedder(threads=1, data_dir=tmp_path)
    embedder.start()
    for _ in range(2):
        with pytest.raises(Unavailable):
            await embedder.encode(["a"])
    await embedder.close()


async def test_the_loop_runs_while_a_batch_is_computed(tmp_path: Path) -> None:
    embedder = LocalEmbedder(threads=1, data_dir=tmp_path)
    await embedder.encode(["warm"])
    batch = asyncio.create_task(embedder.encode(["word " * 400] * 3))
    turns = 0
    while not batch.done():
        turns += 1
        await asyncio.sleep(0.001)
    # The batch is one run of many milliseconds: were the loop held by it, it would turn twice.
    assert turns > 5
    assert len(await batch) == 3
    await embedder.close()
