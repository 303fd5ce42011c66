"""The shapes of values in the JSON Schema, which editors check while you type.

The validators check more, and decide. A shape is declared with its validator.
"""

from collections.abc import Callable
from typing import Any, TypeVar

_Validator = TypeVar("_Validator", bound=Callable[..., Any])

Shape = dict[str, Any]
"""A piece of JSON Schema (draft 7)."""

SHAPES: dict[Callable[..., Any], Shape] = {}
"""The shapes, by validator."""


def shaped(shape: Shape) -> Callable[[_Validator], _Validator]:
    """Declare the shape of the values that a validator accepts."""

    def remember(validator: _Validator) -> _Validator:
        SHAPES[validator] = shape
        return validator

    return remember


def text(pattern: str, **more: Any) -> Shape:
    """The shape of text that a pattern matches in full."""
    return {
        "type": "string",
        "pattern": f"^({pattern})$" if "|" in pattern else f"^{pattern}$",
        **more,
    }
