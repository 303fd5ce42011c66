"""Check that etcd and local volumes have the disks that they should have."""

from collections.abc import Iterator

from components.preflight import needs
from components.preflight.findings import Finding, Node
from config import ExistingNode

_FLAWS = {
    "none": "nothing is mounted at /var/lib/etcd",
    "shared": "/var/lib/etcd is on the file system of /var/lib",
    "temporary": "/var/lib/etcd is mounted by hand, and not after the next boot",
}


def etcd_mount(node: Node) -> Iterator[Finding]:
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


def volumes(node: Node) -> Iterator[Finding]:
    """Find volumes that share a disk with the system; nothing limits them to their size."""
    path = needs.volumes(node.config, node.name)
    if path and node.facts.value("volumes-disk") == "system":
        yield node.finding(
            "volumes-disk",
            f"{path} is on the same file system as / or /var/lib",
            "a separate file system, because no volume is limited to its size",
            f"mount an empty disk at {path}; otherwise a pod that fills its volume stops the node",
            refuses=False,
        )
