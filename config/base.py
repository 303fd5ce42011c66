"""The base of all models of a stack file, and the rule for keys without a value."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator
from pydantic.alias_generators import to_camel
from pydantic.annotated_handlers import GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

STACK_FILE = "stack file"
"""The validation context of stack files; code may pass None for an optional field."""


@dataclass(frozen=True)
class NullAllowed:
    """Marks a field that accepts null, because it is harmless or documented; others refuse it."""

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"anyOf": [handler(schema), {"type": "null"}]}


@dataclass(frozen=True)
class Unlimited:
    """Marks a field whose absence allows more than any value.

    allows: what happens without the key. closed: how to allow the least; None if nothing does.
    A list that is empty by default must not be empty in the file: to a reader, [] means nobody.
    """

    allows: str
    closed: str | None = None

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        rendered = handler(schema)
        inner: Any = schema
        while inner["type"].startswith("function"):
            inner = inner["schema"]
        return rendered | {"minItems": 1} if inner["type"] == "list" else rendered


class Section(BaseModel):
    """Base of all models: camelCase in the file, snake_case in Python, and no unknown keys."""

    example: ClassVar[Mapping[str, Any] | None] = None
    """The keys that a fix shows, if the required keys alone are not enough."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True
    )

    @field_validator("*")
    @classmethod
    def _not_empty(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse a key without a value: commenting out entries must never allow anything."""
        if info.context != STACK_FILE or info.field_name is None:
            return value
        field = cls.model_fields[info.field_name]
        marks = {type(mark) for mark in field.metadata}
        if value is None and NullAllowed not in marks:
            raise PydanticCustomError("null", "the key has no value")
        if value == [] and field.default == [] and Unlimited in marks:
            raise PydanticCustomError("empty_list", "the list is empty")
        return value


def defaults(value: Any) -> Any:
    """Accept a name without a value as all defaults, if these allow nothing."""
    return {} if value is None else value
