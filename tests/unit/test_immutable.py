"""Which edits of a running stack are refused, and which are not."""

import asyncio
import copy
from collections.abc import Callable, Iterator
from typing import Any

import pulumi
import pytest

from components.immutable import Facts, Immutable, facts, judge, made_with
from components.node_command import settings
from config import StackConfig
from config.errors import NordmeshError
from tests.support import kvm_stack
from tests.support.mocked import HOST_KEY, Recorder, base_sections, run

Edit = Callable[[dict[str, Any]], None]

OTHER_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMzNsUV9RQZwmrc4raNm0Y4aFxMRzNjLZVZzGXBzMKhw"
ROTATION = {"previous": HOST_KEY, "reason": "sshd's keys were made anew on the same machine"}
NODES = ["cp-1", "worker-1"]


def bought() -> dict[str, Any]:
    """Two bought machines."""
    return copy.deepcopy(base_sections())


def guests() -> dict[str, Any]:
    """A guest on each of two hypervisors."""
    return bought() | {"machines": kvm_stack.machines()}


def stack(sections: dict[str, Any], edit: dict[str, Any]) -> StackConfig:
    """The sections with values at paths; None takes a key out."""
    sections = copy.deepcopy(sections)
    for path, value in edit.items():
        *above, key = path.split(".")
        section = sections
        for name in above:
            section = section.setdefault(name, {})
        if value is None:
            del section[key]
        else:
            section[key] = value
    return StackConfig.model_validate(sections)


def refused(sections: dict[str, Any], edit: dict[str, Any]) -> set[str]:
    """The paths that are refused on nodes that were made with the sections."""
    before, after = stack(sections, {}), stack(sections, edit)
    return {
        problem.key.removeprefix("nordmesh:")
        for name in after.machines.nodes
        if name in before.machines.nodes
        for problem in judge(after, name, facts(before, name))
    }


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("machines.nodes.cp-1.address", "192.0.2.12"),
        ("machines.nodes.cp-1.hostKey", OTHER_KEY),
        ("machines.nodes.worker-1.address", "192.0.2.22"),
        ("machines.nodes.worker-1.hostKey", OTHER_KEY),
        ("machines.nodes.worker-1.architecture", "arm64"),
        ("kubernetes.clusterName", "bergen"),
        ("kubernetes.version", "1.23.16"),
        ("kubernetes.endpoint", "api.bergen.example.internal"),
        ("kubernetes.podCidr", "10.32.0.0/16"),
        ("kubernetes.serviceCidr", "10.112.0.0/12"),
        ("kubernetes.cgroupDriver", "cgroupfs"),
        ("kubernetes.kubelet.maxPods", 50),
        ("kubernetes.kubelet.kubeReserved", {"cpu": "1"}),
        ("kubernetes.kubeProxy.mode", "ipvs"),
    ],
)
def test_what_a_cluster_of_bought_machines_was_made_with(path: str, value: object) -> None:
    assert refused(bought(), {path: value}) == {path}


@pytest.mark.parametrize(
    "edit",
    [
        {},
        {"machines.nodes.cp-1.user": "deploy", "machines.nodes.cp-1.port": 2222},
        {"machines.ssh": {"bastion": {"address": "192.0.2.9", "hostKey": OTHER_KEY}}},
        {"machines.allowDataLoss": True},
        {"machines.nodes.worker-1": None},
        {"machines.nodes.cp-1.hostKey": OTHER_KEY, "machines.nodes.cp-1.hostKeyRotation": ROTATION},
        {"kubernetes.restrictOomScoreAdj": True},
    ],
)
def test_what_can_change(edit: dict[str, Any]) -> None:
    assert refused(bought(), edit) == set()


def test_a_rotation_is_of_one_key() -> None:
    path = "machines.nodes.cp-1"
    rotation = {**ROTATION, "previous": OTHER_KEY}
    edit = {f"{path}.hostKey": kvm_stack.PUBLIC_KEY, f"{path}.hostKeyRotation": rotation}
    assert refused(bought(), edit) == {f"{path}.hostKey"}


