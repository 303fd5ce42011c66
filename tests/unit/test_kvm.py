"""Guests: their documents against golden files, their resources, and what changes of them mean."""

import datetime
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from cli.review.preview import parse
from cli.review.summary import summary
from components.machines.growth import judge
from components.manifests import guest
from components.manifests.guest import Guest
from components.node_command import settings
from config import Machines, RoutedNetwork, StackConfig
from config.errors import NordmeshError
from policy.rules import RULES
from policy.stack import Resource, Stack
from tests.support.kvm_stack import HYPERVISOR_KEYS, PUBLIC_KEY, SHA256, machines, private_key
from tests.support.mocked import Recorder, base_sections, changed, run
from tests.unit.previews import change, preview, urn
from tests.unit.test_manifests import check


def stack(**nodes: dict[str, object]) -> StackConfig:
    """The good stack of guests, with changes to its nodes; - in a name is _."""
    section = machines()
    for name, edit in nodes.items():
        section["nodes"][name.replace("_", "-")] |= edit
    return StackConfig.model_validate(base_sections() | {"machines": section})


def guests(section: Machines) -> dict[str, Guest]:
    made = {}
    for name, node in sorted(section.nodes.items()):
        assert node.provider == "kvm"
        made[name] = Guest(
            name=name,
            domain=name,
            folder=f"/var/lib/libvirt/images/nordmesh/{name}",
            node=node,
            hypervisor=section.hypervisors[node.hypervisor],
        )
    return made


GUESTS = guests(stack().machines)


# --- documents -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GUESTS)
def test_domain(name: str) -> None:
    check(f"guest-{name}.xml", guest.domain(GUESTS[name]) + "\n")


def test_routed_network() -> None:
    network = GUESTS["worker-1"].hypervisor.network
    assert isinstance(network, RoutedNetwork)
    check("guest-network.xml", guest.routed_network(network) + "\n")


@pytest.mark.parametrize(("name", "user"), [("cp-1", "root"), ("worker-1", "debian")])
def test_seed(name: str, user: str) -> None:
    made = GUESTS[name]
    data = guest.user_data(
        made, user=user, authorized_keys=[PUBLIC_KEY], host_key=("private\nkey\n", "public key")
    )
    parts = [data, guest.meta_data(made), guest.network_config(made)]
    check(f"guest-seed-{name}.yaml", "---\n".join(parts))
    assert yaml.safe_load(data)["ssh_keys"]["ed25519_private"] == "private\nkey\n"


def test_an_emulated_guest() -> None:
    section = machines()
    section["hypervisors"]["hv-1"]["emulated"] = True
    made = guests(StackConfig.model_validate(base_sections() | {"machines": section}).machines)
    document = ElementTree.fromstring(guest.domain(made["cp-1"]))  # noqa: S314 (made here)
    assert document.get("type") == "qemu"
    assert [cpu.get("mode") for cpu in document.iter("cpu")] == ["maximum"]


def test_the_identity_is_of_the_name_and_the_address() -> None:
    grown = guests(stack(cp_1={"memory": "16Gi"}).machines)["cp-1"]
    moved = guests(stack(cp_1={"address": "192.0.2.32"}).machines)["cp-1"]
    assert (grown.uuid, grown.mac) == (GUESTS["cp-1"].uuid, GUESTS["cp-1"].mac)
    assert moved.uuid != GUESTS["cp-1"].uuid
    assert moved.mac != GUESTS["cp-1"].mac


def test_no_name_can_break_out_of_the_xml() -> None:
    odd = Guest(
        name="x", domain="a</name><b>&'\"", folder="/<>", node=GUESTS["cp-1"].node,
        hypervisor=GUESTS["cp-1"].hypervisor,
    )  # fmt: skip
    document = ElementTree.fromstring(guest.domain(odd))  # noqa: S314 (made here)
    assert document.findtext("name") == odd.domain


# --- resources -----------------------------------------------------------------------------------


def run_with_keys(config: StackConfig) -> Recorder:
    recorder, _ = run(config, ssh_key=private_key())
    return recorder


@pytest.fixture(scope="module")
def recorded() -> Recorder:
    return run_with_keys(stack())


def create(recorded: Recorder, name: str) -> dict[str, str]:
    return settings(recorded.inputs("remote:Command", f"{name}-guest")["create"])


def test_a_guest_is_made_over_ssh_on_its_hypervisor(recorded: Recorder) -> None:
    connection = recorded.inputs("remote:Command", "worker-1-guest")["connection"]
    assert (connection["host"], connection["hostKey"]) == ("192.0.2.3", HYPERVISOR_KEYS[1])
    found = create(recorded, "cp-1")
    assert found["IMAGE_SHA256"] == SHA256
    assert (found["DISK_MIB"], found["ETCD_DISK_MIB"], found["MEMORY_MIB"]) == (
        "40960",
        "10240",
        "8192",
    )
    assert found["NETWORK_XML"] == ""
    assert '<forward mode="route"' in create(recorded, "worker-1")["NETWORK_XML"]


def test_the_guest_shows_the_host_key_that_was_made_for_it(recorded: Recorder) -> None:
    for name in ("cp-1", "worker-1"):
        stdin = recorded.inputs("remote:Command", f"{name}-guest")["stdin"]
        public = yaml.safe_load(stdin)["ssh_keys"]["ed25519_public"]
        connection = recorded.inputs("remote:Command", f"{name}-prepare")["connection"]
        assert connection["hostKey"] == public


