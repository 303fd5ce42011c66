"""Edits of a running stack: which settings are immutable and which may change."""

import asyncio
import copy
from collections.abc import Callable, Iterator
from typing import Any

import pulumi
import pytest

from components.immutable import Facts, Immutable, facts, judge, made_with
from components.remote.node_command import settings
from config import StackConfig
from config.errors import NordmeshError
from tests.support import kvm_stack
from tests.support.mocked import HOST_KEY, Recorder, base_sections, node, run

Edit = Callable[[dict[str, Any]], None]

OTHER_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMzNsUV9RQZwmrc4raNm0Y4aFxMRzNjLZVZzGXBzMKhw"
ROTATION = {"previous": HOST_KEY, "reason": "sshd's keys were generated again on the same machine"}
NODES = ["cp-1", "worker-1"]
PRIVATE = {"cp-1": "10.0.0.11", "worker-1": "10.0.0.21"}


def bought_sections() -> dict[str, Any]:
    """Sections of a stack with two bought machines."""
    return copy.deepcopy(base_sections())


def guest_sections() -> dict[str, Any]:
    """Sections of a stack with one guest on each of two hypervisors."""
    return bought_sections() | {"machines": kvm_stack.machines()}


def stack(sections: dict[str, Any], edit: dict[str, Any]) -> StackConfig:
    """Load the sections with an edit: values by path, None to remove a key."""
    sections = copy.deepcopy(sections)
    for path, value in edit.items():
        *parents, key = path.split(".")
        section = sections
        for name in parents:
            section = section.setdefault(name, {})
        if value is None:
            del section[key]
        else:
            section[key] = value
    return StackConfig.model_validate(sections)


def refused_paths(sections: dict[str, Any], edit: dict[str, Any]) -> set[str]:
    """The paths that are refused when nodes were created with the unedited sections."""
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
def test_immutable_settings_of_bought_machines(path: str, value: object) -> None:
    assert refused_paths(bought_sections(), {path: value}) == {path}


def private_sections() -> dict[str, Any]:
    """Sections of a stack with two bought machines in a private network."""
    sections = bought_sections()
    for name, address in PRIVATE.items():
        sections["machines"]["nodes"][name]["privateAddress"] = address
    return sections


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("value", ["10.0.0.99", None])
def test_a_private_address_stays(node: str, value: str | None) -> None:
    path = f"machines.nodes.{node}.privateAddress"
    assert refused_paths(private_sections(), {path: value}) == {path}


@pytest.mark.parametrize("node", NODES)
def test_a_private_address_cannot_be_added_to_a_member(node: str) -> None:
    path = f"machines.nodes.{node}.privateAddress"
    assert refused_paths(bought_sections(), {path: PRIVATE[node]}) == {path}


@pytest.mark.parametrize(
    ("edit", "refused"),
    [
        ({}, set()),
        (
            {
                "machines.nodes.cp-1": None,
                "machines.nodes.cp-2": private_sections()["machines"]["nodes"]["cp-1"],
            },
            {"machines.nodes.cp-1"},
        ),
        (
            {"machines.nodes.cp-1.privateAddress": "10.0.0.99"},
            {"machines.nodes.cp-1.privateAddress"},
        ),
    ],
)
def test_a_worker_of_an_earlier_release_has_both_addresses_of_the_control_plane(
    edit: dict[str, Any], refused: set[str]
) -> None:
    path = "machines.nodes.cp-1"
    earlier = {f"{path}.address": "192.0.2.11", f"{path}.privateAddress": PRIVATE["cp-1"]}
    before = {**facts(stack(private_sections(), {}), "worker-1"), **earlier}
    problems = judge(stack(private_sections(), edit), "worker-1", before)
    assert {problem.key.removeprefix("nordmesh:") for problem in problems} == refused


