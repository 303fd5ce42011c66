"""Guests: golden files of their documents, their resources and their changes."""

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
from components.remote.node_command import settings
from config import Machines, RoutedNetwork, StackConfig
from config.errors import NordmeshError
from policy.rules import RULES
from policy.stack import Resource, Stack
from tests.support.golden import check
from tests.support.kvm_stack import HYPERVISOR_KEYS, PUBLIC_KEY, SHA256, machines, private_key
from tests.support.mocked import Recorder, base_sections, changed, run
from tests.unit.previews import change, preview, urn


def stack(**nodes: dict[str, object]) -> StackConfig:
    """A valid stack of guests. nodes: edits by node name, with _ for -."""
    section = machines()
    for name, edit in nodes.items():
        section["nodes"][name.replace("_", "-")] |= edit
    return StackConfig.model_validate(base_sections() | {"machines": section})


def guests(section: Machines) -> dict[str, Guest]:
    result = {}
    for name, node in sorted(section.nodes.items()):
        assert node.provider == "kvm"
        result[name] = Guest(
            name=name,
            domain=name,
            folder=f"/var/lib/libvirt/images/nordmesh/{name}",
            node=node,
            hypervisor=section.hypervisors[node.hypervisor],
        )
    return result


GUESTS = guests(stack().machines)


# --- documents -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GUESTS)
def test_the_domain_of_a_guest_matches_its_golden_file(name: str) -> None:
    check(f"guest-{name}.xml", guest.domain(GUESTS[name]) + "\n")


def test_the_routed_network_matches_its_golden_file() -> None:
    network = GUESTS["worker-1"].hypervisor.network
    assert isinstance(network, RoutedNetwork)
    check("guest-network.xml", guest.routed_network(network) + "\n")


@pytest.mark.parametrize(("name", "user"), [("cp-1", "root"), ("worker-1", "debian")])
def test_the_cloud_init_seed_matches_its_golden_file(name: str, user: str) -> None:
    seeded = GUESTS[name]
    data = guest.user_data(
        seeded, user=user, authorized_keys=[PUBLIC_KEY], host_key=("private\nkey\n", "public key")
    )
    documents = [data, guest.meta_data(seeded), guest.network_config(seeded)]
    check(f"guest-seed-{name}.yaml", "---\n".join(documents))
    assert yaml.safe_load(data)["ssh_keys"]["ed25519_private"] == "private\nkey\n"


def test_an_emulated_guest_uses_qemu() -> None:
    section = machines()
    section["hypervisors"]["hv-1"]["emulated"] = True
    emulated = guests(StackConfig.model_validate(base_sections() | {"machines": section}).machines)
    document = ElementTree.fromstring(guest.domain(emulated["cp-1"]))  # noqa: S314 (made here)
    assert document.get("type") == "qemu"
    assert [cpu.get("mode") for cpu in document.iter("cpu")] == ["maximum"]


def test_uuid_and_mac_depend_on_name_and_address_only() -> None:
    grown = guests(stack(cp_1={"memory": "16Gi"}).machines)["cp-1"]
    moved = guests(stack(cp_1={"address": "192.0.2.32"}).machines)["cp-1"]
    assert (grown.uuid, grown.mac) == (GUESTS["cp-1"].uuid, GUESTS["cp-1"].mac)
    assert moved.uuid != GUESTS["cp-1"].uuid
    assert moved.mac != GUESTS["cp-1"].mac


def test_names_are_escaped_in_the_xml() -> None:
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


def test_a_guest_is_created_over_ssh_on_its_hypervisor(recorded: Recorder) -> None:
    connection = recorded.inputs("remote:Command", "worker-1-guest")["connection"]
    assert (connection["host"], connection["hostKey"]) == ("192.0.2.3", HYPERVISOR_KEYS[1])
    values = create(recorded, "cp-1")
    assert values["IMAGE_SHA256"] == SHA256
    assert (values["DISK_MIB"], values["ETCD_DISK_MIB"], values["MEMORY_MIB"]) == (
        "40960",
        "10240",
        "8192",
    )
    assert values["NETWORK_XML"] == ""
    assert '<forward mode="route"' in create(recorded, "worker-1")["NETWORK_XML"]


