"""Invalid guests and hypervisors: each edit of a valid stack gives one error."""

import json
from typing import Any

import jsonschema_rs
import pytest

from config import KvmNode, Ssh, StackConfig, schema
from config.scalars.ssh import public_half
from config.warnings import warnings
from tests.support.kvm_stack import HYPERVISOR_KEYS, PUBLIC_KEY, SHA256, machines, private_key
from tests.unit.config.test_errors import GONE, Load, Values, Wrong, edited, expect, refusal
from tests.unit.config.test_schema import stack_file

HV1, HV2 = "machines.hypervisors.hv-1", "machines.hypervisors.hv-2"
CP, WORKER = "machines.nodes.cp-1", "machines.nodes.worker-1"
IMAGE = "machines.kvm.image"

# Quantities that are too small. The JSON Schema cannot check them.
SIZES = [
    Wrong(
        "too little memory",
        {f"{CP}.memory": "512Mi"},
        f"{CP}.memory",
        "guest-memory-minimum",
        ("at least 1Gi",),
    ),
    Wrong(
        "a small disk",
        {f"{CP}.disk": "1Gi"},
        f"{CP}.disk",
        "guest-disk-minimum",
        ("1Gi is too small", "4Gi"),
    ),
    Wrong(
        "a small etcd disk", {f"{CP}.etcdDisk": "100Mi"}, f"{CP}.etcdDisk", "etcd-disk-minimum", ()
    ),
    Wrong(
        "memory in bytes", {f"{CP}.memory": 2**31 + 1}, f"{CP}.memory", "size-whole-mebibytes", ()
    ),
]

# Invalid single values. The JSON Schema finds them too.
VALUES = [
    Wrong(
        "memory in words",
        {f"{CP}.memory": "many"},
        f"{CP}.memory",
        "size-format",
        ("'many' is not",),
    ),
    Wrong(
        "no processor",
        {f"{WORKER}.cpus": 0},
        f"{WORKER}.cpus",
        "cpu-count-range",
        ("0 is not a count",),
    ),
    Wrong(
        "an invalid CPU number",
        {f"{CP}.pinnedCpus": [4, 5, 6, -1]},
        f"{CP}.pinnedCpus[3]",
        "cpu-number-range",
        ("-1 is not a CPU", "lscpu"),
    ),
    Wrong(
        "an image without scheme",
        {f"{IMAGE}.url": "mirror.example.internal/debian.qcow2"},
        f"{IMAGE}.url",
        "image-url-format",
        ("not the http or https",),
    ),
    Wrong(
        "an image with a password",
        {f"{IMAGE}.url": "https://me:secret@mirror.example.internal/debian.qcow2"},
        f"{IMAGE}.url",
        "image-url-format",
        (),
    ),
    Wrong(
        "a short checksum",
        {f"{IMAGE}.sha256": "abc"},
        f"{IMAGE}.sha256",
        "sha256-format",
        ("'abc' is not a sha256",),
    ),
    Wrong(
        "a relative path",
        {IMAGE: {"path": "images/debian.qcow2"}},
        f"{IMAGE}.path",
        "absolute-path",
        ("is not an absolute path",),
    ),
    Wrong(
        "a private key to log in with",
        {"machines.kvm.authorizedKeys": ["-----BEGIN OPENSSH PRIVATE KEY-----"]},
        "machines.kvm.authorizedKeys[0]",
        "public-key-format",
        ("public SSH key", "id_ed25519.pub"),
    ),
    Wrong(
        "no host key",
        {f"{HV1}.hostKey": GONE},
        f"{HV1}.hostKey",
        "host-key-missing",
        ("hostKey is missing",),
    ),
    Wrong(
        "no network",
        {f"{HV1}.network": GONE},
        f"{HV1}.network",
        "key-missing",
        ("network is missing",),
    ),
    Wrong(
        "an unknown type of network",
        {f"{HV1}.network.type": "nat"},
        f"{HV1}.network.type",
        "tag-unknown",
        ("nat", "bridge", "routed"),
    ),
    Wrong(
        "a routed network with a gateway",
        {f"{HV2}.network.gateway": "198.51.100.1"},
        f"{HV2}.network.gateway",
        "key-unknown",
        ("there is no key gateway here",),
    ),
    Wrong(
        "an unknown way to clone",
        {"machines.kvm.clone": "linked"},
        "machines.kvm.clone",
        "choice-unknown",
        ("linked",),
    ),
    Wrong(
        "no hypervisor",
        {f"{CP}.hypervisor": GONE},
        f"{CP}.hypervisor",
        "key-missing",
        ("is missing",),
    ),
]

