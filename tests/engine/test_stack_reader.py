"""How Pulumi's engine reads a stack file, compared with config.yaml_reader."""

import json
from collections.abc import Callable
from textwrap import indent
from typing import Any

import pytest

from config import yaml_reader
from tests.engine.conftest import PROJECT_NAME, STACK, Project
from tests.support.yaml_values import MAPPINGS, VALUES

Make = Callable[..., Project]


def read(project: Project, text: str) -> dict[str, Any]:
    """What the engine reads in a stack file, by full key."""
    (project.directory / f"Pulumi.{STACK}.yaml").write_text(text)
    settings = json.loads(project.pulumi("config", "--json").ok().output)
    return {key: entry.get("objectValue", entry["value"]) for key, entry in settings.items()}


def test_the_engine_reads_the_values_of_the_table(project: Make) -> None:
    entries = [f"    - {text}\n" for text in VALUES]
    text = f"config:\n  {PROJECT_NAME}:x:\n{''.join(entries)}"
    engine = read(project(""), text)[f"{PROJECT_NAME}:x"]
    ours = yaml_reader.load(text)["config"][f"{PROJECT_NAME}:x"]
    expected = list(VALUES.values())
    assert len(engine) == len(expected) > 100
    for source, one, other, value in zip(VALUES, engine, ours, expected, strict=True):
        texts = [json.dumps(x, sort_keys=True) for x in (one, other, value)]
        assert texts == [texts[0]] * 3, source
    print(f"{len(engine)} values are the same for the engine and for nordmesh")


def test_the_engine_reads_the_mappings_of_the_table(project: Make) -> None:
    sections = [
        f"  {PROJECT_NAME}:x{number}:\n" + indent(text, "    ")
        for number, text in enumerate(MAPPINGS)
    ]
    engine = read(project(""), f"config:\n{''.join(sections)}")
    assert list(engine.values()) == list(MAPPINGS.values())


def test_a_key_without_a_prefix_is_the_projects(project: Make) -> None:
    settings = read(project(""), "config:\n  a: no\n  b: 1.10\n  c: {d: 22:22}\n")
    assert settings == {
        f"{PROJECT_NAME}:a": "no",
        f"{PROJECT_NAME}:b": "1.1",
        f"{PROJECT_NAME}:c": {"d": "22:22"},
    }


@pytest.mark.parametrize(
    "text",
    [
        "config:\n  x:a: {}\n  x:a: {}\n",
        "config:\n  x:a: {y: 1, y: 2}\n",
        "config:\n  x:a: {y: .inf}\n",
        "config:\n  x:a: {? [y] : 1}\n",
        "encryptionsalt: a\nencryptionsalt: b\nconfig: {}\n",
        "config:\n  x:a: {y: !!bool yes}\n",
        'config:\n  x:a: {y: "\\ud83d\\ude00"}\n',
        "%YAML 1.2\n---\nconfig: {}\n",
    ],
)
def test_what_nordmesh_cannot_read_the_engine_refuses(project: Make, text: str) -> None:
    created = project("")
    (created.directory / f"Pulumi.{STACK}.yaml").write_text(text)
    created.pulumi("config", "--json").failed()