@pytest.mark.parametrize(
    ("node", "value", "phrases"),
    [
        ("worker-1", "10.0.0.22", ("set it back to 10.0.0.21", "remove worker-1 from the file")),
        ("cp-1", "10.0.0.12", ("set it back to 10.0.0.11", "a new cluster in a new stack")),
    ],
)
def test_a_changed_private_address_names_what_works(
    node: str, value: str, phrases: tuple[str, ...]
) -> None:
    before = facts(stack(private_sections(), {}), node)
    edit = {f"machines.nodes.{node}.privateAddress": value}
    (problem,) = judge(stack(private_sections(), edit), node, before)
    assert f"from {PRIVATE[node]} to {value}" in problem.what
    assert [phrase for phrase in phrases if phrase not in problem.fix] == []


def test_a_worker_that_knows_the_control_planes_private_address_is_not_to_be_removed() -> None:
    """A worker of an earlier release has that address: its removal would not help."""
    path = "machines.nodes.cp-1.privateAddress"
    before = {**facts(stack(private_sections(), {}), "worker-1"), path: PRIVATE["cp-1"]}
    (problem,) = judge(stack(private_sections(), {path: "10.0.0.12"}), "worker-1", before)
    assert "a new cluster in a new stack" in problem.fix
    assert "remove" not in problem.fix


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
def test_settings_that_may_change(edit: dict[str, Any]) -> None:
    assert refused_paths(bought_sections(), edit) == set()


def test_a_node_whose_name_has_dots_is_protected_too() -> None:
    dotted, keys = bought_sections(), (OTHER_KEY, kvm_stack.PUBLIC_KEY)
    nodes = dotted["machines"]["nodes"]
    nodes["cp-1.example.com"] = nodes.pop("cp-1") | {"hostKey": keys[0]}
    moved = copy.deepcopy(nodes)
    moved["cp-1.example.com"] |= {"hostKey": keys[1], "address": "192.0.2.12"}
    path = 'machines.nodes["cp-1.example.com"]'
    refused = refused_paths(dotted, {"machines.nodes": moved})
    assert refused == {f"{path}.hostKey", f"{path}.address"}
    rotation = {**ROTATION, "previous": keys[0]}
    moved["cp-1.example.com"] |= {"hostKeyRotation": rotation}
    assert refused_paths(dotted, {"machines.nodes": moved}) == {f"{path}.address"}


def test_a_rotation_is_valid_for_its_previous_key_only() -> None:
    path = "machines.nodes.cp-1"
    rotation = {**ROTATION, "previous": OTHER_KEY}
    edit = {f"{path}.hostKey": kvm_stack.PUBLIC_KEY, f"{path}.hostKeyRotation": rotation}
    assert refused_paths(bought_sections(), edit) == {f"{path}.hostKey"}


RENAMED = {
    "machines.nodes.cp-1": None,
    "machines.nodes.cp-2": bought_sections()["machines"]["nodes"]["cp-1"],
}


@pytest.mark.parametrize(
    ("edit", "refused"),
    [
        (RENAMED, {"machines.nodes.cp-1"}),
        ({**RENAMED, "machines.allowDataLoss": True}, {"machines.nodes.cp-1"}),
        ({"machines.nodes.cp-1.address": "192.0.2.12"}, {"machines.nodes.cp-1.address"}),
        ({}, set()),
        ({"machines.nodes.cp-0": node("control-plane", "192.0.2.10")}, set()),
    ],
)
def test_a_state_of_an_earlier_release_has_the_control_planes_address_with_each_node(
    edit: dict[str, Any], refused: set[str]
) -> None:
    config = stack(bought_sections(), edit)
    earlier = {"machines.nodes.cp-1.address": "192.0.2.11"}
    before = {**facts(stack(bought_sections(), {}), "worker-1"), **earlier}
    problems = judge(config, "worker-1", before)
    assert {problem.key.removeprefix("nordmesh:") for problem in problems} == refused


