"""Judge a change of a guest at preview: warn of a restart, refuse what would lose its data.

The hypervisor refuses the same, but only during the update.
"""

from collections.abc import Mapping

import pulumi

from components.machines.guest_sizes import DISKS, restart, size
from components.remote.node_command import settings_of
from config.errors import NAMESPACE, NordmeshError, step

Settings = Mapping[str, str]


def hooks(node: str, *, drained: bool) -> pulumi.ResourceHookBinding:
    """The hook of a guest's script; it runs in previews, too. drained: before a restart."""

    def before_update(args: pulumi.ResourceHookArgs) -> None:
        old, new = (settings_of(inputs) for inputs in (args.old_inputs, args.new_inputs))
        if "DISK_MIB" in old and "DISK_MIB" in new:
            message = judge(old, new, drained=drained)
            if message:
                pulumi.log.warn(message)

    options = pulumi.ResourceHookOptions(on_dry_run=True)
    hook = pulumi.ResourceHook(f"growth of {node}", before_update, options)
    return pulumi.ResourceHookBinding(before_update=[hook])


def judge(old: Settings, new: Settings, *, drained: bool) -> str | None:
    """The warning for a change, None if the guest keeps running. drained: before a restart.

    Raises NordmeshError for a smaller disk, a new disk for etcd, and another network.
    """
    node = new["NODE_NAME"]
    for name, key in DISKS.items():
        if int(new[name]) < int(old.get(name, "0")):
            raise _would_shrink(node, key, old[name], new[name])
    if old.get("ETCD_DISK_MIB") == "0" != new["ETCD_DISK_MIB"]:
        raise _would_hide_etcd(node)
    if _moves_network(old, new):
        raise _would_move(node, new["HYPERVISOR"], new["BRIDGE"])
    change = restart(old, new)
    if change is None:
        return None
    pods = "it is drained first" if drained else "its pods stop meanwhile"
    return f"{node} is shut down and started again to change {change}; {pods}"


def _would_shrink(node: str, key: str, current: str, wanted: str) -> NordmeshError:
    change = "would be removed" if wanted == "0" else f"would shrink to {size(wanted)}"
    return NordmeshError(
        f"the disk has {size(current)} and {change}",
        code="guest-disk-shrinks",
        path=f"{NAMESPACE}:machines.nodes{step(node)}.{key}",
        why="the file system ends at the end of the disk: a smaller disk destroys it",
        fix=f"set it back to {size(current)}, or remove the node and add it again",
    )


def _would_hide_etcd(node: str) -> NordmeshError:
    return NordmeshError(
        "the guest was created without a disk for etcd",
        code="guest-etcd-disk-new",
        path=f"{NAMESPACE}:machines.nodes{step(node)}.etcdDisk",
        why="etcd's data is on its first disk, and an empty second one would hide it",
        fix="remove etcdDisk, or remove the node and add it again",
    )


def _moves_network(old: Settings, new: Settings) -> bool:
    """Whether a routed network that the guest uses changes."""
    networks = old.get("NETWORK_XML"), new.get("NETWORK_XML")
    return all(networks) and old["BRIDGE"] == new["BRIDGE"] and networks[0] != networks[1]


def _would_move(node: str, hypervisor: str, bridge: str) -> NordmeshError:
    return NordmeshError(
        f"the routed network {bridge} changes, and {node} is connected to it",
        code="guest-network-change",
        path=f"{NAMESPACE}:machines.hypervisors.{hypervisor}.network",
        why="its guests have addresses of the old network, and would lose their connection",
        fix="set it back; for another network, first remove the nodes of this hypervisor",
    )
