"""How a turn looks on a terminal and in a pipe."""

import io
from collections.abc import Sequence

from rich.console import Console

from cli.answer import Answer
from cli.transcript import Transcript, summary
from plexus.cache.v1 import cache_service_pb2 as cache_pb
from plexus.common.v1 import model_pb2
from plexus.gateway.v1 import gateway_service_pb2 as pb

COMPLETED = pb.ChatResponse(
    completed=pb.Completed(
        model="m", provider="p", cache_verdict=cache_pb.VERDICT_MISS, duration_ms=120
    )
)


def console(*, is_terminal: bool) -> Console:
    return Console(
        file=io.StringIO(), force_terminal=is_terminal, width=200, markup=False, color_system=None
    )


def written(screen: Console) -> str:
    assert isinstance(screen.file, io.StringIO)
    return screen.file.getvalue()


def play(
    events: Sequence[pb.ChatResponse], *, is_terminal: bool, verbose: bool = False
) -> tuple[str, str]:
    """Show the events, close, and return what went to the answer's side and to the notes'."""
    out, notes = console(is_terminal=is_terminal), console(is_terminal=is_terminal)
    answer = Answer()
    shown = Transcript(answer, out, notes, verbose=verbose)
    for sequence, event in enumerate(events, 1):
        event.sequence = sequence
        answer.add(event)
        shown.show(event)
    shown.close()
    return written(out), written(notes)


def text(piece: str) -> pb.ChatResponse:
    return pb.ChatResponse(text=piece)


def reset(after: int) -> pb.ChatResponse:
    return pb.ChatResponse(reset=pb.Reset(after_sequence=after, why="the stream broke"))


def test_a_terminal_gets_each_piece_as_it_comes() -> None:
    out = console(is_terminal=True)
    shown = Transcript(Answer(), out, console(is_terminal=True), verbose=False)
    shown.show(text("Hel"))
    assert written(out) == "Hel"
    shown.show(text("lo"))
    assert written(out) == "Hello"


def test_a_pipe_gets_the_answer_whole_and_nothing_else() -> None:
    out, notes = play([text("void"), reset(0), text("Hello.")] + [COMPLETED], is_terminal=False)
    assert out == "Hello.\n"
    assert "p/m" in notes


def test_a_reset_on_a_terminal_is_visible_and_repeats_what_is_kept() -> None:
    events = [text("kept "), text("void"), reset(1), text("new"), COMPLETED]
    out, notes = play(events, is_terminal=True)
    assert out == "kept void\nkept new\n"
    assert "starts anew: the stream broke" in notes


def test_a_failed_turn_leaves_a_pipe_empty() -> None:
    failed = pb.ChatResponse()
    failed.failed.message = "nobody answered"
    assert play([text("half"), failed], is_terminal=False)[0] == ""


def test_warnings_are_shown_with_their_reason() -> None:
    warning = pb.Warning(reason="CACHE_UNAVAILABLE", component="cache", message="no cache")
    _, notes = play([pb.ChatResponse(warning=warning), COMPLETED], is_terminal=False)
    assert "! no cache (CACHE_UNAVAILABLE)" in notes


def test_a_model_cannot_send_the_terminal_commands() -> None:
    sneaky = "a\x1b]52;c;aGk=\x07b\x1b[2J\x9b31mc\u202ed\te\r\n"
    warning = pb.Warning(reason="R", message="w\x1b[31m")
    events = [text(sneaky), pb.ChatResponse(warning=warning), COMPLETED]
    out, notes = play(events, is_terminal=True)
    assert out == "a]52;c;aGk=b[2J31mcd\te\n"
    assert "\x1b" not in notes


def test_the_summary_says_who_why_memory_cache_tokens_cost_and_time() -> None:
    answer = Answer()
    attempt = pb.Attempt(number=1, deployment="openai/gpt", why="first choice")
    usage = pb.UsageReport(
        usage=model_pb2.Usage(input_tokens=1200, output_tokens=45, estimated=True),
        cost=model_pb2.Cost(nano_usd=1_500_000),
    )
    completed = pb.Completed(
        provider="openai",
        model="gpt",
        cache_verdict=cache_pb.VERDICT_MISS,
        recalled_count=3,
        duration_ms=812,
    )
    answer.add(pb.ChatResponse(attempt=attempt))
    answer.add(pb.ChatResponse(stage=pb.Stage(name="recall", duration_ms=12)))
    answer.add(pb.ChatResponse(stage=pb.Stage(name="compose", duration_ms=0.2)))
    answer.add(pb.ChatResponse(usage=usage))
    answer.add(pb.ChatResponse(completed=completed))
    assert summary(answer) == (
        "openai/gpt (first choice) · 3 memories · cache miss · ~1,200→45 tokens · $0.0015 · "
        "812 ms: recall 12 ms"
    )


def test_the_summary_of_a_hit_says_what_was_saved() -> None:
    answer = Answer()
    saved = pb.UsageReport(saved=model_pb2.Cost(nano_usd=2_000_000))
    hit = pb.Completed(provider="p", model="m", cache_verdict=cache_pb.VERDICT_EXACT_HIT)
    answer.add(pb.ChatResponse(usage=saved))
    answer.add(pb.ChatResponse(completed=hit))
    assert "p/m (cache: exact hit)" in summary(answer)
    assert "saved $0.002" in summary(answer)


def test_verbose_lists_stages_attempts_and_ids() -> None:
    failed = pb.Attempt(number=1, deployment="a/b")
    failed.failure.message = "503"
    started = pb.Started(request_id="req-1", conversation_id="conv-1")
    events = [
        pb.ChatResponse(started=started),
        pb.ChatResponse(stage=pb.Stage(name="recall", duration_ms=3, verdict="2 memories")),
        pb.ChatResponse(attempt=failed),
        COMPLETED,
    ]
    _, notes = play(events, is_terminal=False, verbose=True)
    for expected in ("2 memories", "a/b, failed: 503", "conv-1", "req-1"):
        assert expected in notes
