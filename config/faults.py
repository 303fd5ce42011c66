"""From pydantic's errors to problems: which key of the file is meant, and what stands in for it."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from config import Section
from config.base import Unlimited
from config.errors import KeyPath, Problem, kind_of, nearest, one_of, unknown_key
from config.scalars.refused import Refused
from config.scalars.ssh import HOST_KEY_REMEDY


@dataclass(frozen=True, kw_only=True)
class Step:
    """A key on the way to a value, and the model that it should be a field of, if any."""

    key: str
    owner: type[BaseModel] | None

    @property
    def field(self) -> FieldInfo | None:
        if self.owner is None:
            return None
        fields = self.owner.model_fields.values()
        return next((field for field in fields if field.alias == self.key), None)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """An error of pydantic with its place in the file and in the models."""

    path: KeyPath
    detail: ErrorDetails
    steps: tuple[Step, ...]  # from the section's own keys down
    tags: tuple[str, ...] = ()  # where a union's discriminator is wrong: what it may be

    @classmethod
    def of(cls, section: str, model: type[Section], detail: ErrorDetails) -> "Fault":
        """The fault that pydantic found in a section; its place is read off the models."""
        steps: list[Step] = []
        annotation: Any = model
        for part in detail["loc"]:
            annotation = _plain(annotation)
            if part == "[key]":
                break
            if get_origin(annotation) in (Union, UnionType):
                annotation = _member(annotation, str(part))  # its tag, which is no key in the file
                continue
            step = Step(key=_key(part), owner=_model(annotation))
            steps.append(step)
            if step.owner is not None:
                annotation = step.field.annotation if step.field else None
            else:
                annotation = _element(annotation)
        keys = [step.key for step in steps]
        tags: tuple[str, ...] = ()
        if detail["type"].startswith("union_tag"):
            keys.append(str(detail["ctx"]["discriminator"]).strip("'"))
            tags = _tags(_plain(annotation))
        return cls(path=(section, *keys), detail=detail, steps=tuple(steps), tags=tags)

    @property
    def owner(self) -> type[BaseModel] | None:
        return self.steps[-1].owner if self.steps else None

    @property
    def field(self) -> FieldInfo | None:
        return self.steps[-1].field if self.steps else None

    @property
    def kind(self) -> str:
        return self.detail["type"]

    @property
    def meant(self) -> KeyPath | None:
        """The key that an unknown one is probably meant to be."""
        if self.kind != "extra_forbidden" or self.owner is None:
            return None
        guess = nearest(self.path[-1], _aliases(self.owner))
        return (*self.path[:-1], guess) if guess else None

    def problem(self) -> Problem:
        """The fault in words for the author of the file."""
        if self.kind == "extra_forbidden":
            known = _aliases(self.owner) if self.owner else []
            return unknown_key(self.path, self.meant[-1] if self.meant else None, known)
        if self.detail["input"] is None and self.steps:
            return self._nothing_below()
        cause = self.detail.get("ctx", {}).get("error")
        if isinstance(cause, Refused):
            return Problem(path=self.path, what=cause.what, why=cause.why, fix=cause.fix)
        what, fix = self._what_and_instead()
        return Problem(path=self.path, what=what, why=self._meaning(), fix=fix)

    def _nothing_below(self) -> Problem:
        """The problem of a key whose value, or all that was below it, is missing or a comment."""
        key, field = self.path[-1], self.field
        marks = field.metadata if field is not None else []
        limit = next((mark for mark in marks if isinstance(mark, Unlimited)), None)
        why = self._meaning()
        if limit is not None:
            why += "; with nothing below it, it could mean none or all, so it means neither"
            closed = f", or {limit.closed}" if limit.closed else ""
            fix = f"write what you mean{closed}; without the key, {limit.allows}"
        elif key == "hostKey":
            fix = HOST_KEY_REMEDY
        elif field is not None and field.is_required():
            fix = f"write {field.description}" if field.description else one_of(_choices(field))
        else:
            default = field.default if field is not None else None
            is_plain = isinstance(default, str | int | float) and default != ""
            fix = f"write a value, or remove {key}"
            fix += f" for the default, {_as_written(default)}" if is_plain else ""
        return Problem(
            path=self.path,
            what=f"nothing is written at {key}",
            why=why,
            fix=fix,
        )

    def _meaning(self) -> str:
        if self.kind.startswith("union_tag"):
            return f"the {self.path[-1]} says what is meant, and which other keys belong here"
        if self.field is None or self.field.description is None:
            return "the program cannot tell what is meant"
        description = self.field.description
        asks = description.split()[0] in ("whether", "how", "what", "where", "why")
        return f"it {'says' if asks else 'is'} {description}"

    def _what_and_instead(self) -> tuple[str, str]:
        value = self.detail["input"]
        example = self._example()
        match self.kind:
            case "missing" if self.path[-1] == "hostKey":
                return "hostKey is missing", HOST_KEY_REMEDY
            case "missing":
                return f"{self.path[-1]} is missing", f"write {self.path[-1]}: {example}"
            case "union_tag_not_found" | "union_tag_invalid" if (
                value_at(value, self.path[-1:]) is None
            ):
                name = self.path[-1]
                return f"{name} is missing", one_of(f"{name}: {tag}" for tag in self.tags)
            case "union_tag_invalid":
                name, tag = self.path[-1], str(self.detail["ctx"]["tag"])
                guess = nearest(tag, self.tags)
                return (
                    f"{tag!r} is no {name}",
                    f"write {name}: {guess}" if guess else one_of(self.tags),
                )
            case "literal_error":
                choices = _choices(self.field)
                guess = nearest(str(value), choices)
                return (
                    f"{value!r} is none of {', '.join(choices)}",
                    f"write {guess}" if guess else one_of(choices),
                )
            case "bool_parsing" | "bool_type":
                return f"{kind_of(value)} is here, not true or false", "write true or false"
            case "string_type" | "string_too_short":
                what = f"{kind_of(value)} is here, not a text"
                if isinstance(value, float):  # YAML reads 1.10 as 1.1
                    return what, f'put it in quotes, with all its digits, such as "{value}"'
                is_plain = isinstance(value, int)
                return what, f"write {json.dumps(_as_written(value)) if is_plain else example}"
            case "list_type" | "tuple_type":
                return (
                    f"{kind_of(value)} is here, not a list",
                    "write it as a list: each entry on a line of its own with a dash, or all of "
                    "them in brackets",
                )
            case "model_type" | "model_attributes_type" | "dict_type":
                return (
                    f"{kind_of(value)} is here, not a mapping of keys to values",
                    "write keys and values below it, or remove it",
                )
        return self.detail["msg"], f"write {example}"

    def _example(self) -> str:
        if self.field is None:
            return "..."
        if self.field.examples:
            return str(self.field.examples[0])
        if self.field.is_required() or self.field.default is None:
            return "..."
        return str(self.field.default)


def mend(data: object, fault: Fault) -> bool:
    """Replace or leave out a wrong value in data; False if the section cannot do without it."""
    for depth in range(len(fault.steps), 0, -1):
        step = fault.steps[depth - 1]
        parent = value_at(data, [above.key for above in fault.steps[: depth - 1]])
        if isinstance(parent, list):
            continue  # without one of its elements the others would have other places
        if not isinstance(parent, dict):
            return True  # left out already, because of another fault
        if step.field is not None and step.field.examples:
            parent[step.key] = step.field.examples[0]
            return True
        if step.field is None or not step.field.is_required():
            parent.pop(step.key, None)
            return True
    return False


def value_at(data: object, keys: Iterable[str]) -> object:
    """What lies below the keys; None if there is nothing."""
    for key in keys:
        if isinstance(data, list):
            index = int(key.strip("[]"))
            data = data[index] if index < len(data) else None
        else:
            data = data.get(key) if isinstance(data, dict) else None
    return data


def _key(part: int | str) -> str:
    """A part of pydantic's place as it is written in a path: [2] for an element of a list."""
    return f"[{part}]" if isinstance(part, int) else part