def test_the_host_key_of_a_guest_is_pinned(recorded: Recorder) -> None:
    for name in ("cp-1", "worker-1"):
        stdin = recorded.inputs("remote:Command", f"{name}-guest")["stdin"]
        public = yaml.safe_load(stdin)["ssh_keys"]["ed25519_public"]
        connection = recorded.inputs("remote:Command", f"{name}-prepare")["connection"]
        assert connection["hostKey"] == public


def test_the_private_host_key_is_a_secret_and_in_no_command(recorded: Recorder) -> None:
    assert "stdin" in recorded.secrets("remote:Command", "cp-1-guest")
    stdin = recorded.inputs("remote:Command", "cp-1-guest")["stdin"]
    key = yaml.safe_load(stdin)["ssh_keys"]["ed25519_private"]
    for name in recorded.names("remote:Command"):
        inputs = recorded.inputs("remote:Command", name)
        assert key not in f"{inputs['create']} {inputs.get('delete')}"
    assert PUBLIC_KEY in yaml.safe_load(stdin)["ssh_authorized_keys"]


def test_growing_a_guest_updates_one_resource(recorded: Recorder) -> None:
    after = run_with_keys(stack(worker_1={"memory": "8Gi", "disk": "40Gi"}))
    assert changed(recorded, after) == ["worker-1-guest"]
    assert triggers(recorded) == triggers(after)


def test_moving_a_guest_replaces_it(recorded: Recorder) -> None:
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


def test_an_emulated_guest_has_longer_timeouts() -> None:
    section = machines()
    section["hypervisors"]["hv-2"]["emulated"] = True
    slow = run_with_keys(StackConfig.model_validate(base_sections() | {"machines": section}))
    command = slow.inputs("remote:Command", "worker-1-prepare")["create"]
    assert command.startswith("timeout --kill-after=10 9600 bash")
    assert create(slow, "worker-1")["BOOT_SECONDS"] == "900"


# --- changes -------------------------------------------------------------------------------------


def test_growing_a_guest_reports_its_restart() -> None:
    old, new = (
        create(run_with_keys(stack(cp_1={"memory": size})), "cp-1") for size in ("8Gi", "12Gi")
    )
    message = judge(old, new, drained=False)
    assert message is not None
    assert message.startswith(
        "cp-1 is shut down and started again to change memory from 8Gi to 12Gi"
    )
    assert judge(old, {**old, "IMAGE_URL": "https://elsewhere.internal/x"}, drained=False) is None


@pytest.mark.parametrize(
    ("edit", "key", "what"),
    [
        ({"DISK_MIB": "20480"}, "disk", "the disk has 40Gi and would shrink to 20Gi"),
        ({"ETCD_DISK_MIB": "0"}, "etcdDisk", "the disk has 10Gi and would be removed"),
    ],
)
def test_shrinking_a_disk_is_refused(
    recorded: Recorder, edit: dict[str, str], key: str, what: str
) -> None:
    old = create(recorded, "cp-1")
    with pytest.raises(NordmeshError) as caught:
        judge(old, {**old, **edit}, drained=False)
    assert caught.value.code == "guest-disk-shrinks"
    assert caught.value.path == f"nordmesh:machines.nodes.cp-1.{key}"
    assert caught.value.what == what
    assert caught.value.fix


