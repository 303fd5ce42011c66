"""Render a new stack file from the models: the given values, and all others as comments."""

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, get_args

import yaml
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from config import Section, StackConfig
from config.base import Unlimited
from config.errors import NAMESPACE
from config.schema import MODELINE

Given = Mapping[str, object]

_HEAD = """\
{modeline}
# The stack {stack}. Lines that begin with # and no space are settings that are not in effect, with
# their defaults; Pulumi.prod.yaml explains them at length. `nordmesh explain
# --stack {stack}` shows what is in effect.
config:
"""


def render(stack: str, given: Mapping[str, Given]) -> str:
    """Render a stack file with the given values, by section and key; all others are comments.

    A required key without a value gets its example.
    """
    lines = [_HEAD.format(modeline=MODELINE, stack=stack)]
    for name, field in StackConfig.model_fields.items():
        model = _model(field.annotation)
        is_wanted = name in given or field.is_required()
        summary = (model.__doc__ or "").strip().splitlines()[0]
        keys = model.model_fields.values()
        is_unset = field.default is None or all(one.default is None for one in keys)
        if not is_wanted and (is_unset or any(one.is_required() for one in keys)):
            # A section must have a key; with an example of one, it would not be yours.
            lines += _remark(f"{NAMESPACE}:{name} (not set): {summary}", 2)
            continue
        lines += _remark(summary, 2)
        lines.append(_setting(f"{NAMESPACE}:{name}:", 2, is_active=is_wanted))
        lines += _section(model, given.get(name, {}), 4, is_active=is_wanted)
    return "".join(lines)


def _model(annotation: Any) -> type[Section]:
    """The model of a section, which may be optional."""
    members = get_args(annotation) or (annotation,)
    return next(m for m in members if isinstance(m, type) and issubclass(m, Section))


def _section(
    model: type[Section], given: Mapping[str, object], indent: int, *, is_active: bool
) -> Iterator[str]:
    for name, field in model.model_fields.items():
        key = field.alias or name
        value = given[key] if key in given else _usual(field)
        is_written = is_active and (key in given or field.is_required())
        # A key with nothing behind it would be refused, and so would [] where no list means all.
        is_open = value == [] and any(isinstance(mark, Unlimited) for mark in field.metadata)
        if value is None or is_open:
            yield from _remark(f"{key} (not set): {field.description}", indent)
            continue
        if field.description:
            yield from _remark(_capital(field.description), indent)
        if isinstance(value, Section):
            yield _setting(f"{key}:", indent, is_active=is_written)
            yield from _section(type(value), {}, indent + 2, is_active=False)
        else:
            text: str = yaml.safe_dump(
                to_jsonable_python({key: value}, by_alias=True, exclude_none=True),
                sort_keys=False,
                allow_unicode=True,
                width=1000,
            )
            for line in text.splitlines():
                yield _setting(line, indent, is_active=is_written)


def _usual(field: FieldInfo) -> object:
    """The text in place of a missing value: its default, or the example of a required one."""
    if not field.is_required():
        return field.get_default(call_default_factory=True)
    return field.examples[0] if field.examples else None


def _setting(text: str, indent: int, *, is_active: bool) -> str:
    """Render a line; one that is not in effect has a # before its first letter."""
    inner = text.lstrip()
    return f"{' ' * (indent + len(text) - len(inner))}{'' if is_active else '#'}{inner}\n"


def _capital(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}"


def _remark(text: str, indent: int) -> Iterator[str]:
    sentence = f"{text.rstrip('.')}."
    mark = f"{' ' * indent}# "
    yield (
        textwrap.fill(
            sentence,
            width=100,
            initial_indent=mark,
            subsequent_indent=mark,
            break_long_words=False,
            break_on_hyphens=False,
        )
        + "\n"
    )
