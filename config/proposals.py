"""Examples of values and keys for the fixes of errors, as YAML in one line."""

import json
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from config import yaml_reader
from config.base import Section
from config.scalars.ssh import EXAMPLE_HOST_KEY
from config.scalars.texts import Claim, Statement


def is_host_key(field: FieldInfo) -> bool:
    """Whether the value is the SSH host key of a machine, which no example can be."""
    return field.examples == [EXAMPLE_HOST_KEY]


def is_claim(field: FieldInfo) -> bool:
    """Whether the value is a statement that only its author can make: a reason, an owner."""
    return any(isinstance(mark, Claim | Statement) for mark in field.metadata)


def example(field: FieldInfo) -> str:
    """An example of a field's value; `...` if it has no example."""
    if field.examples and field.examples != [{}]:
        return in_yaml(field.examples[0])
    if get_origin(field.annotation) is Literal:
        return in_yaml(get_args(field.annotation)[0])
    return "..." if field.is_required() or field.default is None else in_yaml(field.default)


def shown(model: type[BaseModel]) -> str:
    """The required keys of a model with examples, or its first key."""
    if issubclass(model, Section) and model.example is not None:
        return in_yaml(model.example)[1:-1]
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    required = {key: field for key, field in fields.items() if field.is_required()}
    chosen = required or dict([*fields.items()][:1])
    return ", ".join(f"{key}: {_inside(field)}" for key, field in chosen.items())


def _inside(field: FieldInfo) -> str:
    if is_host_key(field) or is_claim(field):
        return "..."
    return in_yaml(field.examples[0], inside=True) if field.examples else example(field)


def entry_example(field: FieldInfo | None) -> str:
    """An example of an entry of a field's list; `...` if it has no example."""
    given = field.examples[0] if field is not None and field.examples else None
    return in_yaml(given[0]) if isinstance(given, list) and given else "..."


def fits(kind: Any, field: FieldInfo | None, text: str) -> bool:
    """Whether a text is a valid value. kind: its type. field: its field, if it has one."""
    annotation: Any = Annotated[(kind, None, *(field.metadata if field is not None else ()))]
    try:
        TypeAdapter[Any](annotation).validate_python(text)
    except ValidationError:
        return False
    return True


def in_yaml(value: object, *, inside: bool = False) -> str:
    """A value in YAML, in one line. inside: whether it is in brackets or braces."""
    if isinstance(value, BaseModel):
        value = value.model_dump(by_alias=True, exclude_unset=True)
    if isinstance(value, list | tuple):
        return f"[{', '.join(in_yaml(entry, inside=True) for entry in value)}]"
    if isinstance(value, dict):
        pairs = [
            f"{in_yaml(key, inside=True)}: {in_yaml(entry, inside=True)}"
            for key, entry in value.items()
        ]
        return f"{{{', '.join(pairs)}}}"
    text = as_written(value)
    if not isinstance(value, str) or _reads(f"[{text}]" if inside else f"- {text}", value):
        return text
    return json.dumps(value)


def as_written(value: object) -> str:
    """A plain value in YAML."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _reads(text: str, value: str) -> bool:
    """Whether a text of YAML is a list of this value alone."""
    try:
        return bool(yaml_reader.load(text) == [value])
    except yaml.YAMLError:
        return False
