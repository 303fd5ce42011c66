"""Judge the items of the benchmark by the facts of nodes."""

import fnmatch
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cli.drift.hosts import Facts
from config import tls

PASS, FAIL, REASON, UNKNOWN = "pass", "fail", "reason", "unknown"
CONTROL_PLANE, NODE = "control-plane", "node"

Item = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of an item. detail: the nodes and values that fail, or the reason."""

    id: str
    text: str
    result: str
    detail: str = ""


def items() -> list[Item]:
    """The items, in the order of their numbers."""
    found: list[Item] = yaml.safe_load((Path(__file__).parent / "items.yaml").read_text())
    return found


def judge(nodes: Mapping[str, Facts | None], control_planes: Sequence[str]) -> Iterator[Result]:
    """Judge every item. nodes: the facts by name, None for a node that did not answer."""
    for item in items():
        found_on = {CONTROL_PLANE: control_planes, NODE: sorted(nodes)}.get(item["where"], [])
        yield _result(item, {name: nodes.get(name) for name in found_on})


def _result(item: Item, nodes: Mapping[str, Facts | None]) -> Result:
    reason = str(item.get("reason", ""))
    check = _check(item)
    if check is None:
        return Result(id=item["id"], text=item["text"], result=REASON, detail=reason)
    answers = {name: None if facts is None else check(facts) for name, facts in nodes.items()}
    failing = [f"{name}: {why}" for name, why in answers.items() if why]
    silent = [name for name, why in answers.items() if why is None]
    if failing:
        result, detail = (REASON, reason) if reason else (FAIL, "; ".join(failing))
    elif silent or not nodes:
        result, detail = UNKNOWN, f"no answer of {', '.join(silent) or 'a node'}"
    else:
        result, detail = PASS, ""
    return Result(id=item["id"], text=item["text"], result=result, detail=detail)


def _check(item: Item) -> Callable[[Facts], str] | None:
    """The check of an item: from facts to what is wrong, "" if nothing is."""
    if "files" in item:
        return lambda facts: _files(item, facts)
    if "process" in item:
        return lambda facts: _flags(item, facts)
    if "providers" in item:
        return lambda facts: _providers(item, facts)
    return None


def _files(item: Item, facts: Facts) -> str:
    lines = [
        line.split(" ", 2)
        for name in ("all", "kubelet")
        for line in facts.text("files", name).splitlines()
    ]
    matching = [line for line in lines if fnmatch.fnmatch(line[2], item["files"])]
    if not matching and "*" not in item["files"]:
        return f"{item['files']} is missing"
    wrong = [
        f"{path} has {mode} {owner}"
        for mode, owner, path in matching
        if ("owner" in item and owner != item["owner"])
        # More than the allowed bits; a directory in a pattern needs its own.
        or ("mode" in item and int(mode, 8) & ~int(item["mode"], 8) & 0o777)
    ]
    return ", ".join(wrong)


def _flags(item: Item, facts: Facts) -> str:
    if not facts.has("process", item["process"]):
        return f"{item['process']} does not run"
    words = facts.text("process", item["process"]).splitlines()
    flags = dict(word.removeprefix("--").partition("=")[::2] for word in words[1:])
    problems = []
    for name in item["flag"].split(" "):
        value = flags.get(name)
        if value is None and item.get("key"):
            value = _configured(facts, item["key"])
        if not _holds(item, value):
            problems.append(f"--{name} is {'not set' if value is None else value}")
    return ", ".join(problems)


def _configured(facts: Facts, key: str) -> str | None:
    """A value of kubelet's configuration file, in the notation of flags; None if it is not set."""
    value: Any = yaml.safe_load(facts.text("file", "kubelet"))
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if value is None:
        return None
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _holds(item: Item, value: str | None) -> bool:
    """Whether the condition of an item holds for the value of a flag, None if it is not set."""
    parts = (value or "").split(",")
    match next(name for name in _CONDITIONS if name in item):
        case "present":
            return bool(value)
        case "absent":
            return value is None
        case "equals":
            return value == str(item["equals"])
        case "differs":
            return value != str(item["differs"])
        case "has":
            return item["has"] in parts
        case "lacks":
            return item["lacks"] not in parts
        case "atLeast":
            return value is not None and value.isdigit() and int(value) >= item["atLeast"]
        case _:
            return value is not None and set(parts) <= set(tls.CIPHERS)


_CONDITIONS = ("present", "absent", "equals", "differs", "has", "lacks", "atLeast", "strong")


def _providers(item: Item, facts: Facts) -> str:
    names = [
        name
        for name in facts.text("providers", "encryption").splitlines()
        if name in ("identity", "secretbox", "aescbc", "aesgcm", "kms")
    ]
    if names and names[0] in item["providers"].split(" "):
        return ""
    return f"the first provider is {names[0] if names else 'not set'}"
