"""Every key of every model: once removed and once set to null."""

import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from itertools import zip_longest
from typing import Annotated, Any

import pytest
import yaml
from pydantic import BaseModel, TypeAdapter

from cli import plan
from components.manifests import (
    authorization,
    egress,
    gateways,
    istio_operator,
    mtls,
    routes,
    sidecar,
    workloads,
)
from config import Mesh, StackConfig, warnings
from config.errors import ConfigError
from config.faults import value_at
from config.sections import SECTIONS
from tests.support.kvm_stack import private_key
from tests.support.mocked import run
from tests.support.paths import UNIT
from tests.unit.conftest import HOST_KEYS

Values = dict[str, Any]
Load = Callable[[Values], StackConfig]
Keys = tuple[str, ...]

# Public keys without a known private key.
_KEYS = (
    *HOST_KEYS,
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGv0457aEuQP9UlUZmC2e8QC9Qktw9CdAUl2NmMRN67m",
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJGkUj6CiBLpxleZG7pHU45YpGrNlagoWIz6T40ULcM2",
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMzNsUV9RQZwmrc4raNm0Y4aFxMRzNjLZVZzGXBzMKhw",
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIoYJ4cQlWxwY/8TR6JlcRUCLDE2QGw/+G1yvnfbUE3o",
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICgpKissLS4vMDEyMzQ1Njc4OTo7PD0+P0BBQkNERUZH",
)


def _stacks() -> dict[str, Values]:
    text = (UNIT / "every_key.yaml").read_text().replace("SHA256", "a" * 64)
    for number, key in enumerate(_KEYS, 1):
        text = text.replace(f"KEY-{number}", key)
    # Convert through JSON as Pulumi does: it turns a key such as 9090 into a string.
    stacks: dict[str, Values] = json.loads(json.dumps(yaml.safe_load(text)))
    return {
        name: values if name == "lab" else {**values, "sshPrivateKey": private_key()}
        for name, values in stacks.items()
    }


STACKS = _stacks()


def _fields(value: object, keys: Keys) -> Iterator[tuple[Keys, type[BaseModel], str]]:
    """List each key of a loaded section: its path, its model and its field name."""
    if isinstance(value, BaseModel):
        for name, field in type(value).model_fields.items():
            path = (*keys, field.alias or name)
            yield path, type(value), name
            yield from _fields(getattr(value, name), path)
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _fields(inner, (*keys, str(key)))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _fields(inner, (*keys, f"[{index}]"))


def _has(values: Values, keys: Keys) -> bool:
    parent = value_at(values, keys[:-1])
    return isinstance(parent, dict) and keys[-1] in parent


def _paths() -> Iterator[tuple[str, Keys, type[BaseModel], str]]:
    """Find one path for every field of the models, in the first stack that sets it."""
    listed: set[tuple[type[BaseModel], str]] = set()
    for stack, values in STACKS.items():
        sections = {name: values[name] for name in SECTIONS if name in values}
        loaded = {name: SECTIONS[name].model_validate(raw) for name, raw in sections.items()}
        for keys, model, name in _fields(loaded, ()):
            if _has(values, keys) and (model, name) not in listed:
                listed.add((model, name))
                yield stack, keys, model, name


PATHS = list(_paths())
OPTIONAL = [entry for entry in PATHS if not entry[2].model_fields[entry[3]].is_required()]


def _id(entry: tuple[str, Keys, type[BaseModel], str]) -> str:
    return f"{entry[2].__name__}.{entry[3]}"


def _edited(stack: str, keys: Keys, *, null: bool) -> Values:
    values = deepcopy(STACKS[stack])
    parent = value_at(values, keys[:-1])
    assert isinstance(parent, dict)
    if null:
        parent[keys[-1]] = None
    else:
        del parent[keys[-1]]
    return values


