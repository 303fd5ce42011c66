"""The reader of stack files: its values are those of Pulumi's engine.

tests/engine/test_stack_reader.py asks the engine itself.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli import canary
from cli.ci.offline import strip_command
from config import stack_file, yaml_reader
from config.errors import NordmeshError
from config.load import read_stack
from policy.stack import config_of
from tests.support.yaml_values import MAPPINGS, VALUES
from tests.unit.config.test_keys import file_of

Values = dict[str, Any]


@pytest.mark.parametrize(("text", "value"), VALUES.items())
def test_a_value_is_that_of_the_engine(text: str, value: object) -> None:
    read = yaml_reader.load(f"config:\n  nordmesh:x:\n    value: {text}\n")
    # As JSON, in which true is not 1, and 1.0 is not 1.
    assert json.dumps(read["config"]["nordmesh:x"]["value"], sort_keys=True) == json.dumps(
        value, sort_keys=True
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [("no", "no"), ("5", "5"), ("true", "true"), ("1.10", "1.1"), ("~", ""), ("'5'", "5")],
)
def test_a_setting_is_text(tmp_path: Path, text: str, value: str) -> None:
    file = stack_file.parse(tmp_path / "Pulumi.x.yaml", f"config:\n  nordmesh:demo: {text}\n")
    assert file.values == {"demo": value}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("config:\n  nordmesh:a: {}\n  nordmesh:a: {}\n", "nordmesh:a is there twice, in line 2"),
        ("config:\n  nordmesh:a:\n    x: 1\n    x: 2\n", "in line 3 and in line 4"),
        ("config:\n  nordmesh:a: [{x: 1, x: 1}]\n", "x is there twice"),
        ("encryptionsalt: a\nencryptionsalt: b\nconfig: {}\n", "encryptionsalt is there twice"),
        ("config:\n  nordmesh:a: {x: .inf}\n", ".inf in line 2"),
        ("config:\n  nordmesh:a: {x: -.INF}\n", "-.INF in line 2"),
        ("config:\n  nordmesh:a: {? [a] : b}\n", "unhashable key"),
        ("config:\n  nordmesh:a: {x: !!bool yes}\n", "yes in line 2"),
        ('config:\n  nordmesh:a: {x: "\\ud83d\\ude00"}\n', "line 2 has half of a character"),
        ("%YAML 1.2\n---\nconfig: {}\n", "%YAML 1.1"),
    ],
)
def test_what_the_engine_refuses_is_unreadable(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "Pulumi.x.yaml").write_text(text)
    with pytest.raises(NordmeshError) as caught:
        stack_file.read(tmp_path, "x")
    assert caught.value.code == "stack-file-unreadable"
    assert words in caught.value.what


@pytest.mark.parametrize(("text", "value"), MAPPINGS.items())
def test_a_mapping_is_that_of_the_engine(text: str, value: object) -> None:
    assert yaml_reader.load(text) == value


def test_no_tag_makes_an_object() -> None:
    assert yaml_reader.load("a: !!python/object/apply:os.getpid []") == {"a": []}


def _files(project: Path, values: Values, **more: object) -> Path:
    file = project / "Pulumi.dev.yaml"
    content = file_of(values)
    text = yaml.safe_dump(content) + "".join(f"  {key}: {value}\n" for key, value in more.items())
    file.write_text(text)
    return file


def test_a_country_without_quotes_is_norway(project: Path, existing_stack: Values) -> None:
    existing_stack["mesh"] = {
        "namespaces": {"shop": {}},
        "egress": {
            "hosts": {
                "bank": {
                    "host": "api.bank.example",
                    "owner": "team-payments@example.no",
                    "purpose": "settle card payments",
                    "legalBasis": "GDPR art. 6(1)(b), processor agreement",
                    "country": "NO",
                    "namespaces": ["shop"],
                }
            }
        },
    }
    file = _files(project, existing_stack)
    file.write_text(file.read_text().replace("country: 'NO'", "country: NO"))
    assert "country: NO" in file.read_text()
    config = read_stack(project, "dev").usable()
    assert config.mesh.egress.hosts["bank"].country == "NO"


def test_the_policy_pack_reads_as_the_engine(project: Path) -> None:
    (project / "Pulumi.dev.yaml").write_text(
        "config:\n  mesh: {a: 22:22, b: no, c: 0o10}\n  nordmesh-policy:environment: test\n"
    )
    assert config_of(stack_file.document(project, "dev")) == {
        "nordmesh:mesh": {"a": "22:22", "b": "no", "c": 8},
        "nordmesh-policy:environment": "test",
    }


def test_stripping_secrets_keeps_the_values(project: Path) -> None:
    file = project / "Pulumi.dev.yaml"
    file.write_text("config:\n  nordmesh:a: {t: 22:22, no: yes, o: 0o10, s: {secure: v1:x}}\n")
    strip_command(file)
    expected = {"config": {"nordmesh:a": {"t": "22:22", "no": "yes", "o": 8}}}
    assert yaml_reader.load(file.read_text()) == expected
    assert yaml.safe_load(file.read_text()) == expected  # also for other tools


@pytest.mark.parametrize("section", ["mesh", "nordmesh:mesh", "nordmesh:config:mesh"])
def test_a_canary_is_found_in_a_section_with_any_prefix(section: str) -> None:
    service = "{stable: 1.10, canary: {subset: v2, weight: 1_0}}"
    entry = canary.find(f"config:\n  {section}: {{services: {{pay: {service}}}}}\n", "pay")
    assert entry.canary.weight == 10
    assert entry.stable == "1.1"


def test_a_setting_with_and_without_its_prefix_is_refused(
    project: Path, existing_stack: Values
) -> None:
    _files(project, {**existing_stack, "demo": {"enabled": False}})
    text = (project / "Pulumi.dev.yaml").read_text()
    (project / "Pulumi.dev.yaml").write_text(
        text.replace("config:\n", "config:\n  demo: {enabled: true}\n", 1)
    )
    (problem,) = read_stack(project, "dev").problems
    assert (problem.code, problem.key) == ("key-twice", "nordmesh:demo")
