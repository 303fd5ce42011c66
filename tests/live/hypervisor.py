"""A hypervisor for tests: libvirt, QEMU and sshd in namespaces of their own on this machine.

It has its own process ids, so that all that it started ends with it, and its own places for what
libvirt keeps. Its network is the machine's: guests are on a bridge of the lab.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

PORT = 2222
_START_SECONDS = 60

# What libvirt, the scripts and sshd would otherwise keep in the machine's own places.
_PRIVATE = ("etc/libvirt", "var/lib/libvirt", "var/log/libvirt", "var/cache/libvirt")
_NODE = ("var/lib/nordmesh", "var/log/nordmesh")

_QEMU_CONF = """\
security_driver = "none"
namespaces = []
remember_owner = 0
"""
_LIBVIRTD_CONF = """\
auth_unix_ro = "none"
auth_unix_rw = "none"
"""

# The user that QEMU runs as, which libvirt-daemon-system makes beside services of its own.
_USERS = {
    "passwd": "libvirt-qemu:x:64055:64055::/var/lib/libvirt:/usr/sbin/nologin\n",
    "group": "libvirt-qemu:x:64055:\n",
}

# Ends when the first process does, which is this script.
_INIT = """\
set -eu
mount -t tmpfs tmpfs /run
mkdir /run/sshd /run/libvirt
for place in "$@"; do
    mkdir -p "/$place"
    mount --bind "$PLACE/$place" "/$place"
done
for file in passwd group; do
    mount --bind "$PLACE/etc/$file" "/etc/$file"
done
virtlogd --daemon
libvirtd --daemon
exec /usr/sbin/sshd -D -e -f "$PLACE/sshd_config"
"""


@dataclass(frozen=True, kw_only=True)
class Hypervisor:
    """A running hypervisor. place: where it keeps everything."""

    place: Path
    address: str
    host_key: str
    private_key: str

    def ssh(self, command: str, *, ok: bool = True) -> str:
        """A command on the hypervisor."""
        known = self.place / "known_hosts"
        known.write_text(f"[{self.address}]:{PORT} {self.host_key}\n")
        result = subprocess.run(
            [
                "ssh", "-F", "none", "-i", str(self.place / "client_key"), "-p", str(PORT),
                "-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=yes",
                "-o", f"UserKnownHostsFile={known}", f"root@{self.address}", command,
            ],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert not ok or result.returncode == 0, f"{command}: {result.stderr}"
        return result.stdout

    @property
    def guests(self) -> list[str]:
        """The names of all guests that libvirt knows."""
        return self.ssh("virsh -q list --all --name").split()

    @property
    def processes(self) -> list[str]:
        """The QEMU processes, by what they are called with."""
        return self.ssh("ps -C qemu-system-x86_64 -o args= || true").splitlines()


@contextmanager
def hypervisor(address: str) -> Iterator[Hypervisor]:
    """A hypervisor at an address of this machine; everything of it is gone at the end."""
    place = Path(mkdtemp(prefix="nordmesh-hypervisor-"))
    process = None
    try:
        made = _prepare(place, address)
        with (place / "log").open("wb") as log:
            process = subprocess.Popen(
                [
                    "unshare", "--mount", "--propagation", "private", "--pid", "--fork",
                    "--kill-child", "--mount-proc", "sh", "-c", _INIT, "sh", *_PRIVATE, *_NODE,
                ],
                env={**os.environ, "PLACE": str(place)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )  # fmt: skip
        _wait(made, process)
        yield made
    finally:
        if process is not None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(place)


def _prepare(place: Path, address: str) -> Hypervisor:
    for name in (*_PRIVATE, *_NODE, "var/lib/libvirt/images"):
        (place / name).mkdir(parents=True)
    (place / "etc/libvirt/qemu.conf").write_text(_QEMU_CONF)
    (place / "etc/libvirt/libvirtd.conf").write_text(_LIBVIRTD_CONF)
    for name, line in _USERS.items():
        (place / "etc" / name).write_text(Path("/etc", name).read_text() + line)
    for name in ("host_key", "client_key"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(place / name)]
        subprocess.run(command, check=True)
    shutil.copy2(place / "client_key.pub", place / "authorized_keys")
    (place / "sshd_config").write_text(
        f"ListenAddress {address}:{PORT}\n"
        f"HostKey {place}/host_key\n"
        f"AuthorizedKeysFile {place}/authorized_keys\n"
        "PidFile none\nUsePAM no\nStrictModes no\nPermitRootLogin prohibit-password\n"
        "PasswordAuthentication no\n"
    )
    return Hypervisor(
        place=place,
        address=address,
        host_key=" ".join((place / "host_key.pub").read_text().split()[:2]),
        private_key=(place / "client_key").read_text(),
    )


def _wait(made: Hypervisor, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        if "running" in made.ssh("virsh version >/dev/null 2>&1 && echo running", ok=False):
            return
        log = (made.place / "log").read_text()
        assert process.poll() is None, f"the hypervisor ended:\n{log}"
        assert time.monotonic() < deadline, f"the hypervisor does not answer:\n{log}"
        time.sleep(0.5)