def _element(annotation: Any) -> Any:
    """What a mapping or a list holds; None for what holds nothing."""
    arguments = get_args(annotation)
    if get_origin(annotation) is dict:
        return arguments[1]
    return arguments[0] if get_origin(annotation) in (list, tuple) else None


def _model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return None


def _as_written(value: object) -> str:
    """A plain value as the stack file has it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _aliases(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _plain(annotation: Any) -> Any:
    """The annotation without Annotated and without None."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, UnionType):
        members = [member for member in get_args(annotation) if member is not type(None)]
        if len(members) == 1:
            return _plain(members[0])
    return annotation


def _member(union: Any, tag: str) -> Any:
    """The member of a discriminated union that has the tag."""
    return next((member for member in get_args(union) if tag in _own_tags(member)), None)


def _tags(union: Any) -> tuple[str, ...]:
    return tuple(sorted(tag for member in get_args(union) for tag in _own_tags(member)))


def _own_tags(member: type[BaseModel]) -> tuple[str, ...]:
    """What a member of a discriminated union is told by: a required field of one literal."""
    return tuple(
        str(get_args(field.annotation)[0])
        for field in member.model_fields.values()
        if field.is_required()
        and get_origin(field.annotation) is Literal
        and len(get_args(field.annotation)) == 1
    )


def _choices(field: FieldInfo | None) -> list[str]:
    annotation = _plain(field.annotation) if field else None
    return [str(choice) for choice in get_args(annotation)]
