"""What values look like, for the JSON Schema: editors check it while somebody types.

The validators know more, and have the last word. A shape stands beside its validator, so that a
type is described where it is made.
"""

from collections.abc import Callable
from typing import Any, TypeVar

_Validator = TypeVar("_Validator", bound=Callable[..., Any])

Shape = dict[str, Any]
"""A piece of JSON Schema (draft 7)."""

SHAPES: dict[Callable[..., Any], Shape] = {}
"""The shapes by the function that validates."""


def shaped(shape: Shape) -> Callable[[_Validator], _Validator]:
    """Says what the values look like that a validator takes."""

    def remember(validator: _Validator) -> _Validator:
        SHAPES[validator] = shape
        return validator

    return remember


def text(pattern: str, **more: Any) -> Shape:
    """A text that a pattern matches as a whole."""
    return {
        "type": "string",
        "pattern": f"^({pattern})$" if "|" in pattern else f"^{pattern}$",
        **more,
    }
