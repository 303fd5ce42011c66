"""Fixes that errors propose: they are valid, and open no more than the original value."""

from collections.abc import Callable
from typing import Any

import pytest

from config import StackConfig
from tests.unit.test_config_errors import edited, refusal

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
    ("value", "proposal"), [(True, 'use "true"'), (1, 'use "1"'), (1.1, "all its digits")]
)
def test_quotes_are_proposed_for_a_value_that_yaml_converted(
    load: Load, container_stack: Values, value: object, proposal: str
) -> None:
    (problem,) = refusal(load, edited(container_stack, {f"{CHECKOUT}.stable": value})).problems
    assert proposal in problem.fix
