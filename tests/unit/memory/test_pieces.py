"""Documents are cut at their structure, within the limit, and nothing is lost."""

from hypothesis import given
from hypothesis import strategies as st

from mesh.tokens import estimate_tokens
from services.memory.pieces import PIECE_TOKENS, split

lines = st.text(alphabet="ab c.!é漢\n\t", max_size=400)
documents = st.one_of(lines, st.lists(lines, max_size=5).map("\n\n".join))


@given(documents, st.integers(min_value=8, max_value=200))
def test_nothing_is_lost_repeated_or_too_long(document: str, limit: int) -> None:
    pieces = split(document, markdown=False, piece_tokens=limit)
    assert "".join("".join(piece.text.split()) for piece in pieces) == "".join(document.split())
    assert all(piece.text.strip() for piece in pieces)
    assert all(estimate_tokens(piece.text) <= limit + 1 for piece in pieces)


@given(documents)
def test_the_same_document_gives_the_same_pieces(document: str) -> None:
    assert split(document, markdown=True) == split(document, markdown=True)


def test_headings_are_borders_and_stay_with_their_pieces() -> None:
    pieces = split("intro\n# A\none\n## B ##\ntwo\n\nthree\n# C\nfour\n", markdown=True)
    assert [(piece.headings, piece.text) for piece in pieces] == [
        ((), "intro"),
        (("A",), "one"),
        (("A", "B"), "two\n\nthree"),
        (("C",), "four"),
    ]


def test_a_heading_inside_a_fence_is_code() -> None:
    (piece,) = split("```sh\n# not a heading\n\nmake\n```", markdown=True)
    assert piece.text == "```sh\n# not a heading\n\nmake\n```"
    assert piece.headings == ()


def test_plain_text_has_no_headings() -> None:
    (piece,) = split("# a comment\nmore", markdown=False)
    assert piece.text == "# a comment\nmore"


def test_long_paragraphs_are_cut_at_sentences() -> None:
    sentence = "The fox sleeps in the den all day. "
    pieces = split(sentence * 60, markdown=False)
    assert len(pieces) > 1
    assert all(piece.text.endswith("day.") for piece in pieces)
    assert all(estimate_tokens(p.text) > PIECE_TOKENS / 2 for p in pieces[:-1])


def test_a_word_without_borders_is_cut_all_the_same() -> None:
    pieces = split("x" * 10_000, markdown=False)
    assert "".join(piece.text for piece in pieces) == "x" * 10_000
    assert all(estimate_tokens(piece.text) <= PIECE_TOKENS for piece in pieces)
