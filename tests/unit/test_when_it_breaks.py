"""docs/when-it-breaks.md has every message with which something stops, and none that is gone.

A message is what a script gives to `fail`, what an exception that ends a command is made with, or
what is said of a failed SSH step.
What differs from case to case is `...`. An entry of the document is the message or its beginning,
in backticks. A message without words of its own, which passes on what another program said, needs
none; the errors of a stack file have their remedies with them.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from components import failures
from config.catalogue import LockError
from config.errors import ConfigError
from tests.documented import PROJECT

_DOCUMENT = (PROJECT / "docs" / "when-it-breaks.md").read_text()
_FOLDERS = ("ci", "cli", "components", "config", "lab", "policy", "stacks")
# A ConfigError has the path, the reason and the remedy; a LockError is told as one, or by `make
# lock` with the file that it is about.
_WITH_REMEDY = {ConfigError.__name__, LockError.__name__}


def sources(suffix: str) -> Iterator[Path]:
    for folder in _FOLDERS:
        yield from sorted((PROJECT / folder).rglob(f"*{suffix}"))


def of_scripts() -> Iterator[str]:
    """The first argument of every `fail`."""
    for path in sources(".sh"):
        text = path.read_text().replace("\\\n", "")
        for message in re.findall(r'\bfail "((?:[^"$]|\$\([^"]*?\)|\$)*)"', text):
            yield re.sub(r"\$\(.*?\)(?!\))|\$\{.*?\}|\$\w+", "...", message).replace("\\`", "`")


@cache
def nodes() -> list[ast.AST]:
    """All of the project's Python, as Python reads it."""
    return [node for path in sources(".py") for node in ast.walk(ast.parse(path.read_text()))]


def exceptions() -> set[str]:
    """The project's own exceptions, by name."""
    own = {
        node.name
        for node in nodes()
        if isinstance(node, ast.ClassDef)
        and {"Exception", "LabError", "NordmeshError", "RunError"} & set(map(named, node.bases))
    }
    return own - _WITH_REMEDY | {"SystemExit"}


def named(node: ast.AST) -> str:
    return str(getattr(node, "id", getattr(node, "attr", "")))


def of_programs() -> Iterator[str]:
    """The first argument of every exception of the project."""
    names = exceptions()
    for node in nodes():
        if isinstance(node, ast.Call) and named(node.func) in names and node.args:
            yield words_of(node.args[0]).partition("\n")[0]


def words_of(node: ast.AST) -> str:
    """The text of an expression, with `...` for what is not written there."""
    match node:
        case ast.Constant(value=str(value)):
            return value
        case ast.JoinedStr(values=values):
            return "".join(map(words_of, values))
        case ast.BinOp(left=left, right=right):
            return words_of(left) + words_of(right)
    return "..."


def says_something(message: str) -> bool:
    """Whether a message has words of its own."""
    return len(re.findall(r"[a-z]{2,}", message.replace("...", ""))) >= 2


def of_connections() -> Iterator[str]:
    """What is said of a step whose node could not be reached, or whose script died."""
    for error in (
        "ssh: handshake failed: ssh: host key mismatch",
        "ssh: handshake failed: ssh: no common algorithm for host key",
        "ssh: handshake failed: ssh: unable to authenticate",
        "dial tcp 192.0.2.11:22: connect: connection refused",
        "dial unix /tmp/agent: connect: no such file or directory",
        "ssh: rejected: administratively prohibited (open failed)",
        'wait: remote command exited without exit status or exit signal: running "x":\n',
        'Process exited with status 1: running "x":\n',
    ):
        yield str(failures.explain("...", error)).replace("a script ended", "... ended")


@cache
def messages() -> set[str]:
    said = (*of_scripts(), *of_programs(), *of_connections())
    return {message.lstrip("`") for message in said if says_something(message)}


def entries() -> list[str]:
    """What stands in backticks in the first column of the document's tables."""
    rows = re.findall(r"^\| (.+?) \| .+ \|$", _DOCUMENT, re.M)
    return [row.strip("` ") for row in rows if row.startswith("`")]


def beginning(entry: str) -> str:
    return entry.removesuffix("...").rstrip()


def test_every_message_has_its_remedy() -> None:
    begun = tuple(map(beginning, entries()))
    assert sorted(message for message in messages() if not message.startswith(begun)) == []


def test_no_entry_is_of_a_message_that_is_gone() -> None:
    said = messages()
    gone = [e for e in entries() if not any(message.startswith(beginning(e)) for message in said)]
    assert gone == []


def test_the_messages_are_found() -> None:
    assert "swap is on" in messages()
    assert "... MiB free below ..., ... MiB needed" in messages()
    assert any(message.startswith("the canary ... of ... had ...") for message in messages())
    assert len(messages()) > 80
