"""The types of a model's fields: their members, entries, choices and keys."""

from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo


def element_of(annotation: Any) -> Any:
    """The type of the values of a mapping or a list; None for other types."""
    arguments = get_args(annotation)
    if get_origin(annotation) is dict:
        return arguments[1]
    return arguments[0] if get_origin(annotation) in (list, tuple) else None


def model_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return None


def plain(annotation: Any) -> Any:
    """The annotation without Annotated and without None."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, UnionType):
        members = [member for member in get_args(annotation) if member is not type(None)]
        if len(members) == 1:
            return plain(members[0])
    return annotation


def member_of(union: Any, tag: str) -> Any:
    """The member of a discriminated union that has the tag."""
    return next((member for member in get_args(union) if tag in _own_tags(member)), None)


def tags_of(union: Any) -> tuple[str, ...]:
    return tuple(sorted(tag for member in get_args(union) for tag in _own_tags(member)))


def _own_tags(member: type[BaseModel]) -> tuple[str, ...]:
    """The tags of a member of a discriminated union: its required fields of one literal."""
    return tuple(
        str(get_args(field.annotation)[0])
        for field in member.model_fields.values()
        if field.is_required()
        and get_origin(field.annotation) is Literal
        and len(get_args(field.annotation)) == 1
    )


def aliases(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def choices_of(field: FieldInfo | None) -> list[str]:
    annotation = plain(field.annotation) if field else None
    return [str(choice) for choice in get_args(annotation)]