def test_roles_cannot_be_swapped() -> None:
    edit = {
        "machines.nodes.cp-1.role": "worker",
        "machines.nodes.worker-1.role": "control-plane",
    }
    roles = {"machines.nodes.cp-1.role", "machines.nodes.worker-1.role"}
    assert roles <= refused_paths(bought_sections(), edit)


def test_the_provider_cannot_change() -> None:
    edit = {"machines": kvm_stack.machines()}
    edit["machines"]["nodes"]["worker-1"] = bought_sections()["machines"]["nodes"]["worker-1"]
    edit["machines"]["nodes"]["cp-1"]["address"] = "192.0.2.11"
    assert refused_paths(bought_sections(), edit) == {"machines.nodes.cp-1.provider"}


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
def test_immutable_settings_of_guests(path: str, value: object) -> None:
    assert refused_paths(guest_sections(), {path: value}) == {path}


def test_the_address_of_a_hypervisor_may_change() -> None:
    assert (
        refused_paths(guest_sections(), {"machines.hypervisors.hv-1.address": "192.0.2.4"}) == set()
    )


def test_the_host_key_of_a_hypervisor_may_be_rotated() -> None:
    path = "machines.hypervisors.hv-1"
    rotation = {**ROTATION, "previous": kvm_stack.HYPERVISOR_KEYS[0]}
    edit = {f"{path}.hostKey": OTHER_KEY, f"{path}.hostKeyRotation": rotation}
    assert refused_paths(guest_sections(), edit) == set()


@pytest.mark.parametrize("node", NODES)
def test_only_a_worker_guest_may_move_to_another_hypervisor(node: str) -> None:
    moved = {"cp-1": ("hv-2", "198.51.100.32"), "worker-1": ("hv-1", "192.0.2.32")}
    hypervisor, address = moved[node]
    edit = {
        f"machines.nodes.{node}.hypervisor": hypervisor,
        f"machines.nodes.{node}.address": address,
        "machines.allowDataLoss": True,
    }
    both = {f"machines.nodes.{node}.hypervisor", f"machines.nodes.{node}.address"}
    assert refused_paths(guest_sections(), edit) == (both if node == "cp-1" else set())


def test_a_guest_of_a_removed_hypervisor_cannot_move() -> None:
    edit = {
        "machines.hypervisors.hv-2": None,
        "machines.nodes.worker-1.hypervisor": "hv-1",
        "machines.nodes.worker-1.address": "192.0.2.32",
    }
    paths = {"machines.nodes.worker-1.hypervisor", "machines.nodes.worker-1.address"}
    assert refused_paths(guest_sections(), edit) == paths


def test_an_error_has_the_old_value_the_new_value_and_a_fix() -> None:
    edit = {"machines.nodes.cp-1.hostKey": OTHER_KEY}
    (problem,) = judge(
        stack(bought_sections(), edit), "cp-1", facts(stack(bought_sections(), {}), "cp-1")
    )
    assert HOST_KEY in problem.what
    assert OTHER_KEY in problem.what
    assert "empty cluster" in problem.why
    assert f'hostKeyRotation: {{previous: "{HOST_KEY}"' in problem.fix


# --- facts in the state --------------------------------------------------------------------------


def recorded_facts(recorder: Recorder, script: str) -> Facts:
    """The facts that the command of a script records."""
    inputs = recorder.inputs("remote:Command", script)
    return made_with(inputs["connection"], settings(inputs["create"]))