# Invalid combinations of values.
TOGETHER = [
    Wrong(
        "an unknown hypervisor",
        {f"{CP}.hypervisor": "hv1"},
        f"{CP}.hypervisor",
        "hypervisor-unknown",
        ("use hv-1",),
    ),
    Wrong(
        "no image",
        {IMAGE: GONE},
        IMAGE,
        "guest-image-missing",
        ("these nodes need it: cp-1, worker-1", "cloud-init"),
    ),
    Wrong(
        "an image with a URL and a path", {f"{IMAGE}.path": "/a/b"}, IMAGE, "image-source-count", ()
    ),
    Wrong(
        "an image without a URL or a path", {f"{IMAGE}.url": GONE}, IMAGE, "image-source-count", ()
    ),
    Wrong(
        "a download without checksum",
        {f"{IMAGE}.sha256": GONE},
        IMAGE,
        "image-checksum-missing",
        ("downloaded without a checksum", "sha256sum"),
    ),
    Wrong(
        "an address of another network",
        {f"{CP}.address": "203.0.113.9"},
        f"{CP}.address",
        "guest-address",
        ("203.0.113.9 lies outside 192.0.2.0/24", "network of hv-1"),
    ),
    Wrong(
        "the router's address",
        {f"{CP}.address": "192.0.2.1"},
        f"{CP}.address",
        "guest-address",
        ("192.0.2.1 is the router's address",),
    ),
    Wrong(
        "the hypervisor's address",
        {f"{CP}.address": "192.0.2.2"},
        f"{CP}.address",
        "guest-address",
        ("192.0.2.2 is the address of hv-1",),
    ),
    Wrong(
        "the address of the routing hypervisor",
        {f"{WORKER}.address": "198.51.100.1"},
        f"{WORKER}.address",
        "guest-address",
        ("is the router's address",),
    ),
    Wrong(
        "a router outside the network",
        {f"{HV1}.network.gateway": "203.0.113.1"},
        f"{HV1}.network.gateway",
        "guest-router-outside-subnet",
        ("outside 192.0.2.0/24",),
    ),
    Wrong(
        "a router at the broadcast address",
        {f"{HV1}.network.gateway": "192.0.2.255"},
        f"{HV1}.network.gateway",
        "guest-router-outside-subnet",
        ("192.0.2.255",),
    ),
    Wrong(
        "fewer pins than processors",
        {f"{CP}.pinnedCpus": [4, 5]},
        f"{CP}.pinnedCpus",
        "pinned-cpus-count",
        (
            "4 different ones",
            "has 4 processors, but 2 different",
        ),
    ),
    Wrong(
        "a processor twice",
        {f"{CP}.pinnedCpus": [4, 5, 6, 6]},
        f"{CP}.pinnedCpus",
        "pinned-cpus-count",
        ("has 4 processors, but 3 different",),
    ),
    Wrong(
        "shared cores",
        {
            f"{WORKER}.hypervisor": "hv-1",
            f"{WORKER}.address": "192.0.2.32",
            f"{WORKER}.pinnedCpus": [7, 8],
        },
        f"{WORKER}.pinnedCpus",
        "pinned-cpus-shared",
        ("processor 7 of hv-1", "not dedicated"),
    ),
    Wrong(
        "a worker with a disk for etcd",
        {f"{WORKER}.etcdDisk": "10Gi"},
        f"{WORKER}.etcdDisk",
        "etcd-disk-on-worker",
        ("worker-1 is a worker",),
    ),
    Wrong(
        "two hypervisors with the same address",
        {f"{HV2}.address": "192.0.2.2"},
        f"{HV2}.address",
        "hypervisor-address-duplicate",
        ("the address of hv-1",),
    ),
    Wrong(
        "two hypervisors with the same host key",
        {f"{HV2}.hostKey": HYPERVISOR_KEYS[0]},
        f"{HV2}.hostKey",
        "machine-host-key-duplicate",
        ("the host key of hv-1",),
    ),
    Wrong(
        "a key in another form",
        {"sshPrivateKey": "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----"},
        "sshPrivateKey",
        "ssh-key-not-openssh",
        ("ssh-keygen -p",),
    ),
    Wrong(
        "no key",
        {"sshPrivateKey": GONE},
        "sshPrivateKey",
        "ssh-key-missing",
        ("logs in to cp-1, worker-1",),
    ),
]


@pytest.fixture
def kvm_stack(existing_stack: Values) -> Values:
    return {**existing_stack, "machines": machines(), "sshPrivateKey": private_key()}


@pytest.mark.parametrize("wrong", VALUES + SIZES + TOGETHER, ids=lambda wrong: wrong.name)
def test_an_invalid_guest_is_refused(load: Load, kvm_stack: Values, wrong: Wrong) -> None:
    expect(refusal(load, edited(kvm_stack, wrong.edit)), wrong)


