"""Check the lab's requirements on this machine, and report all problems at once, with numbers.

Missing Debian packages are installed, and a kernel module and a kernel limit are set until the next
restart; nothing else of the machine is changed. Services that a package would start by itself are
kept from starting.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from shutil import disk_usage, which

from lab import build, paths
from lab.errors import LabError

Say = Callable[[str], None]

GIB = 2**30

# The Debian packages that the lab runs, and those that it is built with.
PACKAGES = (
    *build.APT_PACKAGES,
    "iproute2",
    "iptables",
    "kmod",
    "openssh-client",
    "openssh-server",  # of the engine tests; it is not started as a service
    "procps",
    "systemd-container",
    "util-linux",
)

# What unit tests run scripts of nodes with: real downloads, firewalls, sshd and snapshots.
CHECK_PACKAGES = (
    "age",
    "curl",
    "haproxy",
    "iproute2",
    "logrotate",
    "nftables",
    "openssh-client",
    "openssh-server",
    "openssl",
    "rclone",
    "skopeo",
    "systemd",
    "zstd",
)

# What only tests need: also a server for the state, and a hypervisor,
# which without libvirt-daemon-system has no services: the tests start and end their own.
TEST_PACKAGES = (
    *CHECK_PACKAGES,
    "genisoimage",
    "libvirt-clients",
    "libvirt-daemon",
    "libvirt-daemon-driver-qemu",
    "postgresql",
    "qemu-system-x86",
    "qemu-utils",
)

# Packages whose services would start at once: on ports that may be in use, or with none.
_SERVICES = ("docker-registry", "haproxy", "postgresql", "ssh")

# capabilities(7), numbers from linux/capability.h: systemd-nspawn, a systemd with sshd and
# containerd inside it, the bridge, debootstrap.
_CAPABILITIES: Mapping[str, int] = {
    "CAP_CHOWN": 0,
    "CAP_DAC_OVERRIDE": 1,
    "CAP_FOWNER": 3,
    "CAP_KILL": 5,
    "CAP_SETGID": 6,
    "CAP_SETUID": 7,
    "CAP_NET_BIND_SERVICE": 10,
    "CAP_NET_ADMIN": 12,
    "CAP_NET_RAW": 13,
    "CAP_SYS_CHROOT": 18,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
    "CAP_MKNOD": 27,
}

# systemd, kubelet and containerd of a node hold about 20 inotify instances, and the kernel's 128
# for each user run out with three labs of two nodes side by side.
_INOTIFY = Path("/proc/sys/fs/inotify/max_user_instances")
_INOTIFY_INSTANCES = 512

CORES = 2
MEMORY_BYTES = 3 * GIB
# Two nodes with their images and a cluster's data.
LAB_BYTES = 5 * GIB
# A lab that runs already only grows by logs.
SPARE_BYTES = GIB // 2


@dataclass(frozen=True, kw_only=True)
class Need:
    """The free space and memory that this run needs, in bytes."""

    cache_bytes: int
    state_bytes: int
    memory_bytes: int

    @classmethod
    def of_run(cls, *, artifacts: bool, machines: bool) -> Need:
        """The need of a run. artifacts, machines: whether these exist already."""
        return cls(
            cache_bytes=SPARE_BYTES if artifacts else build.PEAK_BYTES,
            state_bytes=SPARE_BYTES if machines else LAB_BYTES,
            memory_bytes=0 if machines else MEMORY_BYTES,
        )


def require(need: Need) -> str:
    """Describe this machine in a sentence; raises LabError with all its problems."""
    problems = [*_system_problems(), *_capability_problems(), *_size_problems(need)]
    if problems:
        listed = "\n".join(f"  - {problem}" for problem in problems)
        raise LabError("this machine cannot run the lab", code="lab-host", details=listed)
    memory = _memory_bytes()["MemAvailable"] / GIB
    free = disk_usage(_existing(paths.state().root)).free / GIB
    return f"Debian 12, {_cores()} cores, {memory:.1f} GiB memory and {free:.0f} GiB disk free"


def _system_problems() -> Iterator[str]:
    if platform.system() != "Linux":
        yield f"the system is {platform.system()}; the lab needs Linux, Debian 12"
        return
    if platform.machine() != "x86_64":
        yield f"the processor is {platform.machine()}; the lab's artifacts are for x86_64"
    release = _os_release(Path("/etc/os-release"))
    if (release.get("ID"), release.get("VERSION_ID")) != ("debian", "12"):
        name = release.get("PRETTY_NAME", "unknown")
        yield (
            f"the system is {name}; the lab supports only Debian 12, because its nodes and "
            "images are built from that release's packages: use a Debian 12 machine or guest"
        )


def _os_release(path: Path) -> dict[str, str]:
    """Read the assignments of an os-release(5) file; empty if the file does not exist."""
    if not path.is_file():
        return {}
    pairs = (line.split("=", 1) for line in path.read_text().splitlines() if "=" in line)
    return {key: value.strip("\"'") for key, value in pairs}


def _capability_problems() -> Iterator[str]:
    if os.geteuid() != 0:
        yield f"this is user id {os.geteuid()}; the lab creates containers: run as root"
        return
    match = re.search(r"^CapEff:\s*([0-9a-f]+)", Path("/proc/self/status").read_text(), re.M)
    effective = int(match[1], 16) if match else 0
    missing = [name for name, bit in _CAPABILITIES.items() if not effective >> bit & 1]
    if missing:
        yield (
            f"root lacks {len(missing)} of {len(_CAPABILITIES)} capabilities: "
            f"{', '.join(missing)}; run on a machine or guest of your own, or in a container "
            "started with these capabilities (`--privileged`)"
        )


def _size_problems(need: Need) -> Iterator[str]:
    if (cores := _cores()) < CORES:
        yield f"{cores} core is available, {CORES} are needed: give the machine more cores"
    if (memory := _memory_bytes()["MemAvailable"]) < need.memory_bytes:
        yield (
            f"{memory / GIB:.1f} GiB of memory is available, {need.memory_bytes / GIB:.0f} GiB "
            "is needed: stop programs that use it, or give the machine more"
        )
    for directory, needed in _disk_needs(need).items():
        if (free := disk_usage(directory).free) < needed:
            yield (
                f"{free / GIB:.1f} GiB of disk is free at {directory}, {needed / GIB:.1f} GiB is "
                "needed: free some, or set XDG_CACHE_HOME or XDG_STATE_HOME to a larger disk"
            )


def _disk_needs(need: Need) -> dict[Path, int]:
    """Bytes needed by directory; a single sum if the cache and the state share a file system."""
    cache, state = _existing(paths.cache().root), _existing(paths.state().root)
    if cache.stat().st_dev == state.stat().st_dev:
        return {cache: need.cache_bytes + need.state_bytes}
    return {cache: need.cache_bytes, state: need.state_bytes}


def _existing(path: Path) -> Path:
    """The path, or its nearest parent that exists."""
    return next(parent for parent in (path, *path.parents) if parent.exists())


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _memory_bytes() -> dict[str, int]:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return {(words := line.split())[0].rstrip(":"): int(words[1]) * 1024 for line in lines}


def install_packages(say: Say, wanted: Iterable[str]) -> None:
    """Install those of the Debian packages that are missing.

    Raises LabError with the end of apt's output.
    """
    missing = missing_packages(set(wanted))
    if not missing:
        return
    say(f"installing Debian packages: {', '.join(missing)}")
    # An old index may still be good enough to install from.
    update = _apt("update")
    with _services_not_started(), _no_database_made(missing):
        install = _apt("install", "-y", "--no-install-recommends", *missing)
    if install.returncode:
        raise LabError(
            f"apt-get could not install {' '.join(missing)}",
            code="lab-apt",
            fix="fix the package sources of this machine, then run this again",
            details=f"{_end(update.stdout)}\n{_end(install.stdout)}",
        )
    _disable_services(missing)


def missing_packages(wanted: Iterable[str]) -> list[str]:
    """The packages that are not installed, sorted."""
    names = sorted(wanted)
    query = ["dpkg-query", "--show", "--showformat", "${Package} ${db:Status-Abbrev}\n", *names]
    answer = subprocess.run(query, capture_output=True, text=True, check=False).stdout
    lines = (line.split() for line in answer.splitlines())
    installed = {words[0] for words in lines if words[1:2] == ["ii"]}
    return [package for package in names if package not in installed]


def _apt(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["apt-get", "-q", *arguments],
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def _end(text: str) -> str:
    return "\n".join(text.splitlines()[-15:])


# Read by the package postgresql, which without it makes a database that listens on port 5432.
_CLUSTERS = Path("/etc/postgresql-common/createcluster.d/nordmesh.conf")

_POLICY = Path("/usr/sbin/policy-rc.d")
_POLICY_TEXT = f"""\
#!/bin/sh
# Written by nordmesh while it installs packages, removed after that.
case "$1" in {"|".join(_SERVICES)}) exit 101 ;; esac
"""


@contextmanager
def _services_not_started() -> Iterator[None]:
    """Keep packages from starting the services of the list (invoke-rc.d's policy layer)."""
    ours = not _POLICY.exists() or _POLICY.read_text() == _POLICY_TEXT
    if ours:  # another's policy stays; `_disable_services` does what it leaves
        _POLICY.write_text(_POLICY_TEXT)
        _POLICY.chmod(0o755)
    try:
        yield
    finally:
        if ours:
            _POLICY.unlink()


@contextmanager
def _no_database_made(missing: Collection[str]) -> Iterator[None]:
    """Keep the package postgresql from making a database cluster (pg_createcluster(1))."""
    if "postgresql" not in missing:
        yield
        return
    _CLUSTERS.parent.mkdir(parents=True, exist_ok=True)
    _CLUSTERS.write_text("create_main_cluster = off\n")
    try:
        yield
    finally:
        _CLUSTERS.unlink()


def _disable_services(installed: list[str]) -> None:
    """Keep services of packages that we installed from starting with the machine."""
    if not Path("/run/systemd/system").is_dir():
        return
    for service in set(_SERVICES) & set(installed):
        command = ["systemctl", "disable", "--now", f"{service}.service"]
        subprocess.run(command, capture_output=True, check=False)


def prepare_kernel(say: Say) -> None:
    """Load the module that nodes cannot load themselves, and allow inotify for all their systemds.

    A restart of the machine puts the inotify limit back.
    """
    _load_bridge_module()
    if int(_INOTIFY.read_text()) >= _INOTIFY_INSTANCES:
        return
    # Without permission the kernel's own limit stays, which is enough for two labs.
    with suppress(PermissionError):
        _INOTIFY.write_text(f"{_INOTIFY_INSTANCES}\n")
        say(f"raised fs.inotify.max_user_instances to {_INOTIFY_INSTANCES}")


def _load_bridge_module() -> None:
    if not Path("/proc/sys/net/bridge").is_dir() and which("modprobe"):
        subprocess.run(["modprobe", "--quiet", "br_netfilter"], check=False)
    if not Path("/proc/sys/net/bridge").is_dir():
        raise LabError(
            "the kernel has no br_netfilter",
            code="lab-kernel",
            why="without it, pods cannot reach Services on the same node",
            fix="install the package linux-image-amd64 and restart the machine",
        )
