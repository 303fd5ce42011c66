"""Bought machines behind a bastion: what is wrong with them is told at once, and mended they serve.

Two nodes and a bastion, all made by hand; a user with sudo, and a key with a passphrase.
"""

import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.live import bought
from tests.live.harness import Project, Result, lab_project

NETWORK = "10.71.0"
BASTION, PLANE, WORKER = (f"{NETWORK}.{number}" for number in (5, 11, 21))
USER, JUMPER = "deploy", "jump"
PASSWORD = "a passphrase with 'quotes'"  # noqa: S105
OTHER_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJGkUj6CiBLpxleZG7pHU45YpGrNlagoWIz6T40ULcM2"
PORT = 2200  # only the bastion is let in there

# Everything that a script could have changed, but for logs and what the kernel keeps.
SNAPSHOT = r"""
find / -xdev \( -path /proc -o -path /sys -o -path /run -o -path /tmp -o -path /var/log \) -prune \
    -o \( -type f -printf '%p %s %m %C@\n' \) -o -printf '%p %m\n' | sort
sha256sum /var/lib/dpkg/status
sysctl -a 2>/dev/null | grep -E '^net.ipv4.ip_forward|^net.bridge'
systemctl list-units --all --plain --no-legend '*.service' | awk '!/user/ {print $1}' | sort
ip -o link
"""

# As if a program there kept a tenth of each second for others.
STOLEN = """
mkdir -p /run/plant
cat /proc/stat >/run/plant/stat
mount --bind /run/plant/stat /proc/stat
systemd-run --quiet --unit=plant-steal bash -c '
    n=0
    while :; do
        n=$((n + 1))
        printf "cpu  %d 0 0 %d 0 0 0 %d 0 0\\n" $((n * 10)) $((n * 80)) $((n * 10)) >/run/plant/stat
        sleep 0.1
    done'
"""
# A narrow way from the control plane to the worker, where packets wait for their turn.
PLANTS = {
    PLANE: rf"""set -e
mkdir -p /etc/cni/net.d /etc/ufw
echo '{{}}' >/etc/cni/net.d/10-old.conflist
echo ENABLED=yes >/etc/ufw/ufw.conf
printf '%s\n' 'Package: docker-ce' 'Status: install ok installed' 'Version: 1' \
    'Architecture: all' 'Maintainer: nobody' 'Description: planted' '' >>/var/lib/dpkg/status
systemd-run --quiet --unit=plant-web perl -MIO::Socket::INET \
    -e 'my $web = IO::Socket::INET->new(LocalPort => 6443, Listen => 5) or die; sleep 3600'
iptables -A INPUT -p udp --dport 8472 -j DROP
tc qdisc add dev host0 root handle 1: htb default 1
tc class add dev host0 parent 1: classid 1:1 htb rate 1gbit
tc class add dev host0 parent 1: classid 1:2 htb rate 200kbit burst 1600
tc filter add dev host0 parent 1: protocol ip u32 match ip dst {WORKER}/32 flowid 1:2
""",
    WORKER: rf"""set -e
{STOLEN}
sed 's/^MemTotal:.*/MemTotal:        900000 kB/' /proc/meminfo >/run/plant/meminfo
mount --bind /run/plant/meminfo /proc/meminfo
sed 's/ aes / /' /proc/cpuinfo >/run/plant/cpuinfo
mount --bind /run/plant/cpuinfo /proc/cpuinfo
{{ echo 'Filename Type Size Used Priority'; echo '/swapfile file 1048572 0 -2'; }} >/run/plant/swaps
mount --bind /run/plant/swaps /proc/swaps
printf '#!/bin/sh\nexec /bin/date -d "+7 seconds" "$@"\n' >/usr/local/bin/date
chmod 755 /usr/local/bin/date
mkdir -p /var/lib/containerd
mount -t tmpfs -o size=64m none /var/lib/containerd
hostname cp-1
iptables -A INPUT -p tcp --dport 10250 -j DROP
iptables -A INPUT -p tcp --dport 15010 -j REJECT --reject-with tcp-reset
ip link set host0 mtu 1400
""",
}
# What the report must hold: check, the node's place among the names, and what was found.
TOLD = {
    "cp-1: in-use": ("tcp 6443 is taken by perl", "/etc/cni/net.d/10-old.conflist"),
    "cp-1: conflicts": ("ufw is on", "docker-ce"),
    "cp-1: sync-latency": ("fdatasync calls within", "at most 0.1ms"),
    "cp-1, worker-1: hostname": ("both have cp-1",),
    "cp-1, worker-1: machine-id": ("both have",),
    "cp-1, worker-1: mtu": ("packets of 1500 bytes do not arrive", "cp-1 1500, worker-1 1400"),
    "cp-1, worker-1: ports": ("udp 8472: no answer, from worker-1",),
    "cp-1, worker-1: latency": ("a round trip takes", "better below 1ms"),
    "worker-1, cp-1: ports": ("tcp 10250: no answer, from cp-1",),
    "worker-1, cp-1: mesh-ports": ("tcp 15010: Connection refused, from cp-1",),
    "worker-1, cp-1: clock": ("s ahead of that of cp-1",),
    "worker-1: steal": ("10.0% of the CPU time over 1s", "at most 2%"),
    "worker-1: memory": ("879Mi", "at least 1700Mi"),
    "worker-1: aes": ("no AES instructions",),
    "worker-1: swap": ("on: /swapfile",),
    "worker-1: disk-space": ("64 MiB free below /var/lib/containerd",),
    "worker-1: cores": ("at least 512",),
    "worker-1: time-sync": ("timesyncd",),
    "worker-1: virtualization": ("systemd-nspawn", "a kernel of its own"),
    "worker-1: dns": ("registry.invalid is not resolved",),
    "worker-1: downloads": (f"{NETWORK}.1 port 8099 does not answer",),
    "worker-1: mesh-capacity": ("counts on 64 of cpu",),
}


