"""Compare objects field by field, and find out which manager set a field."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from cli.drift.findings import NOTHING
from cli.review.markdown import code
from cli.review.preview import is_below
from config.scalars.durations import seconds

MISSING: Final = object()
"""Stands for a value that does not exist."""

HIDDEN = "a hidden value"

_STEP = re.compile(r'\["((?:[^"\\]|\\.)*)"\]|\[(\d+)\]|([^.\[\]]+)')
_PLAIN_KEY = re.compile(r"[A-Za-z_][\w-]*")


class Field(NamedTuple):
    """A field that differs; MISSING stands for a value that does not exist."""

    path: str
    expected: Any
    actual: Any


def at(values: Any, path: str) -> Any:
    """The value at a path in Pulumi's notation (spec.http[0].weight, data["a.b"]), or MISSING."""
    for quoted, index, plain in _STEP.findall(path):
        if index:
            if not isinstance(values, list) or int(index) >= len(values):
                return MISSING
            values = values[int(index)]
        else:
            key = quoted or plain
            if not isinstance(values, Mapping) or key not in values:
                return MISSING
            values = values[key]
    return values


def below(path: str, key: str) -> str:
    """The path of a key in the mapping at a path."""
    if not _PLAIN_KEY.fullmatch(key):
        return f"{path}[{json.dumps(key)}]"
    return f"{path}.{key}" if path else key


def is_within(path: str, parent: str) -> bool:
    """Whether a path is the parent, or below it."""
    return path == parent or is_below(path, parent)


def differences(expected: Any, actual: Any, path: str = "") -> Iterator[Field]:
    """Every field in which two values differ; a field that one of them lacks is yielded whole."""
    if isinstance(expected, Mapping) and isinstance(actual, Mapping):
        for key in sorted({**expected, **actual}):
            yield from differences(
                expected.get(key, MISSING), actual.get(key, MISSING), below(path, key)
            )
    elif isinstance(expected, list) and isinstance(actual, list):
        for index in range(max(len(expected), len(actual))):
            yield from differences(
                _element(expected, index), _element(actual, index), f"{path}[{index}]"
            )
    elif not _same(expected, actual):
        yield Field(path, expected, actual)


def lacking(expected: Any, actual: Any, path: str = "") -> Iterator[Field]:
    """The expected fields that differ; the actual value may have others."""
    if isinstance(expected, Mapping) and isinstance(actual, Mapping):
        for key, value in expected.items():
            yield from lacking(value, actual.get(key, MISSING), below(path, key))
    elif not _same(expected, actual):
        yield Field(path, expected, actual)


def set_by(
    fields: Mapping[str, Any], expected: Any, actual: Any, path: str = ""
) -> Iterator[Field]:
    """Of the fields that one manager set, those that differ from the expected value.

    fields: a `fieldsV1` of metadata.managedFields. expected may lack fields that the manager added.
    """
    for key, inner in fields.items():
        field_path, pick = _step(path, key)
        wanted, value = pick(expected), pick(actual)
        if value is MISSING:
            continue
        if wanted is MISSING and _is_whole(inner):
            yield Field(field_path, MISSING, value)
        elif any(name != "." for name in inner):
            yield from set_by(inner, wanted, value, field_path)
        else:
            yield from differences(wanted, value, field_path)


def beyond(
    fields: Mapping[str, Any], owned: Sequence[Mapping[str, Any]], actual: Any, path: str = ""
) -> Iterator[Field]:
    """The fields that one manager set, and that are in no `fieldsV1` of the others."""
    for key, inner in fields.items():
        field_path, pick = _step(path, key)
        value = pick(actual)
        if value is MISSING:
            continue
        of_others = [other[key] for other in owned if key in other]
        if of_others or not _is_whole(inner):
            yield from beyond(inner, of_others, value, field_path)
        else:
            yield Field(field_path, MISSING, value)


def shown(value: Any) -> str:
    """A value in Markdown, on one line."""
    if value is MISSING or value == "":
        return NOTHING
    return code(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _is_whole(fields: Mapping[str, Any]) -> bool:
    """Whether a manager set the value itself, and not only a field inside it."""
    return not fields or "." in fields


def _same(one: Any, other: Any) -> bool:
    """Whether two values are equal, or the same duration: kubeadm writes 1m as 1m0s."""
    if one == other or not (isinstance(one, str) and isinstance(other, str)):
        return bool(one == other)
    try:
        return seconds(one) == seconds(other)
    except ValueError:
        return False


def _element(values: list[Any], index: int) -> Any:
    return values[index] if index < len(values) else MISSING


def _step(path: str, key: str) -> tuple[str, Callable[[Any], Any]]:
    """The path of a key of a `fieldsV1`, and a function that picks its value."""
    kind, _, name = key.partition(":")
    if kind == "f":
        return below(
            path, name
        ), lambda values: values.get(name, MISSING) if isinstance(values, Mapping) else MISSING
    if kind in ("k", "v"):
        return f"{path}[{name}]", _item(json.loads(name), whole=kind == "v")
    return path, lambda _: MISSING  # ".", the item itself


def _item(wanted: Any, *, whole: bool) -> Callable[[Any], Any]:
    """Pick the item of a list by its keys, or by its whole value."""

    def matches(item: Any) -> bool:
        if whole:
            return bool(item == wanted)
        return isinstance(item, Mapping) and all(
            item.get(key) == value for key, value in wanted.items()
        )

    def pick(values: Any) -> Any:
        items = values if isinstance(values, list) else []
        return next((item for item in items if matches(item)), MISSING)

    return pick