def test_the_host_key_is_in_no_command_and_a_secret(recorded: Recorder) -> None:
    assert "stdin" in recorded.secrets("remote:Command", "cp-1-guest")
    stdin = recorded.inputs("remote:Command", "cp-1-guest")["stdin"]
    key = yaml.safe_load(stdin)["ssh_keys"]["ed25519_private"]
    for name in recorded.names("remote:Command"):
        inputs = recorded.inputs("remote:Command", name)
        assert key not in f"{inputs['create']} {inputs.get('delete')}"
    assert PUBLIC_KEY in yaml.safe_load(stdin)["ssh_authorized_keys"]


def test_what_grows_is_one_update(recorded: Recorder) -> None:
    after = run_with_keys(stack(worker_1={"memory": "8Gi", "disk": "40Gi"}))
    assert changed(recorded, after) == ["worker-1-guest"]
    assert triggers(recorded) == triggers(after)


def test_another_place_is_another_machine(recorded: Recorder) -> None:
    moved = stack(worker_1={"hypervisor": "hv-1", "address": "192.0.2.34"})
    after = run_with_keys(moved)
    assert triggers(recorded)["worker-1-guest"] != triggers(after)["worker-1-guest"]
    assert triggers(recorded)["worker-1-host-key"] != triggers(after)["worker-1-host-key"]
    assert triggers(recorded)["cp-1-guest"] == triggers(after)["cp-1-guest"]


def triggers(recorded: Recorder) -> dict[str, Any]:
    return {
        name: args.inputs["triggers"]
        for (_, name), args in recorded.resources.items()
        if args.inputs.get("triggers")
    }


def test_a_slow_machine_has_more_time() -> None:
    section = machines()
    section["hypervisors"]["hv-2"]["emulated"] = True
    slow = run_with_keys(StackConfig.model_validate(base_sections() | {"machines": section}))
    command = slow.inputs("remote:Command", "worker-1-prepare")["create"]
    assert command.startswith("timeout --kill-after=10 9000 bash")
    assert create(slow, "worker-1")["BOOT_SECONDS"] == "900"


# --- changes -------------------------------------------------------------------------------------


def test_growing_is_a_restart_and_said() -> None:
    old, new = (
        create(run_with_keys(stack(cp_1={"memory": size})), "cp-1") for size in ("8Gi", "12Gi")
    )
    message = judge(old, new)
    assert message is not None
    assert message.startswith(
        "cp-1 is shut down and started again to change memory from 8Gi to 12Gi"
    )
    assert judge(old, {**old, "IMAGE_URL": "https://elsewhere.internal/x"}) is None


@pytest.mark.parametrize(
    ("edit", "key", "what"),
    [
        ({"DISK_MIB": "20480"}, "disk", "the disk has 40Gi and would shrink to 20Gi"),
        ({"ETCD_DISK_MIB": "0"}, "etcdDisk", "the disk has 10Gi and would be removed"),
    ],
)
def test_a_disk_does_not_shrink(
    recorded: Recorder, edit: dict[str, str], key: str, what: str
) -> None:
    old = create(recorded, "cp-1")
    with pytest.raises(NordmeshError) as caught:
        judge(old, {**old, **edit})
    assert caught.value.code == "guest-disk-shrinks"
    assert caught.value.path == f"nordmesh:machines.nodes.cp-1.{key}"
    assert caught.value.what == what
    assert caught.value.fix


def test_a_review_says_what_is_restarted_and_what_is_lost(recorded: Recorder) -> None:
    grown = run_with_keys(stack(worker_1={"memory": "8Gi"}))
    of = urn("command:remote:Command", "worker-1-guest")
    old, new = (each.inputs("remote:Command", "worker-1-guest") for each in (recorded, grown))
    text = summary(parse(preview(change(of, old, new, "create")))).render()
    assert "**worker-1** is **restarted** to change memory from 4Gi to 8Gi" in text
    text = summary(parse(preview(change(of, old, new, "triggers", op="replace")))).render()
    assert "**worker-1** is **recreated**: its disks are lost with all their data" in text
    assert "**REPLACE** guest `worker-1-guest`" in text


# --- policy --------------------------------------------------------------------------------------


def found(rule: str, command: str, *, is_protected: bool = True) -> list[str]:
    resource = Resource(
        type="command:remote:Command",
        name="worker-1-guest",
        urn="urn:worker-1-guest",
        props={"create": command, "connection": {"hostKey": HYPERVISOR_KEYS[0]}},
        is_protected=is_protected,
    )
    held = Stack(resources=(resource,), today=datetime.date(2023, 2, 1))
    return [v.text for v in next(r for r in RULES if r.name == rule).violations(held)]


def test_an_image_from_outside_the_eea_is_refused() -> None:
    section = machines()
    section["kvm"]["image"]["url"] = "https://storage.googleapis.com/images/debian.qcow2"
    made = run_with_keys(StackConfig.model_validate(base_sections() | {"machines": section}))
    command = made.inputs("remote:Command", "worker-1-guest")["create"]
    texts = found("eea-residency", command)
    assert any("the download host storage.googleapis.com is outside the EEA" in t for t in texts)


def test_an_image_that_nobody_reviewed_is_refused(recorded: Recorder) -> None:
    assert not found(
        "pinned-guest-images", recorded.inputs("remote:Command", "cp-1-guest")["create"]
    )
    section = machines()
    section["kvm"]["image"] = {"path": "/srv/debian.qcow2"}
    made = run_with_keys(StackConfig.model_validate(base_sections() | {"machines": section}))
    command = made.inputs("remote:Command", "worker-1-guest")["create"]
    (text,) = found("pinned-guest-images", command)
    assert "the guest image /srv/debian.qcow2 has no sha256" in text


def test_a_guest_in_production_is_protected(recorded: Recorder) -> None:
    command = recorded.inputs("remote:Command", "cp-1-guest")["create"]
    assert not found("protected-data", command)
    (text,) = found("protected-data", command, is_protected=False)
    assert "the guest of worker-1-guest is not protected" in text