@dataclass(frozen=True, kw_only=True)
class Field:
    """The machines, and the stack that is given them. lab: for root's own way in, with its key."""

    project: Project
    lab: Project
    host_keys: Mapping[str, str]

    def configure(self, edit: Mapping[str, object] | None = None) -> None:
        """Write the stack file: sections replaced whole, and by `machines.` nodes' keys added."""
        document = bought.read_config(self.project)
        config = document["config"]
        nodes = {
            "cp-1": {"role": "control-plane", "address": PLANE},
            "worker-1": {"role": "worker", "address": WORKER},
        }
        config["nordmesh:machines"] = {
            "allowDataLoss": True,
            "ssh": {
                "user": USER,
                "port": PORT,
                "bastion": {
                    "address": BASTION, "user": JUMPER, "hostKey": self.host_keys["bastion"],
                },
            },
            "nodes": {
                name: {**node, "provider": "existing", "hostKey": self.host_keys[name]}
                for name, node in nodes.items()
            },
        }  # fmt: skip
        base = yaml.safe_load(self.lab.stack_file.read_text())["config"]
        for name in ("preflight", "artifacts", "kubernetes"):
            config[f"nordmesh:{name}"] = base[f"nordmesh:{name}"]
        config.pop("nordmesh:istio", None)
        for key, value in (edit or {}).items():
            section, *path = key.split(".")
            place = config.setdefault(f"nordmesh:{section}", {})
            for step in path[:-1]:
                place = place[step]
            place[path[-1]] = value
        self.project.stack_file.write_text(yaml.safe_dump(document))

    def preflight(self) -> Result:
        """`make preflight`."""
        return self.project.run_python("-m", "stacks.preflight", "--stack", self.project.stack)

    def jumps(self) -> int:
        """How often somebody was let in at the bastion."""
        log = self.lab.ssh(BASTION, "journalctl -u ssh --no-pager --output=cat")
        return log.count(f"Accepted publickey for {JUMPER}")

    def snapshots(self) -> dict[str, str]:
        return {address: self.lab.ssh(address, SNAPSHOT) for address in (PLANE, WORKER)}


