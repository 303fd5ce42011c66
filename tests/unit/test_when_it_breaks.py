"""docs/when-it-breaks.md has every message with which something stops, and no other.

Errors of scripts are listed by their codes. Other messages, from an exception that ends a command
or from a failed SSH step, are listed by their beginnings, with `...` for text that varies. A
message that only passes on the words of another program needs no entry. The errors of a stack file
come with their fixes.
"""

import ast
import re
from collections.abc import Iterator, Set
from functools import cache
from pathlib import Path

from components import failures
from components.node_command import MISSING_CODE
from config.errors import NordmeshError
from tests.support.documented import PROJECT

_DOCUMENT = (PROJECT / "docs" / "when-it-breaks.md").read_text()
_FOLDERS = ("ci", "cli", "components", "config", "lab", "policy", "stacks")
# A NordmeshError comes with its path, reason and fix: an entry may say more, but need not.
_WITH_REMEDY = {NordmeshError.__name__}


def sources(suffix: str) -> Iterator[Path]:
    for folder in _FOLDERS:
        yield from sorted((PROJECT / folder).rglob(f"*{suffix}"))


def of_scripts() -> Iterator[tuple[str, str]]:
    """The code and the message of every `fail`; the code is empty where the script has none."""
    for path in sources(".sh"):
        text = path.read_text().replace("\\\n", "")
        arguments = r'\bfail (?:([a-z][a-z0-9-]*) )?"((?:[^"$]|\$\([^"]*?\)|\$)*)"'
        for code, message in re.findall(arguments, text):
            words = re.sub(r"\$\(.*?\)(?!\))|\$\{.*?\}|\$\w+", "...", message)
            yield code, words.replace("\\`", "`")


@cache
def codes() -> frozenset[str]:
    """The codes of scripts, and of the command that runs them."""
    return frozenset({MISSING_CODE, *(code for code, _ in of_scripts() if code)})


@cache
def nodes() -> list[ast.AST]:
    """All of the project's Python, as Python reads it."""
    return [node for path in sources(".py") for node in ast.walk(ast.parse(path.read_text()))]


def exceptions() -> set[str]:
    """The project's own exceptions, by name, also those that derive from another one of its own."""
    classes = [node for node in nodes() if isinstance(node, ast.ClassDef)]
    names, before = {"Exception", "RunError"}, set[str]()
    while names != before:
        before = names
        names = names | {node.name for node in classes if names & set(map(named, node.bases))}
    return names - {"Exception", "RunError"} | {"SystemExit"}


def named(node: ast.AST) -> str:
    return str(getattr(node, "id", getattr(node, "attr", "")))


def of_programs(names: Set[str]) -> Iterator[str]:
    """The first argument of every exception with one of these names."""
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
def messages(*, with_remedy: bool = True) -> set[str]:
    """Every message. with_remedy: also of the errors that come with their own."""
    names = exceptions() - (set() if with_remedy else _WITH_REMEDY)
    without_code = (message for code, message in of_scripts() if not code)
    everything = (*without_code, *of_programs(names), *of_connections())
    return {message.lstrip("`") for message in everything if says_something(message)}


def entries(head: str) -> list[str]:
    """The entries in backticks of the tables whose first column has this head."""
    found: list[str] = []
    for table in re.findall(rf"^\| {head} \| .+ \|\n((?:\|.+\n)+)", _DOCUMENT, re.M):
        rows = re.findall(r"^\| (.+?) \| .+ \|$", table, re.M)
        found += [row.strip("` ") for row in rows if row.startswith("`")]
    return found


def beginning(entry: str) -> str:
    return entry.removesuffix("...").rstrip()


def test_every_message_has_its_remedy() -> None:
    begun = tuple(map(beginning, entries("message")))
    required = messages(with_remedy=False)
    assert sorted(message for message in required if not message.startswith(begun)) == []


def test_no_entry_is_of_a_message_that_is_gone() -> None:
    said = messages()
    gone = [
        e
        for e in entries("message")
        if not any(message.startswith(beginning(e)) for message in said)
    ]
    assert gone == []


def test_every_code_of_a_script_is_listed_once() -> None:
    assert sorted(entries("code")) == sorted(codes())


def test_a_code_stands_for_one_rule() -> None:
    by_code: dict[str, set[str]] = {}
    for code, message in of_scripts():
        by_code.setdefault(code, set()).add(message)
    assert {code: texts for code, texts in by_code.items() if code and len(texts) > 1} == {}


def test_every_script_on_a_node_gives_its_errors_codes() -> None:
    for path in (PROJECT / "components").rglob("*.sh"):
        calls = re.findall(r"^(?:[^#\n]*\|\| | *)fail (?!\(\))(.*)", path.read_text(), re.M)
        assert [call for call in calls if not re.match(r"[a-z][a-z0-9-]* \"", call)] == [], path


def test_the_messages_are_found() -> None:
    assert {"swap-on", "disk-too-full", "guest-locked", "name-invalid"} <= codes()
    assert ("disk-too-full", "... MiB free below ..., ... MiB needed") in of_scripts()
    assert any(message.startswith("the canary ... of ... had ...") for message in messages())
    assert len(messages()) > 80
