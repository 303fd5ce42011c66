"""Comparing objects field by field, and reading who has set a field."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from cli.drift.findings import NOTHING
from cli.review.markdown import code
from cli.review.preview import is_below
from config.scalars.durations import seconds

MISSING: Final = object()
"""In the place of a value that is not there."""

HIDDEN = "a value that is not shown"

_STEP = re.compile(r'\["((?:[^"\\]|\\.)*)"\]|\[(\d+)\]|([^.\[\]]+)')
_PLAIN_KEY = re.compile(r"[A-Za-z_][\w-]*")


class Field(NamedTuple):
    """A field that is not as expected; a value is MISSING where there is none."""

    path: str
    expected: Any
    found: Any


def at(values: Any, path: str) -> Any:
    """The value at a path as Pulumi writes it, spec.http[0].weight or data["a.b"], or MISSING."""
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
    """Whether a path is another one, or leads below it."""
    return path == parent or is_below(path, parent)


def differences(expected: Any, found: Any, path: str = "") -> Iterator[Field]:
    """Every field in which two values differ, whole where one of them has nothing."""
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        for key in sorted({**expected, **found}):
            yield from differences(
                expected.get(key, MISSING), found.get(key, MISSING), below(path, key)
            )
    elif isinstance(expected, list) and isinstance(found, list):
        for index in range(max(len(expected), len(found))):
            yield from differences(
                _element(expected, index), _element(found, index), f"{path}[{index}]"
            )
    elif not _same(expected, found):
        yield Field(path, expected, found)


def lacking(expected: Any, found: Any, path: str = "") -> Iterator[Field]:
    """What differs of the fields that are expected; others may be there."""
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        for key, value in expected.items():
            yield from lacking(value, found.get(key, MISSING), below(path, key))
    elif not _same(expected, found):
        yield Field(path, expected, found)


def set_by(fields: Mapping[str, Any], expected: Any, found: Any, path: str = "") -> Iterator[Field]:
    """What differs of the fields that one manager has set.

    fields: a `fieldsV1` of metadata.managedFields. expected may lack what the manager added.
    """
    for key, inner in fields.items():
        place, pick = _step(path, key)
        wanted, there = pick(expected), pick(found)
        if there is MISSING:
            continue
        if wanted is MISSING and _is_whole(inner):
            yield Field(place, MISSING, there)
        elif any(name != "." for name in inner):
            yield from set_by(inner, wanted, there, place)
        else:
            yield from differences(wanted, there, place)


def beyond(
    fields: Mapping[str, Any], owned: Sequence[Mapping[str, Any]], found: Any, path: str = ""
) -> Iterator[Field]:
    """What one manager has set that is in none of the `fieldsV1` of others."""
    for key, inner in fields.items():
        place, pick = _step(path, key)
        there = pick(found)
        if there is MISSING:
            continue
        of_others = [other[key] for other in owned if key in other]
        if of_others or not _is_whole(inner):
            yield from beyond(inner, of_others, there, place)
        else:
            yield Field(place, MISSING, there)


def shown(value: Any) -> str:
    """A value in Markdown, on one line."""
    if value is MISSING or value == "":
        return NOTHING
    return code(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _is_whole(fields: Mapping[str, Any]) -> bool:
    """Whether a manager has set a value itself, and not only something in it."""
    return not fields or "." in fields


def _same(one: Any, other: Any) -> bool:
    """Whether values are equal, or the same duration: kubeadm writes 1m as 1m0s."""
    if one == other or not (isinstance(one, str) and isinstance(other, str)):
        return bool(one == other)
    try:
        return seconds(one) == seconds(other)
    except ValueError:
        return False


def _element(values: list[Any], index: int) -> Any:
    return values[index] if index < len(values) else MISSING


def _step(path: str, key: str) -> tuple[str, Callable[[Any], Any]]:
    """The path of a key of a `fieldsV1`, and what picks its value."""
    kind, _, name = key.partition(":")
    if kind == "f":
        return below(
            path, name
        ), lambda values: values.get(name, MISSING) if isinstance(values, Mapping) else MISSING
    if kind in ("k", "v"):
        return f"{path}[{name}]", _item(json.loads(name), whole=kind == "v")
    return path, lambda _: MISSING  # ".", the item itself


def _item(wanted: Any, *, whole: bool) -> Callable[[Any], Any]:
    """Picks the item of a list by its keys, or by its value."""

    def is_it(item: Any) -> bool:
        if whole:
            return bool(item == wanted)
        return isinstance(item, Mapping) and all(
            item.get(key) == value for key, value in wanted.items()
        )

    def pick(values: Any) -> Any:
        items = values if isinstance(values, list) else []
        return next((item for item in items if is_it(item)), MISSING)

    return pick
