"""Texts: of a pattern, or for people, who have to learn something from them."""

import re

from pydantic import AfterValidator

from config.scalars.refused import Refused
from config.scalars.shapes import shaped
from config.scalars.shapes import text as text_of

_PLACEHOLDERS = {"todo", "tbd", "n/a", "na", "none", "unknown", "test", "xxx", "later", "missing"}


def matching(
    pattern: str, what: str, why: str, fix: str, *, longest: int | None = None
) -> AfterValidator:
    """Takes texts that a pattern matches as a whole. what: what any other is not."""

    def check(value: str) -> str:
        if re.fullmatch(pattern, value) and (longest is None or len(value) <= longest):
            return value
        raise Refused(f"{value!r} is not {what}", why, fix)

    most = {} if longest is None else {"maxLength": longest}
    return AfterValidator(shaped(text_of(pattern, **most))(check))


def statement(lack: str, why: str, fix: str, *, least: int = 10) -> AfterValidator:
    """Takes texts of at least so many characters that are no placeholder.

    lack: what is said of any other, such as `does not say who answers for it`.
    """

    def check(value: str) -> str:
        text = " ".join(value.split())
        if len(text) >= least and text.lower().strip(" .-?") not in _PLACEHOLDERS:
            return text
        raise Refused(f"{value!r} {lack}", why, fix)

    return AfterValidator(shaped({"type": "string", "minLength": least})(check))


def reason(why: str) -> AfterValidator:
    """Takes the reason of an exception. why: what a reviewer must learn from it."""
    return statement(
        "is not a reason that a reader could judge",
        why,
        "write a sentence of at least 10 characters, or remove the key",
    )
