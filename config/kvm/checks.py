"""Checks of guests and the hypervisors that they are on."""

import ipaddress
from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations

from config import SSH_KEY, KvmNode, Machines, RoutedNetwork, StackConfig
from config.errors import KeyPath, Problem, nearest
from config.machines.checks import same_host_key
from config.scalars.ssh import public_half
from config.sections import Sections


def _check_hypervisors(sections: Sections) -> Iterator[Problem]:
    if sections.machines is None:
        return
    known = sections.machines.hypervisors
    for name, node in _guests(sections.machines):
        if node.hypervisor in known:
            continue
        guess = nearest(node.hypervisor, known)
        listed = f", only {', '.join(sorted(known))}" if known else ", which is empty"
        yield Problem(
            code="hypervisor-unknown",
            path=(*_node_path(name), "hypervisor"),
            what=f"there is no hypervisor {node.hypervisor} in machines.hypervisors{listed}",
            why="the guest is created over SSH on the machine that is described there",
            fix=f"use {guess}"
            if guess
            else f"add {node.hypervisor} there, with its address, hostKey and network",
            about=(("machines", "hypervisors"),),
        )


def _check_host_keys(sections: Sections) -> Iterator[Problem]:
    if sections.machines is None:
        return
    hypervisors = sorted(sections.machines.hypervisors.items())
    for (name, one), (other, two) in combinations(hypervisors, 2):
        if one.address == two.address and one.port == two.port:
            yield Problem(
                code="hypervisor-address-duplicate",
                path=("machines", "hypervisors", other, "address"),
                what=f"{two.address} is already the address of {name}",
                why="guests on the two would be on one machine, although the file says otherwise",
                fix=f"use the address that {other} has, or remove one of the two",
            )
        elif one.host_key == two.host_key:
            yield same_host_key(("machines", "hypervisors", other), name)


def _check_images(sections: Sections) -> Iterator[Problem]:
    if sections.machines is None or sections.machines.kvm.image is not None:
        return
    names = [name for name, node in _guests(sections.machines) if node.image is None]
    if names:
        yield Problem(
            code="guest-image-missing",
            path=("machines", "kvm", "image"),
            what=f"the image is missing, and these nodes need it: {', '.join(names)}",
            why="a guest's disk is created from an image with cloud-init",
            fix="add image: {url: https://..., sha256: ...}, or image: {path: ...} "
            "for a file on the hypervisor",
        )


def _check_addresses(sections: Sections) -> Iterator[Problem]:
    if sections.machines is None:
        return
    for name, node in _guests(sections.machines):
        hypervisor = sections.machines.hypervisors.get(node.hypervisor)
        if hypervisor is None:
            continue
        network = hypervisor.network
        subnet, address = ipaddress.IPv4Network(network.subnet), ipaddress.IPv4Address(node.address)
        subnet_path = ("machines", "hypervisors", node.hypervisor, "network", "subnet")
        taken = {
            subnet.network_address: "the network's own address",
            subnet.broadcast_address: "the broadcast address",
            ipaddress.IPv4Address(hypervisor.address): f"the address of {node.hypervisor}",
        }
        if network.router is not None:
            taken[ipaddress.IPv4Address(network.router)] = "the router's address"
        if address in subnet and address not in taken:
            continue
        wrong = f"is {taken[address]}" if address in taken else f"lies outside {subnet}"
        yield Problem(
            code="guest-address",
            path=(*_node_path(name), "address"),
            what=f"{address} {wrong}",
            why=f"the guest is on the network of {node.hypervisor} and must be reachable there",
            fix=f"use a free address in {subnet}",
            about=(subnet_path,),
        )


def _check_networks(sections: Sections) -> Iterator[Problem]:
    if sections.machines is None:
        return
    hypervisors = sorted(sections.machines.hypervisors.items())
    for name, hypervisor in hypervisors:
        network = hypervisor.network
        subnet = ipaddress.IPv4Network(network.subnet)
        path = ("machines", "hypervisors", name, "network")
        router = None if network.router is None else ipaddress.IPv4Address(network.router)
        if router is not None and (
            router not in subnet or router in (subnet.network_address, subnet.broadcast_address)
        ):
            yield Problem(
                code="guest-router-outside-subnet",
                path=(*path, "gateway"),
                what=f"{network.router} is outside {subnet}, or not for a machine",
                why="guests can reach a router only on their own network",
                fix=f"use the router's address in {subnet}",
            )
        yield from _overlap_with_cluster(sections, (*path, "subnet"), subnet)
    routed = [(n, h) for n, h in hypervisors if isinstance(h.network, RoutedNetwork)]
    for (name, one), (other, two) in combinations(routed, 2):
        first, second = (ipaddress.IPv4Network(h.network.subnet) for h in (one, two))
        if first.overlaps(second):
            yield Problem(
                code="routed-networks-overlap",
                path=("machines", "hypervisors", other, "network", "subnet"),
                what=f"{second} overlaps the routed network of {name} ({first})",
                why="a routed network is on one hypervisor; a router could not tell the two apart",
                fix=f"use a network that does not overlap {first}",
                about=(("machines", "hypervisors", name, "network", "subnet"),),
            )


