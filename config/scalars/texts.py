"""Text that matches a pattern, and text that a reviewer has to learn something from."""

import re
from dataclasses import dataclass

from pydantic import AfterValidator

from config.scalars.refused import Refused
from config.scalars.shapes import shaped
from config.scalars.shapes import text as text_of

_PLACEHOLDERS = {"todo", "tbd", "n/a", "na", "none", "unknown", "test", "xxx", "later", "missing"}


@dataclass(frozen=True)
class Claim:
    """Marks a value that is a statement of its author, so that no example is proposed."""


class Statement(AfterValidator):
    """A validator of texts that only their author can write, such as the reason for something."""


def matching(
    code: str, pattern: str, what: str, why: str, fix: str, *, longest: int | None = None
) -> AfterValidator:
    """Accept text that a pattern matches in full. what: what other text is not."""

    def check(value: str) -> str:
        if re.fullmatch(pattern, value) and (longest is None or len(value) <= longest):
            return value
        raise Refused(code, f"{value!r} is not {what}", why, fix)

    most = {} if longest is None else {"maxLength": longest}
    return AfterValidator(shaped(text_of(pattern, **most))(check))


def statement(code: str, lack: str, why: str, fix: str, *, least: int = 10) -> Statement:
    """Accept text of at least `least` characters that is not a placeholder.

    lack: what other text fails to do, for example `does not say who is responsible for it`.
    """

    def check(value: str) -> str:
        text = " ".join(value.split())
        if len(text) >= least and not _is_filler(text, least):
            return text
        raise Refused(code, f"{value!r} {lack}", why, fix)

    return Statement(shaped({"type": "string", "minLength": least})(check))


def _is_filler(text: str, least: int) -> bool:
    """Whether a text only fills the field: placeholders, or the same few characters again."""
    words = [word.strip(" .,;:-?!").lower() for word in text.split()]
    letters = {letter for letter in text.lower() if letter.isalnum()}
    return all(word in {"", *_PLACEHOLDERS} for word in words) or len(letters) < min(least, 5)


def reason(code: str, why: str) -> Statement:
    """Accept the reason for an exception. why: what a reviewer must learn from it."""
    return statement(
        code,
        "is not a reason that a reviewer can judge",
        why,
        "use a sentence of at least 10 characters, or remove the key",
    )
