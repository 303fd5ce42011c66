"""The JSON Schema of a stack file, which editors use for completion and checks."""

import json
from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml
from pydantic import ValidationError

from config import SECRETS, StackConfig, changes_page, schema
from config.base import STACK_FILE
from config.errors import KeyPath
from config.faults import value_at
from config.sections import SECTIONS, Sections
from tests.support.mistakes import Mistake, mistakes
from tests.support.paths import PROJECT
from tests.unit.commands import nordmesh
from tests.unit.config.test_errors import CONTAINER, EXISTING, Wrong, edited
from tests.unit.config.test_every_key import STACKS

Values = dict[str, Any]

SHIPPED = sorted(PROJECT.glob("Pulumi.*.yaml"))

# Mistakes that a schema cannot detect; `nordmesh explain` and the preview report them.
UNDETECTED = {
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


# Mappings whose keys and values are the user's own.
_FREE = {
    "labels",
    "selector",
    "ports",
    "to",
    "kubelet",
    "kubeProxy",
    "values",
    "overlay",
    "protocols",
    "set",
    "add",
}


@pytest.fixture(scope="module")
def validator() -> Any:
    return jsonschema_rs.validator_for(schema.schema())


def stack_file(values: Values) -> Values:
    """Return the content of a stack file with these values and encrypted secrets."""
    values = {f"nordmesh:{key}": value for key, value in values.items()}
    for key in SECRETS:
        if f"nordmesh:{key}" in values:
            values[f"nordmesh:{key}"] = {"secure": "v1:abc:def"}
    return {"config": values, "encryptionsalt": "v1:abc"}


def test_the_schema_file_is_up_to_date() -> None:
    assert schema.PATH.read_text() == schema.text(), "run `nordmesh schema`"


def test_the_schema_is_valid() -> None:
    assert jsonschema_rs.meta.is_valid(schema.schema())


@pytest.mark.parametrize("path", SHIPPED, ids=[path.name for path in SHIPPED])
def test_shipped_stack_files_are_valid(validator: Any, path: Path) -> None:
    assert path.read_text().splitlines()[0] == schema.MODELINE
    # Through JSON, as Pulumi reads it, so that a key like 8080 becomes a string.
    document = json.loads(json.dumps(yaml.safe_load(path.read_text())))
    assert [str(error) for error in validator.iter_errors(document)] == []


def test_valid_stacks_pass(validator: Any, container_stack: Values, existing_stack: Values) -> None:
    for values in (container_stack, existing_stack):
        assert [str(error) for error in validator.iter_errors(stack_file(values))] == []


@pytest.mark.parametrize("wrong", CONTAINER, ids=[wrong.name for wrong in CONTAINER])
def test_mistakes_in_a_container_stack_are_detected(
    validator: Any, container_stack: Values, project: Path, wrong: Wrong
) -> None:
    expect(validator, edited(container_stack, wrong.edit), project, wrong)


@pytest.mark.parametrize("wrong", EXISTING, ids=[wrong.name for wrong in EXISTING])
def test_mistakes_in_a_stack_of_existing_machines_are_detected(
    validator: Any, existing_stack: Values, project: Path, wrong: Wrong
) -> None:
    expect(validator, edited(existing_stack, wrong.edit), project, wrong)


def expect(validator: Any, values: Values, project: Path, wrong: Wrong) -> None:
    """Check that the schema detects a mistake in one value or section, and no other mistake."""
    is_detected = bool(Sections(values, project).problems) and wrong.name not in UNDETECTED
    if wrong.path.endswith(".version"):  # the schema lists the versions of the catalogue
        is_detected = is_detected or wrong.code == "version-not-in-catalogue"
    assert validator.is_valid(stack_file(values)) is not is_detected


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
def test_unknown_keys_and_plaintext_secrets_are_refused(
    validator: Any, existing_stack: Values, document: Values
) -> None:
    complete = stack_file(existing_stack)
    config = {**complete["config"], **document["config"]} if document.get("config") else {}
    assert not validator.is_valid({**document, **({"config": config} if config else {})})


def _is_refused_by_its_model(mistake: Mistake) -> bool:
    section = mistake.keys[0]
    try:
        SECTIONS[section].model_validate(
            mistake.values[section], by_alias=True, by_name=False, context=STACK_FILE
        )
    except ValidationError:
        return True
    return False


def test_the_schema_finds_the_mistakes_that_the_models_find(validator: Any) -> None:
    """At least 95% of them, also of texts in place of texts; and it flags no valid file."""
    counts: Counter[tuple[bool, bool]] = Counter()  # by: of a text, found
    for mistake in mistakes():
        is_found = not validator.is_valid(stack_file(mistake.values))
        if _is_refused_by_its_model(mistake):
            counts[mistake.is_text, is_found] += 1
        elif is_found:  # the schema lists the versions of the catalogue
            assert mistake.keys[-1] == "version", (mistake.keys, mistake.what)
    for is_text, name in ((True, "texts"), (False, "other mistakes")):
        found, total = counts[is_text, True], counts[is_text, True] + counts[is_text, False]
        print(f"the schema finds {found} of {total} {name}, {found / total:.1%}")
        assert total > 1000
        assert found / total >= 0.95


@pytest.mark.parametrize("stack", STACKS)
def test_any_text_number_or_list_may_be_encrypted(validator: Any, stack: str) -> None:
    for section in SECTIONS.keys() & STACKS[stack].keys():
        for path in _plain_values(STACKS[stack][section], (section,)):
            values = deepcopy(STACKS[stack])
            parent = value_at(values, path[:-1])
            assert isinstance(parent, dict)
            if path[-1] not in ("provider", "type"):  # they decide which keys are allowed
                parent[path[-1]] = {"secure": "v1:abc:def"}
                assert validator.is_valid(stack_file(values)), path


def _plain_values(value: object, path: KeyPath) -> Iterator[KeyPath]:
    """The paths of the values of keys that a model names, without mappings."""
    for key, below in value.items() if isinstance(value, dict) else ():
        if isinstance(below, dict):
            if key not in _FREE:
                yield from _plain_values(below, (*path, key))
        else:
            yield (*path, key)


def test_keys_of_pulumi_and_other_packages_are_accepted(
    validator: Any, existing_stack: Values
) -> None:
    document = stack_file(existing_stack)
    document["config"]["kubernetes:context"] = "dev"
    document |= {"secretsprovider": "awskms://alias/x?region=eu-north-1", "encryptedkey": "x"}
    assert validator.is_valid(document)


def test_every_key_of_the_models_has_its_description_and_default() -> None:
    models = StackConfig.model_json_schema()["$defs"]
    definitions = schema.schema()["definitions"]
    for name, model in models.items():
        for key, field in model.get("properties", {}).items():
            ours = definitions[name]["properties"][key]
            assert ours.get("description") == field.get("description")
            assert ours.get("default") == field.get("default")
            assert "title" not in ours


def test_check_reports_outdated_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "schema" / "nordmesh.schema.json"
    page = tmp_path / "docs" / "changes.md"
    monkeypatch.setattr(schema, "PATH", path)
    monkeypatch.setattr(changes_page, "PATH", page)
    assert nordmesh(tmp_path, "schema", "--check") == 1
    error = capsys.readouterr().err
    assert "schema/nordmesh.schema.json [schema-outdated]" in error
    assert "docs/changes.md" in error
    assert not path.exists()
    assert nordmesh(tmp_path, "schema") == 0
    assert json.loads(path.read_text()) == schema.schema()
    assert page.read_text() == changes_page.page()
    assert nordmesh(tmp_path, "schema", "--check") == 0
    page.write_text("old")
    assert nordmesh(tmp_path, "schema", "--check") == 1
