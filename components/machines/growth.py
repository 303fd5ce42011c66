"""Judge a change of a guest's size at preview: refuse it, or warn that the guest restarts."""

from collections.abc import Mapping

import pulumi

from components.machines.guest_sizes import DISKS, restart, size
from components.node_command import settings
from config.errors import NordmeshError

Settings = Mapping[str, str]


def hooks(node: str) -> pulumi.ResourceHookBinding:
    """The hook of a guest's script, which runs in previews as well."""
    options = pulumi.ResourceHookOptions(on_dry_run=True)
    hook = pulumi.ResourceHook(f"growth of {node}", _before_update, options)
    return pulumi.ResourceHookBinding(before_update=[hook])


def judge(old: Settings, new: Settings) -> str | None:
    """Return the warning that a change needs, None if the guest keeps running.

    Raises NordmeshError for a disk that would shrink.
    """
    node = new["NODE_NAME"]
    for name, key in DISKS.items():
        if int(new[name]) < int(old.get(name, "0")):
            raise _would_shrink(node, key, size(old[name]), new[name])
    change = restart(old, new)
    if change is None:
        return None
    return (
        f"{node} is shut down and started again to change {change}; what runs on it stops meanwhile"
    )


def _before_update(args: pulumi.ResourceHookArgs) -> None:
    old, new = (
        settings(str((inputs or {}).get("create", "")))
        for inputs in (args.old_inputs, args.new_inputs)
    )
    if "DISK_MIB" not in old or "DISK_MIB" not in new:
        return
    message = judge(old, new)
    if message:
        pulumi.log.warn(message)


def _would_shrink(node: str, key: str, current: str, wanted: str) -> NordmeshError:
    change = "be removed" if wanted == "0" else f"shrink to {size(wanted)}"
    return NordmeshError(
        f"the disk has {current} and would {change}",
        code="disk-would-shrink",
        path=f"nordmesh:machines.nodes.{node}.{key}",
        why="the data at its end, and so the whole file system, would be lost",
        fix=f"set it back to {current}, or remove the node and add it again",
    )
