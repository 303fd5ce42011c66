"""The commands of the documents: the fenced blocks of README.md and docs/, and how they are run.

A block of `sh` (commands) or of `console` (commands after `$ `, and their output) has a comment in
the line above:

    <!-- tried: engine -->     run by tests/engine/test_documented.py, without a cluster
    <!-- tried: lab -->        run by tests/live/test_documented.py, on the lab's cluster
    <!-- tried: tests/... -->  run by that test
    <!-- not tried: why -->    only parsed

After `engine` and `lab`, options may follow, with a comma: `fails` (it must fail), `as shown` (it
must print each line of the document), `meanwhile` (it runs in the background of later blocks).

The blocks of a document run in order, in one copy of the checkout. Programs, targets, options and
files that the commands name must exist.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from io import StringIO
from itertools import pairwise
from pathlib import Path

from cli.app import main
from tests.support.paths import PROJECT

COMMANDS = ("sh", "console")

# Programs that commands may start with, besides files of this project.
_PROGRAMS = {
    *(".", "age", "age-keygen", "base64", "cat", "cd", "cp", "cut", "export", "git", "gpg", "head"),
    *("istioctl", "jq", "kubeadm", "kubectl", "make", "mkdir", "openssl", "pg_dump"),
    *("pg_restore", "printf", "promtool", "psql", "pulumi", "python", "rm", "scp", "ssh"),
    *("ssh-keygen", "systemctl", "umask", "unset"),
}
_LEFT_OUT = shutil.ignore_patterns(".git", ".lab", ".venv", ".*_cache", "__pycache__")
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\S*)\s*$")
_MARK = re.compile(r"^\s*<!-- (?P<how>tried|not tried): (?P<what>.+) -->$")
_OPERATOR = re.compile(r"[|&;<>()]+")


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block. how: the verb of its comment, for example "tried"; "" without a comment."""

    document: str
    line: int
    language: str
    text: str
    how: str
    what: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"

    @property
    def has_commands(self) -> bool:
        return self.language in COMMANDS

    def is_tried_with(self, rung: str) -> bool:
        return self.how == "tried" and self.what[0] == rung

    @property
    def commands(self) -> str:
        """Return the commands: of a console, the lines after `$ ` and their continuation lines."""
        if self.language != "console":
            return self.text
        lines = ["", *self.text.splitlines(keepends=True)]
        return "".join(
            line.removeprefix("$ ") for above, line in pairwise(lines) if _is_typed(above, line)
        )

    @property
    def shown(self) -> list[str]:
        """Return the output lines of a console, without `...`."""
        lines = ["", *self.text.splitlines()]
        printed = [line for above, line in pairwise(lines) if not _is_typed(above, line)]
        return [line for line in printed if line.strip() not in ("", "...")]


def _is_typed(above: str, line: str) -> bool:
    return line.startswith("$ ") or above.rstrip("\n").endswith("\\")


def documents() -> list[str]:
    """List the paths of all documents, relative to the project."""
    paths = [
        PROJECT / "README.md",
        PROJECT / "CONTRIBUTING.md",
        *sorted((PROJECT / "docs").rglob("*.md")),
    ]
    return [str(path.relative_to(PROJECT)) for path in paths]


def blocks(document: str) -> list[Block]:
    """Return the fenced blocks of a document; raise ValueError for an unterminated block."""
    blocks_found, lines = [], (PROJECT / document).read_text().splitlines()
    rest = iter(enumerate(lines, start=1))
    for number, line in rest:
        fence = _FENCE.match(line.removeprefix("> "))
        if fence is None:
            continue
        text = []
        for _, inside in rest:
            if inside.removeprefix("> ").strip() == "```":
                break
            text.append(inside.removeprefix(fence["indent"]) + "\n")
        else:
            raise ValueError(f"{document}:{number}: the block does not end")
        mark = _MARK.match(lines[number - 2]) if number > 1 else None
        blocks_found.append(
            Block(
                document=document,
                line=number,
                language=fence["language"],
                text="".join(text),
                how=mark["how"] if mark else "",
                what=tuple(mark["what"].split(", ")) if mark else (),
            )
        )
    return blocks_found


def tried_with(rung: str) -> list[str]:
    """List the documents with blocks for "engine" or "lab"."""
    return [d for d in documents() if any(block.is_tried_with(rung) for block in blocks(d))]


# --- parsing ---


def simple_commands(block: Block) -> Iterator[list[str]]:
    """Yield the commands of a block as words, without assignments and redirections."""
    for line in block.commands.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if not _OPERATOR.fullmatch(word):
                words.append(word)
                continue
            while words and re.match(r"[A-Z_]+=", words[0]):
                words.pop(0)
            if words and not _only_a_file(words):
                yield words
            words = []


def _only_a_file(words: list[str]) -> bool:
    """Return whether the words are the target of a redirection."""
    return (len(words) == 1 and words[0].startswith(("~", "$"))) or Path(words[0]).suffix in _DATA


_DATA = (".crt", ".json", ".md", ".pub", ".restart", ".txt", ".yaml")


