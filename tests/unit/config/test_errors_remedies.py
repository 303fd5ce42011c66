"""Fixes that errors propose: they are valid, and open no more than the original value."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from config import Section, StackConfig
from config.base import STACK_FILE, Unlimited
from config.errors import ConfigError, KeyPath, Problem
from config.faults import Fault
from config.sections import SECTIONS
from tests.support.mistakes import mistakes
from tests.support.remedies import followed
from tests.unit.config import (
    test_errors,
    test_errors_access,
    test_errors_gates,
    test_errors_host,
    test_errors_istio,
    test_errors_observability,
    test_errors_preflight,
    test_errors_private,
    test_errors_routes,
)
from tests.unit.config.test_errors import Wrong, edited, refusal
from tests.unit.config.test_errors_access import access_stack as access_stack
from tests.unit.config.test_errors_observability import observed as observed
from tests.unit.config.test_every_key import STACKS

Values = dict[str, Any]
Load = Callable[[Values], StackConfig]

CHECKOUT = "mesh.services.checkout"


@pytest.mark.parametrize(
    "edit",
    [
        {f"{CHECKOUT}.callers": [{"gateway": "istio-ingressgateway", "methods": "GET"}]},
        {f"{CHECKOUT}.exportTo": "shop"},
        {f"{CHECKOUT}.canary.steps": "5,25"},
        {"host": {"firewall": {"sshFrom": "192.0.2.0/24"}}},
        {"istio.egressGateways": {"edge": {"ports": 443}}},
        {"mesh.egress": {"hosts": {"x": {"namespaces": "shop"}}}},
    ],
    ids=str,
)
def test_no_value_is_proposed_for_a_list(
    load: Load, container_stack: Values, edit: dict[str, object]
) -> None:
    """[] would mean all, and an example would mean something else."""
    problems = refusal(load, edited(container_stack, edit)).problems
    (problem,) = (problem for problem in problems if problem.code == "list-expected")
    assert problem.fix.startswith("use a list: each entry")


def test_a_network_is_proposed_for_a_single_address(load: Load, existing_stack: Values) -> None:
    edit: dict[str, object] = {"host": {"firewall": {"apiFrom": ["192.0.2.5"]}}}
    (problem,) = refusal(load, edited(existing_stack, edit)).problems
    assert problem.fix == "use 192.0.2.5/32 for it alone"
    assert load(
        edited(
            existing_stack, {"host": {"firewall": {"apiFrom": ["192.0.2.0/24", "192.0.2.5/32"]}}}
        )
    )


@pytest.mark.parametrize(
    ("value", "proposal"),
    [
        (True, 'use "true"'),
        (1, 'use "1"'),
        (1.1, 'put it in quotes, with all its digits, for example "1.1"'),
    ],
)
def test_quotes_are_proposed_for_a_value_that_yaml_converted(
    load: Load, container_stack: Values, value: object, proposal: str
) -> None:
    (problem,) = refusal(load, edited(container_stack, {f"{CHECKOUT}.stable": value})).problems
    assert proposal in problem.fix


# --- every proposal is followed


def section_of(name: str, values: Values) -> Section | list[Problem]:
    """A section of a stack by its own model, or the problems of its values."""
    model = SECTIONS[name]
    try:
        return model.model_validate(values[name], by_alias=True, by_name=False, context=STACK_FILE)
    except ValidationError as error:
        return [Fault.of(name, model, detail).problem() for detail in error.errors()]


def open_doors(value: object, path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    """The keys that are absent or empty, so that more is allowed, and what their absence allows."""
    if isinstance(value, BaseModel):
        for name, field in type(value).model_fields.items():
            below = (*path, field.alias or name)
            inner = getattr(value, name)
            for mark in field.metadata:
                if isinstance(mark, Unlimited) and (inner is None or inner == []):
                    yield below, mark.allows
            yield from open_doors(inner, below)
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from open_doors(inner, (*path, str(key)))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from open_doors(inner, (*path, f"[{index}]"))


GOOD_DOORS = {
    (stack, name): set(open_doors(section_of(name, values), (name,)))
    for stack, values in STACKS.items()
    for name in SECTIONS
    if name in values
}


def test_every_proposal_for_a_generated_mistake_is_accepted() -> None:
    """By the models, and nothing is open that was closed, unless the fix says so."""
    count = total = 0
    for mistake in mistakes():
        name = mistake.keys[0]
        before = section_of(name, mistake.values)
        problems = before if isinstance(before, list) else []
        for problem in problems:
            total += 1
            for values in followed(mistake.values, problem):
                count += 1
                case = f"{'.'.join(mistake.keys)} {mistake.what}: {problem.fix}"
                if name not in values:
                    continue  # the section was removed
                after = section_of(name, values)
                if isinstance(after, list):
                    known = {(other.path, other.code) for other in problems} - {
                        (problem.path, problem.code)
                    }
                    left = [
                        other
                        for other in after
                        if other.path[: len(problem.path)] == problem.path
                        and (other.path, other.code) not in known
                    ]
                    assert left == [], f"{case}\n{left[0]}"
                elif mistake.what != "removed" and not mistake.what.startswith("renamed"):
                    opened = set(open_doors(after, (name,))) - GOOD_DOORS[mistake.stack, name]
                    silent = [
                        path
                        for path, allows in opened
                        if path == mistake.keys[: len(path)] and allows not in problem.fix
                    ]
                    assert silent == [], f"{case}\n{silent}"
    print(f"{count} proposals for {total} problems of generated mistakes were followed")
    assert count > 5000


def problems_of(load: Load, values: Values) -> tuple[Problem, ...]:
    try:
        load(values)
    except ConfigError as error:
        return error.problems
    return ()


def with_sections(values: Values) -> Values:
    """A stack with the sections that the edits of some tables need."""
    kubernetes = {"kubelet": {}, **values["kubernetes"]}
    preflight: Values = {"limits": {}, "override": {}}
    return {
        "host": {"firewall": {}, "ssh": {}},
        "preflight": preflight,
        **values,
        "kubernetes": kubernetes,
    }


TABLES: list[tuple[str, list[Wrong]]] = [
    ("container_stack", test_errors.CONTAINER),
    ("existing_stack", test_errors.EXISTING),
    ("access_stack", test_errors_access.HOSTS),
    ("access_stack", test_errors_access.ACCESS),
    ("access_stack", test_errors_access.SIZES),
    ("container_stack", test_errors_gates.WRONG),
    ("existing_stack", test_errors_host.WRONG),
    ("container_stack", test_errors_istio.WRONG),
    ("observed", test_errors_observability.ALL),
    ("container_stack", test_errors_preflight.WRONG),
    ("existing_stack", test_errors_private.WRONG),
    ("container_stack", test_errors_routes.WRONG),
]


with_each_table = pytest.mark.parametrize(
    ("base", "table"), TABLES, ids=[f"{n}-{x[0]}" for n, x in enumerate(TABLES)]
)


def refused(
    load: Load, base: Values, table: list[Wrong]
) -> Iterator[tuple[Wrong, Values, Problem]]:
    """Each problem of each stack of a table, with the stack's values."""
    for wrong in table:
        values = edited(with_sections(base), wrong.edit)
        for problem in refusal(load, values).problems:
            yield wrong, values, problem


@with_each_table
def test_every_proposal_of_a_table_is_accepted(
    load: Load, request: pytest.FixtureRequest, base: str, table: list[Wrong]
) -> None:
    """By the whole program: the stack loads, or has no new problem at the same key."""
    count = 0
    for wrong, values, problem in refused(load, request.getfixturevalue(base), table):
        for corrected in followed(values, problem):
            count += 1
            case = f"{wrong.name}: {problem.fix}"
            left = [
                other
                for other in problems_of(load, corrected)
                if other.path[: len(problem.path)] == problem.path
            ]
            assert left == [], f"{case}\n{left[0]}"
    print(f"{count} proposals for {len(table)} errors were followed")
