"""What a node's command runs: the script and its settings, as components/remote.py writes them."""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import yaml

from stacks.review.preview import Preview, Step, Values

# A value as shlex.quote writes it: bare, or in single quotes with '"'"' for one inside.
_QUOTE = "'\"'\"'"
_SETTING = re.compile(r"^export (\w+)=(?:'((?:[^']|'\"'\"')*)'|([^\s']*))$", re.MULTILINE)
_FILE = re.compile(r"# ([a-z0-9-]+\.sh)'?$")


@cache
def settings(command: str) -> dict[str, str]:
    """The settings that a command exports to its script."""
    inner = command.partition("bash -c ")[2].strip().removeprefix("'").removesuffix("'")
    text = inner.replace(_QUOTE, "'")
    return {
        match[1]: match[2].replace(_QUOTE, "'") if match[3] is None else match[3]
        for match in _SETTING.finditer(text)
    }


def file(command: Any) -> str | None:
    """The name of the script that a command runs; None if it runs none of ours."""
    found = _FILE.search(command) if isinstance(command, str) else None
    return found[1] if found else None


def runs(step: Step, name: str, phase: str = "create") -> bool:
    """Whether a step's command runs a script of this name when the resource is made, or deleted."""
    return step.type == "command:remote:Command" and file(step.now.get(phase)) == name


def before_and_after(step: Step) -> tuple[dict[str, str], dict[str, str]]:
    """The settings of a step's command, old and new."""
    return _of(step.old), _of(step.new)


def changed(step: Step) -> list[str]:
    """The names of the settings that change, or `login` and `script` for what else does."""
    old, new = before_and_after(step)
    names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    if any(path.startswith("connection") for path in step.fields):
        names.append("login")
    if not names and step.old.get("create") != step.new.get("create"):
        names.append("script")
    return names


def operators(preview: Preview) -> Iterator[tuple[Values, Values]]:
    """The IstioOperator specs that change, as (old, new); {} where there is none."""
    for step in preview.changes:
        if step.type != "command:remote:Command":
            continue
        old, new = map(specs, before_and_after(step))
        for name in {**old, **new}:
            if old.get(name) != new.get(name):
                yield old.get(name, {}), new.get(name, {})


def specs(of: dict[str, str]) -> dict[str, Values]:
    """The IstioOperator specs in a script's settings, by the documents' names."""
    documents = [_operator(text) for text in of.values() if "kind: IstioOperator" in text]
    return {document["metadata"]["name"]: document.get("spec") or {} for document in documents}


def _of(inputs: Values) -> dict[str, str]:
    command = inputs.get("create")
    return settings(command) if isinstance(command, str) else {}


@cache
def _operator(text: str) -> Values:
    document: Values = yaml.safe_load(text)
    return document