@pytest.mark.parametrize("allowed", [False, True])
def test_a_control_plane_under_another_name(allowed: bool) -> None:
    node = bought()["machines"]["nodes"]["cp-1"]
    edit = {
        "machines.nodes.cp-1": None,
        "machines.nodes.cp-2": node,
        "machines.allowDataLoss": allowed,
    }
    assert refused(bought(), edit) == {"machines.nodes.cp-1"}


def test_the_roles_swapped() -> None:
    edit = {
        "machines.nodes.cp-1.role": "worker",
        "machines.nodes.worker-1.role": "control-plane",
    }
    roles = {"machines.nodes.cp-1.role", "machines.nodes.worker-1.role"}
    assert roles <= refused(bought(), edit)


def test_another_provider() -> None:
    edit = {"machines": kvm_stack.machines()}
    edit["machines"]["nodes"]["worker-1"] = bought()["machines"]["nodes"]["worker-1"]
    edit["machines"]["nodes"]["cp-1"]["address"] = "192.0.2.11"
    assert refused(bought(), edit) == {"machines.nodes.cp-1.provider"}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("machines.hypervisors.hv-1.directory", "/srv/guests"),
        ("machines.hypervisors.hv-2.directory", "/srv/guests"),
        ("machines.hypervisors.hv-1.hostKey", OTHER_KEY),
        ("machines.nodes.cp-1.hypervisor", "hv-2"),
        ("machines.nodes.worker-1.hypervisor", "hv-1"),
        ("machines.kvm.prefix", "oslo-"),
    ],
)
def test_what_guests_were_made_with(path: str, value: object) -> None:
    assert refused(guests(), {path: value}) == {path}


def test_a_hypervisor_with_its_key_at_another_address() -> None:
    assert refused(guests(), {"machines.hypervisors.hv-1.address": "192.0.2.4"}) == set()


def test_a_hypervisor_with_a_new_key() -> None:
    path = "machines.hypervisors.hv-1"
    rotation = {**ROTATION, "previous": kvm_stack.HYPERVISOR_KEYS[0]}
    edit = {f"{path}.hostKey": OTHER_KEY, f"{path}.hostKeyRotation": rotation}
    assert refused(guests(), edit) == set()


@pytest.mark.parametrize("node", NODES)
def test_a_guest_is_made_anew_if_that_is_allowed_but_never_a_control_plane(node: str) -> None:
    moved = {"cp-1": ("hv-2", "198.51.100.32"), "worker-1": ("hv-1", "192.0.2.32")}
    hypervisor, address = moved[node]
    edit = {
        f"machines.nodes.{node}.hypervisor": hypervisor,
        f"machines.nodes.{node}.address": address,
        "machines.allowDataLoss": True,
    }
    both = {f"machines.nodes.{node}.hypervisor", f"machines.nodes.{node}.address"}
    assert refused(guests(), edit) == (both if node == "cp-1" else set())


def test_a_hypervisor_that_is_gone() -> None:
    edit = {
        "machines.hypervisors.hv-2": None,
        "machines.nodes.worker-1.hypervisor": "hv-1",
        "machines.nodes.worker-1.address": "192.0.2.32",
    }
    paths = {"machines.nodes.worker-1.hypervisor", "machines.nodes.worker-1.address"}
    assert refused(guests(), edit) == paths


def test_an_error_has_the_old_value_the_new_one_and_a_way_out() -> None:
    edit = {"machines.nodes.cp-1.hostKey": OTHER_KEY}
    (problem,) = judge(stack(bought(), edit), "cp-1", facts(stack(bought(), {}), "cp-1"))
    assert HOST_KEY in problem.what
    assert OTHER_KEY in problem.what
    assert "empty cluster" in problem.why
    assert f'hostKeyRotation: {{previous: "{HOST_KEY}"' in problem.fix


# --- what scripts show ---------------------------------------------------------------------------


def shown(recorder: Recorder, script: str) -> Facts:
    """What a script's command shows."""
    inputs = recorder.inputs("remote:Command", script)
    return made_with(inputs["connection"], settings(inputs["create"]))