@pytest.mark.parametrize("wrong", VALUES, ids=lambda wrong: wrong.name)
def test_the_schema_refuses_an_invalid_value(kvm_stack: Values, wrong: Wrong) -> None:
    validator: Any = jsonschema_rs.validator_for(schema.schema())
    assert validator.is_valid(stack_file(kvm_stack))
    assert not validator.is_valid(stack_file(edited(kvm_stack, wrong.edit)))


def test_control_planes_need_different_hypervisors(load: Load, kvm_stack: Values) -> None:
    nodes = kvm_stack["machines"]["nodes"]
    nodes["cp-2"] = {
        **nodes["cp-1"], "address": "192.0.2.33", "pinnedCpus": [8, 9, 10, 11]
    }  # fmt: skip
    problems = {problem.key: problem for problem in refusal(load, kvm_stack).problems}
    problem = problems["nordmesh:machines.nodes.cp-2.hypervisor"]
    assert problem.code == "control-planes-on-one-hypervisor"
    assert "cp-1 and cp-2" in problem.what
    assert "hv-1" in problem.what
    assert problem.fix == "use hv-2, which has no control plane"
    nodes["cp-2"] |= {"hypervisor": "hv-2", "address": "198.51.100.33"}
    assert list(problems) != [p.key for p in refusal(load, kvm_stack).problems]


def test_a_guest_network_in_the_pod_network_is_refused(load: Load, kvm_stack: Values) -> None:
    kvm_stack["machines"]["hypervisors"]["hv-2"]["network"]["subnet"] = "10.244.1.0/24"
    kvm_stack["machines"]["nodes"]["worker-1"]["address"] = "10.244.1.31"
    problems = [(problem.key, problem.code) for problem in refusal(load, kvm_stack).problems]
    assert (f"nordmesh:{HV2}.network.subnet", "guest-network-in-cluster-network") in problems


def test_overlapping_routed_networks_are_refused(load: Load, kvm_stack: Values) -> None:
    hypervisors = kvm_stack["machines"]["hypervisors"]
    hypervisors["hv-3"] = {
        "address": "192.0.2.4",
        "hostKey": PUBLIC_KEY,
        "network": {"type": "routed", "bridge": "nm0", "subnet": "198.51.0.0/16"},
    }
    (problem,) = refusal(load, kvm_stack).problems
    assert problem.key == "nordmesh:machines.hypervisors.hv-3.network.subnet"
    assert problem.code == "routed-networks-overlap"
    assert "overlaps the routed network of hv-2" in problem.what


def test_guests_and_hypervisors_have_defaults(load: Load, kvm_stack: Values) -> None:
    config: StackConfig = load(kvm_stack)
    node = config.machines.nodes["worker-1"]
    assert isinstance(node, KvmNode)
    hypervisor = config.machines.hypervisors[node.hypervisor]
    assert hypervisor.directory == "/var/lib/libvirt/images/nordmesh"
    assert hypervisor.user == "root"
    assert config.machines.kvm.clone == "copyOnWrite"
    assert config.machines.login(node).user == "root"
    assert not [line for line in warnings(config) if "emulated" in line or "sha256" in line]


def test_a_guest_is_reached_as_bought_machines_are_but_at_the_usual_port(
    load: Load, kvm_stack: Values
) -> None:
    key = kvm_stack["machines"]["hypervisors"]["hv-1"]["hostKey"]
    bastion = {"address": "203.0.113.5", "hostKey": key, "user": "jump"}
    kvm_stack["machines"]["ssh"] = {"user": "ops", "port": 2222, "bastion": bastion}
    machines = load(kvm_stack).machines
    login = machines.login(machines.nodes["worker-1"])
    assert login == Ssh(user="ops", port=22, bastion=machines.ssh.bastion)
    assert login.bastion is not None
    assert login.bastion.user == "jump"


def test_risky_guest_settings_give_warnings(load: Load, kvm_stack: Values) -> None:
    kvm_stack["machines"]["hypervisors"]["hv-2"]["emulated"] = True
    kvm_stack["machines"]["kvm"]["image"] = {"path": "/srv/debian.qcow2"}
    lines = "\n".join(warnings(load(kvm_stack)))
    assert "guests on hv-2 are emulated" in lines
    assert "cp-1 is created from /srv/debian.qcow2 on hv-1 without verification" in lines
    kvm_stack["machines"]["kvm"]["image"]["sha256"] = SHA256
    assert "without verification" not in "\n".join(warnings(load(kvm_stack)))


def test_the_public_half_of_a_private_key(ssh_key: str) -> None:
    assert public_half(private_key()) == PUBLIC_KEY
    assert public_half(ssh_key) is None
    assert public_half("-----BEGIN RSA PRIVATE KEY-----\nAAAA\n") is None
    assert public_half(json.dumps({})) is None
