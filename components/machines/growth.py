"""What a change of a guest's size means, said and judged before anything is done: at preview."""

from collections.abc import Mapping

import pulumi

from components.machines.guest_sizes import DISKS, restart, size
from components.node_command import settings
from config.errors import paragraph

Settings = Mapping[str, str]


class WouldShrink(Exception):
    """A disk would get smaller. Pulumi shows the text as the resource's error."""

    def __init__(self, node: str, key: str, has: str, wanted: str) -> None:
        path = f"nordmesh:machines.nodes.{node}.{key}"
        what = "would be removed" if wanted == "0" else f"would shrink to {size(wanted)}"
        lines = (
            ("what", f"the disk has {size(has)} and {what}"),
            ("why", "what is at its end would be lost, and the file system with it"),
            ("fix", f"set it back to {size(has)}, or remove the node and add it again"),
        )
        super().__init__("\n".join([path, *(paragraph(*line) for line in lines)]))


def hooks(node: str) -> pulumi.ResourceHookBinding:
    """The hook of a guest's script, which runs in previews as well."""
    options = pulumi.ResourceHookOptions(on_dry_run=True)
    hook = pulumi.ResourceHook(f"growth of {node}", _before_update, options)
    return pulumi.ResourceHookBinding(before_update=[hook])


def judge(old: Settings, new: Settings) -> str | None:
    """What is to be said of a change, None if the guest goes on running; raises WouldShrink."""
    node = new["NODE_NAME"]
    for name, key in DISKS.items():
        if int(new[name]) < int(old.get(name, "0")):
            raise WouldShrink(node, key, old[name], new[name])
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