def changed(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """The lines of the snapshots that are not the same."""
    return [
        f"{address}: {line}"
        for address in before
        for line in set(before[address].splitlines()) ^ set(after[address].splitlines())
    ]


def make_key(path: Path) -> str:
    """A locked key pair; its public half."""
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", PASSWORD, "-C", "team", "-f", str(path)],
        check=True,
    )
    return path.with_name(f"{path.name}.pub").read_text().strip()


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    with lab_project("field", bridge="nordmesh-pre", network=NETWORK) as lab:
        lab.start_services()
        machines = {"bastion": BASTION, "cp-1": PLANE, "worker-1": WORKER}
        keys = {
            name: bought.make_machine(lab, name, address)["hostKey"]
            for name, address in machines.items()
        }
        key = tmp_path_factory.mktemp("team") / "key"
        public = make_key(key)
        bought.add_user(lab, BASTION, JUMPER, authorized=public)
        for address in (PLANE, WORKER):
            bought.add_user(lab, address, USER, authorized=public)
            lab.ssh(
                address,
                f"printf 'Port 22\\nPort {PORT}\\n' >/etc/ssh/sshd_config.d/ports.conf; "
                f"iptables -A INPUT -p tcp --dport {PORT} ! -s {BASTION} -j DROP; "
                "systemctl reload ssh",
            )
        project = replace(lab, stack="behind")
        document: dict[str, Any] = yaml.safe_load(lab.stack_file.read_text())
        for section in ("istio", "mesh", "demo"):
            del document["config"][f"nordmesh:{section}"]
        project.stack_file.write_text(yaml.safe_dump(document))
        field = Field(project=project, lab=lab, host_keys=keys)
        field.configure()
        project.pulumi("stack", "init", "--no-select")
        for name, value in (
            ("sshPrivateKey", key.read_text()),
            ("sshPrivateKeyPassword", PASSWORD),
        ):
            project.pulumi("config", "set", "--secret", f"nordmesh:{name}", stdin=value)
        try:
            yield field
        finally:
            project.pulumi("stack", "rm", "--yes", "--force", "--preserve-config", ok=False)


def test_a_preview_asks_no_machine_anything(field: Field) -> None:
    before = field.jumps()
    shown = field.project.pulumi("preview").text
    assert "the preflight lets" in shown
    assert field.jumps() == before


@pytest.mark.parametrize("where", ["bastion", "node"])
def test_a_wrong_host_key_stops_everything(field: Field, where: str) -> None:
    before = field.snapshots()
    wrong = {
        "bastion": "machines.ssh.bastion.hostKey",
        "node": "machines.nodes.worker-1.hostKey",
    }
    field.configure({wrong[where]: OTHER_KEY})
    text = " ".join(field.project.up(ok=False).text.split())
    assert "worker-1: login" in text
    assert "shows another host key than the pinned one" in text
    assert f"through the bastion {BASTION}" in text
    assert ("cp-1: login" in text) == (where == "bastion")
    assert "Traceback" not in text
    assert changed(before, field.snapshots()) == []
    field.configure()


PLANTED = {
    "preflight.override": {},
    "preflight.limits": {"syncLatency": "0.1ms", "cores": 512},
    "artifacts.mirror": f"http://{NETWORK}.1:8099",
    "artifacts.registry": "http://registry.invalid:5000",
    "kubernetes.kubelet": {},
    "istio.version": "1.16.5",
    "machines.nodes.worker-1.capacity": {"cpu": "64", "memory": "1Gi"},
}


