"""What holds for every checked-in shell script."""

import re
import subprocess
from pathlib import Path

import pytest

from components.node_command import text_alone
from config.errors import render
from tests.support.documented import PROJECT
from tests.unit.machine import Machine

# Readers that end before they have read everything.
_EARLY = re.compile(
    r"(?<!\|)\|&?\s*(?:grep\s(?:.*\s)?-(?:\w*[qm]|-quiet|-max-count)"
    r"|head\b|read\b|sed\s.*\bq\b|awk\s.*\bexit\b)"
)
_FOLDERS = (".ci", "ci", "cli", "components", "config", "lab", "stacks", "tests")


def scripts() -> list[Path]:
    """Every file that bash or sh runs."""
    files = (file for folder in _FOLDERS for file in sorted((PROJECT / folder).rglob("*")))
    return [
        file
        for file in files
        if file.is_file() and (file.suffix == ".sh" or re.match(rb"#!.*\bsh\b", head(file)))
    ]


def head(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.readline(100)


def early_readers(text: str) -> list[str]:
    joined = re.sub(r"\\\n|\|\n", lambda match: match[0].replace("\n", " "), text)
    return [line for line in joined.splitlines() if _EARLY.search(line)]


@pytest.mark.parametrize("script", scripts(), ids=lambda script: script.name)
def test_no_reader_ends_before_its_writer(script: Path) -> None:
    """SIGPIPE ends the writer then, and under pipefail the pipeline fails though it has succeeded.

    Give the reader the whole text instead: `text=$(writer)`, then `reader <<<"$text"`.
    """
    assert early_readers(script.read_text()) == []


@pytest.mark.parametrize(
    "line",
    [
        "find . | grep -q .",
        "list | grep -F -qx name",
        "list |\n    grep -m1 name",
        "list | head -n 1",
        "list | awk '{print $2; exit}'",
        "list | sed -n '/x/{p;q}'",
    ],
)
def test_a_reader_that_ends_early_is_seen(line: str) -> None:
    assert early_readers(line)


def test_an_error_looks_like_every_other(machine: Machine) -> None:
    """The same shape as the errors of the command line, on standard error."""
    machine.write("/script", text_alone("lib.sh") + 'fail some-code "It is full" "why" "fix it"\n')
    result = machine.shell("NODE_NAME=worker-1 bash /script")
    error = render("ERROR on node worker-1: It is full", code="some-code", why="why", fix="fix it")
    assert result.stderr == f"\n{error}\n"
    assert (result.status, result.stdout) == (1, "")


@pytest.mark.parametrize("script", ["container-create.sh", "container-delete.sh"])
def test_an_error_of_a_container_looks_like_every_other(script: str) -> None:
    given = {"NAME": "A", "BRIDGE": "b", "ADDRESS": "a", "PREFIX": "p", "GATEWAY": "g"}
    path = PROJECT / "components" / "scripts" / script
    ended = subprocess.run(["bash", path], env=given, capture_output=True, text=True, check=False)
    error = render(
        "ERROR on node A: NAME is 'A', not a DNS label",
        code="name-invalid",
        why="the machine uses it as its host name",
        fix="use lower-case letters, digits and hyphens",
    )
    assert ended.stderr == f"\n{error}\n"
    assert (ended.returncode, ended.stdout) == (1, "")
