"""A run that would remove something protected deletes nothing at all, also without a preview."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.fleet import Fleet, Server, guests

NODES, HYPERVISOR = 3, 5
ADDRESSES = HYPERVISOR + 1
NETWORK = "198.18.10.0/24"
UP = ("up", "--yes", "--skip-preview")
DESTROY = ("destroy", "--yes", "--skip-preview")

Values = dict[str, Any]
Edit = Callable[[Values], None]


@dataclass(frozen=True)
class Stack:
    """A deployed stack, none of whose things may be lost."""

    fleet: Fleet
    base: Edit

    def restore(self) -> set[str]:
        """Deploy the stack as it was; return the URNs of its resources."""
        self.write()
        self.fleet.up()
        return resources(self.fleet)

    def write(self, *edits: Edit) -> None:
        def edit(config: Values) -> None:
            self.base(config)
            config["nordmesh:machines"]["allowDataLoss"] = []
            for change in edits:
                change(config)

        self.fleet.write(NODES, edit)


def deployed(directory: Path, server: Server, base: Edit, **machines: Any) -> Stack:
    fleet = Fleet(directory, server)
    fleet.deploy(NODES, base, **machines)
    return Stack(fleet, base)


@pytest.fixture(scope="module")
def with_guests(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Stack:
    """A stack with guests, a namespace and metrics on a volume."""

    def edit(config: Values) -> None:
        guests(server, NODES, HYPERVISOR)(config)
        config["nordmesh:mesh"]["namespaces"]["store"] = {"mtls": "STRICT"}
        storage = {"storageClass": "local-path"}
        config["nordmesh:observability"] = {"prometheus": {"enabled": True, "storage": storage}}
        config["nordmesh:mesh"]["namespaces"]["spare"] = {"mtls": "STRICT"}

    server.names[HYPERVISOR] = "hv"
    directory = tmp_path_factory.mktemp("guests")
    return deployed(directory, server, edit, hypervisors={"hv": HYPERVISOR})


@pytest.fixture(scope="module")
def bought(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Stack:
    """A stack of bought machines with the demo."""

    def edit(config: Values) -> None:
        config["nordmesh:mesh"]["namespaces"]["spare"] = {"mtls": "STRICT"}

    return deployed(tmp_path_factory.mktemp("bought"), server, edit)


def resources(fleet: Fleet) -> set[str]:
    """Return the URNs in the state."""
    state = json.loads(fleet.run("stack", "export").stdout)
    return {str(resource["urn"]) for resource in state["deployment"]["resources"]}


def remove_namespace(config: Values) -> None:
    del config["nordmesh:mesh"]["namespaces"]["store"]


def remove_busy_namespace(config: Values) -> None:
    config["nordmesh:demo"] = {"enabled": False}
    config["nordmesh:mesh"]["services"] = {}
    del config["nordmesh:mesh"]["namespaces"]["shop"]


def remove_mesh(config: Values) -> None:
    for section in ("istio", "demo", "mesh"):
        config.pop(f"nordmesh:{section}", None)


def remove_metrics(config: Values) -> None:
    del config["nordmesh:observability"]


def remove_guest(config: Values) -> None:
    del config["nordmesh:machines"]["nodes"]["node-2"]


def delete_something_else(config: Values) -> None:
    """Delete the mode of a namespace, which nothing protects."""
    config["nordmesh:mesh"]["namespaces"]["spare"] = {}


@pytest.mark.parametrize(
    ("stack", "removal", "things"),
    [
        ("with_guests", remove_namespace, {"namespace-store"}),
        ("with_guests", remove_metrics, {"namespace-monitoring"}),
        ("with_guests", remove_guest, {"disk-node-2"}),
        ("bought", remove_busy_namespace, {"namespace-shop"}),
        (
            "bought",
            remove_mesh,
            {"namespace-istio-system", "namespace-shop", "namespace-spare"},
        ),
    ],
)
def test_an_update_that_removes_a_protected_thing_deletes_nothing(
    request: pytest.FixtureRequest,
    server: Server,
    stack: str,
    removal: Edit,
    things: set[str],
) -> None:
    made: Stack = request.getfixturevalue(stack)
    before = made.restore()
    server.forget()
    made.write(delete_something_else, removal)
    result, steps = made.fleet.steps(*UP)
    begun = {step["urn"].rpartition("::")[2] for step in steps if step["op"] == "delete"}
    lost = before - resources(made.fleet)
    print(f"\n{removal.__name__}: began to delete {begun}, lost {len(lost)}")
    assert result.returncode != 0
    assert "because it is protected" in result.stdout, result.stdout
    assert begun <= things, result.stdout
    assert lost == set()
    assert {file for _, file in server.ran} <= {"node-prepare.sh", "istio-rollout.sh"}


@pytest.mark.parametrize(
    "arguments",
    [
        ("--exclude-protected",),
        ("--target", "**::store", "--target-dependents"),
        ("--target", "**::node-2-ready", "--target-dependents"),
    ],
    ids=["exclude-protected", "namespace", "node"],
)
def test_a_destroy_of_a_protected_thing_deletes_nothing(
    with_guests: Stack, server: Server, arguments: tuple[str, ...]
) -> None:
    before = with_guests.restore()
    server.forget()
    result = with_guests.fleet.run(*DESTROY, *arguments)
    lost = before - resources(with_guests.fleet)
    print(f"\n{arguments}: status {result.returncode}, lost {len(lost)}")
    assert lost == set(), result.stdout
    assert server.ran == []
