"""Regular expressions in RE2 syntax, which Envoy and Istio use."""

import re
import warnings
from typing import Annotated

from pydantic import AfterValidator

from config.scalars.refused import Refused
from config.scalars.shapes import shaped, text

_MOST_REPETITIONS = 1000  # of RE2 and Go
_TOKEN = re.compile(
    r"(?P<escape>\\.)"
    r"|(?P<set>\[\^?\]?(?:\[:[^\]]*:\]|\\.|[^\]\\])*\])"
    r"|(?P<group>\(\?(?:P<\w*>|P?[<=!>]|[a-zA-Z-]+[:)]|.))"
    r"|(?P<open>\()|(?P<close>\))"
    r"|(?P<quantifier>(?:[*+?]|\{\d*,?\d*\})[?+]?)",
    re.DOTALL,
)
_ESCAPE = re.compile(r"\\[ !-/:-@\[-^`{-~aAbBdDfnrsStvwWx0]")
_ESCAPE_IN_SET = re.compile(r"\\[ !-/:-@\[-^`{-~adDfnrsStvwWx0]")
_GROUP = re.compile(r"\(\?(?:P<[A-Za-z0-9_]+>|:|[ims]*(?:-[ims]+)?[:)])")
# The classes of POSIX, which Python does not have, as parts of a set.
_CLASSES = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "ascii": r"\x00-\x7f",
    "blank": r"\t ",
    "cntrl": r"\x00-\x1f\x7f",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": r"!-/:-@\[-`{-~",
    "space": r"\t\n\v\f\r ",
    "upper": "A-Z",
    "word": "0-9A-Za-z_",
    "xdigit": "0-9A-Fa-f",
}
_CLASS = re.compile(r"\[:([^:\]]*):\]")


def _in_python(pattern: str) -> str:
    """The pattern with the classes of POSIX in its sets written out."""

    def written_out(token: re.Match[str]) -> str:
        if token.lastgroup != "set":
            return token[0]
        return _CLASS.sub(lambda name: _CLASSES.get(name[1], name[0]), token[0])

    return _TOKEN.sub(written_out, pattern)


def _not_re2(pattern: str) -> str | None:
    """The first part of a Python pattern that RE2 refuses; None if it accepts the pattern."""
    copies, closed = [1], (0, 1)  # of each group that is open, and of the last one with its end
    for token in _TOKEN.finditer(pattern):
        text, is_wrong = token[0], False
        match token.lastgroup:
            case "escape":
                is_wrong = not _ESCAPE.fullmatch(text)
            case "set":
                escapes = re.findall(r"\\.", text, re.DOTALL)
                is_wrong = not all(map(_ESCAPE_IN_SET.fullmatch, escapes)) or bool(
                    _CLASS.search(text)
                )
            case "group" | "open":
                is_wrong = text != "(" and not _GROUP.fullmatch(text)
                if not text.endswith(")"):
                    copies.append(1)
            case "close":
                closed = (token.end(), copies.pop())
                copies[-1] = max(copies[-1], closed[1])
            case _:
                is_possessive = len(text) > 1 and text.endswith("+")
                is_literal = text.startswith("{,")  # in RE2, and from 0 in Python
                # RE2 counts the copies of what is repeated, also by repetitions around it.
                most = max(map(int, re.findall(r"\d+", text)), default=1)
                most *= closed[1] if closed[0] == token.start() else 1
                copies[-1] = max(copies[-1], most)
                is_wrong = is_possessive or is_literal or most > _MOST_REPETITIONS
        if is_wrong:
            return text
    return None


@shaped(text(r"[^*+?].*"))
def _pattern(value: str) -> str:
    plain = _in_python(value)
    try:
        # Python warns of sets that it may read in another way one day.
        with warnings.catch_warnings(action="ignore", category=FutureWarning):
            compiled = re.compile(plain)
    except (re.error, OverflowError, RecursionError) as error:
        raise Refused(
            "regex-syntax",
            f"{value!r} is not a regular expression: {error}",
            "Envoy uses RE2 syntax, and refuses the whole route if the expression is invalid",
            "fix the expression, or use exact or prefix",
        ) from None
    if (part := _not_re2(plain)) is not None:
        raise Refused(
            "regex-not-re2",
            f"{value!r} uses {part}, which RE2 does not support",
            "Istio and Envoy use RE2 syntax: it has no lookahead, lookbehind or backreference, no "
            "possessive or conditional group, and at most 1000 repetitions, with all around them",
            "rewrite it without them, or use exact or prefix",
        )
    if compiled.fullmatch("") is not None:
        raise Refused(
            "regex-matches-empty",
            f"{value!r} matches an empty text",
            "every request could count as a tester's, whatever the weight",
            "match something that only testers' requests contain",
        )
    return value


@shaped(text(r"[^*+?].*"))
def _path_pattern(value: str) -> str:
    if re.fullmatch(_in_python(_pattern(value)), "/") is None:
        return value
    raise Refused(
        "path-regex-all",
        f"{value!r} matches the path /",
        "every request could count as a tester's, whatever the weight",
        "use a pattern of longer paths, for example /beta/.*",
    )


Pattern = Annotated[str, AfterValidator(_pattern)]
PathPattern = Annotated[str, AfterValidator(_path_pattern)]