def _rounds() -> Iterator[tuple[str, list[Keys]]]:
    """Choose one optional key of each section at a time, until all have been chosen."""
    for stack in STACKS:
        sections: dict[str, list[Keys]] = {}
        for owner, keys, _, _ in OPTIONAL:
            if owner == stack and keys[0] not in ("istio", "mesh"):
                sections.setdefault(keys[0], []).append(keys)
        for chosen in zip_longest(*sections.values()):
            yield stack, [keys for keys in chosen if keys]


def _render(config: StackConfig, section: str) -> None:
    """Render all manifests of the mesh or of Istio. Any exception fails the test."""
    mesh, istio = config.mesh, config.istio
    if section == "mesh":
        for name, namespace in mesh.namespaces.items():
            mtls.namespace(name, namespace, kubernetes="1.23.17")
            sidecar.sidecar(name, mesh)
        for name, gateway in mesh.gateways.items():
            gateways.gateway(name, gateway)
        for name, service in mesh.services.items():
            routes.subset_rules(name, service)
            routes.destination_rule(name, service)
            routes.virtual_service(name, service, mesh.gateways.get(service.gateway or ""))
            if service.mtls is not None:
                mtls.service_peer_authentication(name, service, service.mtls)
            if service.callers is not None:
                authorization.authorization_policy(name, mesh.services)
        egress.gateway_objects(mesh.egress)
        for name, host in mesh.egress.hosts.items():
            egress.service_entry(name, host)
            egress.way(name, host, mesh.egress)
        for name, workload in mesh.workloads.items():
            assert istio is not None
            workloads.deployment(name, workload, istio.proxy)
    elif section == "istio":
        assert istio is not None
        istio_operator.control_plane(istio)
        istio_operator.gateways(istio)


def _loaded(load: Load, values: Values) -> StackConfig | ConfigError:
    """Load a stack or return its error; any other exception fails the test."""
    try:
        return load(values)
    except ConfigError as error:
        return error


@pytest.mark.parametrize("stack", STACKS)
def test_the_stacks_are_valid(load: Load, stack: str) -> None:
    assert isinstance(load(STACKS[stack]), StackConfig)


def test_the_stacks_set_every_key_of_the_models() -> None:
    covered = {f"{model.__name__}.{name}" for _, _, model, name in PATHS}
    models = {model for _, _, model, _ in PATHS}
    assert {
        f"{model.__name__}.{name}" for model in models for name in model.model_fields
    } == covered
    described = StackConfig.model_json_schema()["$defs"]
    assert {name for name, model in described.items() if "properties" in model} == {
        model.__name__ for model in models
    }


@pytest.mark.parametrize("entry", OPTIONAL, ids=map(_id, OPTIONAL))
def test_an_optional_key_may_be_removed(
    load: Load, entry: tuple[str, Keys, type[BaseModel], str]
) -> None:
    stack, keys, _, _ = entry
    config = _loaded(load, _edited(stack, keys, null=False))
    if isinstance(config, StackConfig):
        _render(config, keys[0])
        assert list(plan.plan(config))
        list(warnings.warnings(config))


@pytest.mark.parametrize(("stack", "paths"), list(_rounds()))
def test_the_platform_is_made_without_an_optional_key_of_each_section(
    load: Load, stack: str, paths: list[Keys]
) -> None:
    """Any exception fails the test. A section without a key that its stack needs stays complete."""
    configs = {keys[0]: _loaded(load, _edited(stack, keys, null=False)) for keys in paths}
    sections = {
        section: getattr(config, section)
        for section, config in configs.items()
        if isinstance(config, StackConfig)
    }
    if sections:
        run(load(STACKS[stack]).model_copy(update={"mesh": Mesh(), **sections}))


@pytest.mark.parametrize("entry", OPTIONAL, ids=map(_id, OPTIONAL))
def test_a_default_has_the_type_of_its_field(
    entry: tuple[str, Keys, type[BaseModel], str],
) -> None:
    """pydantic does not validate defaults, so an int could be the default of a float."""
    _, _, model, name = entry
    field = model.model_fields[name]
    default = field.get_default(call_default_factory=True)
    if isinstance(default, bool | int | float | str):
        annotation: Any = Annotated[(field.annotation, name, *field.metadata)]
        validated = TypeAdapter[Any](annotation).validate_python(default)
        assert type(validated) is type(default)