@pytest.fixture
def planted(field: Field) -> Iterator[None]:
    """All that can be wrong with a machine, on two machines; taken away again at the end."""
    plane_id, own_id = (field.lab.ssh(at, "cat /etc/machine-id").strip() for at in (PLANE, WORKER))
    write_id = "chmod 644 /etc/machine-id; echo {} >/etc/machine-id"
    try:
        for address, plant in PLANTS.items():
            field.lab.ssh(address, plant)
        field.lab.ssh(WORKER, write_id.format(plane_id))
        field.configure(PLANTED)
        yield
    finally:
        for address, mend in MENDS.items():
            field.lab.ssh(address, mend)
        field.lab.ssh(WORKER, write_id.format(own_id))
        field.configure()


@pytest.mark.usefixtures("planted")
def test_one_report_names_everything_and_nothing_is_changed(field: Field) -> None:
    before = field.snapshots()
    refused = field.project.up(ok=False).text
    plain = " ".join(refused.split())
    assert "the preflight refuses 2 nodes of 2" in plain, refused
    missing = [
        words for head, found in TOLD.items() for words in (head, *found) if words not in plain
    ]
    assert not missing, refused
    assert "Traceback" not in refused
    told = field.preflight()
    assert told.code == 1, told.text
    assert [head for head in TOLD if head not in told.text] == []
    assert changed(before, field.snapshots()) == []


MENDS = {
    PLANE: r"""
systemctl stop plant-web
rm -r /etc/cni/net.d/10-old.conflist /etc/ufw
sed -i '/^Package: docker-ce$/,/^$/d' /var/lib/dpkg/status
iptables -D INPUT -p udp --dport 8472 -j DROP
tc qdisc del dev host0 root
true
""",
    WORKER: r"""
systemctl stop plant-steal
umount /proc/stat /proc/meminfo /proc/cpuinfo /proc/swaps /var/lib/containerd
rm /usr/local/bin/date
hostname worker-1
iptables -D INPUT -p tcp --dport 10250 -j DROP
iptables -D INPUT -p tcp --dport 15010 -j REJECT --reject-with tcp-reset
ip link set host0 mtu 1500
true
""",
}


def test_a_machine_that_runs_something_is_taken_with_a_reason(field: Field) -> None:
    field.lab.ssh(WORKER, "mkdir -p /var/lib/rancher")
    assert "worker-1: in-use" in field.preflight().text
    reason = "its k3s is switched off and may be overwritten"
    field.configure({"machines.nodes.worker-1.adopt": reason})
    told = field.preflight()
    assert told.code == 0, told.text
    assert f"through: {reason}" in " ".join(told.text.split())
    assert reason in " ".join(field.project.pulumi("preview").text.split())
    field.lab.ssh(WORKER, "rmdir /var/lib/rancher")
    field.configure()


def test_mended_the_machines_become_a_cluster(field: Field) -> None:
    field.project.up()
    with field.project.cluster() as cluster:
        names = sorted(item["metadata"]["name"] for item in cluster.items("nodes"))
    assert names == ["cp-1", "worker-1"]
    state = field.project.pulumi("stack", "export").text
    assert PASSWORD not in state
    assert "PRIVATE KEY" not in state


def test_an_up_that_changes_nothing_connects_to_nothing(field: Field) -> None:
    before = field.jumps()
    field.project.up("--expect-no-changes")
    assert field.jumps() == before


def test_a_running_cluster_can_be_measured(field: Field) -> None:
    told = field.preflight()
    assert told.code == 0, told.text
    assert "the preflight has nothing against 2 nodes" in told.text
    assert "round trips in milliseconds" in told.text


def test_the_machines_are_given_back(field: Field) -> None:
    field.project.pulumi("destroy", "--yes", "--skip-preview")
    left = field.lab.ssh(WORKER, "ls /etc/kubernetes 2>&1 || true; ip -o link show type vxlan")
    assert "No such file" in left
    assert "flannel" not in left
