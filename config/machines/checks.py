"""Checks of the nodes, their addresses and networks, and the SSH key."""

import base64
import binascii
import ipaddress
import re
from collections.abc import Iterator
from itertools import combinations

from config import SSH_KEY, SSH_KEY_PASSWORD
from config.errors import KeyPath, Problem
from config.scalars.ssh import flaw
from config.sections import Sections

_KEY_IS_USED = "nordmesh logs in to nodes with provider existing or kvm with this private key"


def _check_roles(sections: Sections) -> Iterator[Problem]:
    if sections.machines is None:
        return
    roles = {name: node.get("role") for name, node in sections.raw_nodes.items()}
    planes = sorted(name for name, role in roles.items() if role == "control-plane")
    if not planes and all(role == "worker" for role in roles.values()):
        yield Problem(
            code="control-plane-missing",
            path=("machines", "nodes"),
            what="no node is a control plane",
            why="one node must run the API server, the scheduler and etcd",
            fix="set role: control-plane on one of the nodes",
        )
    if len(planes) > 1:
        yield Problem(
            code="control-plane-count",
            path=("machines", "nodes"),
            what=f"{len(planes)} nodes are control planes: {', '.join(planes)}",
            why="only one is supported; the endpoint is a name so that more can be added "
            "to this cluster in a later release",
            fix="keep role: control-plane on one node, and set role: worker on the others",
        )


def _check_addresses(sections: Sections) -> Iterator[Problem]:
    owners: dict[ipaddress.IPv4Address, str] = {}
    for name, address in _addresses(sections):
        owner = owners.setdefault(address, name)
        if owner != name:
            yield Problem(
                code="node-address-duplicate",
                path=("machines", "nodes", name, "address"),
                what=f"{address} is already the address of {owner}",
                why="each entry must be its own machine; setting up both would overwrite "
                "one with the other",
                fix=f"use the address that {name} has, or remove one of the two",
            )


def _check_host_keys(sections: Sections) -> Iterator[Problem]:
    owners: dict[tuple[str, ...], str] = {}
    for name, node in sorted(sections.raw_nodes.items()):
        key = tuple(str(node.get("hostKey", "")).split()[:2])
        owner = owners.setdefault(key, name) if len(key) == 2 else name
        if owner != name:
            yield same_host_key(("machines", "nodes", name), owner)


def same_host_key(machine: KeyPath, owner: str) -> Problem:
    """The problem of a machine with the host key of another machine, its owner."""
    return Problem(
        code="machine-host-key-duplicate",
        path=(*machine, "hostKey"),
        what=f"this is already the host key of {owner}",
        why="machines cloned from one image share a host key, so either could "
        "impersonate the other",
        fix=f"on {machine[-1]}, run `rm /etc/ssh/ssh_host_* && ssh-keygen -A`, restart "
        "sshd, and use the new key",
    )


def _check_networks(sections: Sections) -> Iterator[Problem]:
    networks = _networks(sections)
    for (path, one), (other_path, other) in combinations(networks.items(), 2):
        if one.overlaps(other):
            yield Problem(
                code="networks-overlap",
                path=other_path,
                what=f"{other} overlaps {'.'.join(path)} ({one})",
                why="an address in both networks could be a pod, a service or a machine, "
                "so traffic could go to the wrong one",
                fix=f"use a network that does not overlap {one}",
                about=(path,),
            )
    for name, address in _addresses(sections):
        for path, network in networks.items():
            if path[0] == "kubernetes" and address in network:
                yield Problem(
                    code="node-address-in-cluster-network",
                    path=("machines", "nodes", name, "address"),
                    what=f"{address} is inside {'.'.join(path)} ({network})",
                    why="the other nodes would look for this machine among pods or services",
                    fix=f"use a {path[-1]} that contains none of the nodes' addresses",
                    about=(path,),
                )


def _check_pod_network_size(sections: Sections) -> Iterator[Problem]:
    if sections.machines is None or sections.kubernetes is None:
        return
    network = ipaddress.IPv4Network(sections.kubernetes.pod_cidr)
    room, nodes = 2 ** (24 - network.prefixlen), len(sections.machines.nodes)
    if nodes > room:
        yield Problem(
            code="pod-network-size",
            path=("kubernetes", "podCidr"),
            what=f"{network} has room for {room} of the {nodes} nodes",
            why="Kubernetes gives each node a /24 of it; pods on the other nodes would never start",
            fix="use a larger network, for example 10.244.0.0/16, which has room for 256 nodes",
        )


def _check_container_nodes(sections: Sections) -> Iterator[Problem]:
    names = _named(sections, "container")
    if sections.machines is None or not names:
        return
    network = sections.machines.container
    if network is None:
        yield Problem(
            code="container-network-missing",
            path=("machines", "container"),
            what=f"the section is missing, and {', '.join(names)} need it",
            why="nodes with provider container are connected to a bridge of this machine",
            fix="add container: {bridge: nordmesh0, subnet: 10.66.0.0/24}",
        )
        return
    subnet = ipaddress.IPv4Network(network.subnet)
    taken = {
        subnet.network_address: "the network's own address",
        subnet.broadcast_address: "the broadcast address",
        ipaddress.IPv4Address(network.gateway): "the gateway's address, which this machine has",
    }
    for name, address in _addresses(sections):
        if name not in names or (address in subnet and address not in taken):
            continue
        wrong = f"is {taken[address]}" if address in taken else f"lies outside {subnet}"
        yield Problem(
            code="container-node-address",
            path=("machines", "nodes", name, "address"),
            what=f"{address} {wrong}",
            why="the node is connected to the bridge of machines.container and must be "
            "reachable there",
            fix=f"use an address from {subnet[2]} to {subnet[-2]}",
            about=(("machines", "container"), ("machines", "container", "subnet")),
        )


