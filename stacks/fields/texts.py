"""Texts for people: reasons, owners, purposes. A reviewer has to learn something from them."""

from pydantic import AfterValidator

from stacks.fields.refused import Refused

_PLACEHOLDERS = {"todo", "tbd", "n/a", "na", "none", "unknown", "test", "xxx", "later", "missing"}


def statement(lack: str, why: str, instead: str, *, least: int = 10) -> AfterValidator:
    """Takes texts of at least so many characters that are no placeholder.

    lack: what is said of any other, such as `does not say who answers for it`.
    """

    def check(value: str) -> str:
        text = " ".join(value.split())
        if len(text) >= least and text.lower().strip(" .-?") not in _PLACEHOLDERS:
            return text
        raise Refused(f"{value!r} {lack}", why, instead)

    return AfterValidator(check)


def reason(why: str) -> AfterValidator:
    """Takes the reason of an exception. why: what a reviewer must learn from it."""
    return statement(
        "is not a reason that a reader could judge",
        why,
        "write a sentence of at least 10 characters, or remove the key",
    )
