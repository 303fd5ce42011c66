"""The steps by hand that the benchmark compares with, on a pretended ssh."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from config import catalogue
from lab import paths, services
from lab.errors import LabError
from tests.bench import before, by_hand
from tests.bench.bench_lab import BRIDGE, NETWORK, STACK, BenchLab
from tests.live.harness import Project

# Notes the node and the command; answers what the script reads.
SSH = """#!/bin/bash
node=${*: -2:1} command=${!#}
printf '%s %s\\0' "${node#*@}" "${command#*; }" >>"$JOURNAL"
case $command in
*'>/etc/kubernetes/pki/encryption.yaml') cat >>"$KEYS" ;;
*'cat >'*) cat >/dev/null ;;
*'kubectl apply '*) cat >/dev/null ;;
*'cat /etc/kubernetes/pki/encryption.yaml') echo the keys of the first ;;
*'token create'*) echo kubeadm join api:6443 --token t ;;
*upload-certs*) printf 'Using certificate key:\\n%064d\\n' 7 ;;
esac
"""
PLANES = [f"{NETWORK}.1{number}" for number in (1, 2, 3)]
WORKERS = [f"{NETWORK}.2{number}" for number in (1, 2)]


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BenchLab:
    shipped = yaml.safe_load((paths.PROJECT / "Pulumi.local.yaml").read_text())
    machines = shipped["config"]["nordmesh:machines"]
    machines["container"] = {"bridge": BRIDGE, "subnet": f"{NETWORK}.0/24"}
    machines["allowDataLoss"] = True
    keys = [download.key for download in catalogue.all_downloads()]
    (tmp_path / ".lab").mkdir()
    lock = {"binaries": dict.fromkeys(keys, "0" * 64)}
    (tmp_path / ".lab" / "artifacts.lock.json").write_text(json.dumps(lock))
    text = yaml.safe_dump(shipped).replace("10.66.0.", f"{NETWORK}.")
    (tmp_path / f"Pulumi.{STACK}.yaml").write_text(text)
    monkeypatch.setattr(BenchLab, "known_hosts", lambda _: "")
    project = Project(directory=tmp_path, stack=STACK, bridge=BRIDGE, log=tmp_path / "log")
    return BenchLab(project=project, lab=services.read_lab(tmp_path, STACK))


def steps(lab: BenchLab, directory: Path) -> list[tuple[str, str]]:
    """Run the script; return the commands on nodes, with the node's address."""
    settings = by_hand.write_files(lab, directory)
    ssh, journal = directory / "bin" / "ssh", directory / "journal"
    ssh.parent.mkdir()
    ssh.write_text(SSH)
    ssh.chmod(0o755)
    subprocess.run(
        ["bash", str(by_hand.SCRIPT)],
        env={
            **settings,
            "PATH": f"{ssh.parent}:{os.environ['PATH']}",
            "JOURNAL": str(journal),
            "KEYS": str(directory / "keys"),
        },
        check=True,
        capture_output=True,
    )
    lines = journal.read_text().split("\0")[:-1]
    return [(address, command) for address, _, command in (line.partition(" ") for line in lines)]


def test_three_control_planes_and_two_workers_by_hand(lab: BenchLab, tmp_path: Path) -> None:
    grown = lab.with_nodes(3, 2)
    assert list(grown.lab.nodes.values()) == [*PLANES, *WORKERS]
    ran = steps(grown, tmp_path)
    prepared = [address for address, command in ran if "prepare.sh" in command]
    assert prepared == [*PLANES, *WORKERS]
    made = [address for address, command in ran if "kubeadm init --config" in command]
    assert made == PLANES[:1]
    joins = {address: command for address, command in ran if "kubeadm join" in command}
    assert list(joins) == [*PLANES[1:], *WORKERS]
    for address in PLANES[1:]:
        assert f"--control-plane --certificate-key {7:064} " in joins[address]
        assert f"--apiserver-advertise-address {address} " in joins[address]
    for address in WORKERS:
        assert f"endpoint.sh {' '.join(PLANES)} &&" in joins[address]
        assert "--control-plane" not in joins[address]
    # All have the keys of the first: it makes them, and the others get a copy.
    assert (tmp_path / "keys").read_text().count("the keys of the first") == 2


def test_one_control_plane_by_hand_stores_no_certificates(lab: BenchLab, tmp_path: Path) -> None:
    ran = steps(lab, tmp_path)
    assert not [command for _, command in ran if "upload-certs" in command]
    joined = [address for address, command in ran if "kubeadm join" in command]
    assert joined == WORKERS[:1]


def test_a_revision_with_another_layout_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "Pulumi.yaml").write_text("name: nordmesh\n")
    author = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    for command in (("init", "-q"), ("add", "."), (*author, "commit", "-q", "-m", "Begin")):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    monkeypatch.setattr(paths, "PROJECT", tmp_path)
    with pytest.raises(LabError, match="cli") as refused, before._revision("HEAD"):
        pass
    assert refused.value.fix