def test_a_new_disk_for_etcd_is_refused(recorded: Recorder) -> None:
    old = {**create(recorded, "cp-1"), "ETCD_DISK_MIB": "0"}
    with pytest.raises(NordmeshError) as caught:
        judge(old, {**old, "ETCD_DISK_MIB": "10240"}, drained=False)
    assert caught.value.code == "guest-etcd-disk-new"
    assert caught.value.path == "nordmesh:machines.nodes.cp-1.etcdDisk"
    assert "would hide it" in caught.value.why


def test_another_subnet_of_a_routed_network_with_guests_is_refused(recorded: Recorder) -> None:
    section = machines()
    section["hypervisors"]["hv-2"]["network"]["subnet"] = "198.51.100.0/25"
    edited = run_with_keys(StackConfig.model_validate(base_sections() | {"machines": section}))
    old, new = create(recorded, "worker-1"), create(edited, "worker-1")
    with pytest.raises(NordmeshError) as caught:
        judge(old, new, drained=False)
    assert caught.value.code == "guest-network-change"
    assert caught.value.path == "nordmesh:machines.hypervisors.hv-2.network"
    # Another network, which the guest gets when it restarts.
    assert judge(old, {**new, "BRIDGE": "virbr9", "DOMAIN_XML": "other"}, drained=False)


def test_a_review_lists_restarts_and_lost_data(recorded: Recorder) -> None:
    grown = run_with_keys(stack(worker_1={"memory": "8Gi"}))
    of = urn("command:remote:Command", "worker-1-guest")
    old, new = (
        recorder.inputs("remote:Command", "worker-1-guest") for recorder in (recorded, grown)
    )
    text = summary(parse(preview(change(of, old, new, "create")))).render()
    assert "**worker-1** is **restarted** to change memory from 4Gi to 8Gi" in text
    assert "**recreated**" not in text
    text = summary(parse(preview(change(of, old, new, "triggers", op="replace")))).render()
    assert "**worker-1** is **recreated**: its disks are lost with all their data" in text
    assert "**REPLACE** guest `worker-1-guest`" in text


# --- policy --------------------------------------------------------------------------------------


def violations_of(rule: str, command: str, *, is_protected: bool = True) -> list[str]:
    resource = Resource(
        type="command:remote:Command",
        name="worker-1-guest",
        urn="urn:worker-1-guest",
        props={"create": command, "connection": {"hostKey": HYPERVISOR_KEYS[0]}},
        is_protected=is_protected,
    )
    policy_stack = Stack(resources=(resource,), today=datetime.date(2023, 2, 1))
    return [v.text for v in next(r for r in RULES if r.name == rule).violations(policy_stack)]


def test_an_image_from_outside_the_eea_is_refused() -> None:
    section = machines()
    section["kvm"]["image"]["url"] = "https://storage.googleapis.com/images/debian.qcow2"
    recorder = run_with_keys(StackConfig.model_validate(base_sections() | {"machines": section}))
    command = recorder.inputs("remote:Command", "worker-1-guest")["create"]
    violations = violations_of("eea-residency", command)
    assert any(
        "the download host storage.googleapis.com is outside the EEA" in t for t in violations
    )


def test_an_unpinned_image_is_refused(recorded: Recorder) -> None:
    assert not violations_of(
        "pinned-guest-images", recorded.inputs("remote:Command", "cp-1-guest")["create"]
    )
    section = machines()
    section["kvm"]["image"] = {"path": "/srv/debian.qcow2"}
    recorder = run_with_keys(StackConfig.model_validate(base_sections() | {"machines": section}))
    command = recorder.inputs("remote:Command", "worker-1-guest")["create"]
    (text,) = violations_of("pinned-guest-images", command)
    assert "the guest image /srv/debian.qcow2 has no sha256" in text


def test_an_unprotected_guest_in_production_is_refused(recorded: Recorder) -> None:
    command = recorded.inputs("remote:Command", "cp-1-guest")["create"]
    assert not violations_of("protected-data", command)
    (text,) = violations_of("protected-data", command, is_protected=False)
    assert "the guest of worker-1-guest is not protected" in text
