"""A guest on an emulating hypervisor: created, joined to a container's cluster, grown, removed.

The hypervisor is libvirt in separate namespaces on this machine; the program sees an address and a
host key, as with any other hypervisor.
"""

import functools
import hashlib
import json
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import pytest

from lab import paths
from tests.live.counted import wait_for
from tests.live.harness import Project, lab_project
from tests.live.hypervisor import PORT, Hypervisor, hypervisor

GATEWAY = "10.70.0.1"
ADDRESS = "10.70.0.31"
NAME = "worker-1"
DISKS = "/var/lib/libvirt/images/nordmesh"
OTHER_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJGkUj6CiBLpxleZG7pHU45YpGrNlagoWIz6T40ULcM2"


@dataclass(frozen=True, kw_only=True)
class Mixed:
    """Stack with a control plane in a container and a worker on a hypervisor."""

    project: Project
    hypervisor: Hypervisor

    @contextmanager
    def machines(self) -> Iterator[dict[str, Any]]:
        """Edit the section `machines`."""
        with self.project.config() as config:
            yield config["nordmesh:machines"]

    def resource(self, name: str) -> dict[str, Any]:
        """Return a resource from the state, with secrets in plain text."""
        text = self.project.pulumi("stack", "export", "--show-secrets").text
        resources = json.loads(text)["deployment"]["resources"]
        (match,) = (item for item in resources if item["urn"].endswith(f"::{name}"))
        resource: dict[str, Any] = match
        return resource

    def host_key(self) -> str:
        """Return the public host key that the program created for the guest."""
        stdout = self.resource(f"{NAME}-host-key")["outputs"]["stdout"]
        text = json.loads(stdout["plaintext"]) if isinstance(stdout, dict) else stdout
        key: str = json.loads(text)["public"]
        return key

    def ssh(self, command: str, host_key: str) -> str:
        """Run a command in the guest, which must have this host key."""
        with NamedTemporaryFile("w") as known_hosts:
            known_hosts.write(f"{ADDRESS} {host_key}\n")
            known_hosts.flush()
            result = subprocess.run(
                [
                    "ssh", "-F", "none", "-i", str(self.hypervisor.directory / "client_key"),
                    "-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=yes",
                    "-o", f"UserKnownHostsFile={known_hosts.name}", f"root@{ADDRESS}", command,
                ],
                capture_output=True, text=True, timeout=120, check=False,
            )  # fmt: skip
        assert result.returncode == 0, f"{command}: {result.stderr}"
        return result.stdout

    def nodes(self) -> dict[str, dict[str, Any]]:
        """Return the status of each node."""
        with self.project.cluster() as cluster:
            return {item["metadata"]["name"]: item["status"] for item in cluster.items("nodes")}


def is_ready(status: dict[str, Any]) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in status["conditions"])


