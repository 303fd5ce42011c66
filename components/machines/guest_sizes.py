"""What changes of a guest, in the stack file's words, from its script's settings."""

from collections.abc import Mapping

DISKS: Mapping[str, str] = {"DISK_MIB": "disk", "ETCD_DISK_MIB": "etcdDisk"}
"""The settings that are sizes of disks, and the keys of the stack file that they come from."""

_SIZES = {"CPUS": "cpus", "MEMORY_MIB": "memory", **DISKS}

Settings = Mapping[str, str]


def restart(old: Settings, new: Settings) -> str | None:
    """What the guest is restarted for: `memory from 4Gi to 8Gi`; None if it goes on running."""
    changes = [
        f"{key} from {_shown(name, old[name])} to {_shown(name, new[name])}"
        for name, key in _SIZES.items()
        if name in old and name in new and old[name] != new[name]
    ]
    if not changes and old.get("DOMAIN_XML") == new.get("DOMAIN_XML"):
        return None
    return ", ".join(changes) or "how libvirt runs it"


def size(mebibytes: str) -> str:
    """An amount of mebibytes as the stack file would have it."""
    number = int(mebibytes)
    return f"{number // 1024}Gi" if number % 1024 == 0 else f"{number}Mi"


def _shown(name: str, value: str) -> str:
    if name == "CPUS":
        return value
    return "none" if value == "0" else size(value)
