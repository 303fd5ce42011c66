"""Errors as users see them: where, what, why and fix.

They never show a value that could be a secret.
"""

import json
import re
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from pulumi import RunError

NAMESPACE = "nordmesh"

_LOGIN_IN_URL = re.compile(r"""(://)[^\s'"]+@|\b[^\s/'"@:]+:[^\s'"]+@""")

KeyPath = tuple[str, ...]
"""Keys from the namespace down: ("mesh", "services", "checkout"). An element of a list is "[2]"."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One error of a stack file: where, what is wrong, why it matters and how to fix it.

    code: the name of the rule that is broken, as in NordmeshError. about: other keys that the
    problem depends on; if one of them is wrong itself, this problem is not reported until that is
    fixed. prefix: the text before the path, where it is not nordmesh's own namespace.
    """

    code: str
    path: KeyPath
    what: str
    why: str
    fix: str
    about: tuple[KeyPath, ...] = ()
    prefix: str = f"{NAMESPACE}:"

    def __post_init__(self) -> None:
        """Hide the login in any URL: an error goes into logs and pull requests."""
        for name in ("what", "why", "fix"):
            shown = _LOGIN_IN_URL.sub(r"\1[hidden]@", getattr(self, name))
            object.__setattr__(self, name, shown)

    @property
    def key(self) -> str:
        """The path in the format of `pulumi config set --path`."""
        return f"{self.prefix}{''.join(map(step, self.path)).removeprefix('.')}"

    def __str__(self) -> str:
        return render(self.what, code=self.code, why=self.why, fix=self.fix, path=self.key)


class NordmeshError(RunError):
    """An error that its reader can act on: the base of every error that nordmesh raises.

    code: its name in lower case with hyphens, which never changes: tests, documents and scripts
    rely on it, not on the words. path: the key, file or node that it is about. unchanged: what the
    refused edit has left as it was; it ends the sentence of `what`. details: more text, after an
    empty line. Pulumi shows the text alone, without a traceback.
    """

    def __init__(
        self,
        what: str,
        *,
        code: str,
        why: str = "",
        fix: str = "",
        path: str = "",
        unchanged: str = "",
        details: str = "",
    ) -> None:
        self.code, self.path, self.what, self.why, self.fix = code, path, what, why, fix
        sentence = f"{what}; {unchanged}" if unchanged else what
        text = render(sentence, code=code, why=why, fix=fix, path=path)
        super().__init__(f"{text}\n\n{details}" if details else text)


class ConfigError(NordmeshError):
    """All problems of a stack file."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        blocks = [str(problem) for problem in self.problems]
        super().__init__(
            "the stack's configuration is invalid; nothing was changed",
            code="config-invalid",
            details="\n\n".join([*blocks, f"{count} error{'s' if count > 1 else ''}"]),
        )


def render(what: str, *, code: str, why: str = "", fix: str = "", path: str = "") -> str:
    """Format an error: the path and the code, then what, why and fix on lines below."""
    subject, body = (path, what) if path else (what, "")
    labelled = (("what", body), ("why", why), ("fix", fix))
    return "\n".join([f"{subject} [{code}]", *(paragraph(*line) for line in labelled if line[1])])


def unknown_key(
    path: KeyPath, guess: str | None, known: Iterable[str], *, prefix: str = f"{NAMESPACE}:"
) -> Problem:
    """The problem of an unknown key. guess: the key that it probably means."""
    fix = f"use {guess}" if guess else f"remove it; the keys here are {', '.join(known)}"
    return Problem(
        code="key-unknown",
        path=path,
        what=f"there is no key {path[-1]} here",
        why="an unknown key has no effect, and nobody would notice",
        fix=fix,
        prefix=prefix,
    )


def nearest(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate closest to a misspelt word, ignoring case, hyphens and underscores."""
    by_plain = {re.sub(r"[-_]", "", name).lower(): name for name in candidates}
    close = get_close_matches(re.sub(r"[-_]", "", word).lower(), by_plain, n=1)
    return by_plain[close[0]] if close else None


def one_of(choices: Iterable[str]) -> str:
    """The fix that lists the allowed values."""
    return f"use one of {', '.join(choices)}"


def kind_of(value: object) -> str:
    """The kind of a value, without its text, which could be a secret."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return f"the number {value}"
        case str():
            return "text" if value else "empty text"
        case list():
            return "a list"
    return "a mapping"


def paragraph(label: str, text: str) -> str:
    """A labelled text of an error, wrapped and indented; it keeps its line breaks."""
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


def step(key: str) -> str:
    """A key as the end of a path: `.key`, or `["a.b"]` if it has a dot."""
    if re.fullmatch(r"\[\d+\]", key):
        return key
    return f".{key}" if re.fullmatch(r"[\w-]+", key) else f"[{json.dumps(key)}]"
