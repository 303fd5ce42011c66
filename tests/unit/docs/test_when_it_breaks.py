"""docs/when-it-breaks.md lists every message that stops a run, and no other.

Errors are listed by their codes. Those without one, from a failed SSH step or a stand-in of the
lab, are listed by how they start, with `...` for text that varies. A message that only repeats the
output of another program needs no entry. The errors of a stack file come with their fixes.
"""

import ast
import re
from collections.abc import Iterator, Set
from functools import cache
from pathlib import Path

from components.remote import failures
from components.remote.node_command import MISSING_CODE
from config.errors import NordmeshError
from tests.support.paths import PROJECT

_DOCUMENT = (PROJECT / "docs" / "when-it-breaks.md").read_text()
_FOLDERS = ("ci", "cli", "components", "config", "lab", "policy", "stacks")
_LAB_TESTS = PROJECT / "lab" / "tests"
# A NordmeshError includes its path, reason and fix, so an entry is optional.
_WITH_REMEDY = {NordmeshError.__name__}


def sources(suffix: str) -> Iterator[Path]:
    for folder in _FOLDERS:
        files = sorted((PROJECT / folder).rglob(f"*{suffix}"))
        yield from (path for path in files if not path.is_relative_to(_LAB_TESTS))


def script_errors() -> Iterator[tuple[str, str]]:
    """Yield the code and the message of every `fail`; the code is empty if it has none."""
    for path in sources(".sh"):
        text = path.read_text().replace("\\\n", "")
        arguments = r'\bfail (?:([a-z][a-z0-9-]*) )?"((?:[^"$]|\$\([^"]*?\)|\$)*)"'
        for code, message in re.findall(arguments, text):
            pattern = re.sub(r"\$\(.*?\)(?!\))|\$\{.*?\}|\$\w+", "...", message)
            yield code, pattern.replace("\\`", "`")


@cache
def codes() -> frozenset[str]:
    """Codes of scripts and of the command that runs them."""
    return frozenset({MISSING_CODE, *(code for code, _ in script_errors() if code)})


@cache
def nodes() -> list[ast.AST]:
    """Parse all Python of the project."""
    return [node for path in sources(".py") for node in ast.walk(ast.parse(path.read_text()))]


def exceptions() -> set[str]:
    """Names of the exceptions that the project defines, including indirect subclasses."""
    classes = [node for node in nodes() if isinstance(node, ast.ClassDef)]
    names, before = {"Exception", "RunError"}, set[str]()
    while names != before:
        before = names
        names = names | {node.name for node in classes if names & set(map(name_of, node.bases))}
    return names - {"Exception", "RunError"} | {"SystemExit"}


def name_of(node: ast.AST) -> str:
    return str(getattr(node, "id", getattr(node, "attr", "")))


def program_errors(names: Set[str]) -> Iterator[tuple[str, str]]:
    """Yield the code, or "" without one, and the first line of each exception with these names."""
    for node in nodes():
        if isinstance(node, ast.Call) and name_of(node.func) in names and node.args:
            message = text_of(node.args[0]).partition("\n")[0]
            written = [word.value for word in node.keywords if word.arg == "code"]
            for code in choices(written[0]) if written else [""]:
                yield code, message


def choices(node: ast.AST) -> list[str]:
    """Return the codes that an expression may have; "" for one that is passed on."""
    match node:
        case ast.IfExp(body=body, orelse=other):
            return [*choices(body), *choices(other)]
        case ast.Constant(value=str(code)):
            return [code]
    return [""]


def text_of(node: ast.AST) -> str:
    """Return the text of an expression, with `...` for its variable parts."""
    match node:
        case ast.Constant(value=str(value)):
            return value
        case ast.JoinedStr(values=values):
            return "".join(map(text_of, values))
        case ast.BinOp(left=left, right=right):
            return text_of(left) + text_of(right)
    return "..."


def is_specific(message: str) -> bool:
    """Return whether a message has at least two words besides its variable parts."""
    return len(re.findall(r"[a-z]{2,}", message.replace("...", ""))) >= 2


def connection_errors() -> Iterator[str]:
    """Yield the message for each step whose node was unreachable or whose script died."""
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
def program_codes(*, with_remedy: bool = True) -> frozenset[str]:
    """Collect the codes of exceptions. with_remedy: include errors that come with a fix."""
    names = exceptions() - (set() if with_remedy else _WITH_REMEDY)
    return frozenset(code for code, _ in program_errors(names) if code)


@cache
def messages(*, with_remedy: bool = True) -> set[str]:
    """Collect every message without a code. with_remedy: include errors that come with a fix."""
    names = exceptions() - (set() if with_remedy else _WITH_REMEDY)
    errors = (*script_errors(), *program_errors(names))
    without = (*(text for code, text in errors if not code), *connection_errors())
    return {message.lstrip("`") for message in without if is_specific(message)}


def entries(head: str) -> list[str]:
    """List the entries in backticks of the tables whose first column has this head."""
    listed: list[str] = []
    for table in re.findall(rf"^\| {head} \| .+ \|\n((?:\|.+\n)+)", _DOCUMENT, re.M):
        rows = re.findall(r"^\| (.+?) \| .+ \|$", table, re.M)
        listed += [row.strip("` ") for row in rows if row.startswith("`")]
    return listed


def listed_codes() -> list[str]:
    """List the codes of all rows; those with the same fix share one."""
    return [code for entry in entries("code") for code in entry.split("`, `")]


def start_of(entry: str) -> str:
    return entry.removesuffix("...").rstrip()


def test_every_message_is_documented() -> None:
    documented = tuple(map(start_of, entries("message")))
    required = messages(with_remedy=False)
    assert sorted(message for message in required if not message.startswith(documented)) == []


def test_every_documented_message_exists() -> None:
    existing = messages()
    obsolete = [
        e
        for e in entries("message")
        if not any(message.startswith(start_of(e)) for message in existing)
    ]
    assert obsolete == []


def test_every_code_is_listed() -> None:
    required = codes() | program_codes(with_remedy=False)
    assert sorted(required - {*listed_codes()}) == []


def test_every_listed_code_exists() -> None:
    assert sorted({*listed_codes()} - codes() - program_codes()) == []


def test_no_code_is_listed_twice() -> None:
    """But for a code that both a script and a command have: each has its own fix."""
    listed = listed_codes()
    twice = {code for code in listed if listed.count(code) > 1}
    assert twice <= codes() & program_codes()


def test_a_code_has_one_message() -> None:
    by_code: dict[str, set[str]] = {}
    for code, message in script_errors():
        by_code.setdefault(code, set()).add(message)
    assert {code: texts for code, texts in by_code.items() if code and len(texts) > 1} == {}


def test_every_error_of_a_script_has_a_code() -> None:
    for path in (PROJECT / "components").rglob("*.sh"):
        calls = re.findall(r"^(?:[^#\n]*\|\| | *)fail (?!\(\))(.*)", path.read_text(), re.M)
        assert [call for call in calls if not re.match(r"[a-z][a-z0-9-]* \"", call)] == [], path


def test_the_search_finds_messages() -> None:
    assert {"swap-on", "disk-too-full", "guest-locked", "name-invalid"} <= codes()
    assert ("disk-too-full", "... MiB free below ..., ... MiB needed") in script_errors()
    assert {"gate-canary-failed", "gate-stable-without-pods", "lab-pulumi"} <= program_codes()
    assert "lab-pulumi" in program_codes(with_remedy=False)
    assert "... accepts the login but starts no session: ..." in messages()
    assert len(program_codes()) > 80
