"""Checks of the nodes' roles, their host keys, and the SSH key."""

import base64
import binascii
import re
from collections.abc import Iterator, Sequence

from config import SSH_KEY, SSH_KEY_PASSWORD, ExistingNode, StackConfig
from config.errors import KeyPath, Problem
from config.scalars.ssh import flaw
from config.sections import Sections

CONTROL_PLANES = (1, 3, 5)
"""The numbers of control planes that a cluster may have."""

PLANE = "control-plane"

_KEY_IS_USED = "nordmesh logs in to nodes with provider existing or kvm with this private key"


def _check_roles(sections: Sections) -> Iterator[Problem]:
    if sections.machines is None:
        return
    raw = sections.raw_nodes
    roles = {name: node.get("role") for name, node in raw.items() if not node.get("gone")}
    gone = sorted(name for name in raw.keys() - roles.keys() if raw[name].get("role") == PLANE)
    planes = sorted(name for name, role in roles.items() if role == PLANE)
    if gone and not planes:
        yield Problem(
            code="control-planes-gone",
            path=("machines", "nodes", gone[0], "gone"),
            what=f"every control plane is gone: {', '.join(gone)}",
            why="etcd with the cluster's data was there; no other machine can take it over",
            fix="remove `gone` if a machine may come back; otherwise build a new cluster in a new "
            "stack from a snapshot of etcd, as docs/backup.md shows",
        )
    elif not planes and all(role == "worker" for role in roles.values()):
        yield Problem(
            code="control-plane-missing",
            path=("machines", "nodes"),
            what="no node is a control plane",
            why="one node must run the API server, the scheduler and etcd",
            fix="set role: control-plane on one of the nodes",
        )
    if planes and len(planes) not in CONTROL_PLANES:
        yield _count_problem(planes, about=[("machines", "nodes", name) for name in raw])


def quorum(members: int) -> int:
    """The number of etcd members that must agree on each write: the smallest majority."""
    return members // 2 + 1


def _count_problem(planes: Sequence[str], about: Sequence[KeyPath]) -> Problem:
    """about: all nodes; one of them may have a role that is misspelt."""
    count, largest = len(planes), CONTROL_PLANES[-1]
    fewer = min(count - 1, largest)
    more = f", or add one for {count + 1}" if count < largest else ""
    return Problem(
        code="control-plane-count",
        path=("machines", "nodes"),
        what=f"{count} nodes are control planes: {', '.join(planes)}",
        why=f"etcd writes with a majority of its members: {quorum(count)} of {count}, so the "
        f"cluster survives the loss of {count - quorum(count)}; with {fewer} it survives "
        f"the loss of {fewer - quorum(fewer)}, too"
        if count < largest
        else f"each write waits for a majority of the members, {quorum(count)} of {count}; "
        f"{largest} control planes already survive the loss of {largest - quorum(largest)}",
        fix=f"keep role: control-plane on {fewer} of them, and set role: worker on the others or "
        f"remove them{more}",
        about=tuple((*node, key) for node in about for key in ("role", "gone")),
    )


def warnings(config: StackConfig) -> Iterator[str]:
    """One line for each machine that is lost."""
    for name, node in config.machines.gone:
        yield f"{name} is gone and is never asked again: {node.gone}"


def _check_etcd_mounts(sections: Sections) -> Iterator[Problem]:
    nodes = sections.machines.nodes if sections.machines is not None else {}
    for name, node in nodes.items():
        if isinstance(node, ExistingNode) and node.etcd_mount and node.role != "control-plane":
            yield Problem(
                code="etcd-mount-without-etcd",
                path=("machines", "nodes", name, "etcdMount"),
                what=f"{name} is a worker",
                why="etcd runs on control planes only, so the disk would stay empty",
                fix="remove this, or set it on a control plane",
                about=(("machines", "nodes", name, "role"),),
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


def _check_ssh_key(sections: Sections) -> Iterator[Problem]:
    names = sorted([*_named(sections, "existing"), *_named(sections, "kvm")])
    key, password = sections.secret(SSH_KEY) or "", sections.secret(SSH_KEY_PASSWORD)
    if not names and not key and not password:
        return
    set_it = "run `pulumi config set --secret nordmesh:sshPrivateKey < ~/.ssh/id_ed25519`"
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
        yield from _check_ssh_key_password(key, password)


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


def _named(sections: Sections, provider: str) -> list[str]:
    nodes = sections.raw_nodes.items()
    return sorted(name for name, node in nodes if node.get("provider") == provider)


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


CHECKS = (_check_roles, _check_etcd_mounts, _check_host_keys, _check_ssh_key)
