"""Changes of a guest in terms of the stack file, from the settings of its script."""

from collections.abc import Mapping

DISKS: Mapping[str, str] = {"DISK_MIB": "disk", "ETCD_DISK_MIB": "etcdDisk"}
"""The settings that are disk sizes, and their keys in the stack file."""

_SIZES = {"CPUS": "cpus", "MEMORY_MIB": "memory", **DISKS}

Settings = Mapping[str, str]


def restart(old: Settings, new: Settings) -> str | None:
    """The reason for a restart, for example `memory from 4Gi to 8Gi`; None if none is needed."""
    changes = [
        f"{key} from {_shown(name, old[name])} to {_shown(name, new[name])}"
        for name, key in _SIZES.items()
        if name in old and name in new and old[name] != new[name]
    ]
    if not changes and old.get("DOMAIN_XML") == new.get("DOMAIN_XML"):
        return None
    return ", ".join(changes) or "how libvirt runs it"


def size(mebibytes: str) -> str:
    """Mebibytes in the notation of the stack file."""
    number = int(mebibytes)
    return f"{number // 1024}Gi" if number % 1024 == 0 else f"{number}Mi"


def _shown(name: str, value: str) -> str:
    if name == "CPUS":
        return value
    return "none" if value == "0" else size(value)
