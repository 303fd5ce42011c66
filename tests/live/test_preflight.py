"""Bought machines behind a bastion: every problem is reported at once; once fixed, they join.

Two nodes and a bastion, created by hand; a user with sudo, and a key with a passphrase.
"""

import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from config.preflight import CHECKS
from tests.live import as_sold, bought
from tests.live.harness import Project, Result, lab_project
from tests.live.planted import BASTION, IN_THE_WAY, NETWORK, PLANE, WHAT_IT_IS, WORKER, Planting

USER, JUMPER = "deploy", "jump"
PASSWORD = "a passphrase with 'quotes'"  # noqa: S105
OTHER_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJGkUj6CiBLpxleZG7pHU45YpGrNlagoWIz6T40ULcM2"
PORT = 2200  # only the bastion has access

# Everything that a script could have changed, except logs and kernel file systems.
SNAPSHOT = r"""
find / -xdev \( -path /proc -o -path /sys -o -path /run -o -path /tmp -o -path /var/log \) -prune \
    -o \( -type f -printf '%p %s %m %C@\n' \) -o -printf '%p %m\n' | sort
sha256sum /var/lib/dpkg/status
sysctl -a 2>/dev/null | grep -E '^net.ipv4.ip_forward|^net.bridge'
systemctl list-units --all --plain --no-legend '*.service' | awk '!/user/ {print $1}' | sort
ip -o link
"""


@dataclass(frozen=True, kw_only=True)
class Field:
    """The machines and their stack. lab: for direct access as root."""

    project: Project
    lab: Project
    host_keys: Mapping[str, str]

    def configure(self, edit: Mapping[str, object] | None = None) -> None:
        """Write the stack file: replace sections, and add the keys of nodes under `machines.`."""
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
        for name in ("istio", "storage"):
            config.pop(f"nordmesh:{name}", None)
        for key, value in (edit or {}).items():
            section, *path = key.split(".")
            target = config.setdefault(f"nordmesh:{section}", {})
            for step in path[:-1]:
                target = target[step]
            target[path[-1]] = value
        self.project.stack_file.write_text(yaml.safe_dump(document))

    def preflight(self) -> Result:
        """Run `nordmesh preflight`."""
        return self.project.run_python("-m", "cli", "preflight", "--stack", self.project.stack)

    def jumps(self) -> int:
        """Count the logins on the bastion."""
        log = self.lab.ssh(BASTION, "journalctl -u ssh --no-pager --output=cat")
        return log.count(f"Accepted publickey for {JUMPER}")

    def snapshots(self) -> dict[str, str]:
        return {address: self.lab.ssh(address, SNAPSHOT) for address in (PLANE, WORKER)}


