"""Several control planes under Pulumi's mocks: what is protected, and where scripts run."""

from functools import cache

import pytest

from components.remote.node_command import settings
from tests.support.mocked import Recorder, base_sections, config, node, run
from tests.unit.stacks.test_options import option

PLANES = {"cp-1": "192.0.2.11", "cp-2": "192.0.2.12", "cp-3": "192.0.2.13"}
LIST = "ControlPlanes control-planes"


@cache
def recorded(*, first_ready: str = "", lost: tuple[str, ...] = ()) -> Recorder:
    """Deploy three control planes and a worker. lost: those whose etcd may be lost."""
    nodes = {
        **{name: node("control-plane", address) for name, address in PLANES.items()},
        "worker-1": {**node("worker", "192.0.2.21"), "labels": {"tier": "gold"}},
    }
    entries = [{"etcd": name, "reason": "a test of its entry"} for name in lost]
    machines = {"nodes": nodes, "allowDataLoss": entries}
    with pytest.MonkeyPatch.context() as patch:

        async def ready(addresses: list[str]) -> str:
            return first_ready or addresses[0]

        patch.setattr("components.control_plane.first_ready", ready)
        recorder, _ = run(config(**base_sections() | {"machines": machines}))
    return recorder


def test_one_of_several_control_planes_may_be_deleted_and_the_stack_may_not() -> None:
    protected = set(option(recorded(), "protect"))
    assert {name for name in protected if name.startswith("Command")} == {"Command istio-install"}
    assert "Protection data" in protected
    assert not {name for name in protected if name.startswith("Protection etcd-")}


@pytest.mark.parametrize(("lost", "whole"), [(("cp-1", "cp-2"), True), (tuple(PLANES), False)])
def test_a_destroy_needs_an_entry_for_each_control_plane(
    lost: tuple[str, ...], whole: bool
) -> None:
    nodes = {name: node("control-plane", address) for name, address in PLANES.items()}
    entries = [{"etcd": name, "reason": "a test of its entry"} for name in lost]
    recorder, _ = run(
        config(machines={"nodes": nodes, "allowDataLoss": entries}, istio=None, mesh={})
    )
    assert ("Protection data" in option(recorder, "protect")) == whole


def test_control_planes_leave_one_after_another_and_not_in_a_destroy() -> None:
    options = recorded().options
    needed = {name: options[f"Command {name}-member"]["depends_on"] for name in PLANES}
    assert needed == {
        "cp-1": ["Command cp-1-init"],
        "cp-2": ["Command cp-1-member", "Command cp-2-init"],
        "cp-3": ["Command cp-1-member", "Command cp-2-member", "Command cp-3-init"],
    }
    for name in PLANES:
        assert options[f"Command {name}-member"]["deleted_with"] == LIST


def test_no_control_plane_takes_the_cluster_with_it() -> None:
    deleted_with = option(recorded(), "deleted_with")
    for script in ("worker-1-ready", "istio-install", "istio-rollout"):
        assert deleted_with[f"Command {script}"] == LIST
    # A node that is gone has no labels to remove.
    assert deleted_with["Command worker-1-labels"] == "Command worker-1-join"
    objects = [name for kind, name in recorded().resources if kind.startswith("kubernetes:")]
    assert objects
    kinds = {
        deleted_with[f"{kind.rpartition(':')[2]} {name}"]
        for kind, name in recorded().resources
        if kind.startswith("kubernetes:")
    }
    assert kinds == {LIST}


@pytest.mark.parametrize("plane", ["cp-1", "cp-3"])
def test_scripts_for_the_cluster_run_where_it_answers_and_stay_there(plane: str) -> None:
    recorder = recorded(first_ready=PLANES[plane])
    for script in ("worker-1-labels", "worker-1-ready", "istio-install", "istio-rollout"):
        inputs = recorder.inputs("remote:Command", script)
        assert inputs["connection"]["host"] == PLANES[plane]
        for phase in ("create", "delete"):
            if inputs.get(phase):
                assert settings(inputs[phase])["NODE_NAME"] == plane
    records = {name: recorder.inputs("Stash", name)["input"] for name in recorder.names("Stash")}
    assert records == dict.fromkeys(("worker-1-runner", "istio-runner"), f"{plane}-init-id")
    for name in records:
        assert option(recorder, "ignore_changes")[f"Stash {name}"] == ["input"]


def test_one_control_plane_needs_no_record() -> None:
    recorder, _ = run(config())
    assert recorder.names("Stash") == []