@contextmanager
def served(directory: Path) -> Iterator[str]:
    """Serve a directory over HTTP; yield its URL."""
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(directory))
    with ThreadingHTTPServer((GATEWAY, 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://{GATEWAY}:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def write_stack_file(project: Project, made: Hypervisor, image: dict[str, str]) -> None:
    with project.config() as config:
        for section in ("istio", "mesh", "observability", "demo"):
            config.pop(f"nordmesh:{section}", None)
        config["nordmesh:preflight"]["limits"]["memory"] = "800Mi"
        machines = config["nordmesh:machines"]
        machines["kvm"] = {"image": image}
        machines["hypervisors"] = {
            "hv-1": {
                "address": made.address,
                "port": PORT,
                "hostKey": OTHER_KEY,
                "emulated": True,
                "network": {"type": "bridge", "bridge": project.bridge, "subnet": "10.70.0.0/24"},
            }
        }
        machines["nodes"][NAME] = {
            "role": "worker",
            "provider": "kvm",
            "hypervisor": "hv-1",
            "address": ADDRESS,
            "cpus": 2,
            "memory": "1Gi",
            "disk": "4Gi",
        }


@pytest.fixture(scope="module")
def mixed() -> Iterator[Mixed]:
    image = paths.cache().guest_image
    assert image.is_file(), "there is no disk image of guests; run `python -m lab build`"
    with lab_project("kvm", bridge="nordmesh-kvm", network="10.70.0") as project:
        project.start_services()
        with hypervisor(GATEWAY) as made, served(image.parent) as url:
            wrong = {"url": f"{url}/{image.name}", "sha256": "0" * 64}
            write_stack_file(project, made, wrong)
            project.make_stack()
            key = made.private_key
            project.pulumi("config", "set", "--secret", "nordmesh:sshPrivateKey", stdin=key)
            try:
                yield Mixed(project=project, hypervisor=made)
            finally:
                project.pulumi("destroy", "--yes", "--skip-preview", ok=False)


def test_a_host_key_mismatch_of_the_hypervisor_stops_the_update(mixed: Mixed) -> None:
    mixed.project.fails(
        "node worker-1:", "another SSH host key", "machines.hypervisors.hv-1.hostKey"
    )
    assert mixed.hypervisor.guests == []
    assert mixed.hypervisor.ssh("ls -A /var/lib/libvirt/images") == ""


def test_an_image_with_the_wrong_checksum_is_refused(mixed: Mixed) -> None:
    with mixed.machines() as machines:
        machines["hypervisors"]["hv-1"]["hostKey"] = mixed.hypervisor.host_key
    mixed.project.fails("ERROR on node worker-1: ", "[wrong-checksum]", " fix ")
    assert mixed.hypervisor.guests == []
    assert mixed.hypervisor.ssh(f"find {DISKS} -type f -size +1M") == ""


def test_a_guest_is_created_and_joins(mixed: Mixed) -> None:
    with paths.cache().guest_image.open("rb") as image, mixed.machines() as machines:
        sha256 = hashlib.file_digest(image, "sha256").hexdigest()
        machines["kvm"]["image"]["sha256"] = sha256
    # While other tests run, an emulated guest can take more than 15 minutes.
    mixed.project.pulumi("up", "--yes", "--skip-preview", timeout=1800)
    nodes = mixed.nodes()
    assert {name: is_ready(status) for name, status in nodes.items()} == {
        "cp-1": True,
        NAME: True,
    }
    assert mixed.ssh("hostname", mixed.host_key()) == f"{NAME}\n"
    assert "cloud" in nodes[NAME]["nodeInfo"]["kernelVersion"]
    # The guest has its own kernel and clock; containers of the lab share those of this machine.
    units = "nordmesh-firewall nordmesh-members systemd-timesyncd"
    output = mixed.ssh(f"systemctl is-active {units}", mixed.host_key())
    assert output.splitlines() == ["active"] * 3
    members = "nft list set inet nordmesh members"
    wait_for(
        "the guest accepts traffic from itself",
        lambda: ADDRESS in mixed.ssh(members, mixed.host_key()),
        seconds=180,
    )
    mixed.project.up("--expect-no-changes")


def test_the_guest_meets_the_requirements(mixed: Mixed) -> None:
    (command,) = mixed.hypervisor.processes
    assert "balloon" not in command
    assert '"cache":{"direct":true,"no-flush":false}' in command
    assert '"aio":"native"' in command


def test_the_host_key_is_stored_as_a_secret(mixed: Mixed) -> None:
    assert "PRIVATE KEY" not in mixed.project.pulumi("stack", "export").text
    seed = f"{DISKS}/{NAME}/seed.iso"
    assert mixed.hypervisor.ssh(f"grep -ac 'PRIVATE KEY' {seed} || true").strip() == "0"
    readable = mixed.hypervisor.ssh(f"find {DISKS}/{NAME} -type f -perm /o+r -size +1k")
    assert readable == "", "of others: disks, seed or console"
    everything = mixed.hypervisor.ssh(
        "grep -alrs 'OPENSSH PRIVATE KEY' /run/nordmesh /var/log/nordmesh /var/lib/nordmesh "
        "/var/log/libvirt /var/lib/libvirt/qemu || true"
    )
    assert everything == ""


def test_growing_a_guest_restarts_it_as_previewed(mixed: Mixed) -> None:
    key = mixed.host_key()
    with mixed.machines() as machines:
        machines["nodes"][NAME] |= {"memory": "1280Mi", "disk": "5Gi"}
    previewed = mixed.project.pulumi("preview").text
    preview = f"{NAME} is shut down and started again to change memory from 1Gi to 1280Mi"
    assert preview in " ".join(previewed.split()), previewed
    assert "~ 1 to update" in " ".join(previewed.split()), previewed
    mixed.project.up()
    assert mixed.host_key() == key
    _, kibibytes, *_ = mixed.ssh("grep MemTotal /proc/meminfo", key).split()
    assert int(kibibytes) > 1150 * 1024
    *_, mebibytes = mixed.ssh("df --output=size -BM /", key).split()
    assert int(mebibytes.rstrip("M")) > 4700


def guest_snapshot(mixed: Mixed) -> str:
    return mixed.hypervisor.ssh(
        f"virsh dumpxml {NAME}; qemu-img info -U {DISKS}/{NAME}/root.qcow2 | grep virtual"
    ) + mixed.ssh("cat /proc/sys/kernel/random/boot_id", mixed.host_key())


def test_shrinking_a_disk_is_refused_and_changes_nothing(mixed: Mixed) -> None:
    before, file = guest_snapshot(mixed), mixed.project.stack_file.read_text()
    with mixed.machines() as machines:
        machines["nodes"][NAME]["disk"] = "4Gi"
    for command in (("preview",), ("up", "--yes", "--skip-preview")):
        result = mixed.project.pulumi(*command, ok=False)
        assert result.code != 0
        text = " ".join(result.text.split())
        assert "machines.nodes.worker-1.disk" in text, result.text
        assert "the disk has 5Gi and would shrink to 4Gi" in text, result.text
        assert "Traceback" not in text
    mixed.project.stack_file.write_text(file)

    # The script checks the disk itself, whatever the state contains.
    resource = mixed.resource(f"{NAME}-guest")
    create, delete = resource["inputs"]["create"], resource["inputs"]["delete"]
    shrunk = re.sub(r"export DISK_MIB=\d+", "export DISK_MIB=4096", create)
    output = mixed.hypervisor.ssh(f"{{ {shrunk}\n}} </dev/null 2>&1", ok=False)
    assert "the disk of worker-1 has 5120 MiB, the stack file has 4096 MiB" in output
    files = delete.replace("ALLOW_DATA_LOSS=true", "ALLOW_DATA_LOSS=false")
    output = mixed.hypervisor.ssh(f"{{ {files}\n}} 2>&1", ok=False)
    assert "[guest-has-data]" in output
    assert guest_snapshot(mixed) == before
    mixed.project.up("--expect-no-changes")


def test_a_host_key_mismatch_of_the_guest_stops_the_update(mixed: Mixed) -> None:
    mixed.ssh(
        "rm /etc/ssh/ssh_host_*; ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key; "
        "systemctl restart ssh",
        mixed.host_key(),
    )
    before = mixed.project.stack_file.read_text()
    with mixed.project.config() as config:
        config["nordmesh:artifacts"]["registry"] = f"http://{GATEWAY}:5999"
    mixed.project.fails("node worker-1:", "another SSH host key")
    mixed.project.stack_file.write_text(before)


def test_destroy_leaves_nothing(mixed: Mixed) -> None:
    mixed.project.pulumi("destroy", "--yes", "--skip-preview")
    assert mixed.hypervisor.guests == []
    assert mixed.hypervisor.processes == []
    assert mixed.hypervisor.ssh("ls -A /var/lib/libvirt/images /var/lib/nordmesh").split() == [
        "/var/lib/libvirt/images:",
        "/var/lib/nordmesh:",
        "scripts",
    ]
    assert not list(Path("/sys/class/net").glob("vnet*"))
