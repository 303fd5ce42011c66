"""The JSON Schema of a stack file: what editors complete and check with."""

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from config import StackConfig, changes, schema
from config.sections import Sections
from lab import paths
from tests.unit.commands import nordmesh
from tests.unit.test_config_errors import CONTAINER, EXISTING, Wrong, edited

Values = dict[str, Any]

SHIPPED = sorted(paths.PROJECT.glob("Pulumi.*.yaml"))

# Wrong in a way that a pattern cannot tell; `nordmesh explain` and the preview tell it.
NOT_SEEN = {
    "no node",
    "endpoint is an address",
    "host bits set",
    "loopback address",
    "pod network too small for the nodes",
    "service network too large",
    "tiny subnet",
    "host key's base64 broken",
    "host key of a different type",
}


@pytest.fixture(scope="module")
def validator() -> Any:
    return jsonschema_rs.validator_for(schema.schema())


def stack_file(values: Values) -> Values:
    """The values as a stack file holds them, with the secret encrypted."""
    values = {f"nordmesh:{key}": value for key, value in values.items()}
    for key in ("nordmesh:sshPrivateKey", "nordmesh:sshPrivateKeyPassword"):
        if key in values:
            values[key] = {"secure": "v1:abc:def"}
    return {"config": values, "encryptionsalt": "v1:abc"}


def test_the_file_is_up_to_date() -> None:
    assert schema.PATH.read_text() == schema.text(), "run `nordmesh schema`"


def test_it_is_a_schema() -> None:
    assert jsonschema_rs.meta.is_valid(schema.schema())


@pytest.mark.parametrize("path", SHIPPED, ids=[path.name for path in SHIPPED])
def test_shipped_stack_files(validator: Any, path: Path) -> None:
    assert path.read_text().splitlines()[0] == schema.MODELINE
    # Through JSON, as pulumi takes it: a key such as 8080 becomes a text.
    document = json.loads(json.dumps(yaml.safe_load(path.read_text())))
    assert [str(error) for error in validator.iter_errors(document)] == []


def test_good_stacks(validator: Any, container_stack: Values, existing_stack: Values) -> None:
    for values in (container_stack, existing_stack):
        assert [str(error) for error in validator.iter_errors(stack_file(values))] == []


@pytest.mark.parametrize("wrong", CONTAINER, ids=[wrong.name for wrong in CONTAINER])
def test_wrong_container_stack(
    validator: Any, container_stack: Values, project: Path, wrong: Wrong
) -> None:
    expect(validator, edited(container_stack, wrong.edit), project, wrong)


@pytest.mark.parametrize("wrong", EXISTING, ids=[wrong.name for wrong in EXISTING])
def test_wrong_existing_stack(
    validator: Any, existing_stack: Values, project: Path, wrong: Wrong
) -> None:
    expect(validator, edited(existing_stack, wrong.edit), project, wrong)


def expect(validator: Any, values: Values, project: Path, wrong: Wrong) -> None:
    """The schema refuses what a single value or section gives away, and nothing else."""
    is_seen = bool(Sections(values, project).problems) and wrong.name not in NOT_SEEN
    if wrong.path.endswith(".version"):  # of the catalogue, which the schema has too
        is_seen = is_seen or wrong.code == "version-not-in-catalogue"
    assert validator.is_valid(stack_file(values)) is not is_seen


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"config": {}},
        {"confg": {}},
        {"config": {"mesh": {}}},
        {"config": {"nordmsh:mesh": {}}},
        {"config": {"nordmesh-policy:enviroment": "test"}},
        {"config": {"aws:region": "eu-north-1"}},
        {"nordmesh:mesh": {}},
        {"config": {"nordmesh:sshPrivateKey": "-----BEGIN OPENSSH PRIVATE KEY-----"}},
    ],
)
def test_other_wrong_files(validator: Any, existing_stack: Values, document: Values) -> None:
    whole = stack_file(existing_stack)
    config = {**whole["config"], **document["config"]} if document.get("config") else {}
    assert not validator.is_valid({**document, **({"config": config} if config else {})})


def test_what_pulumi_and_other_packages_write(validator: Any, existing_stack: Values) -> None:
    document = stack_file(existing_stack)
    document["config"]["kubernetes:context"] = "dev"
    document |= {"secretsprovider": "awskms://alias/x?region=eu-north-1", "encryptedkey": "x"}
    assert validator.is_valid(document)


def test_every_key_of_the_models_is_there_with_its_words() -> None:
    models = StackConfig.model_json_schema()["$defs"]
    definitions = schema.schema()["definitions"]
    for name, model in models.items():
        for key, field in model.get("properties", {}).items():
            ours = definitions[name]["properties"][key]
            assert ours.get("description") == field.get("description")
            assert ours.get("default") == field.get("default")
            assert "title" not in ours


def test_check_says_when_the_file_is_out_of_date(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "schema" / "nordmesh.schema.json"
    page = tmp_path / "docs" / "changes.md"
    monkeypatch.setattr(schema, "PATH", path)
    monkeypatch.setattr(changes, "PATH", page)
    assert nordmesh(tmp_path, "schema", "--check") == 1
    error = capsys.readouterr().err
    assert "schema/nordmesh.schema.json [schema-outdated]" in error
    assert "docs/changes.md" in error
    assert not path.exists()
    assert nordmesh(tmp_path, "schema") == 0
    assert json.loads(path.read_text()) == schema.schema()
    assert page.read_text() == changes.page()
    assert nordmesh(tmp_path, "schema", "--check") == 0
    page.write_text("old")
    assert nordmesh(tmp_path, "schema", "--check") == 1
