"""Data loss is allowed thing by thing: what an entry changes, and what is refused without it."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.fleet import Fleet, Server

Edit = Callable[[dict[str, Any]], None]
Entry = dict[str, str]

NODES = 3
ADDRESSES = NODES
NETWORK = "198.18.9.0/24"
UP = ("up", "--yes", "--skip-preview")
DESTROY = ("destroy", "--yes", "--skip-preview")


def entries(*things: str) -> list[Entry]:
    """Return the entries for things such as `etcd node-0`."""
    pairs = (thing.split() for thing in things)
    return [{kind: name, "reason": "nobody needs it after this test"} for kind, name in pairs]


def allowing(*things: str, then: Edit | None = None) -> Edit:
    """Return an edit that allows the loss of these things, followed by another edit."""

    def edit(config: dict[str, Any]) -> None:
        config["nordmesh:machines"]["allowDataLoss"] = entries(*things)
        if then is not None:
            then(config)

    return edit


@pytest.fixture
def protected(fleet: Fleet, server: Server) -> Fleet:
    """The fleet with nothing allowed."""
    fleet.write(NODES, allowing())
    fleet.up()
    server.forget()
    return fleet


def resources(fleet: Fleet) -> set[str]:
    """Return the URNs in the state, without the scripts' texts, which each update records."""
    state = json.loads(fleet.run("stack", "export").stdout)
    urns = {str(resource["urn"]) for resource in state["deployment"]["resources"]}
    return {urn for urn in urns if not urn.endswith("::scripts")}


EVERYTHING = [
    "etcd node-0",
    "volumes node-1",
    "volumes node-2",
    "namespace istio-system",
    "namespace shop",
]


@pytest.mark.parametrize(
    ("thing", "scripts"),
    [
        ("etcd node-0", []),
        ("volumes node-2", [("node-0", "node-ready.sh"), ("node-2", "kubeadm-join.sh")]),
        ("namespace shop", []),
        ("namespace istio-system", []),
        ("identities cluster.local", []),
    ],
)
def test_an_entry_runs_the_scripts_of_its_thing_only(
    protected: Fleet, server: Server, thing: str, scripts: list[tuple[str, str]]
) -> None:
    protected.write(NODES, allowing(thing))
    touched = protected.up().touched
    print(f"\n{thing}: {len(touched)} updates")
    assert sorted(server.ran) == scripts
    assert len(touched) == len(scripts)
    assert {operation for operation, _, _ in touched} <= {"update"}


def remove_section(config: dict[str, Any]) -> None:
    for section in ("istio", "demo", "observability"):
        config.pop(f"nordmesh:{section}", None)
    namespaces = config["nordmesh:mesh"]["namespaces"]
    config["nordmesh:mesh"] = {"namespaces": {name: {"injection": False} for name in namespaces}}


def remove_namespace(config: dict[str, Any]) -> None:
    config["nordmesh:demo"] = {"enabled": False}
    mesh = config["nordmesh:mesh"]
    mesh["services"], mesh["namespaces"] = {}, {}


def change_identities(config: dict[str, Any]) -> None:
    config["nordmesh:istio"]["trustDomain"] = "prod.example.internal"


@pytest.mark.parametrize(
    ("edit", "thing", "message"),
    [
        (remove_section, "namespace istio-system", "namespace-istio-system"),
        (remove_namespace, "namespace shop", "shop"),
        (change_identities, "identities cluster.local", "nordmesh:istio.trustDomain [identities-"),
    ],
)
def test_a_loss_is_refused_until_an_entry_names_it(
    protected: Fleet, server: Server, edit: Edit, thing: str, message: str
) -> None:
    before = resources(protected)
    protected.write(NODES, allowing(then=edit))
    refused = protected.run("preview")
    assert refused.returncode != 0
    assert message in refused.stdout, refused.stdout
    assert "Traceback" not in refused.stdout
    protected.write(NODES, allowing(thing))
    protected.up()
    server.forget()
    protected.write(NODES, allowing(thing, then=edit))
    allowed = protected.run("preview")
    assert allowed.returncode == 0, allowed.stdout
    assert server.ran == []
    assert resources(protected) == before


def test_the_mesh_is_not_replaced_until_an_entry_names_it(protected: Fleet, server: Server) -> None:
    state = json.loads(protected.run("stack", "export").stdout)
    urns = [resource["urn"] for resource in state["deployment"]["resources"]]
    (mesh,) = (urn for urn in urns if urn.endswith("::istio-install"))
    refused = protected.run(*UP, "--replace", mesh)
    assert refused.returncode != 0
    assert "protect" in refused.stdout
    assert server.ran == []


def patched_again(patch: dict[str, Any]) -> Callable[[list[dict[str, Any]]], None]:
    """Put a patch of an object back into a state; a fleet has no API server to apply it again."""

    def edit(state: list[dict[str, Any]]) -> None:
        left = {resource["urn"] for resource in state}
        of_keys = patch.get("propertyDependencies") or {}
        state.append(
            {
                **patch,
                "dependencies": [urn for urn in patch["dependencies"] if urn in left],
                "propertyDependencies": {
                    key: [urn for urn in urns if urn in left] for key, urns in of_keys.items()
                },
            }
        )

    return edit


def test_a_node_that_is_gone_can_be_removed_from_the_state(
    protected: Fleet, server: Server
) -> None:
    urns = resources(protected)
    state = json.loads(protected.run("stack", "export").stdout)["deployment"]["resources"]
    (patch,) = (resource for resource in state if resource["type"].endswith(":DeploymentPatch"))
    (gone,) = (urn for urn in urns if urn.endswith("::node-2-prepare"))
    deleted = protected.run("state", "delete", "--force", "--target-dependents", "--yes", gone)
    assert deleted.returncode == 0, deleted.stdout + deleted.stderr
    protected.change_state(patched_again(patch))
    protected.write(NODES - 1, allowing())
    created = [(op, kind) for op, kind, _ in protected.up().touched if op != "delete"]
    assert set(created) == {("create", "nordmesh:platform:Protection")}
    assert server.ran == []
    protected.write(NODES, allowing())
    protected.up()


@pytest.mark.parametrize("missing", ["etcd node-0", "volumes node-2"])
def test_a_refused_destroy_keeps_every_machine_and_the_whole_state(
    protected: Fleet, server: Server, missing: str
) -> None:
    protected.write(NODES, allowing(*(thing for thing in EVERYTHING if thing != missing)))
    protected.up()
    before = resources(protected)
    server.forget()
    result = protected.run(*DESTROY)
    assert result.returncode != 0
    assert "cannot be deleted" in result.stdout
    lost = before - resources(protected)
    print(f"\nwithout {missing}: {len(server.ran)} scripts ran, {len(lost)} of {len(before)} lost")
    assert server.ran == []
    assert lost == set()
