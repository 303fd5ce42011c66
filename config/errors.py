"""A problem of a stack file as it is told: where, what, why and the remedy.

No value is shown that could be a secret.
"""

import json
import re
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from pulumi import RunError

NAMESPACE = "nordmesh"

_LOGIN_IN_URL = re.compile(r"""(://)[^\s/'"@]+@|\b[^\s/'"@:]+:[^\s/'"@]+@""")

KeyPath = tuple[str, ...]
"""Keys from the namespace down: ("mesh", "services", "checkout"). An element of a list is "[2]"."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong: where, what, why it matters, and what to do instead.

    about: other places that the problem follows from; if one of them is wrong itself, this
    problem may not be one and is kept back until that is fixed. prefix: what is before the path,
    where it is not the program's own namespace.
    """

    path: KeyPath
    what: str
    why: str
    fix: str
    about: tuple[KeyPath, ...] = ()
    prefix: str = f"{NAMESPACE}:"

    def __post_init__(self) -> None:
        """Hide the user and password of any address: an error goes into logs and pull requests."""
        for name in ("what", "why", "fix"):
            shown = _LOGIN_IN_URL.sub(r"\1[hidden]@", getattr(self, name))
            object.__setattr__(self, name, shown)

    @property
    def key(self) -> str:
        """The path as `pulumi config set --path` takes it."""
        return f"{self.prefix}{''.join(map(_step, self.path)).removeprefix('.')}"

    def __str__(self) -> str:
        lines = (("what", self.what), ("why", self.why), ("fix", self.fix))
        return "\n".join([self.key, *(paragraph(*line) for line in lines)])


class NordmeshError(RunError):
    """An error that its reader can act on: the base of every error that nordmesh raises.

    code: its name in lower case with hyphens, which never changes: tests, documents and scripts
    rely on it, not on the words. path: the key, file or node that it is about. Pulumi shows the
    text alone, without a traceback.
    """

    def __init__(
        self, what: str, *, code: str, why: str = "", fix: str = "", path: str = ""
    ) -> None:
        self.code, self.path, self.what, self.why, self.fix = code, path, what, why, fix
        super().__init__(render(what, code=code, why=why, fix=fix, path=path))


class ConfigError(RunError):
    """All problems of a stack file. Pulumi shows its text alone, without a traceback."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        blocks = "\n\n".join(str(problem) for problem in self.problems)
        super().__init__(
            "the stack's configuration cannot be used; nothing was changed\n\n"
            f"{blocks}\n\n{count} error{'s' if count > 1 else ''}"
        )


def render(what: str, *, code: str, why: str = "", fix: str = "", path: str = "") -> str:
    """An error as every program prints it: its first line, then what, why and fix below."""
    subject, body = (path, what) if path else (what, "")
    labelled = (("what", body), ("why", why), ("fix", fix))
    return "\n".join([f"{subject} [{code}]", *(paragraph(*line) for line in labelled if line[1])])


def unknown_key(
    path: KeyPath, guess: str | None, known: Iterable[str], *, prefix: str = f"{NAMESPACE}:"
) -> Problem:
    """The problem of a key that there is not. guess: what it is probably meant to be."""
    fix = f"write {guess}" if guess else f"remove it; the keys here are {', '.join(known)}"
    return Problem(
        path=path,
        what=f"there is no key {path[-1]} here",
        why="a key that is not known would be without effect, and nobody would notice",
        fix=fix,
        prefix=prefix,
    )


def nearest(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate that a misspelt word is probably meant to be, whatever its case and hyphens."""
    by_plain = {re.sub(r"[-_]", "", name).lower(): name for name in candidates}
    close = get_close_matches(re.sub(r"[-_]", "", word).lower(), by_plain, n=1)
    return by_plain[close[0]] if close else None


def one_of(choices: Iterable[str]) -> str:
    """The remedy that lists what may be written."""
    return f"write one of {', '.join(choices)}"


def kind_of(value: object) -> str:
    """What was written, in words that show no text: it could be a secret."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return f"the number {value}"
        case str():
            return "a text" if value else "an empty text"
        case list():
            return "a list"
    return "a mapping"


def paragraph(label: str, text: str) -> str:
    """A labelled text below an error, wrapped and indented; a line break in it stays."""
    return "\n".join(
        textwrap.fill(
            line,
            width=92,
            initial_indent=" " * 10 if number else f"    {label:<6}",
            subsequent_indent=" " * 10,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for number, line in enumerate(text.splitlines())
    )


def _step(key: str) -> str:
    if re.fullmatch(r"\[\d+\]", key):
        return key
    return f".{key}" if re.fullmatch(r"[\w-]+", key) else f"[{json.dumps(key)}]"
