"""The sysctls that node-prepare.sh writes: enough for many pods, and no limit lower than before."""

import pytest

from components.host import table
from tests.unit import node
from tests.unit.machine import Machine

INSTANCES, WATCHES = "max_user_instances", "max_user_watches"


def prepared(machine: Machine, **limits: int) -> dict[str, str]:
    """Prepare a node whose kernel has these inotify limits; return the sysctls that it loads."""
    node.make(machine)
    values = "".join(
        f'echo {value} >"$root/proc/sys/fs/inotify/{name}"\n' for name, value in limits.items()
    )
    own = f'mount -t tmpfs tmpfs "$root/proc/sys/fs"\nmkdir "$root/proc/sys/fs/inotify"\n{values}'
    machine.mount(machine.read("/mounts") + own)
    result = node.prepare(machine, "1", node.stack("1Gi"))
    assert result.status == 0, result.stderr
    assert machine.read("/services/sysctl") == machine.read(table.SYSCTL_FILE)
    return table.sysctls(machine.read(table.SYSCTL_FILE))


@pytest.mark.parametrize(
    ("has", "gets"),
    [
        ((128, 29_000), ("8192", "524288")),  # Debian 12 with 4 GB
        ((128, 1_048_576), ("8192", "1048576")),  # a large machine
        ((65_536, 8192), ("65536", "524288")),  # raised by its owner
    ],
)
def test_limits_are_raised_and_never_lowered(
    machine: Machine, has: tuple[int, int], gets: tuple[str, str]
) -> None:
    loaded = prepared(machine, **dict(zip((INSTANCES, WATCHES), has, strict=True)))
    assert (loaded[f"fs.inotify.{INSTANCES}"], loaded[f"fs.inotify.{WATCHES}"]) == gets
    assert loaded["net.ipv4.ip_forward"] == "1"