def _overlap_with_cluster(
    sections: Sections, path: KeyPath, subnet: ipaddress.IPv4Network
) -> Iterator[Problem]:
    if sections.kubernetes is None:
        return
    networks = {"podCidr": sections.kubernetes.pod_cidr}
    networks["serviceCidr"] = sections.kubernetes.service_cidr
    for key, network in networks.items():
        if subnet.overlaps(ipaddress.IPv4Network(network)):
            yield Problem(
                code="guest-network-in-cluster-network",
                path=path,
                what=f"{subnet} overlaps kubernetes.{key} ({network})",
                why="an address in both could be a pod, a service or a machine",
                fix=f"use a network that does not overlap {network}, or another {key}",
                about=(("kubernetes", key),),
            )


def _check_pins(sections: Sections) -> Iterator[Problem]:
    if sections.machines is None:
        return
    owners: dict[tuple[str, int], str] = {}
    for name, node in _guests(sections.machines):
        pins = node.pinned_cpus
        if pins is None:
            continue
        path = (*_node_path(name), "pinnedCpus")
        if len(pins) != node.cpus or len(set(pins)) != len(pins):
            yield Problem(
                code="pinned-cpus-count",
                path=path,
                what=f"the guest has {node.cpus} processors, but {len(set(pins))} different ones "
                "are listed",
                why="each of the guest's processors runs on its own processor of the hypervisor",
                fix=f"list {node.cpus} different ones, or remove the key",
                about=((*_node_path(name), "cpus"),),
            )
            continue
        shared = defaultdict(list)
        for pin in pins:
            owner = owners.setdefault((node.hypervisor, pin), name)
            if owner != name:
                shared[owner].append(pin)
        for owner, numbers in shared.items():
            yield Problem(
                code="pinned-cpus-shared",
                path=path,
                what=f"{owner} already uses {_listed(numbers)} of {node.hypervisor}",
                why="a core that two guests share is not dedicated: each takes time from "
                "the other, which sees it as steal",
                fix="list processors that no other guest uses",
                about=((*_node_path(owner), "pinnedCpus"),),
            )


def _check_etcd_disks(sections: Sections) -> Iterator[Problem]:
    if sections.machines is None:
        return
    for name, node in _guests(sections.machines):
        if node.etcd_disk is not None and node.role != "control-plane":
            yield Problem(
                code="etcd-disk-on-worker",
                path=(*_node_path(name), "etcdDisk"),
                what=f"{name} is a worker, but has a disk for etcd",
                why="etcd runs only on control planes, so the disk would stay empty",
                fix="remove the key, or use a larger disk",
                about=((*_node_path(name), "role"),),
            )


def _check_anti_affinity(sections: Sections) -> Iterator[Problem]:
    if sections.machines is None:
        return
    hypervisors = sections.machines.hypervisors
    planes: dict[str, list[str]] = defaultdict(list)
    for name, node in _guests(sections.machines):
        if node.role == "control-plane" and node.hypervisor in hypervisors:
            planes[node.hypervisor].append(name)
    free = sorted(set(hypervisors) - set(planes))
    for hypervisor, names in sorted(planes.items()):
        for name in names[1:]:
            if not free:
                return
            yield Problem(
                code="control-planes-on-one-hypervisor",
                path=(*_node_path(name), "hypervisor"),
                what=f"{' and '.join(names)} are control planes, and both are on {hypervisor}",
                why="if that machine fails, etcd loses both at once, and with them its majority",
                fix=f"use {free.pop(0)}, which has no control plane",
                about=((*_node_path(names[0]), "hypervisor"),),
            )


def _check_ssh_key(sections: Sections) -> Iterator[Problem]:
    if sections.machines is None or not any(_guests(sections.machines)):
        return
    key = sections.secret(SSH_KEY)
    # config.machines.checks reports a missing key and other text.
    if key is None or "PRIVATE KEY-----" not in key or public_half(key):
        return
    yield Problem(
        code="ssh-key-not-openssh",
        path=(SSH_KEY,),
        what="the key is not in OpenSSH format",
        why="guests get its public half, which only that format stores beside the private one",
        fix="convert it with `ssh-keygen -p -f KEY`, and set it again",
    )


def warnings(config: StackConfig) -> Iterator[str]:
    """The warnings about guests."""
    machines = config.machines
    used = {node.hypervisor for _, node in _guests(machines)}
    for name, hypervisor in sorted(machines.hypervisors.items()):
        if name in used and hypervisor.emulated:
            yield (
                f"guests on {name} are emulated: about twelve times slower than with hardware "
                "virtualization; use them only for tests"
            )
    for name, node in _guests(machines):
        image = node.image or machines.kvm.image
        if image is not None and image.path is not None and image.sha256 is None:
            yield (
                f"{name} is created from {image.path} on {node.hypervisor} without verification: "
                "set sha256 next to path to use only the image that you reviewed"
            )


def _guests(machines: Machines) -> Iterator[tuple[str, KvmNode]]:
    for name, node in sorted(machines.nodes.items()):
        if isinstance(node, KvmNode):
            yield name, node


def _node_path(name: str) -> KeyPath:
    return "machines", "nodes", name


def _listed(numbers: list[int]) -> str:
    named = ", ".join(map(str, sorted(numbers)))
    return f"processor {named}" if len(numbers) == 1 else f"processors {named}"


CHECKS = (
    _check_hypervisors,
    _check_host_keys,
    _check_images,
    _check_addresses,
    _check_networks,
    _check_pins,
    _check_etcd_disks,
    _check_anti_affinity,
    _check_ssh_key,
)
