"""Empty lists of a stack file: refused where no list means all, because [] reads as nobody."""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

import pytest

from config import changes
from config.errors import KeyPath, Problem
from config.faults import value_at
from config.sections import SECTIONS
from tests.unit.config.test_errors import refusal
from tests.unit.config.test_errors_remedies import section_of
from tests.unit.config.test_every_key import STACKS
from tests.unit.conftest import Load, Values

_ROLES = ("deployer", "operator", "viewer")
_SUBJECTS = ("groups", "oidcGroups", "oidcUsers", "users")
# Empty, these allow nothing that another value would refuse.
HARMLESS = {
    **{f"access.roles.{role}": "nobody has the role" for role in _ROLES},
    **{f"access.roles.{role}.[].{key}": "none of these" for role in _ROLES for key in _SUBJECTS},
    "artifacts.proxy.direct": "everything goes through the proxy",
    "host.timeServers": "the distribution's",
    "machines.allowDataLoss": "nothing may be lost",
    "machines.hypervisors.*.network.nameservers": "guests ask the hypervisor",
    "machines.kvm.authorizedKeys": "nobody else logs in",
    "machines.nodes.*.pinnedCpus": "no dedicated cores",
    "machines.nodes.*.taints": "no further taint",
    "machines.pools.*.taints": "no further taint",
    "mesh.egress.hosts.*.addresses": "proxies ask DNS",
    "mesh.gateways.*.jwt.openPaths": "every path needs a token",
    "mesh.namespaces.*.calls": "no further service is known",
    "mesh.services.*.callers": "nobody may call",
    "mesh.services.*.canary.steps": "no steps",
    "mesh.services.*.hosts": "no further hosts",
    "mesh.services.*.locality.distribute": "no shares",
    "mesh.services.*.locality.failover": "no failover",
    "mesh.services.*.locality.failoverPriority": "no failover",
    "mesh.services.*.paths.[].cors.exposeHeaders": "no header",
    "mesh.services.*.paths.[].cors.headers": "no header",
    "mesh.services.*.paths.[].cors.methods": "no method",
    "mesh.services.*.paths.[].headers.request.remove": "no header",
    "mesh.services.*.paths.[].headers.response.remove": "no header",
    "mesh.services.*.testers": "no testers",
    "mesh.services.*.versions": "no further versions",
}
OPEN = {
    "access.roles.operator.[].namespaces",
    "access.roles.viewer.[].namespaces",
    "host.firewall.apiFrom",
    "host.firewall.sshFrom",
    "istio.ingressGateways.*.expose.nodes",
    "mesh.services.*.callers.[].methods",
    "mesh.services.*.callers.[].paths",
    "mesh.services.*.callers.[].ports",
    "mesh.services.*.exportTo",
    "mesh.services.*.paths",
    "preflight.override.*.nodes",
}


def lists(value: Any, path: KeyPath = ()) -> Iterator[KeyPath]:
    """The paths of the lists in a value."""
    if isinstance(value, list):
        yield path
        for index, entry in enumerate(value):
            yield from lists(entry, (*path, f"[{index}]"))
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield from lists(entry, (*path, str(key)))


def emptied(values: Values, path: KeyPath) -> Values:
    """The stack with one empty list."""
    result = deepcopy(values)
    value_at(result, path[:-1])[path[-1]] = []  # type: ignore[index]
    return result


@pytest.fixture(scope="module")
def problems_of() -> Mapping[str, list[Problem]]:
    """The problems of each list of the stacks that is made empty, by its key; [] if accepted."""
    results: dict[str, list[Problem]] = {}
    for values in STACKS.values():
        for path in lists({name: values[name] for name in SECTIONS if name in values}):
            pattern = changes.of(path)
            assert pattern is not None, path
            section = section_of(path[0], emptied(values, path))
            results[pattern[0]] = section if isinstance(section, list) else []
    return results


def test_every_list_has_a_decision(problems_of: Mapping[str, list[Problem]], load: Load) -> None:
    """Those that the models accept are harmless, or refused by the checks of the whole file."""
    accepted = {key for key, problems in problems_of.items() if not problems}
    refused_together = {"mesh.egress.hosts.*.namespaces", "mesh.egress.hosts.*.ports"}
    assert accepted == HARMLESS.keys() | refused_together
    for key in ("namespaces", "ports"):
        path = ("mesh", "egress", "hosts", "acquirer", key)
        problems = refusal(load, emptied(STACKS["bought"], path)).problems
        assert any(problem.path == path for problem in problems), key


def test_an_empty_list_that_would_mean_all_is_refused(
    problems_of: Mapping[str, list[Problem]],
) -> None:
    """The message says how to write all; where there is a way, also how to write nobody."""
    empty = {
        key: problem
        for key, problems in problems_of.items()
        for problem in problems
        if problem.code == "list-empty"
    }
    assert empty.keys() == OPEN
    for key, problem in empty.items():
        name = key.rpartition(".")[2]
        assert problem.what == f"{name} is an empty list, which could mean all or none"
        assert f"; without {name}, " in problem.fix
    assert "or only the machine that runs Pulumi" in empty["host.firewall.sshFrom"].fix
    assert "or remove the caller to refuse it" in empty["mesh.services.*.callers.[].methods"].fix
    assert "or use [.] for its own namespace" in empty["mesh.services.*.exportTo"].fix
