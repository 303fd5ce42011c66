"""Check that etcd has the disk that the stack file declares."""

from collections.abc import Iterator

from components.preflight.findings import Finding, Node
from config import ExistingNode

_FLAWS = {
    "none": "nothing is mounted at /var/lib/etcd",
    "shared": "/var/lib/etcd is on the file system of /var/lib",
    "temporary": "/var/lib/etcd is mounted by hand, and not after the next boot",
}


def mount(node: Node) -> Iterator[Finding]:
    """Find a declared mount that is missing; a node in the cluster is left as it is."""
    declared = node.config.machines.nodes[node.name]
    if not isinstance(declared, ExistingNode) or not declared.etcd_mount or node.facts.is_member:
        return
    state = node.facts.value("etcd-mount")
    if state != "own":
        yield node.finding(
            "etcd-mount",
            _FLAWS.get(state, "it is unknown what is mounted at /var/lib/etcd"),
            "a separate file system at /var/lib/etcd, as etcdMount declares",
            "make a file system on an empty disk, add it to /etc/fstab, and run `mount "
            "/var/lib/etcd`; nordmesh formats nothing",
        )
