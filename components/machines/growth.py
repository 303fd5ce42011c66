"""Judge a change of a guest's size at preview: warn of a restart, refuse a smaller disk."""

from collections.abc import Mapping

import pulumi

from components.machines.guest_sizes import DISKS, restart, size
from components.node_command import settings
from config.errors import NAMESPACE, NordmeshError, step

Settings = Mapping[str, str]


def hooks(node: str) -> pulumi.ResourceHookBinding:
    """The hook of a guest's script; it runs in previews, too."""
    options = pulumi.ResourceHookOptions(on_dry_run=True)
    hook = pulumi.ResourceHook(f"growth of {node}", _before_update, options)
    return pulumi.ResourceHookBinding(before_update=[hook])


def judge(old: Settings, new: Settings) -> str | None:
    """The warning for a change, None if the guest keeps running; raises NordmeshError for a smaller
    disk.
    """
    node = new["NODE_NAME"]
    for name, key in DISKS.items():
        if int(new[name]) < int(old.get(name, "0")):
            raise _would_shrink(node, key, old[name], new[name])
    change = restart(old, new)
    if change is None:
        return None
    return f"{node} is shut down and started again to change {change}; its pods stop meanwhile"


def _would_shrink(node: str, key: str, current: str, wanted: str) -> NordmeshError:
    change = "would be removed" if wanted == "0" else f"would shrink to {size(wanted)}"
    return NordmeshError(
        f"the disk has {size(current)} and {change}",
        code="guest-disk-shrinks",
        path=f"{NAMESPACE}:machines.nodes{step(node)}.{key}",
        why="the file system ends at the end of the disk: a smaller disk destroys it",
        fix=f"set it back to {size(current)}, or remove the node and add it again",
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