def stale(block: Block) -> Iterator[str]:
    """Yield commands of a block that do not exist in this project; pulumi is not checked."""
    result = subprocess.run(
        ["bash", "-n"], input=block.commands, capture_output=True, text=True, check=False
    )
    if result.returncode:
        yield result.stderr
        return
    for words in simple_commands(block):
        name = "python" if words[0] == ".venv/bin/python" else words[0]
        if name == "make":
            targets = [word for word in words[1:] if "=" not in word and not word.startswith("-")]
            yield from (f"make {target}" for target in targets if target not in make_targets())
        elif name == "python":
            yield from _stale_options(words)
        elif name == "nordmesh":
            with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
                is_stale = main([*words[1:], "--help"])
            if is_stale:
                yield " ".join(words)
        elif "/" in name:
            if not (PROJECT / name).is_file():
                yield name
        elif name not in _PROGRAMS and not name.isupper():
            yield f"{name} (if it is correct, add it to tests/support/documented.py)"


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.M))


def _stale_options(words: list[str]) -> Iterator[str]:
    """Yield options of `python -m MODULE ...` that neither it nor its subcommand has."""
    if words[1] == "-c":
        return
    help_calls = [[words[2], "--help"], [*words[2:], "--help"]]
    helped = ""
    for arguments in help_calls:
        command = [sys.executable, "-m", *arguments]
        result = subprocess.run(
            command, cwd=PROJECT, capture_output=True, text=True, check=False, timeout=600
        )
        helped += result.stdout
    if not helped:
        yield f"python -m {words[2]}"
    options = [word.partition("=")[0] for word in words if word.startswith("--")]
    yield from (f"{words[2]} {option}" for option in options if option not in helped)


def stale_for_pulumi(block: Block, environment: Mapping[str, str]) -> Iterator[str]:
    """Yield commands of a block that pulumi does not accept, or not with these options."""
    for words in simple_commands(block):
        if words[0] != "pulumi":
            continue
        result = subprocess.run(
            [*words, "--help"], env=environment, capture_output=True, text=True, check=False
        )
        if result.returncode or f"pulumi {words[1]}" not in result.stdout:
            yield f"{' '.join(words)}: {result.stderr}"


# --- running ---


def copy_checkout(directory: Path) -> None:
    """Copy this checkout into a directory."""
    shutil.copytree(PROJECT, directory, dirs_exist_ok=True, ignore=_LEFT_OUT)
    (directory / ".venv").symlink_to(Path(sys.prefix))


def commit(directory: Path) -> None:
    """Commit everything in a copy, so that git shows what commands change."""
    environment = os.environ | IDENTITY
    for arguments in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "all"]):
        subprocess.run(["git", *arguments], cwd=directory, env=environment, check=True)
        if arguments[0] == "init":
            (directory / ".git" / "info" / "exclude").write_text(".venv\n.lab\n")


IDENTITY = {
    f"GIT_{role}_{key}": value
    for role in ("AUTHOR", "COMMITTER")
    for key, value in (("NAME", "test"), ("EMAIL", "test@example.com"))
}


class Shell:
    """Shell that runs the blocks of one document in one directory.

    stacks: the actual names of stacks, by their names in the documents.
    """

    def __init__(
        self,
        directory: Path,
        environment: Mapping[str, str],
        stacks: Mapping[str, str] | None = None,
    ) -> None:
        self._directory, self._stacks = directory, stacks or {}
        self._environment = {
            **environment,
            **IDENTITY,
            "PATH": f"{directory / '.venv' / 'bin'}{os.pathsep}{environment['PATH']}",
            "PULUMI_SKIP_CONFIRMATIONS": "true",
        }
        self._meanwhile: list[subprocess.Popen[str]] = []

    def __enter__(self) -> "Shell":
        return self

    def __exit__(self, *_: object) -> None:
        ended = [process.poll() for process in self._meanwhile]
        for process in self._meanwhile:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait()
        assert not any(ended), "a command in the background failed"

    def run(self, block: Block) -> str:
        """Run a block and check its comment; return its output."""
        if "meanwhile" in block.what:
            self._meanwhile.append(self._start(block.commands))
            return ""
        code, output = self._finish(self._start(block.commands))
        print(f"--- {block}\n{block.commands}{output}")
        assert bool(code) == ("fails" in block.what), f"{block}:\n{output}"
        assert "Traceback" not in output, f"{block}:\n{output}"
        if "as shown" in block.what:
            printed = output.splitlines()
            assert [line for line in block.shown if line not in printed] == [], (
                f"{block}:\n{output}"
            )
        return output

    def do(self, commands: str) -> None:
        """Run commands that are in no document; the test fails if they fail."""
        code, output = self._finish(self._start(commands))
        assert code == 0, output

    def _start(self, commands: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", self._renamed(commands)],
            cwd=self._directory,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def _finish(self, process: subprocess.Popen[str]) -> tuple[int, str]:
        try:
            output, _ = process.communicate(timeout=900)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return process.returncode, output

    def _renamed(self, commands: str) -> str:
        for name, real in self._stacks.items():
            commands = re.sub(rf"(--stack |STACK=|Pulumi\.){name}\b", rf"\g<1>{real}", commands)
        return commands
