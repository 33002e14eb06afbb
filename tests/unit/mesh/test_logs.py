"""Logs: one line an event, whatever the fields hold, and never an exception's text."""

import io
import logging

import pytest

from mesh import logs


@pytest.fixture
def lines() -> io.StringIO:
    stream = io.StringIO()
    logs.configure("info", stream)
    return stream


def test_a_line_has_time_level_name_event_and_fields(lines: io.StringIO) -> None:
    logs.Log("rpc").info("call", code="OK", duration_ms=1.23456, count=3, empty="")
    line = lines.getvalue()
    assert line.endswith(" info rpc call code=OK duration_ms=1.235 count=3 empty=\n")
    assert line[:4].isdigit()


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("two words", '"two words"'),
        ("a=b", '"a=b"'),
        ('say "hi"', r'"say \"hi\""'),
        ("new\nline\r", r'"new\nline\r"'),
        ("red \x1b[31m", r'"red \x1b[31m"'),
        ("\u2028\x9b", r'"\u2028\x9b"'),
        ("grün", "grün"),
    ],
)
def test_no_value_can_break_its_line(lines: io.StringIO, value: str, shown: str) -> None:
    logs.Log("rpc").info("call", field=value)
    assert lines.getvalue().splitlines() == [lines.getvalue()[:-1]]
    assert lines.getvalue().endswith(f" field={shown}\n")


def test_levels_below_the_configured_one_are_silent(lines: io.StringIO) -> None:
    logs.Log("rpc").debug("detail")
    assert lines.getvalue() == ""
    logs.Log("rpc").warning("trouble")
    assert " warning rpc trouble" in lines.getvalue()


def test_a_fault_is_logged_without_its_text(lines: io.StringIO) -> None:
    try:
        raise RuntimeError("password=hush")
    except RuntimeError as error:
        logs.Log("rpc").fault("fault", error, method="M")
    line = lines.getvalue()
    assert "error=RuntimeError" in line
    assert "at=test_logs.py:" in line
    assert "hush" not in line


def test_configuring_again_replaces_the_target(lines: io.StringIO) -> None:
    second = io.StringIO()
    logs.configure("debug", second)
    logs.Log("rpc").debug("here")
    assert lines.getvalue() == ""
    assert second.getvalue().count("\n") == 1
    assert logging.getLogger("plexus").propagate is False
