"""The types of a model's fields: their members, entries, choices and keys."""

from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from config.errors import KeyPath

ENTRY, ITEM = "*", "[]"
"""In the path of a key: any name that the author chooses, and any position of a list."""


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


def paths(model: type[BaseModel], above: KeyPath = ()) -> Iterator[KeyPath]:
    """The path of every key of a model, as in a file, with ENTRY and ITEM; some come twice.

    A key is a value, a model that may be left out, or an entry of a mapping or a list of models.
    """
    for name, field in model.model_fields.items():
        yield from _below(field.annotation, (*above, field.alias or name))


def _below(annotation: Any, path: KeyPath) -> Iterator[KeyPath]:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from _below(arguments[0], path)
    elif origin in (Union, UnionType):
        if type(None) in arguments:
            yield path
        for member in arguments:
            if member is not type(None):
                yield from _below(member, path)
    elif origin is dict and _has_model(arguments[1]):
        yield (*path, ENTRY)
        yield from _below(arguments[1], (*path, ENTRY))
    elif origin in (list, tuple) and _has_model(arguments[0]):
        yield path
        yield from _below(arguments[0], (*path, ITEM))
    elif (model := model_of(annotation)) is not None:
        yield from paths(model, path)
    else:
        yield path


def _has_model(annotation: Any) -> bool:
    return model_of(annotation) is not None or any(map(_has_model, get_args(annotation)))
