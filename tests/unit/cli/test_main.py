"""The command line itself: what it lists, how it fails, what it costs to start."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner, Result

from cli.main import build_app

COMMANDS = ("up", "serve", "chat", "demo", "cost", "doctor", "config")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(build_app(), list(arguments), prog_name="plexus")


def test_help_lists_every_command() -> None:
    result = run("--help")
    assert result.exit_code == 0
    for command in COMMANDS:
        assert f"\n  {command} " in result.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"Usage: plexus {command}" in result.stdout
    assert "--help" in result.stdout


def test_the_version_is_one_line() -> None:
    result = run("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("plexus ")
    assert result.stdout.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["chatt"],
        ["chat", "--nonsense"],
        ["chat", " "],
        ["serve", "nonsense"],
        ["serve"],
        ["cost", "--ledger", "0"],
        ["cost", "--window-s", "5"],
    ],
)
def test_wrong_usage_is_exit_code_2_and_says_why(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Error:" in result.stderr
    assert "Traceback" not in result.output


def test_an_error_of_ours_is_one_sentence_and_exit_code_1() -> None:
    # Port 1 on loopback: nothing listens there, and nothing may without root.
    result = run("chat", "hello", "--address", "127.0.0.1:1")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("plexus: No mesh is ready at 127.0.0.1:1: start one with `make")
    assert result.stderr.count("\n") == 1


def test_help_imports_neither_grpc_nor_rich() -> None:
    code = (
        "import sys\n"
        "from cli.main import build_app\n"
        "try:\n"
        "    build_app()(['--help'])\n"
        "except SystemExit:\n"
        "    pass\n"
        "heavy = {'grpc', 'rich', 'numpy', 'aiohttp', 'yaml', 'google.protobuf', 'asyncio'}\n"
        "sys.exit(','.join(sorted(heavy & set(sys.modules))) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
