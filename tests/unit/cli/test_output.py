"""Output of commands: tables and colours on a terminal, plain text in a pipe."""

import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.app import app, main
from components.tables import aligned
from tests.support.paths import PROJECT
from tests.unit.cli.test_review import weight_edit

ESCAPE = "\x1b["


def on_terminal(*arguments: str, **environment: str) -> str:
    """Run nordmesh on a pseudo-terminal and return its output."""
    terminal, inner = pty.openpty()
    variables = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "200", **environment}
    process = subprocess.Popen(
        [sys.executable, "-m", "cli", *arguments],
        cwd=PROJECT, env=variables, stdin=inner, stdout=inner, stderr=inner, close_fds=True,
    )  # fmt: skip
    os.close(inner)
    output = b""
    with os.fdopen(terminal, "rb", buffering=0) as screen:
        try:
            while block := screen.read(4096):
                output += block
        except OSError:  # the other end is closed
            pass
    process.wait()
    return output.decode()


def test_a_report_is_a_table_on_a_terminal_and_markdown_in_a_pipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    command = ("report", "access", "--stack", "local")
    output = on_terminal(*command)
    assert ESCAPE in output
    assert "|---|" not in output
    assert "shop/checkout" in output
    monkeypatch.chdir(PROJECT)
    assert main(command) == 0
    piped = capsys.readouterr().out
    assert "|---|" in piped
    assert ESCAPE not in piped


def test_no_color_applies_to_errors() -> None:
    output = on_terminal("explain", "--stack", "nope", NO_COLOR="1")
    assert not re.search(r"\x1b\[[\d;]*3[0-7]", output)
    assert "Pulumi.nope.yaml [no-stack-file]" in output
    assert "Traceback" not in output


def test_a_folded_section_keeps_its_title_on_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "preview.json").write_text(weight_edit())
    output = on_terminal("review", str(tmp_path / "preview.json"))
    assert "Every resource that changes" in output
    assert "<details>" not in output


def helps(capsys: pytest.CaptureFixture[str]) -> Iterator[tuple[str, str]]:
    """Each command with its help, on one line."""
    groups = [
        ((), app),
        *(((group.name,), group.typer_instance) for group in app.registered_groups),
    ]
    for before, group in groups:
        assert group is not None
        for command in group.registered_commands:
            path = [*filter(None, (*before, command.name))]
            assert main([*path, "--help"]) == 0
            yield " ".join(path), " ".join(capsys.readouterr().out.split())


def test_every_command_has_help_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    for command, output in helps(capsys):
        assert f"Example: nordmesh {command}" in output


def test_help_shows_no_python_types_and_no_paths_of_this_machine(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for command, output in helps(capsys):
        assert "list[" not in output, command
        assert str(PROJECT) not in output, command


def test_a_command_that_a_signal_ends_has_the_status_of_that_signal(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "preview")
    command = [sys.executable, "-m", "cli", "review", str(tmp_path / "preview")]
    process = subprocess.Popen(command, cwd=PROJECT)
    with (tmp_path / "preview").open("w"):  # waits until the command reads it
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM


def test_a_table_aligns_its_columns() -> None:
    assert aligned([]) == []
    assert aligned([("a", "bb", ""), ("ccc", "d" * 300, "[e]")]) == [
        "a    bb",
        f"ccc  {'d' * 300}  [e]",
    ]