def changed(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Return the lines that differ between the snapshots."""
    return [
        f"{address}: {line}"
        for address in before
        for line in set(before[address].splitlines()) ^ set(after[address].splitlines())
    ]


def make_key(path: Path) -> str:
    """Create an encrypted key pair; return the public key."""
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
        project.make_stack()
        for name, value in (
            ("sshPrivateKey", key.read_text()),
            ("sshPrivateKeyPassword", PASSWORD),
        ):
            project.pulumi("config", "set", "--secret", f"nordmesh:{name}", stdin=value)
        try:
            yield field
        finally:
            project.pulumi("stack", "rm", "--yes", "--force", "--preserve-config", ok=False)


def test_a_preview_contacts_no_machine(field: Field) -> None:
    before = field.jumps()
    output = field.project.pulumi("preview").text
    assert "waived: " in output
    assert field.jumps() == before


@pytest.mark.parametrize("where", ["bastion", "node"])
def test_a_host_key_mismatch_stops_the_preflight(field: Field, where: str) -> None:
    before = field.snapshots()
    wrong = {
        "bastion": "machines.ssh.bastion.hostKey",
        "node": "machines.nodes.worker-1.hostKey",
    }
    field.configure({wrong[where]: OTHER_KEY})
    text = " ".join(field.project.up(ok=False).text.split())
    assert "worker-1 [preflight-login]" in text
    assert "shows a host key other than the pinned one" in text
    assert f"through the bastion {BASTION}" in text
    assert ("cp-1 [preflight-login]" in text) == (where == "bastion")
    assert "Traceback" not in text
    assert changed(before, field.snapshots()) == []
    field.configure()


@pytest.fixture(params=[IN_THE_WAY, WHAT_IT_IS], ids=["in the way", "what it is"])
def planting(field: Field, request: pytest.FixtureRequest) -> Iterator[Planting]:
    """Plant faults on the machines, and remove them at the end."""
    planting: Planting = request.param
    try:
        for address, plant in planting.plants.items():
            field.lab.ssh(address, plant)
        field.configure(planting.config)
        yield planting
    finally:
        for address, repair in planting.repairs.items():
            field.lab.ssh(address, repair)
        field.configure()


def test_one_report_names_all_faults_and_nothing_is_changed(
    field: Field, planting: Planting
) -> None:
    before = field.snapshots()
    refused = field.project.up(ok=False).text
    plain = " ".join(refused.split())
    assert "preflight failed on 2 of 2 nodes" in plain, refused
    missing = [
        text
        for head, texts in planting.messages.items()
        for text in (head, *texts)
        if text not in plain
    ]
    assert not missing, refused
    assert "Traceback" not in refused
    output = field.preflight()
    assert output.code == 1, output.text
    assert [head for head in planting.messages if head not in output.text] == []
    assert changed(before, field.snapshots()) == []


def test_every_check_has_a_planted_fault() -> None:
    assert IN_THE_WAY.checks() | WHAT_IT_IS.checks() == {*CHECKS, "architecture"}


def test_a_machine_in_use_can_be_adopted_with_a_reason(field: Field) -> None:
    field.lab.ssh(WORKER, "mkdir -p /var/lib/rancher")
    assert "worker-1 [preflight-in-use]" in field.preflight().text
    reason = "its k3s is switched off and may be overwritten"
    field.configure({"machines.nodes.worker-1.adopt": reason})
    output = field.preflight()
    assert output.code == 0, output.text
    assert f"waived: {reason}" in " ".join(output.text.split())
    assert reason in " ".join(field.project.pulumi("preview").text.split())
    field.lab.ssh(WORKER, "rmdir /var/lib/rancher")
    field.configure()


def test_swap_of_the_next_boot_is_refused(field: Field) -> None:
    field.configure({"kubernetes.kubelet": {}})
    field.lab.ssh(WORKER, "cp -p /etc/fstab /run/fstab; echo '/swap.img none swap sw' >>/etc/fstab")
    text = " ".join(field.project.up(ok=False).text.split())
    field.lab.ssh(WORKER, "cp -p /run/fstab /etc/fstab")
    field.configure()
    assert "on after the next boot: /etc/fstab" in text
    assert "remove swap from /etc/fstab" in text


def test_a_resolver_that_pods_cannot_reach_is_refused(field: Field) -> None:
    unbound = "IO::Socket::INET->new(LocalAddr => q(127.0.0.1), LocalPort => 53, Proto => q(udp))"
    field.lab.ssh(
        WORKER,
        "cp -p /etc/resolv.conf /run/resolv; echo nameserver 127.0.0.1 >/etc/resolv.conf; "
        "systemd-run --quiet --unit=plant-dns perl -MIO::Socket::INET "
        f"-e 'my $socket = {unbound} or die; sleep 3600'",
    )
    text = " ".join(field.project.up(ok=False).text.split())
    field.lab.ssh(WORKER, "systemctl stop plant-dns; cp -p /run/resolv /etc/resolv.conf")
    assert "worker-1 [preflight-dns]" in text
    assert "127.0.0.1, where perl answers" in text
    assert "kubernetes.kubelet.resolvConf" in text


def test_a_login_shell_that_is_not_sh_is_named(field: Field) -> None:
    shell = "/usr/local/bin/csh"
    field.lab.ssh(WORKER, f"cat >{shell} <<'END'\n{as_sold.CSH}END\nchmod 755 {shell}")
    field.lab.ssh(WORKER, f"usermod --shell {shell} {USER}")
    text = " ".join(field.project.up(ok=False).text.split())
    field.lab.ssh(WORKER, f"usermod --shell /bin/bash {USER}; rm {shell}")
    assert "worker-1 [preflight-login]" in text
    assert "chsh -s /bin/bash" in text


def test_machines_as_sold_become_a_cluster(field: Field) -> None:
    for address, script in as_sold.SCRIPTS.items():
        field.lab.ssh(address, script)
    field.project.up()
    with field.project.cluster() as cluster:
        names = sorted(item["metadata"]["name"] for item in cluster.items("nodes"))
    assert names == ["cp-1", "worker-1"]
    state = field.project.pulumi("stack", "export").text
    assert PASSWORD not in state
    assert "PRIVATE KEY" not in state


def test_the_pod_network_is_on_the_addresses_of_the_nodes(field: Field) -> None:
    """Whichever interface has the default route, or without one."""
    with field.project.cluster() as cluster:
        overlay = {
            item["metadata"]["annotations"]["flannel.alpha.coreos.com/public-ip"]
            for item in cluster.items("nodes")
        }
        restarts = [
            status["restartCount"]
            for pod in cluster.items("pods", "--namespace", "kube-flannel")
            for status in pod["status"]["containerStatuses"]
        ]
    assert overlay == {PLANE, WORKER}
    assert restarts == [0, 0]


def test_a_host_without_a_default_route_reaches_services(field: Field) -> None:
    assert "default" not in field.lab.ssh(WORKER, "ip route")
    service = "timeout 5 bash -c '</dev/tcp/10.96.0.1/443' && echo reached || echo failed"
    assert field.lab.ssh(WORKER, service).strip().endswith("reached")


@pytest.mark.parametrize("address", [PLANE, WORKER])
def test_each_node_keeps_what_it_was_sold_with(field: Field, address: str) -> None:
    ssh = field.lab.ssh
    assert as_sold.NAME_SERVERS[address] in ssh(address, "cat /run/nordmesh/resolv.conf")
    effective = ssh(address, "sshd -T").splitlines()
    assert {"maxauthtries 3", "logingracetime 20", "passwordauthentication no"} <= set(effective)
    environment = "tr '\\0' '\\n' </proc/$(systemctl show kubelet -P MainPID)/environ"
    pods = "cat /etc/kubernetes/manifests/* 2>/dev/null || true"
    assert as_sold.DEAD_PROXY not in ssh(address, f"{environment}; {pods}")
    assert "iptables" in ssh(address, "apt-mark showhold")


def test_the_api_servers_name_returns_with_kubelet(field: Field) -> None:
    """As cloud-init overwrites /etc/hosts at a boot."""
    line = field.lab.ssh(WORKER, "grep '# nordmesh$' /etc/hosts").splitlines()[-1]
    field.lab.ssh(WORKER, "sed -i '/# nordmesh$/d' /etc/hosts; systemctl restart kubelet")
    assert line in field.lab.ssh(WORKER, "cat /etc/hosts")


def test_an_update_without_changes_opens_no_connection(field: Field) -> None:
    before = field.jumps()
    field.project.up("--expect-no-changes")
    assert field.jumps() == before


def test_the_preflight_passes_on_a_running_cluster(field: Field) -> None:
    output = field.preflight()
    assert output.code == 0, output.text
    assert "preflight passed on 2 nodes" in output.text
    assert "round trips in milliseconds" in output.text


def test_destroy_leaves_the_machines_clean(field: Field) -> None:
    field.project.pulumi("destroy", "--yes", "--skip-preview")
    remaining = field.lab.ssh(
        WORKER, "ls /etc/kubernetes 2>&1 || true; ip -o link show type vxlan; ip route show dev lo"
    )
    assert "No such file" in remaining
    assert "flannel" not in remaining
    assert "10.96.0.0" not in remaining