# Null is accepted here: it equals a missing key, and removes no protection.
HARMLESS = {"Service.canary"}
# Passed on unchanged: null removes a default, which removes no protection.
PASSED_ON = {
    ("istio", "overlay"),
    ("istio", "values"),
    ("kubernetes", "kubeProxy"),
    ("kubernetes", "kubelet"),
}
# The documentation defines a meaning for null.
DOCUMENTED = {"Host.journal_size"}


@pytest.mark.parametrize("entry", PATHS, ids=map(_id, PATHS))
def test_null_is_refused_at_a_key(
    load: Load, entry: tuple[str, Keys, type[BaseModel], str]
) -> None:
    stack, keys, _, _ = entry
    config = _loaded(load, _edited(stack, keys, null=True))
    if _id(entry) in HARMLESS:
        assert config == load(_edited(stack, keys, null=False))
    elif _id(entry) in DOCUMENTED:
        assert isinstance(config, StackConfig)
    else:
        assert isinstance(config, ConfigError)
        problem = config.problems[0]
        assert problem.path == keys
        assert keys[-1] in problem.what


def _inner(value: object, keys: Keys) -> Iterator[Keys]:
    """List the paths of list items and of mapping entries, at any depth."""
    if isinstance(value, BaseModel):
        for name, field in type(value).model_fields.items():
            yield from _inner(getattr(value, name), (*keys, field.alias or name))
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield (*keys, str(key))
            yield from _inner(inner, (*keys, str(key)))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield (*keys, f"[{index}]")
            yield from _inner(inner, (*keys, f"[{index}]"))


ENTRIES = [
    (stack, keys)
    for stack, values in STACKS.items()
    for name in SECTIONS
    if name in values
    for keys in _inner(SECTIONS[name].model_validate(values[name]), (name,))
    if value_at(values, keys) is not None
]


@pytest.mark.parametrize("entry", ENTRIES, ids=[".".join(keys) for _, keys in ENTRIES])
def test_null_is_refused_as_an_entry(load: Load, entry: tuple[str, Keys]) -> None:
    stack, keys = entry
    values = deepcopy(STACKS[stack])
    parent = value_at(values, keys[:-1])
    if isinstance(parent, list):
        parent[int(keys[-1].strip("[]"))] = None
    else:
        assert isinstance(parent, dict)
        parent[keys[-1]] = None
    config = _loaded(load, values)
    if isinstance(config, ConfigError):
        assert any(problem.path[: len(keys)] == keys for problem in config.problems)
        return
    if keys[:2] == ("mesh", "namespaces"):  # all of its keys have defaults
        filled = deepcopy(STACKS[stack])
        filled["mesh"]["namespaces"][keys[-1]] = {}
        assert config == load(filled)
    else:  # passed on unchanged
        assert keys[:2] in PASSED_ON


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ("mesh.services.checkout.callers", ("[] to allow nobody", "anyone may call it")),
        ("host.firewall.sshFrom", ("every network reaches the nodes' SSH",)),
        ("mesh.services.checkout.canary.gate", ("{} for its defaults", "without a check")),
        ("mesh.services.checkout.timeout", ("or remove timeout",)),
        ("istio.profile", ("to use the default, default",)),
        ("machines.nodes.cp-1.hostKey", ("ssh_host_ed25519_key.pub",)),
        (
            "mesh.egress.hosts.acquirer.namespaces",
            ("set namespaces to the namespaces that may call it",),
        ),
    ],
)
def test_the_error_for_null_proposes_a_value(load: Load, keys: str, words: tuple[str, ...]) -> None:
    error = _loaded(load, _edited("bought", tuple(keys.split(".")), null=True))
    assert isinstance(error, ConfigError)
    (problem,) = error.problems
    assert [word for word in words if word not in problem.fix] == []