@pytest.mark.parametrize(
    ("sections", "scripts"),
    [
        (bought_sections(), {"cp-1": "cp-1-init", "worker-1": "worker-1-join"}),
        (private_sections(), {"cp-1": "cp-1-init", "worker-1": "worker-1-join"}),
        (guest_sections(), {"cp-1": "cp-1-guest", "worker-1": "worker-1-guest"}),
    ],
)
def test_scripts_record_the_facts_of_their_node(
    sections: dict[str, Any], scripts: dict[str, str]
) -> None:
    config = stack(sections, {})
    recorder, _ = run(config, ssh_key=kvm_stack.private_key())
    for name, script in scripts.items():
        before = recorded_facts(recorder, script)
        assert before.items() <= facts(config, name).items()
        assert list(judge(config, name, before)) == []
        if not script.endswith("-guest"):
            assert {f"machines.nodes.{name}.{key}" for key in ("address", "hostKey")} <= set(before)
            private = sections["machines"]["nodes"][name].get("privateAddress")
            assert before.get(f"machines.nodes.{name}.privateAddress") == private
    assert recorded_facts(recorder, scripts["cp-1"]).keys() & {
        "kubernetes.podCidr",
        "machines.hypervisors.hv-1.directory",
    }


# --- the hook ------------------------------------------------------------------------------------


Judge = Callable[[str, str, dict[str, Any], dict[str, Any]], None]


@pytest.fixture
def hook() -> Iterator[Callable[[StackConfig], Judge]]:
    """Make a function that runs the hook: type, name, old inputs and old outputs."""
    with asyncio.Runner() as runner:

        async def make(config: StackConfig) -> pulumi.ResourceHook:
            hooks = Immutable(config).hooks.before_update
            await asyncio.sleep(0)  # wait until the hook is registered
            assert hooks is not None
            (update_hook,) = hooks
            assert isinstance(update_hook, pulumi.ResourceHook)
            assert update_hook.opts is not None
            assert update_hook.opts.on_dry_run
            return update_hook

        def make_judge(config: StackConfig) -> Judge:
            update_hook = runner.run(make(config))

            def call(
                type_: str, name: str, inputs: dict[str, Any], outputs: dict[str, Any]
            ) -> None:
                args = pulumi.ResourceHookArgs(
                    urn="", id="", name=name, type=type_, old_inputs=inputs, old_outputs=outputs
                )
                runner.run(update_hook.callback(args))  # type: ignore[arg-type]

            return call

        yield make_judge


@pytest.fixture
def recorded() -> Recorder:
    recorder, _ = run(stack(bought_sections(), {}))
    return recorder


@pytest.mark.parametrize("outputs", [{}, {"member": "cp-1-init-id"}])
def test_a_node_may_change_until_it_is_a_member(
    recorded: Recorder, hook: Callable[[StackConfig], Judge], outputs: dict[str, str]
) -> None:
    inputs = recorded.inputs("node:Node", "cp-1")
    run_hook = hook(stack(bought_sections(), {"machines.nodes.cp-1.address": "192.0.2.12"}))
    if not outputs:
        run_hook("nordmesh:node:Node", "cp-1", inputs, outputs)
        return
    with pytest.raises(NordmeshError, match=r"nodes\.cp-1\.address"):
        run_hook("nordmesh:node:Node", "cp-1", inputs, outputs)


def test_a_node_of_an_older_release_is_checked_by_its_script(
    recorded: Recorder, hook: Callable[[StackConfig], Judge]
) -> None:
    run_hook = hook(stack(bought_sections(), {"machines.nodes.cp-1.address": "192.0.2.12"}))
    run_hook("nordmesh:node:Node", "cp-1", {}, {})
    inputs = recorded.inputs("remote:Command", "cp-1-init")
    with pytest.raises(NordmeshError, match=r"nodes\.cp-1\.address"):
        run_hook("command:remote:Command", "cp-1-init", inputs, {})


def test_an_error_of_several_resources_is_reported_once(
    recorded: Recorder, hook: Callable[[StackConfig], Judge]
) -> None:
    run_hook = hook(
        stack(bought_sections(), {"kubernetes.endpoint": "api.bergen.example.internal"})
    )
    messages = []
    for name in NODES:
        with pytest.raises(NordmeshError) as caught:
            run_hook(
                "nordmesh:node:Node", name, recorded.inputs("node:Node", name), {"member": "id"}
            )
        messages.append(str(caught.value))
    assert [text.count("nordmesh:kubernetes.endpoint") for text in messages] == [1, 0]
