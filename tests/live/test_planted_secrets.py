"""Secrets planted in a real cluster and in its stack file, and searched for wherever bytes stay.

The disks are searched from outside the machines, so that nothing in memory (tmpfs) is seen.
"""

import base64
import json
import secrets
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

from cli.backup import snapshots
from components.manifests import Manifest, hardening
from config import ALERT_SECRETS, ALERT_SMTP_PASSWORD, BACKUP_SECRET_KEY, SSH_KEY, catalogue
from lab import toolchain
from lab.screen import Cluster
from tests.live.bucket import Bucket, bucket
from tests.live.harness import Project
from tests.support.applied import apply
from tests.support.needles import Needles

NAMESPACE, READER = "planted", "reader"
COUNT = 50
CONTROL_PLANE = "cp-1"
RECEIVER = "receiver.default.svc.cluster.local"
# The login that may only write has to be on the control planes, which store the snapshots.
RCLONE = "/etc/nordmesh/rclone.conf"
# What is on a machine's disk, without the programs of the system.
FOLDERS = ("etc", "home", "opt", "root", "srv", "tmp", "usr/local", "var")
# The compressed layers of images; nothing is written there but downloads.
LAYERS = ("io.containerd.content.v1.content",)


def found_by(needles: Needles, project: Project, address: str, command: str) -> Counter[str]:
    """How often each value is in what a command on a node prints."""
    listed = base64.b64encode(b"\n".join(needles.texts)).decode()
    # In memory: on the disk, the search would find its own list.
    script = (
        f"set -e; umask 077; base64 -d >/run/needles <<<{listed}; "
        f"{{ {command}; }} | {{ LC_ALL=C grep -aoFf /run/needles || [ $? = 1 ]; }}; "
        "rm /run/needles"
    )
    return needles.names_in(project.ssh(address, f"set -o pipefail; {script}").encode())


def secret_objects(values: Mapping[str, str]) -> list[Manifest]:
    return [
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "stringData": {"value": value},
        }
        for name, value in values.items()
    ]


def reader(names: Iterable[str]) -> Manifest:
    """A pod that has the Secrets as files."""
    sources = [
        {"secret": {"name": name, "items": [{"key": "value", "path": name}]}} for name in names
    ]
    mount = {"name": "all", "mountPath": "/all", "readOnly": True}
    container = {
        "name": READER,
        "image": catalogue.ECHO_IMAGE,
        "args": ["serve", "--addr", ":8080"],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": READER, "namespace": NAMESPACE},
        "spec": {
            "containers": [{**container, "volumeMounts": [mount]}],
            "volumes": [{"name": "all", "projected": {"sources": sources}}],
        },
    }


