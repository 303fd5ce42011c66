"""A hypervisor for tests: libvirt, QEMU and sshd in separate namespaces on this machine.

It has its own PID namespace, so that all of its processes end with it, and its own directories for
libvirt. It shares the network of the machine: guests are on a bridge of the lab.
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
_START_SECONDS = 180

# Directories that libvirt, the scripts and sshd would otherwise share with the machine.
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

# The user that QEMU runs as. libvirt-daemon-system would create it, but also start services.
_USERS = {
    "passwd": "libvirt-qemu:x:64055:64055::/var/lib/libvirt:/usr/sbin/nologin\n",
    "group": "libvirt-qemu:x:64055:\n",
}

# The namespace ends with its first process, which is this script.
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
    """A running hypervisor. directory: all of its files."""

    directory: Path
    address: str
    host_key: str
    private_key: str

    def ssh(self, command: str, *, ok: bool = True) -> str:
        """Run a command on the hypervisor."""
        known_hosts = self.directory / "known_hosts"
        known_hosts.write_text(f"[{self.address}]:{PORT} {self.host_key}\n")
        result = subprocess.run(
            [
                "ssh", "-F", "none", "-i", str(self.directory / "client_key"), "-p", str(PORT),
                "-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=yes",
                "-o", f"UserKnownHostsFile={known_hosts}", f"root@{self.address}", command,
            ],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert not ok or result.returncode == 0, f"{command}: {result.stderr}"
        return result.stdout

    @property
    def guests(self) -> list[str]:
        """List the names of all guests in libvirt."""
        return self.ssh("virsh -q list --all --name").split()

    @property
    def processes(self) -> list[str]:
        """List the command lines of the QEMU processes."""
        return self.ssh("ps -C qemu-system-x86_64 -o args= || true").splitlines()


@contextmanager
def hypervisor(address: str) -> Iterator[Hypervisor]:
    """Run a hypervisor on an address of this machine, and delete it at the end."""
    directory = Path(mkdtemp(prefix="nordmesh-hypervisor-"))
    process = None
    try:
        running = _prepare(directory, address)
        with (directory / "log").open("wb") as log:
            process = subprocess.Popen(
                [
                    "unshare", "--mount", "--propagation", "private", "--pid", "--fork",
                    "--kill-child", "--mount-proc", "sh", "-c", _INIT, "sh", *_PRIVATE, *_NODE,
                ],
                env={**os.environ, "PLACE": str(directory)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )  # fmt: skip
        _wait(running, process)
        yield running
    finally:
        if process is not None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(directory)


def _prepare(directory: Path, address: str) -> Hypervisor:
    for name in (*_PRIVATE, *_NODE, "var/lib/libvirt/images"):
        (directory / name).mkdir(parents=True)
    (directory / "etc/libvirt/qemu.conf").write_text(_QEMU_CONF)
    (directory / "etc/libvirt/libvirtd.conf").write_text(_LIBVIRTD_CONF)
    for name, line in _USERS.items():
        (directory / "etc" / name).write_text(Path("/etc", name).read_text() + line)
    for name in ("host_key", "client_key"):
        command = [
            "ssh-keygen",
            "-q",
            "-t",
            "ed25519",
            "-N",
            "",
            "-C",
            "",
            "-f",
            str(directory / name),
        ]
        subprocess.run(command, check=True)
    shutil.copy2(directory / "client_key.pub", directory / "authorized_keys")
    (directory / "sshd_config").write_text(
        f"ListenAddress {address}:{PORT}\n"
        f"HostKey {directory}/host_key\n"
        f"AuthorizedKeysFile {directory}/authorized_keys\n"
        "PidFile none\nUsePAM no\nStrictModes no\nPermitRootLogin prohibit-password\n"
        "PasswordAuthentication no\n"
    )
    return Hypervisor(
        directory=directory,
        address=address,
        host_key=" ".join((directory / "host_key.pub").read_text().split()[:2]),
        private_key=(directory / "client_key").read_text(),
    )


def _wait(running: Hypervisor, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        if "running" in running.ssh("virsh version >/dev/null 2>&1 && echo running", ok=False):
            return
        log = (running.directory / "log").read_text()
        assert process.poll() is None, f"the hypervisor ended:\n{log}"
        assert time.monotonic() < deadline, f"the hypervisor does not answer:\n{log}"
        time.sleep(0.5)
