"""A validator together with what the JSON Schema says of the values that it takes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema


@dataclass(frozen=True, eq=False, kw_only=True)
class Checked:
    """For Annotated: a check of values as they were written, or of those of the type itself.

    shape: JSON Schema, which editors check while somebody types. The check knows more, and has the
    last word.
    """

    check: Callable[[Any], Any]
    shape: dict[str, Any]
    as_written: bool = True

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        if self.as_written:
            return core_schema.no_info_before_validator_function(self.check, handler(source))
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(
        self, _schema: CoreSchema, _handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return dict(self.shape)