def _check_ssh_key(sections: Sections) -> Iterator[Problem]:
    names = sorted([*_named(sections, "existing"), *_named(sections, "kvm")])
    if not names and sections.ssh_key is None and sections.ssh_key_password is None:
        return
    set_it = "run `pulumi config set --secret nordmesh:sshPrivateKey < ~/.ssh/id_ed25519`"
    key = sections.ssh_key if isinstance(sections.ssh_key, str) else ""
    if not key.strip():
        yield Problem(
            code="ssh-key-missing",
            path=(SSH_KEY,),
            what=f"the SSH key that logs in to {', '.join(names) or 'nodes'} is missing",
            why=_KEY_IS_USED,
            fix=set_it,
        )
    elif not re.match(r"\s*-----BEGIN [A-Z ]*PRIVATE KEY-----", key):
        yield Problem(
            code="ssh-key-format",
            path=(SSH_KEY,),
            what="this is not a private key in PEM or OpenSSH format",
            why=_KEY_IS_USED,
            fix=f"{set_it} (the file without .pub)",
        )
    elif "BEGIN ENCRYPTED PRIVATE KEY" in key:
        yield Problem(
            code="ssh-key-pkcs8",
            path=(SSH_KEY,),
            what="this is an encrypted key in PKCS #8 format",
            why="Pulumi's command provider reads encrypted keys only in OpenSSH format or "
            "the older PEM format",
            fix="convert it to OpenSSH format with `ssh-keygen -p -f KEY`, and set it again",
        )
    elif (what := flaw(key)) is not None:
        yield Problem(
            code="ssh-key-flawed",
            path=(SSH_KEY,),
            what=f"the private key cannot be used: {what}",
            why=_KEY_IS_USED,
            fix=f"{set_it}, with the whole file of a key that `ssh-keygen -t ed25519` made",
        )
    else:
        yield from _check_ssh_key_password(key, sections.ssh_key_password)


def _check_ssh_key_password(key: str, password: object) -> Iterator[Problem]:
    if _is_encrypted(key) and not password:
        yield Problem(
            code="ssh-passphrase-missing",
            path=(SSH_KEY_PASSWORD,),
            what="the SSH key is encrypted, and its passphrase is missing",
            why="nobody can type it during `pulumi up`",
            fix="run `pulumi config set --secret nordmesh:sshPrivateKeyPassword` and type "
            "it, or make a key without a passphrase: `ssh-keygen -t ed25519 -N '' -f "
            "nordmesh`",
        )
    elif password and not _is_encrypted(key):
        yield Problem(
            code="ssh-passphrase-unneeded",
            path=(SSH_KEY_PASSWORD,),
            what="there is a passphrase, but the SSH key is not encrypted",
            why="opening an unencrypted key with a passphrase fails, so every connection "
            "would fail",
            fix="run `pulumi config rm nordmesh:sshPrivateKeyPassword`, or set the encrypted key",
        )


def _addresses(sections: Sections) -> Iterator[tuple[str, ipaddress.IPv4Address]]:
    """Names and addresses of the nodes in the file, without invalid addresses."""
    for name, node in sorted(sections.raw_nodes.items()):
        try:
            yield name, ipaddress.IPv4Address(str(node.get("address")))
        except ValueError:
            continue


def _named(sections: Sections, provider: str) -> list[str]:
    nodes = sections.raw_nodes.items()
    return sorted(name for name, node in nodes if node.get("provider") == provider)


def _networks(sections: Sections) -> dict[KeyPath, ipaddress.IPv4Network]:
    networks: dict[KeyPath, str] = {}
    if sections.machines is not None and sections.machines.container is not None:
        networks["machines", "container", "subnet"] = sections.machines.container.subnet
    if sections.kubernetes is not None:
        networks["kubernetes", "podCidr"] = sections.kubernetes.pod_cidr
        networks["kubernetes", "serviceCidr"] = sections.kubernetes.service_cidr
    return {path: ipaddress.IPv4Network(network) for path, network in networks.items()}


def _is_encrypted(key: str) -> bool:
    """Whether a private key in PEM or OpenSSH's own form needs a passphrase."""
    if "ENCRYPTED" in key:
        return True
    body = "".join(line for line in key.split() if not line.startswith("-"))
    try:
        blob = base64.b64decode(body[body.find("b3BlbnNzaC1rZXktdjEA") :][:64])
    except binascii.Error:
        return False
    # openssh-key-v1, then the cipher's name with its length before it (PROTOCOL.key).
    magic = b"openssh-key-v1\0"
    return blob.startswith(magic) and not blob.startswith(magic + b"\0\0\0\4none")


CHECKS = (
    _check_roles,
    _check_addresses,
    _check_host_keys,
    _check_networks,
    _check_pod_network_size,
    _check_container_nodes,
    _check_ssh_key,
)