@pytest.mark.parametrize(
    ("sections", "scripts"),
    [
        (bought(), {"cp-1": "cp-1-init", "worker-1": "worker-1-join"}),
        (guests(), {"cp-1": "cp-1-guest", "worker-1": "worker-1-guest"}),
    ],
)
def test_scripts_show_what_they_were_made_with(
    sections: dict[str, Any], scripts: dict[str, str]
) -> None:
    config = stack(sections, {})
    recorder, _ = run(config, ssh_key=kvm_stack.private_key())
    for node, script in scripts.items():
        before = shown(recorder, script)
        assert before.items() <= facts(config, node).items()
        assert list(judge(config, node, before)) == []
        if not script.endswith("-guest"):
            assert {f"machines.nodes.{node}.{key}" for key in ("address", "hostKey")} <= set(before)
    assert shown(recorder, scripts["cp-1"]).keys() & {
        "kubernetes.podCidr",
        "machines.hypervisors.hv-1.directory",
    }


# --- the hook ------------------------------------------------------------------------------------


Judge = Callable[[str, str, dict[str, Any], dict[str, Any]], None]


@pytest.fixture
def hook() -> Iterator[Callable[[StackConfig], Judge]]:
    """Judges updates of resources: kind, name, old inputs, old outputs."""
    with asyncio.Runner() as runner:

        async def make(config: StackConfig) -> pulumi.ResourceHook:
            hooks = Immutable(config).hooks.before_update
            await asyncio.sleep(0)  # they are registered
            assert hooks is not None
            (made,) = hooks
            assert isinstance(made, pulumi.ResourceHook)
            assert made.opts is not None
            assert made.opts.on_dry_run
            return made

        def judging(config: StackConfig) -> Judge:
            made = runner.run(make(config))

            def call(kind: str, name: str, inputs: dict[str, Any], outputs: dict[str, Any]) -> None:
                args = pulumi.ResourceHookArgs(
                    urn="", id="", name=name, type=kind, old_inputs=inputs, old_outputs=outputs
                )
                runner.run(made.callback(args))  # type: ignore[arg-type]

            return call

        yield judging


@pytest.fixture
def recorded() -> Recorder:
    recorder, _ = run(stack(bought(), {}))
    return recorder


@pytest.mark.parametrize("outputs", [{}, {"member": "cp-1-init-id"}])
def test_a_node_can_change_until_it_is_a_member(
    recorded: Recorder, hook: Callable[[StackConfig], Judge], outputs: dict[str, str]
) -> None:
    inputs = recorded.inputs("node:Node", "cp-1")
    judged = hook(stack(bought(), {"machines.nodes.cp-1.address": "192.0.2.12"}))
    if not outputs:
        judged("nordmesh:node:Node", "cp-1", inputs, outputs)
        return
    with pytest.raises(NordmeshError, match=r"nodes\.cp-1\.address"):
        judged("nordmesh:node:Node", "cp-1", inputs, outputs)


def test_a_node_of_an_earlier_release_is_judged_by_its_script(
    recorded: Recorder, hook: Callable[[StackConfig], Judge]
) -> None:
    judged = hook(stack(bought(), {"machines.nodes.cp-1.address": "192.0.2.12"}))
    judged("nordmesh:node:Node", "cp-1", {}, {})
    inputs = recorded.inputs("remote:Command", "cp-1-init")
    with pytest.raises(NordmeshError, match=r"nodes\.cp-1\.address"):
        judged("command:remote:Command", "cp-1-init", inputs, {})


def test_an_error_of_several_resources_is_shown_once(
    recorded: Recorder, hook: Callable[[StackConfig], Judge]
) -> None:
    judged = hook(stack(bought(), {"machines.nodes.cp-1.address": "192.0.2.12"}))
    texts = []
    for name in NODES:
        with pytest.raises(NordmeshError) as caught:
            judged("nordmesh:node:Node", name, recorded.inputs("node:Node", name), {"member": "id"})
        texts.append(str(caught.value))
    assert [text.count("nordmesh:machines.nodes.cp-1.address") for text in texts] == [1, 0]
