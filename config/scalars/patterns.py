"""Regular expressions in RE2 syntax, which Envoy and Istio use."""

import re
from typing import Annotated

from pydantic import AfterValidator

from config.scalars.refused import Refused
from config.scalars.shapes import shaped, text

_MOST_REPETITIONS = 1000  # of RE2 and Go
_TOKEN = re.compile(
    r"(?P<escape>\\.)"
    r"|(?P<set>\[\^?\]?(?:\\.|[^\]\\])*\])"
    r"|(?P<group>\(\?(?:P?[<=!>]|[a-zA-Z-]+[:)]|.))"
    r"|(?P<quantifier>(?:[*+?]|\{\d*,?\d*\})[?+]?)",
    re.DOTALL,
)
_ESCAPE = re.compile(r"\\[ !-/:-@\[-^`{-~aAbBdDfnrsStvwWx0]")
_ESCAPE_IN_SET = re.compile(r"\\[ !-/:-@\[-^`{-~adDfnrsStvwWx0]")
_GROUP = re.compile(r"\(\?(?:P<|:|[ims]*(?:-[ims]+)?[:)])")


def _not_re2(pattern: str) -> str | None:
    """The first part of a Python pattern that RE2 refuses; None if it accepts the pattern."""
    for token in _TOKEN.finditer(pattern):
        text = token[0]
        match token.lastgroup:
            case "escape":
                is_wrong = not _ESCAPE.fullmatch(text)
            case "set":
                escapes = re.findall(r"\\.", text, re.DOTALL)
                is_wrong = not all(map(_ESCAPE_IN_SET.fullmatch, escapes))
            case "group":
                is_wrong = not _GROUP.fullmatch(text)
            case _:
                is_possessive = len(text) > 1 and text.endswith("+")
                counts = map(int, re.findall(r"\d+", text))
                is_literal = text.startswith("{,")  # in RE2, and from 0 in Python
                is_wrong = is_possessive or is_literal or max(counts, default=0) > _MOST_REPETITIONS
        if is_wrong:
            return text
    return None


@shaped(text(r"[^*+?].*"))
def _pattern(value: str) -> str:
    try:
        compiled = re.compile(value)
    except (re.error, OverflowError, RecursionError) as error:
        raise Refused(
            "regex-syntax",
            f"{value!r} is not a regular expression: {error}",
            "Envoy uses RE2 syntax, and refuses the whole route if the expression is invalid",
            "fix the expression, or use exact or prefix",
        ) from None
    if (part := _not_re2(value)) is not None:
        raise Refused(
            "regex-not-re2",
            f"{value!r} uses {part}, which RE2 does not support",
            "Istio and Envoy use RE2 syntax: it has no lookahead, lookbehind or backreference, no "
            "possessive or conditional group, and at most 1000 repetitions",
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
    if re.fullmatch(_pattern(value), "/") is None:
        return value
    raise Refused(
        "path-regex-all",
        f"{value!r} matches the path /",
        "every request could count as a tester's, whatever the weight",
        "use a pattern of longer paths, for example /beta/.*",
    )


Pattern = Annotated[str, AfterValidator(_pattern)]
PathPattern = Annotated[str, AfterValidator(_path_pattern)]
