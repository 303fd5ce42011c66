"""Follow the fix that an error proposes, as its reader would."""

import re
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import yaml

from config import yaml_reader
from config.errors import KeyPath, Problem
from config.faults import value_at

Values = dict[str, Any]

_REMOVE = object()


@dataclass(frozen=True)
class Renamed:
    """The new name of a key."""

    name: str


# Words after `use` that begin a description, not a value.
_DESCRIPTIONS = re.compile(
    r"(text|whole|lower-case|a|an|the|another|at|less|all|any|some|shares|its|your|names?|both)\b"
    r"|(istio|kubernetes|mesh)\.|Mi or|letters|one |less|\S+ to \S+,"
)


def followed(values: Values, problem: Problem) -> Iterator[Values]:
    """The stack after each proposal of the fix that names a value or a key for this path."""
    for keys, value in _edits(values, problem):
        edited = deepcopy(values)
        parent = _parent(edited, keys)
        if value == "..." or "..." in str(value):
            continue  # a blank for the reader to fill in
        if isinstance(value, Renamed):
            if isinstance(parent, dict) and keys[-1] in parent:
                parent[value.name] = parent.pop(keys[-1])
            else:
                continue
        elif value is _REMOVE:
            if isinstance(parent, list):
                del parent[int(keys[-1].strip("[]"))]
            elif isinstance(parent, dict) and keys[-1] in parent:
                del parent[keys[-1]]
            else:
                continue
        elif isinstance(parent, list):
            parent[int(keys[-1].strip("[]"))] = value
        elif isinstance(parent, dict):
            parent[keys[-1]] = value
        else:
            continue
        yield edited


def _edits(values: Values, problem: Problem) -> Iterator[tuple[KeyPath, Any]]:
    """The edits that a fix proposes: a path, and a value or _REMOVE."""
    fix, path = problem.fix.split("\n")[0], problem.path
    key = re.escape(path[-1]) if path else ""
    present = value_at(values, path)
    is_name = problem.code.endswith("key-unknown") or (
        (repr(path[-1]) in problem.what or problem.what.startswith(f"{path[-1]} "))
        and repr(present) not in problem.what
    )
    if match := re.match(r"use one of (.+)$", fix):
        for choice in match[1].split(", or ")[0].split(", "):
            name, colon, tag = choice.partition(": ")
            if colon:
                yield (*path[:-1], name), tag
            else:
                yield path, Renamed(choice) if is_name else _value(choice)
    elif fix == "use true or false":
        yield path, True
        yield path, False
    elif match := re.match(rf"(?:add|set) {key}: (.+)$", fix):
        if problem.code != "key-missing" or "; for example" not in fix:
            yield path, _value(_first(match[1]))
    elif re.match(rf"remove (it|{key})\b", fix):
        yield path, _REMOVE
    elif fix.startswith("use a list: each entry"):
        return
    elif match := re.match(r"use (.+)$", fix):
        text = match[1]
        if text.startswith("the "):
            return  # only the reader knows it
        if _DESCRIPTIONS.match(text):
            example = re.search(r"(?:for example|such as):? (?!of )(.+)$", text)
            if example is None:
                return
            text = example[1] if problem.code != "mapping-expected" else _named(example[1])
        yield path, Renamed(_first(text)) if is_name else _value(_first(text))
    elif match := re.match(r"put it in quotes.*for example \"(.+)\"$", fix):
        yield path, match[1]
    elif fix.startswith("remove the entry"):
        yield path[:-1], _REMOVE
    if match := re.search(rf", or remove (it|{key})(?=$|[,;])", fix):
        yield path, _REMOVE


def _first(text: str) -> str:
    """The first of several proposals: up to a comma or a word outside brackets and quotes."""
    if match := re.match(r"(\[.*?\](?=$|[ ,;])|\{.*\}(?=$|[ ,;])|\"[^\"]*\")", text):
        return match[1]
    return re.split(r",? or |; |, (?!processor)| for (?:it|each|cpu)\b| instead", text)[0]


def _named(text: str) -> str:
    """An example with a name where the reader has to choose one."""
    return text.replace("NAME:", "a-name:")


def _value(text: str) -> Any:
    try:
        return yaml_reader.load(f"- {text}")[0]
    except yaml.YAMLError:
        return text


def _parent(values: Values, path: KeyPath) -> Any:
    if path and path[0] in values and isinstance(values[path[0]], str):
        return None
    return values if len(path) == 1 else value_at(values, path[:-1])
