"""Rules for every checked-in shell script."""

import re
import subprocess
from pathlib import Path

import pytest

from components.remote.node_command import local_text, text_alone
from config.errors import render
from tests.support.paths import PROJECT
from tests.unit.machine import Machine

# Readers that exit before the end of their input.
_EARLY = re.compile(
    r"(?<!\|)\|&?\s*(?:grep\s(?:.*\s)?-(?:\w*[qm]|-quiet|-max-count)"
    r"|head\b|read\b|sed\s.*\bq\b|awk\s.*\bexit\b)"
)
_FOLDERS = (".ci", "ci", "cli", "components", "config", "lab", "stacks", "tests")


def scripts() -> list[Path]:
    """List every file that bash or sh runs."""
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
def test_no_reader_exits_before_its_writer(script: Path) -> None:
    """Otherwise SIGPIPE kills the writer, and under pipefail the whole pipeline fails.

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
def test_a_reader_that_exits_early_is_detected(line: str) -> None:
    assert early_readers(line)


def test_script_errors_have_the_common_format(machine: Machine) -> None:
    """Scripts print errors to stderr in the format of the command line."""
    machine.write("/script", text_alone("lib.sh") + 'fail some-code "It is full" "why" "fix it"\n')
    result = machine.shell("NODE_NAME=worker-1 bash /script")
    error = render("ERROR on node worker-1: It is full", code="some-code", why="why", fix="fix it")
    assert result.stderr == f"\n{error}\n"
    assert (result.status, result.stdout) == (1, "")


def test_a_file_is_never_readable_by_others_before_it_has_its_mode(machine: Machine) -> None:
    machine.fake("chmod", '/bin/stat -c %a "$2" >>/modes\nexec /bin/chmod "$@"')
    machine.write("/script", text_alone("lib.sh") + "write_file /a/secret 640 text || true\n")
    assert machine.shell("NODE_NAME=worker-1 bash /script").status == 0
    assert machine.read("/modes") == "600\n"
    assert machine.path("/a/secret").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("script", ["container-create.sh", "container-delete.sh"])
def test_container_script_errors_have_the_common_format(script: str) -> None:
    environment = {"NAME": "A", "BRIDGE": "b", "ADDRESS": "a", "PREFIX": "p", "GATEWAY": "g"}
    ended = subprocess.run(
        ["bash", "-c", local_text(script)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    error = render(
        "ERROR on node A: NAME is 'A', not a DNS name",
        code="name-invalid",
        why="the machine uses it as its host name",
        fix="use lower-case letters, digits, hyphens and dots",
    )
    assert ended.stderr == f"\n{error}\n"
    assert (ended.returncode, ended.stdout) == (1, "")
