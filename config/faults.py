"""Pydantic's errors as problems, and the values that replace wrong ones for further checks."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from config import Section
from config.base import Unlimited
from config.errors import KeyPath, Problem, kind_of, nearest, one_of, unknown_key
from config.model_types import aliases, choices_of, element_of, member_of, model_of, plain, tags_of
from config.proposals import (
    as_written,
    entry_example,
    example,
    fits,
    in_yaml,
    is_claim,
    is_host_key,
    shown,
)
from config.scalars.refused import Refused
from config.scalars.ssh import HOST_KEY_REMEDY

# What people write for a choice with another name. TLS that a pod ends itself is TCP to its proxy.
_SYNONYMS = {
    "https": "tcp",
    "tls": "tcp",
    "x86_64": "amd64",
    "master": "control-plane",
    "1.2": "TLSV1_2",
    "1.3": "TLSV1_3",
}


@dataclass(frozen=True, kw_only=True)
class Step:
    """A key on the path to a value, and the model that should have it as a field, if any."""

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
    """One of pydantic's errors, with its position in the file and in the models.

    steps: from the section's own keys down. tags: the allowed values, if a discriminator is wrong.
    below: the type that the value should have.
    """

    path: KeyPath
    detail: ErrorDetails
    steps: tuple[Step, ...]
    tags: tuple[str, ...] = ()
    below: Any = None

    @classmethod
    def of(cls, section: str, model: type[Section], detail: ErrorDetails) -> "Fault":
        """The fault of an error in a section; the models give its position."""
        steps: list[Step] = []
        annotation: Any = model
        for part in detail["loc"]:
            annotation = plain(annotation)
            if part == "[key]":
                break
            if get_origin(annotation) in (Union, UnionType):
                annotation = member_of(annotation, str(part))  # a tag is not a key in the file
                continue
            step = Step(key=_key(part), owner=model_of(annotation))
            steps.append(step)
            if step.owner is not None:
                annotation = step.field.annotation if step.field else None
            else:
                annotation = element_of(annotation)
        keys = [step.key for step in steps]
        tags: tuple[str, ...] = ()
        if detail["type"].startswith("union_tag"):
            keys.append(str(detail["ctx"]["discriminator"]).strip("'"))
            tags = tags_of(plain(annotation))
        return cls(
            path=(section, *keys), detail=detail, steps=tuple(steps), tags=tags, below=annotation
        )

    @property
    def owner(self) -> type[BaseModel] | None:
        return self.steps[-1].owner if self.steps else None

    @property
    def field(self) -> FieldInfo | None:
        return self.steps[-1].field if self.steps else None

    @property
    def listed(self) -> FieldInfo | None:
        """The field of the key, or of the list that the value is in."""
        depth = len(self.steps)
        while depth > 1 and self.steps[depth - 1].key.startswith("["):
            depth -= 1
        return self.steps[depth - 1].field if depth else None

    @property
    def limit(self) -> Unlimited | None:
        """The mark of the key, or of the list that the value is in."""
        marks = self.listed.metadata if self.listed is not None else []
        return next((mark for mark in marks if isinstance(mark, Unlimited)), None)

    @property
    def kind(self) -> str:
        return self.detail["type"]

    @property
    def meant(self) -> KeyPath | None:
        """The key that an unknown key probably means."""
        if self.kind != "extra_forbidden" or self.owner is None:
            return None
        guess = nearest(self.path[-1], aliases(self.owner))
        return (*self.path[:-1], guess) if guess else None

    def problem(self) -> Problem:
        """The fault as a problem for the author of the file."""
        if self.kind == "extra_forbidden":
            known = aliases(self.owner) if self.owner else []
            return unknown_key(self.path, self.meant[-1] if self.meant else None, known)
        if self.detail["input"] is None and self.steps:
            return self._nothing_below()
        cause = self.detail.get("ctx", {}).get("error")
        if isinstance(cause, Refused):
            return Problem(
                code=cause.code, path=self.path, what=cause.what, why=cause.why, fix=cause.fix
            )
        code, what, fix = self._rule()
        return Problem(code=code, path=self.path, what=what, why=self._meaning(), fix=fix)

    def _nothing_below(self) -> Problem:
        """The problem of a key without a value: nothing follows it, or only comments."""
        key, field, limit = self.path[-1], self.field, self.limit
        why = self._meaning()
        if limit is not None and key.startswith("["):
            fix = f"set the value that you mean; with an empty list, {limit.allows}"
        elif limit is not None:
            why += "; without a value it could mean all or nothing"
            closed = f", or {limit.closed}" if limit.closed else ""
            fix = f"set the value that you mean{closed}; without the key, {limit.allows}"
        elif field is not None and is_host_key(field):
            fix = HOST_KEY_REMEDY
        elif field is not None and field.is_required():
            fix = (
                f"set {key} to {field.description}"
                if field.description
                else one_of(choices_of(field))
            )
        else:
            default = field.default if field is not None else None
            is_plain = isinstance(default, str | int | float) and default != ""
            fix = f"set a value, or remove {key}"
            fix += f" to use the default, {as_written(default)}" if is_plain else ""
        return Problem(
            code="value-missing",
            path=self.path,
            what=f"{key} has no value",
            why=why,
            fix=fix,
        )

    def _meaning(self) -> str:
        if self.kind.startswith("union_tag"):
            return f"{self.path[-1]} decides which other keys are allowed here"
        if self.field is None or self.field.description is None:
            return "nordmesh cannot tell what you mean"
        description = self.field.description
        asks = description.split()[0] in ("whether", "how", "what", "where", "why")
        return f"it {'says' if asks else 'is'} {description}"

    def _rule(self) -> tuple[str, str, str]:
        """The code of the rule that is broken, what is wrong, and the fix."""
        value, name, good = self.detail["input"], self.path[-1], self._example()
        match self.kind:
            case "missing" if self.field is not None and is_host_key(self.field):
                return "host-key-missing", f"{name} is missing", HOST_KEY_REMEDY
            case "missing" if self.field is not None and is_claim(self.field):
                fix = f"add {name}: {self.field.description}; for example {good}"
                return "key-missing", f"{name} is missing", fix
            case "missing":
                return "key-missing", f"{name} is missing", f"add {name}: {good}"
            case "union_tag_not_found" | "union_tag_invalid" if value_at(value, [name]) is None:
                fix = one_of(f"{name}: {tag}" for tag in self.tags)
                return "tag-missing", f"{name} is missing", fix
            case "union_tag_invalid":
                tag = str(self.detail["ctx"]["tag"])
                guess = nearest(tag, self.tags)
                fix = f"set {name}: {guess}" if guess else one_of(self.tags)
                return "tag-unknown", f"{tag!r} is not a {name}", fix
            case "literal_error":
                choices = [str(choice) for choice in get_args(plain(self.below))]
                other = _SYNONYMS.get(str(value).lower())
                guess = other if other in choices else nearest(str(value), choices)
                fix = f"use {guess}" if guess else one_of(choices)
                return "choice-unknown", f"{value!r} is not one of {', '.join(choices)}", fix
            case "bool_parsing" | "bool_type":
                what = f"expected true or false, not {kind_of(value)}"
                return "boolean-expected", what, "use true or false"
            case "string_type" | "string_too_short":
                what = f"expected text, not {kind_of(value)}"
                return "text-expected", what, self._text_fix()
            case "empty_list" if self.limit is not None:
                closed = f", or {self.limit.closed}" if self.limit.closed else ""
                fix = f"list what you mean{closed}; without {name}, {self.limit.allows}"
                return "list-empty", f"{name} is an empty list, which could mean all or none", fix
            case "list_type" | "tuple_type":
                fix = (
                    "use a list: each entry on its own line after a dash, or all entries in "
                    "brackets"
                )
                return "list-expected", f"expected a list, not {kind_of(value)}", fix
            case "model_type" | "model_attributes_type" | "dict_type":
                what = f"expected a mapping of keys to values, not {kind_of(value)}"
                return "mapping-expected", what, self._mapping_fix()
        return "value-not-allowed", self.detail["msg"], f"use {good}"

    def _text_fix(self) -> str:
        """The fix for a value that should be text: it in quotes, if it then is what is meant."""
        value, good = self.detail["input"], self._example()
        is_meant = fits(self.below, self.field, as_written(value))
        if isinstance(value, float) and is_meant:  # YAML reads 1.10 as 1.1
            return f'put it in quotes, with all its digits, for example "{value}"'
        if isinstance(value, int) and is_meant:
            return f"use {json.dumps(as_written(value))}"
        if self.field is not None and is_host_key(self.field):
            return HOST_KEY_REMEDY
        return "use text" + (f", for example {good}" if good != "..." else "")

    def _mapping_fix(self) -> str:
        """The fix for a value that should be a mapping: its keys, with examples."""
        annotation = plain(self.below)
        model, entry = model_of(annotation), model_of(plain(element_of(annotation)))
        if get_origin(annotation) in (Union, UnionType):
            model = get_args(annotation)[0]
        elif get_origin(plain(element_of(annotation))) in (Union, UnionType):
            entry = get_args(plain(element_of(annotation)))[0]
        given = self.field.examples[0] if self.field is not None and self.field.examples else None
        if isinstance(given, dict) and given:
            keys = in_yaml(given)[1:-1]
        elif model is not None:
            keys = shown(model)
        else:
            keys = f"NAME: {{{shown(entry)}}}" if entry is not None else "key: value"
        fix = f"use a mapping, for example {{{keys}}}"
        is_harmless = self.limit is None and self.field is not None and not self.field.is_required()
        return f"{fix}, or remove it" if is_harmless else fix

    def _example(self) -> str:
        if self.field is None:
            return entry_example(self.listed)
        return example(self.field)


def replace(data: object, fault: Fault) -> int | None:
    """Replace or remove a wrong value in data, or the list that it is in.

    Return the number of keys down to what was replaced; None if the section cannot do without it.
    """
    for depth in range(len(fault.steps), 0, -1):
        step = fault.steps[depth - 1]
        parent = value_at(data, [above.key for above in fault.steps[: depth - 1]])
        if isinstance(parent, list):
            continue  # removing an element would move the others
        if not isinstance(parent, dict):
            return depth  # already removed, because of another fault
        if step.field is not None and step.field.examples:
            parent[step.key] = step.field.examples[0]
            return depth
        if step.field is None or not step.field.is_required():
            parent.pop(step.key, None)
            return depth
    return None


def value_at(data: object, keys: Iterable[str]) -> object:
    """The value below the keys; None if nothing is there."""
    for key in keys:
        if isinstance(data, list):
            index = int(key.strip("[]"))
            data = data[index] if index < len(data) else None
        else:
            data = data.get(key) if isinstance(data, dict) else None
    return data


def _key(part: int | str) -> str:
    """A part of pydantic's location as a path shows it: [2] for an element of a list."""
    return f"[{part}]" if isinstance(part, int) else part