def plant(cluster: Cluster) -> dict[str, str]:
    """Write Secrets in the ways in which people do, read them, and let a pod use them."""
    values = {f"planted-{number}": secrets.token_hex(20) for number in range(COUNT)}
    cluster.kubectl("create", "namespace", NAMESPACE)
    # `apply` also writes the whole object into an annotation.
    apply(cluster, secret_objects(values))
    for name in list(values)[: COUNT // 5]:
        values[f"changed-{name}"] = secrets.token_hex(20)
        patch = json.dumps({"stringData": {"other": values[f"changed-{name}"]}})
        cluster.kubectl("-n", NAMESPACE, "patch", "secret", name, "--patch", patch)
    assert len(cluster.items("secrets", "-n", NAMESPACE)) >= COUNT
    apply(cluster, [reader(f"planted-{number}" for number in range(COUNT))])
    ready = ("wait", "--for=condition=Ready", f"pod/{READER}", "--timeout=180s")
    cluster.kubectl("-n", NAMESPACE, *ready, seconds=190)
    return values


def configure(project: Project, place: Bucket, key: str) -> dict[str, str]:
    """Set every secret of the stack file that the lab can use; return what must not be seen."""
    values = {name: secrets.token_hex(20) for name in ALERT_SECRETS}
    place.configure(project, key)
    host = {"host": RECEIVER, "port": 80}
    mail = {"host": RECEIVER, "to": ["on-call@example.no"], "sender": "lab@example.no"}
    with project.config() as config:
        config["nordmesh:observability"] = {
            "prometheus": {"enabled": True},
            "alertmanager": {
                "enabled": True,
                "webhook": host,
                "heartbeat": host,
                "email": {**mail, "username": "lab"},
            },
        }
    for name, value in values.items():
        text = value if name == ALERT_SMTP_PASSWORD else f"http://{RECEIVER}/{value}"
        project.pulumi("config", "set", "--secret", f"nordmesh:{name}", stdin=text)
    # The line with the private half of the key that logs in to the nodes.
    key_lines = (project.state_directory / "id_ed25519").read_text().splitlines()
    return {
        **values,
        SSH_KEY: key_lines[-3],
        BACKUP_SECRET_KEY: place.login["AWS_SECRET_ACCESS_KEY"],
    }


@pytest.fixture
def place(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    """A bucket that the control plane of the shared lab can write to."""
    plane = project.machine_addresses()[CONTROL_PLANE]
    with bucket(project, tmp_path_factory.mktemp("s3")) as made:
        made.trust(project, plane)
        try:
            yield made
        finally:
            made.distrust(project, plane)


def decrypted_snapshot(place: Bucket, identity: Path, folder: Path) -> Path:
    """Unpack the newest snapshot of the bucket."""
    name = snapshots.complete(path.name for path in place.folder.iterdir())[-1]
    folder.mkdir()
    archive = 'age --decrypt --identity "$1" "$2" | zstd -dqc | tar -x -C "$3"'
    command = ["bash", "-o", "pipefail", "-c", archive, "-", str(identity)]
    subprocess.run([*command, str(place.folder / f"{name}.age"), str(folder)], check=True)
    return folder


@pytest.mark.usefixtures("stack_file")
def test_no_planted_secret_stays_anywhere(
    project: Project, cluster: Cluster, place: Bucket, tmp_path: Path
) -> None:
    identity = tmp_path / "identity"
    subprocess.run(["age-keygen", "-o", identity], check=True, capture_output=True)
    public = subprocess.run(
        ["age-keygen", "-y", identity], check=True, capture_output=True, text=True
    ).stdout.strip()
    settings = configure(project, place, public)
    try:
        planted = plant(cluster)
        output = project.up().text
        nordmesh = (sys.executable, "-m", "cli", "backup", "now", "--stack", project.stack)
        stored = project.run(*nordmesh)
        assert stored.code == 0, stored.text
        needles = Needles({**planted, **settings})
        machines = project.state_directory / "machines"
        addresses = project.machine_addresses()
        control = machines / CONTROL_PLANE / "root/var/tmp/control"
        control.write_bytes(base64.b64encode(b"x" + planted["planted-0"].encode()))
        found: dict[str, dict[str, set[str]]] = {}
        try:
            for node in addresses:
                root = machines / node / "root"
                seen = needles.search(*(root / name for name in FOLDERS), ignored=LAYERS)
                found[f"disk of {node}"] = {
                    path.removeprefix(str(root)): names for path, names in seen.items()
                }
        finally:
            control.unlink()
        disk = found[f"disk of {CONTROL_PLANE}"]
        # The search finds what is there, and the login that has to be on this disk.
        assert disk.pop("/var/tmp/control") == {"planted-0"}
        assert disk.pop(RCLONE) == {BACKUP_SECRET_KEY}
        for node, address in addresses.items():
            journal = found_by(needles, project, address, "journalctl --no-pager --output=cat")
            found[f"journal of {node}"] = {"journal": set(journal)} if journal else {}
        audit = machines / CONTROL_PLANE / f"root{hardening.AUDIT_LOG}"
        assert f'"name":"planted-{COUNT - 1}"' in audit.read_text(errors="replace")
        backend = Path(toolchain.settings()["PULUMI_BACKEND_URL"].removeprefix("file://"))
        found["state and stack file"] = needles.search(backend, project.stack_file)
        printed = tmp_path / "printed"
        printed.write_text(output + stored.text)
        found["output of `pulumi up`"] = needles.search(printed)
        opened = decrypted_snapshot(place, identity, tmp_path / "opened")
        assert (opened / "etcd.db").read_bytes().find(b"k8s:enc:secretbox:v1:") != -1
        found["snapshot"] = needles.search(place.folder, opened)
        print(f"\n{len(needles.values)} secrets searched for, plain and in base64")
        for where, files in found.items():
            print(f"{where}: {len(set().union(*files.values()))} found {files or ''}")
        assert {where: files for where, files in found.items() if files} == {}
    finally:
        cluster.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait=false")
