"""Findings of the preflight: which measurements fail, and how the report describes them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from components.preflight import judge, measure, needs
from components.preflight.facts import Clock, Facts, Link, Measured, links
from components.preflight.findings import Finding
from components.preflight.ownership import owned_elsewhere
from components.preflight.report import failure, report, summary
from config import StackConfig
from config.warnings import warnings
from tests.support.mocked import config, node

# A machine that passes every check, as measure.sh prints it.
GOOD = {
    "cpu-before": "cpu  1000 0 1000 97990 0 0 0 10 0 0",
    "cpu-after": "cpu  1900 0 1000 98080 0 0 0 20 0 0",
    "uid": "0",
    "os": "debian",
    "os-version": "12",
    "architecture": "x86_64",
    "virtualization": "kvm",
    "hostname": "{name}",
    "machine-id": "id-of-{name}",
    "product-uuid": "uuid-of-{name}",
    "cores": "4",
    "cpu-flags": "fpu sse2 aes avx",
    "memory-kib": "8140000",
    "clock-synchronized": "yes",
    "address": "{address}",
    "interface": "eth0 52:54:00:00:00:{octet} 1500",
    "main-interface": "eth0",
    "disk-free": "/var/lib 60000",
    "disk": "nvme0n1 0",
    "sync": "1000 300 1500 4000",
    "resolver": "/etc/resolv.conf",
    "end": "yes",
}
MODULES = ["overlay", "br_netfilter", "vxlan"]
ADDRESSES = {"cp-1": "192.0.2.11", "worker-1": "192.0.2.21"}


def facts(name: str, changes: Mapping[str, Any] | None = None) -> Facts:
    """Facts of a machine that passes, with changes: a value, a list, or None to drop the fact."""
    address = ADDRESSES.get(name, "192.0.2.22")
    octet = address.rpartition(".")[2]
    good: dict[str, Any] = {
        key: value.format(name=name, address=address, octet=octet) for key, value in GOOD.items()
    }
    endpoints = [f"{host}:{port}" for host, port in needs.endpoints(config())]
    good |= {"module": MODULES, "reaches": endpoints}
    good["resolves"] = [endpoint.partition(":")[0] for endpoint in endpoints]
    lines = []
    for key, value in {**good, **(changes or {})}.items():
        values = value if isinstance(value, list) else [] if value is None else [value]
        lines += [f"{key}\t{entry}" for entry in values]
    return Facts("\n".join(lines))


def link(**changes: Any) -> Link:
    ports = dict.fromkeys((6443, 10250, *needs.MESH), "ok")
    good: dict[str, Any] = {"tcp": ports, "udp": {8472: "ok"}, "round_trip": 0.3}
    return Link(**{**good, "full_size": True, **changes})


def machines(**changes: Mapping[str, Any]) -> dict[str, Measured]:
    """Measurements of a control plane and a worker that pass, with changes to their facts."""
    names = {"cp_1": "cp-1", "worker_1": "worker-1"}
    return {
        name: Measured(
            facts=facts(name, changes.get(key)),
            clock=Clock(ahead=0.01, error=0.005),
            links={other: link() for other in ADDRESSES if other != name},
        )
        for key, name in names.items()
    }


def preflight(**settings: object) -> StackConfig:
    return config(preflight=settings)


def with_kubelet(**settings: object) -> StackConfig:
    kubernetes = {
        "clusterName": "oslo",
        "version": "1.23.17",
        "endpoint": "api.oslo.example.internal",
        "kubelet": settings,
    }
    return config(kubernetes=kubernetes)


def only(findings: list[Finding]) -> Finding:
    (finding,) = findings
    return finding


def test_machines_within_all_limits_pass() -> None:
    measured = machines()
    assert judge.judge(config(), measured) == []
    text = report([], measured)
    assert text.startswith("preflight passed on 2 nodes\n")
    assert "cp-1" in text
    assert "0.30" in text


@pytest.mark.parametrize(
    ("check", "changes", "phrases"),
    [
        ("os", {"os": "rocky", "os-version": "9"}, ("rocky 9", "Debian 12")),
        (
            "architecture",
            {"architecture": "aarch64"},
            ("aarch64", "x86_64, which amd64 binaries need", "nodes.cp-1.architecture"),
        ),
        (
            "virtualization",
            {"virtualization": "openvz"},
            ("openvz", "its own kernel"),
        ),
        ("aes", {"cpu-flags": "fpu sse2"}, ("no AES instructions", "host-passthrough")),
        (
            "steal",
            {"cpu-after": "cpu  1900 0 1000 98080 0 0 0 110 0 0"},
            ("9.2% of the CPU time over 10s", "at most 2%", "dedicated cores"),
        ),
        ("cores", {"cores": "1"}, ("what 1", "at least 2")),
        ("memory", {"memory-kib": "1000000"}, ("977Mi", "at least 1700Mi")),
        ("disk-space", {"disk-free": "/var/lib 800"}, ("800 MiB", "at least 4096 MiB")),
        ("time-sync", {"clock-synchronized": "no"}, ("not synchronised", "timesyncd")),
        ("time-sync", {"clock-synchronized": None}, ("unknown whether", "set by NTP")),
        (
            "address",
            {"address": ["10.0.0.5"]},
            ("no interface has 192.0.2.11", "has 10.0.0.5"),
        ),
        ("kernel-modules", {"module": ["overlay"]}, ("no br_netfilter, vxlan",)),
        ("swap", {"swap": ["/swapfile"]}, ("on: /swapfile", "swapoff -a")),
        (
            "swap",
            {"swap-at-boot": ["/etc/fstab"]},
            ("on after the next boot: /etc/fstab", "fix remove swap from /etc/fstab"),
        ),
        (
            "swap",
            {"swap": ["/dev/zram0"], "swap-at-boot": ["zramswap.service", "dev-sda2.swap"]},
            (
                "on: /dev/zram0; on after the next boot: zramswap.service, dev-sda2.swap",
                "`swapoff -a`, and run `systemctl mask --now zramswap.service dev-sda2.swap`",
            ),
        ),
        (
            "dns",
            {
                "resolver": None,
                "name-server": ["127.0.0.1"],
                "name-service": ["127.0.0.1 unbound", "[::1] unbound"],
            },
            (
                "name servers of the machine are 127.0.0.1, where unbound answers",
                "in a pod, the loopback is the pod itself",
                "nordmesh:kubernetes.kubelet.resolvConf",
            ),
        ),
        (
            "packages",
            {"missing-packages": "socat", "source": ["no http://gone.example/debian"]},
            ("no answer from http://gone.example/debian", "to be installed: socat"),
        ),
        (
            "packages",
            {"missing-packages": "socat"},
            ("apt has no package source", "/etc/apt/sources.list"),
        ),
        ("machine-id", {"machine-id": None}, ("it has none", "systemd-machine-id-setup")),
        ("conflicts", {"service": ["ufw"]}, ("ufw is on", "`ufw disable`")),
        ("conflicts", {"service": ["firewalld"]}, ("run `systemctl disable --now firewalld`",)),
        (
            "conflicts",
            {"service": ["ufw", "firewalld"]},
            ("run `ufw disable` and `systemctl disable --now firewalld`;",),
        ),
        ("conflicts", {"package": ["docker-ce", "containerd.io"]}, ("apt-get remove docker-ce",)),
        ("in-use", {"service": ["k3s"]}, ("k3s", "nodes.cp-1.adopt")),
        ("in-use", {"container": ["a", "b"]}, ("2 containers",)),
        ("in-use", {"found": ["/var/lib/etcd/member"]}, ("/var/lib/etcd/member",)),
        (
            "sync-latency",
            {"sync": "500 900 38000 90000"},
            ("p99 of fdatasync is 38.0", "at most 10ms"),
        ),
        ("sync-latency", {"sync": "cannot write there: no"}, ("could not be measured: cannot",)),
        ("dns", {"resolves": [], "reaches": []}, ("cannot be resolved", "/etc/resolv.conf")),
        ("downloads", {"reaches": []}, ("port 443 does not answer", "artifacts.mirror")),
        ("ports", {"missing": "perl"}, ("perl is not installed", "apt-get install perl-base")),
    ],
)
def test_a_failed_check_refuses_the_machine(
    check: str, changes: Mapping[str, Any], phrases: tuple[str, ...]
) -> None:
    findings = judge.judge(config(), machines(cp_1=changes))
    assert {finding.check for finding in findings} == {check}
    assert all(finding.stops and finding.nodes == ("cp-1",) for finding in findings)
    text = " ".join(summary(findings, nodes=2).split())
    assert text.startswith("preflight failed on 1 of 2 nodes (")
    assert "nothing was changed [preflight-failed] cp-1 [preflight-" in text
    assert f"cp-1 [preflight-{check}]" in text
    for phrase in phrases:
        assert phrase in text


MOUNTED = {**node("control-plane", ADDRESSES["cp-1"]), "etcdMount": True}


@pytest.mark.parametrize(
    ("facts", "phrases"),
    [
        ({"etcd-mount": "none"}, ("nothing is mounted", "nordmesh formats nothing")),
        ({"etcd-mount": "shared"}, ("on the file system of /var/lib",)),
        ({"etcd-mount": "temporary"}, ("not after the next boot", "/etc/fstab")),
        ({"etcd-mount": None}, ("it is unknown what is mounted",)),
    ],
)
def test_a_declared_disk_of_etcd_must_be_mounted(
    facts: Mapping[str, Any], phrases: tuple[str, ...]
) -> None:
    nodes = {"cp-1": MOUNTED, "worker-1": node("worker", ADDRESSES["worker-1"])}
    declared = config(machines={"nodes": nodes})
    assert judge.judge(declared, machines(cp_1={"etcd-mount": "own"})) == []
    (finding,) = judge.judge(declared, machines(cp_1=facts))
    assert finding.check == "etcd-mount"
    assert finding.stops
    text = " ".join(summary([finding], nodes=2).split())
    for phrase in phrases:
        assert phrase in text
    assert judge.judge(config(), machines(cp_1=facts)) == []
    # A node in the cluster is left as it is.
    member = {**facts, "member": "yes", "sync": None}
    assert "etcd-mount" not in {f.check for f in judge.judge(declared, machines(cp_1=member))}


def test_volumes_on_a_disk_of_the_system_are_a_warning() -> None:
    """On nodes that run pods: not on a control plane, if there are workers."""
    shared = {"volumes-disk": "system"}
    declared = config(storage={"local": {"path": "/srv/disk"}})
    measured = machines(cp_1=shared, worker_1=shared)
    (finding,) = judge.judge(declared, measured)
    assert finding.check == "volumes-disk"
    assert finding.nodes == ("worker-1",)
    assert not finding.stops
    assert "/srv/disk is on the same file system as / or /var/lib" in finding.measured
    assert judge.judge(declared, machines(worker_1={"volumes-disk": "own"})) == []
    assert judge.judge(config(), measured) == []


def test_the_disk_of_volumes_is_measured_where_pods_run() -> None:
    declared = config(storage={"local": {}})
    assert needs.volumes(declared, "worker-1") == "/srv/volumes"
    assert needs.volumes(declared, "cp-1") == ""
    alone = config(
        machines={"nodes": {"cp-1": node("control-plane", "192.0.2.11")}}, storage={"local": {}}
    )
    assert needs.volumes(alone, "cp-1") == "/srv/volumes"


@pytest.mark.parametrize(
    ("check", "changes", "message"),
    [
        ("os", {"os": "ubuntu", "os-version": "22.04"}, "ubuntu 22.04"),
        ("virtualization", {"virtualization": "vmware"}, "ask the provider whether it is KVM"),
        ("virtualization", {"virtualization": None}, "unknown"),
        ("dedicated-cores", {"cpu-before": "cpu  1000 0 1000 97000 0 0 0 1000 0 0",
                             "cpu-after": "cpu  1900 0 1000 98080 0 0 0 1001 0 0"}, "1.0%"),
        ("disk-kind", {"disk": "sda 1"}, "sda is a hard disk"),
        # systemd-resolved without name servers: the machine itself resolves nothing.
        ("dns", {"resolver": None, "name-server": ["127.0.0.53"],
                 "name-service": ["127.0.0.53 systemd-resolve"]}, "the cluster's names only"),
        ("dns", {"resolver": None}, "the name servers of the machine are none"),
        ("packages", {"missing-packages": "socat ethtool",
                      "source": ["no cdrom:[Debian 12]", "yes http://deb.example/debian"]},
         "no answer from cdrom:[Debian 12] limit the package sources answer; to be installed: "),
    ],
)  # fmt: skip
def test_a_minor_finding_is_only_a_warning(
    check: str, changes: Mapping[str, Any], message: str
) -> None:
    finding = only(judge.judge(config(), machines(worker_1=changes)))
    assert (finding.check, finding.stops) == (check, False)
    text = " ".join(summary([finding], nodes=2).split())
    assert f"preflight passed on 2 nodes warnings: worker-1 [preflight-{check}]" in text
    assert message in text


@pytest.mark.parametrize(
    "changes",
    [
        # A resolver that listens on the node's address, too, answers pods there.
        {"resolver": None, "name-service": ["0.0.0.0 dnsmasq"]},
        {"resolver": None, "name-service": ["127.0.0.1 unbound", "192.0.2.21 unbound"]},
        # Nothing has to be installed.
        {"source": ["no http://gone.example/debian"]},
        {"missing-packages": "socat", "source": ["yes http://deb.example/debian"]},
        # A proxy resolves the names of downloads.
        {"resolves": None},
        # WireGuard has no MAC address.
        {"interface": ["wg0 - 1420", "eth0 52:54:00:00:00:99 1500"]},
    ],
)
def test_a_machine_as_providers_sell_it_passes(changes: Mapping[str, Any]) -> None:
    assert judge.judge(config(), machines(worker_1=changes)) == []


def test_downloads_are_tried_through_the_stack_files_proxy() -> None:
    proxy = {"url": "http://proxy.example.com:3128", "direct": ["r.example.com"]}
    script = measure._script(config(artifacts={"proxy": proxy}), "cp-1", 1)
    assert "export https_proxy=http://proxy.example.com:3128\n" in script
    assert "export no_proxy=localhost,127.0.0.1,r.example.com\n" in script
    assert "export https_proxy" not in measure._script(config(), "cp-1", 1)


def test_two_nodes_on_wireguard_have_no_mac_in_common() -> None:
    wireguard = {"interface": "wg0 - 1420", "main-interface": "wg0"}
    assert judge.judge(config(), machines(cp_1=wireguard, worker_1=wireguard)) == []


def test_a_resolver_of_the_stack_file_must_exist() -> None:
    stack = with_kubelet(resolvConf="/etc/pods.conf")
    finding = only(judge.judge(stack, machines(worker_1={"resolver": None})))
    assert (finding.check, finding.stops) == ("dns", True)
    assert "/etc/pods.conf does not exist" in summary([finding], nodes=2)


def test_a_login_shell_that_is_not_sh_is_named() -> None:
    measured = machines()
    measured["worker-1"] = Measured(problem="Unmatched '''.")
    finding = only(judge.judge(config(), measured))
    assert (finding.check, finding.stops) == ("login", True)
    assert "chsh -s /bin/bash" in finding.fix


def test_lines_of_a_startup_file_are_no_measurements() -> None:
    greeting = "Welcome to worker-1\nudp is fun\ntcp\nmtu of the day\nrtt a b\n"
    lines = "tcp cp-1 6443 ok\nrtt cp-1 250\nudp cp-1 8472 no answer\nmtu cp-1 ok\nend\n"
    assert links(greeting + lines) == links(lines)
    assert links(lines)["cp-1"].udp == {8472: "no answer"}


def test_the_error_of_an_update_is_the_summary() -> None:
    findings = judge.judge(config(), machines(cp_1={"cores": "1"}, worker_1={"disk": "sda 1"}))
    error = failure(findings, nodes=2)
    assert error.code == "preflight-failed"
    assert str(error) == summary(findings, nodes=2)
    assert "1 of 2 nodes (1 check)" in error.what


def test_a_virtio_disk_is_not_reported_as_a_hard_disk() -> None:
    assert judge.judge(config(), machines(cp_1={"disk": "vda 1"})) == []


def test_sync_latency_is_not_required_of_a_worker() -> None:
    assert judge.judge(config(), machines(worker_1={"sync": None})) == []


def test_arm64_passes_if_the_stack_file_declares_it() -> None:
    arm = {
        "nodes": {
            "cp-1": node("control-plane", "192.0.2.11"),
            "worker-1": {**node("worker", "192.0.2.21"), "architecture": "arm64"},
        }
    }
    measured = machines(worker_1={"architecture": "aarch64"})
    assert judge.judge(config(machines=arm), measured) == []
    assert any("worker-1" in line and "arm64" in line for line in warnings(config(machines=arm)))


def test_without_a_mesh_aes_is_only_a_warning() -> None:
    bare = config(istio=None, mesh={})
    finding = only(judge.judge(bare, machines(cp_1={"cpu-flags": "fpu"})))
    assert not finding.refuses


def test_swap_passes_if_kubelet_accepts_it() -> None:
    swap = {"swap": ["/swapfile"], "swap-at-boot": ["/etc/fstab"]}
    assert judge.judge(with_kubelet(failSwapOn=False), machines(cp_1=swap)) == []


@pytest.mark.parametrize(
    ("check", "value"), [("hostname", "debian"), ("machine-id", "abc"), ("product-uuid", "def")]
)
def test_identities_shared_by_cloned_machines_are_refused(check: str, value: str) -> None:
    both = {check: value}
    finding = only(judge.judge(config(), machines(cp_1=both, worker_1=both)))
    assert (finding.check, finding.nodes) == (check, ("cp-1", "worker-1"))
    assert finding.stops
    assert f"both have {value}" in summary([finding], nodes=2)


def test_a_duplicate_mac_address_is_refused() -> None:
    both = {"interface": "eth0 52:54:00:00:00:01 1500"}
    finding = only(judge.judge(config(), machines(cp_1=both, worker_1=both)))
    assert finding.check == "mac"


def test_missing_facts_do_not_count_as_shared() -> None:
    none = {"product-uuid": None}
    assert judge.judge(config(), machines(cp_1=none, worker_1=none)) == []


def with_link(**changes: Any) -> dict[str, Measured]:
    """Machines that pass, with changes to the link from the control plane to the worker."""
    measured = machines()
    old = measured["cp-1"]
    links_out = {"worker-1": link(**changes)}
    measured["cp-1"] = Measured(facts=old.facts, clock=old.clock, links=links_out)
    return measured


def test_closed_ports_are_reported_for_their_node() -> None:
    tcp = {10250: "no answer", 6443: "ok"}
    findings = judge.judge(config(), with_link(tcp=tcp, udp={8472: "no answer"}))
    assert [(finding.check, finding.nodes) for finding in findings] == [
        ("ports", ("worker-1", "cp-1"))
    ] * 2
    assert "tcp 10250: no answer, from cp-1" in summary(findings, nodes=2)
    assert "udp 8472: no answer, from cp-1" in summary(findings, nodes=2)


def test_closed_mesh_ports_are_only_a_warning() -> None:
    tcp = dict.fromkeys(needs.MESH, "no answer") | {10250: "ok", 15010: "Connection refused"}
    findings = judge.judge(config(), with_link(tcp=tcp))
    assert [finding.check for finding in findings] == ["mesh-ports"] * 2
    assert not any(finding.refuses for finding in findings)
    assert "tcp 15000-15009, 15011-15021: no answer" in summary(findings, nodes=2)
    assert needs.mesh_ports(config(istio=None, mesh={})) == ()


def test_high_latency_refuses_etcd_members_and_warns_for_others() -> None:
    slow = with_link(round_trip=12.0)
    finding = only(judge.judge(config(), slow))
    assert (finding.check, finding.refuses) == ("latency", False)
    assert "12.00 ms" in finding.measured
    planes = config(
        machines={"nodes": {name: node("control-plane", at) for name, at in ADDRESSES.items()}}
    )
    finding = only(judge.judge(planes, slow))
    assert finding.stops
    assert "at most 10ms" in finding.limit
    assert judge.judge(planes, with_link(round_trip=0.9)) == []


def test_a_link_that_drops_full_size_packets_is_refused() -> None:
    finding = only(judge.judge(config(), with_link(full_size=False)))
    assert finding.check == "mtu"
    assert finding.stops
    assert "1500 bytes" in finding.measured


PRIVATE = {"cp-1": "10.0.0.11", "worker-1": "10.0.0.21"}


def with_private_addresses(**host: object) -> StackConfig:
    roles = {"cp-1": "control-plane", "worker-1": "worker"}
    nodes = {
        name: {**node(role, ADDRESSES[name]), "privateAddress": PRIVATE[name]}
        for name, role in roles.items()
    }
    return config(machines={"nodes": nodes}, host=host)


def test_a_public_address_may_be_a_routers() -> None:
    """With a private address, people and SSH may come through NAT."""
    own = {"cp_1": {"address": ["10.0.0.11"]}, "worker_1": {"address": ["10.0.0.21"]}}
    assert judge.judge(with_private_addresses(), machines(**own)) == []


def test_a_private_address_must_be_on_the_machine() -> None:
    own = {"cp_1": {"address": ["192.0.2.11"]}, "worker_1": {"address": ["10.0.0.21"]}}
    finding = only(judge.judge(with_private_addresses(), machines(**own)))
    assert (finding.code, finding.nodes, finding.stops) == ("preflight-address", ("cp-1",), True)
    assert finding.measured == "no interface has 10.0.0.11; the machine has 192.0.2.11"
    assert finding.limit == "nordmesh:machines.nodes.cp-1.privateAddress on the machine itself"
    assert "attach the machine to the private network" in finding.fix


@pytest.mark.parametrize("firewall", [True, False])
def test_packets_to_other_nodes_must_leave_from_the_nodes_own_address(firewall: bool) -> None:
    settings = with_private_addresses(firewall={"enabled": firewall})
    own = {
        "cp_1": {
            "address": ["192.0.2.11", "10.0.0.11"],
            "route": ["10.0.0.21 eth0 192.0.2.11", "192.0.2.99 eth0 192.0.2.11"],
        },
        "worker_1": {"address": ["10.0.0.21"], "route": ["10.0.0.11 eth1 10.0.0.21"]},
    }
    finding = only(judge.judge(settings, machines(**own)))
    assert (finding.code, finding.nodes) == ("preflight-route", ("cp-1",))
    # Only the firewall asks for a packet's source.
    assert finding.stops == firewall
    assert finding.measured == "packets to worker-1 (10.0.0.21) leave from 192.0.2.11 on eth0"
    assert "from 10.0.0.11" in finding.limit


def test_a_node_without_a_route_to_another_is_refused() -> None:
    own = {"worker_1": {"route": ["192.0.2.11 - -"]}}
    for enabled in (True, False):
        settings = config(host={"firewall": {"enabled": enabled}})
        finding = only(judge.judge(settings, machines(**own)))
        assert (finding.code, finding.nodes, finding.stops) == (
            "preflight-route", ("worker-1",), True,
        )  # fmt: skip
        assert finding.measured == "packets to cp-1 (192.0.2.11) have no route"


def test_the_firewalls_of_members_are_asked_for_the_private_address() -> None:
    """A worker that has not joined is blocked by members, which is no finding."""
    member = {"member": "yes", "lets-in": ["10.0.0.11"], "address": ["10.0.0.11"]}
    measured = machines(cp_1=member, worker_1={"address": ["10.0.0.21"]})
    ports = {**link().tcp, 10250: "no answer"}
    closed = {"cp-1": link(tcp=ports, udp={8472: "no answer"})}
    measured["worker-1"] = replace(measured["worker-1"], links=closed)
    assert judge.judge(with_private_addresses(), measured) == []
    member["lets-in"] = ["10.0.0.11", "10.0.0.21"]
    measured["cp-1"] = machines(cp_1=member)["cp-1"]
    assert {finding.code for finding in judge.judge(with_private_addresses(), measured)} == {
        "preflight-ports"
    }


def test_interfaces_with_different_mtus_are_a_warning() -> None:
    small = {"interface": "eth0 52:54:00:00:00:01 1450"}
    finding = only(judge.judge(config(), machines(worker_1=small)))
    assert (finding.check, finding.refuses) == ("mtu", False)
    assert finding.measured == "cp-1 1500, worker-1 1450"


def test_clock_skew_is_refused() -> None:
    measured = machines()
    old = measured["worker-1"]
    late = Measured(facts=old.facts, clock=Clock(ahead=5.0, error=0.02), links=old.links)
    finding = only(judge.judge(config(), {**measured, "worker-1": late}))
    assert (finding.check, finding.nodes) == ("clock", ("worker-1", "cp-1"))
    assert "5.0 s ahead of cp-1" in finding.measured
    # A measurement error does not count as skew.
    unsure = Measured(facts=old.facts, clock=Clock(ahead=1.5, error=0.8), links=old.links)
    assert judge.judge(config(), {**measured, "worker-1": unsure}) == []


def test_a_machine_that_cannot_be_measured_is_refused_with_a_fix() -> None:
    measured = {**machines(), "worker-1": Measured(problem="root@192.0.2.21 port 22: timed out")}
    finding = only(judge.judge(config(), measured))
    assert finding.check == "login"
    text = " ".join(summary([finding], nodes=2).split())
    assert "node worker-1: The machine does not answer over SSH" in text
    no_sudo = {**machines(), "cp-1": Measured(problem="sudo: a password is required")}
    assert "run sudo without a password" in only(judge.judge(config(), no_sudo)).fix
    failed = {**machines(), "cp-1": Measured(problem="bash: line 9: /run/x: Permission denied")}
    assert "login" not in only(judge.judge(config(), failed)).fix


def test_a_cluster_member_may_run_kubernetes() -> None:
    running: dict[str, Any] = {
        "member": "yes",
        "prepared": "yes",
        "service": ["kubelet"],
        "container": ["a"],
    }
    running |= {"found": ["/etc/kubernetes/kubelet.conf"], "sync": None}
    measured = machines(cp_1=running)
    assert judge.judge(config(), measured) == []
    assert judge.members(measured) == {"cp-1"}


def test_ports_in_use_are_reported_if_the_node_needs_them() -> None:
    measured = machines(cp_1={"listening": ["tcp 6443 nginx", "tcp 15001 envoy"]})
    old = measured["cp-1"]
    busy = frozenset({"tcp 6443", "tcp 15001", "udp 8472"})
    measured["cp-1"] = Measured(facts=old.facts, clock=old.clock, links=old.links, busy=busy)
    finding = only(judge.judge(config(), measured))
    assert finding.check == "in-use"
    assert finding.measured == "tcp 6443 is in use by nginx; udp 8472 is in use"


def test_the_api_port_of_a_worker_must_be_free_for_its_load_balancer() -> None:
    measured = machines(worker_1={"listening": ["tcp 6443 nginx"]})
    measured["worker-1"] = replace(measured["worker-1"], busy=frozenset({"tcp 6443"}))
    finding = only(judge.judge(config(), measured))
    assert (finding.check, finding.nodes) == ("in-use", ("worker-1",))
    assert finding.measured == "tcp 6443 is in use by nginx"


def test_a_worker_needs_the_package_of_its_load_balancer() -> None:
    assert "haproxy" in needs.packages(config(), "worker-1")
    assert "haproxy" not in needs.packages(config(), "cp-1")


def test_the_ports_of_a_gateway_on_a_node_must_be_free() -> None:
    exposed = config(
        istio={
            "version": "1.16.5",
            "ingressGateways": {
                "istio-ingressgateway": {"expose": {"type": "HostPort", "nodes": ["worker-1"]}}
            },
        }
    )
    assert needs.own_ports(exposed, "worker-1")["tcp"] == (10250, 6443, 80, 443)
    assert 80 not in needs.own_ports(exposed, "cp-1")["tcp"]


def test_an_override_waives_a_check_on_its_nodes() -> None:
    reason = "the hypervisor hides the flag"
    failing = machines(cp_1={"cpu-flags": "fpu"}, worker_1={"cpu-flags": "fpu"})
    everywhere = preflight(override={"aes": {"reason": reason}})
    assert [finding.stops for finding in judge.judge(everywhere, failing)] == [False, False]
    on_worker = preflight(override={"aes": {"reason": reason, "nodes": ["worker-1"]}})
    findings = judge.judge(on_worker, failing)
    assert {finding.nodes: finding.stops for finding in findings} == {
        ("cp-1",): True,
        ("worker-1",): False,
    }
    text = " ".join(summary(findings, nodes=2).split())
    assert "waived: worker-1 [preflight-aes]" in text
    assert f"waived: {reason}" in text


def test_an_adopted_machine_may_run_other_software() -> None:
    adopted = {
        "nodes": {
            "cp-1": node("control-plane", "192.0.2.11"),
            "worker-1": {**node("worker", "192.0.2.21"), "adopt": "its k3s is switched off"},
        }
    }
    measured = machines(worker_1={"found": ["/var/lib/rancher"], "package": ["k3s"]})
    findings = judge.judge(config(machines=adopted), measured)
    assert sorted(finding.check for finding in findings) == ["conflicts", "in-use"]
    assert not any(finding.stops for finding in findings)
    assert any("its k3s is switched off" in line for line in warnings(config(machines=adopted)))


def test_a_member_of_a_cluster_is_refused_to_a_stack_that_has_never_changed_it() -> None:
    nodes = {
        "cp-1": node("control-plane", "192.0.2.11"),
        "worker-1": {**node("worker", "192.0.2.21"), "adopt": "the state of this stack was lost"},
    }
    measured = machines(cp_1={"member": ["yes"]}, worker_1={"member": ["yes"]})
    stack = config(machines={"nodes": nodes})
    # Both belong to this stack, for all that the machines show.
    assert not any(finding.check == "in-use" for finding in judge.judge(stack, measured))
    refused = owned_elsewhere(stack, "cp-1", measured["cp-1"])
    assert refused is not None
    assert (refused.code, refused.stops) == ("preflight-in-use", True)
    assert "nodes.cp-1.adopt" in refused.fix
    adopted = owned_elsewhere(stack, "worker-1", measured["worker-1"])
    assert adopted is not None
    assert adopted.waived == "the state of this stack was lost"
    assert owned_elsewhere(stack, "cp-1", machines()["cp-1"]) is None


def test_waived_checks_are_shown_in_each_preview() -> None:
    lenient = preflight(
        override={
            "aes": {"reason": "the hypervisor hides it"},
            "steal": {"reason": "the hypervisor hides it"},
            "swap": {"reason": "it is zram only", "nodes": ["cp-1"]},
        }
    )
    lines = [line for line in warnings(lenient) if "preflight" in line]
    assert lines == [
        "preflight checks aes, steal: waived: the hypervisor hides it",
        "preflight checks swap on cp-1: waived: it is zram only",
    ]


def test_a_stack_can_set_its_own_limits() -> None:
    strict = preflight(limits={"steal": 0.5, "cores": 8})
    findings = judge.judge(strict, machines())
    assert sorted({finding.check for finding in findings}) == ["cores", "steal"]


# --- exactly at each limit ------------------------------------------------------------------------

_PLANES = {"nodes": {name: node("control-plane", at) for name, at in ADDRESSES.items()}}


def cpu(stolen: int, *, since_boot: int = 10) -> dict[str, str]:
    """CPU times over a window of 1000 ticks, and over 100000 ticks since boot."""
    return {
        "cpu-before": f"cpu  1000 0 1000 {98000 - since_boot} 0 0 0 {since_boot} 0 0",
        "cpu-after": f"cpu  2000 0 1000 {98000 - since_boot - stolen} 0 0 0 {since_boot + stolen}",
    }


def checks(findings: list[Finding]) -> list[str]:
    return [finding.check for finding in findings]


@pytest.mark.parametrize(
    ("check", "limits", "at", "beyond"),
    [
        ("steal", {}, cpu(20), cpu(21)),
        ("steal", {"steal": 0.3}, cpu(3), cpu(4)),
        ("dedicated-cores", {}, cpu(20, since_boot=500), cpu(20, since_boot=501)),
        ("cores", {}, {"cores": "2"}, {"cores": "1"}),
        ("cores", {"cores": 4}, {"cores": "4"}, {"cores": "3"}),
        ("memory", {}, {"memory-kib": "1740800"}, {"memory-kib": "1740799"}),
        ("disk-space", {}, {"disk-free": "/var/lib 4096"}, {"disk-free": "/var/lib 4095"}),
        ("sync-latency", {}, {"sync": "1 1 10000 1"}, {"sync": "1 1 10001 1"}),
        ("sync-latency", {"syncLatency": "1.1ms"}, {"sync": "1 1 1100 1"}, {"sync": "1 1 1101 1"}),
    ],
)
def test_a_machine_exactly_at_a_limit_passes(
    check: str, limits: dict[str, Any], at: dict[str, str], beyond: dict[str, str]
) -> None:
    stack = preflight(limits=limits)
    assert judge.judge(stack, machines(cp_1=at, worker_1=at)) == []
    assert checks(judge.judge(stack, machines(cp_1=beyond, worker_1=at))) == [check]


def test_steal_is_judged_before_shared_cores() -> None:
    """Current steal refuses the machine, whatever the steal since boot."""
    both = machines(cp_1=cpu(21, since_boot=501))
    assert checks(judge.judge(config(), both)) == ["steal"]


@pytest.mark.parametrize(
    ("limits", "at", "beyond", "refuses"),
    [
        ({}, 1.0, 1.001, False),
        ({"latencyWarning": "1.1ms"}, 1.1, 1.101, False),
        ({"latencyWarning": "10ms"}, 10.0, 10.001, True),
    ],
)
def test_a_link_exactly_at_a_limit_passes(
    limits: dict[str, str], at: float, beyond: float, *, refuses: bool
) -> None:
    stack = config(machines=_PLANES, preflight={"limits": limits})
    assert judge.judge(stack, with_link(round_trip=at)) == []
    finding = only(judge.judge(stack, with_link(round_trip=beyond)))
    assert (finding.check, finding.refuses) == ("latency", refuses)


def test_etcd_members_have_a_separate_latency_limit() -> None:
    planes = config(machines=_PLANES)
    for round_trip, refuses in ((10.0, False), (10.001, True)):
        finding = only(judge.judge(planes, with_link(round_trip=round_trip)))
        assert finding.refuses is refuses
    # The slower of the two directions counts.
    measured = with_link(round_trip=0.1)
    old = measured["worker-1"]
    slow = {"cp-1": link(round_trip=10.001)}
    measured["worker-1"] = Measured(facts=old.facts, clock=old.clock, links=slow)
    assert only(judge.judge(planes, measured)).refuses


def with_clocks(**clocks: Clock) -> dict[str, Measured]:
    """Machines that pass, with these clocks."""
    return {
        name: Measured(facts=facts(name, {"interface": None}), clock=clock)
        for name, clock in clocks.items()
    }


@pytest.mark.parametrize(
    ("limit", "ahead", "is_refused"),
    [("1s", 1.0, False), ("1s", 1.001, True), ("1.1s", 1.1, False), ("300ms", 0.3, False)],
)
def test_clocks_exactly_at_the_limit_pass(limit: str, ahead: float, *, is_refused: bool) -> None:
    error = 0.1
    clocks = {"a": Clock(ahead=0.2, error=error), "b": Clock(ahead=0.4 + ahead, error=error)}
    findings = judge.judge(stack_of(limit, *clocks), with_clocks(**clocks))
    assert checks(findings) == ["clock"] * is_refused


def stack_of(limit: str, *names: str) -> StackConfig:
    """Stack with these nodes and this limit on clock skew."""
    nodes = {
        name: node("worker" if number else "control-plane", "192.0.2.22")
        for number, name in enumerate(names)
    }
    return config(machines={"nodes": nodes}, preflight={"limits": {"clockSkew": limit}})


def test_an_inaccurate_clock_does_not_hide_the_skew_of_others() -> None:
    clocks = {
        "a": Clock(ahead=0.0, error=0.0),
        "b": Clock(ahead=3.0, error=0.0),
        "c": Clock(ahead=3.5, error=3.0),
    }
    finding = only(judge.judge(stack_of("1s", *clocks), with_clocks(**clocks)))
    assert (finding.check, finding.nodes) == ("clock", ("b", "a"))
    assert "3.0 s ahead" in finding.measured


@pytest.mark.parametrize(
    ("pods", "machine", "is_refused"),
    [
        # 100m for each proxy plus 20%: 4.8 of 5 cores, less 200m for the system.
        (40, {"cores": "5"}, False),
        (41, {"cores": "5"}, True),
        # 128Mi for each proxy plus 20%: 3072Mi, plus 612Mi for the system.
        (20, {"memory-kib": "3772416"}, False),
        (20, {"memory-kib": "3772415"}, True),
    ],
)
def test_proxies_that_exactly_fit_pass(
    pods: int, machine: dict[str, str], *, is_refused: bool
) -> None:
    mesh = {"namespaces": {"shop": {"pods": pods}}, "services": {}}
    findings = judge.judge(config(mesh=mesh), machines(worker_1=machine))
    assert checks(findings) == ["mesh-capacity"] * is_refused


@pytest.mark.parametrize(
    ("declared", "is_refused"),
    [
        ({"cpu": "3800m", "memory": "3072Mi"}, False),
        ({"cpu": "3801m", "memory": "3072Mi"}, True),
        ({"cpu": "3800m", "memory": "3145729Ki"}, True),
    ],
)
def test_a_declared_capacity_that_the_machine_exactly_has_passes(
    declared: dict[str, str], *, is_refused: bool
) -> None:
    """4 cores less 200m for the system, and 3684Mi of memory less 612Mi."""
    nodes = {
        "cp-1": node("control-plane", "192.0.2.11"),
        "worker-1": {**node("worker", "192.0.2.21"), "capacity": declared},
    }
    machine = {"cores": "4", "memory-kib": "3772416"}
    findings = judge.judge(config(machines={"nodes": nodes}), machines(worker_1=machine))
    assert checks(findings) == ["mesh-capacity"] * is_refused


def test_proxies_that_do_not_fit_are_refused() -> None:
    many = {"namespaces": {"shop": {"pods": 40}}, "services": {}}
    finding = only(judge.judge(config(mesh=many), machines()))
    assert (finding.check, finding.nodes) == ("mesh-capacity", ("worker-1",))
    assert "3.8 cores of cpu for pods" in finding.measured
    assert "4.8 cores" in finding.limit  # 40 proxies of 100m, plus 20%
    assert finding.stops
    running = machines(worker_1={"member": "yes"})
    assert not only(judge.judge(config(mesh=many), running)).refuses


def test_a_declared_capacity_above_that_of_the_machine_is_refused() -> None:
    declared = {
        "nodes": {
            "cp-1": node("control-plane", "192.0.2.11"),
            "worker-1": {
                **node("worker", "192.0.2.21"),
                "capacity": {"cpu": "16", "memory": "4Gi"},
            },
        }
    }
    finding = only(judge.judge(config(machines=declared), machines()))
    assert finding.check == "mesh-capacity"
    assert "declares 16 of cpu, but the machine has 3.8 cores for pods" in finding.measured
    assert "nodes.worker-1.capacity.cpu to 3800m or less" in finding.fix


@pytest.mark.parametrize("kind", ["cpu", "memory"])
def test_the_proposed_capacity_passes(kind: str) -> None:
    declared = {"cpu": "100m", "memory": "1Mi"}

    def stack(capacity: dict[str, str]) -> StackConfig:
        worker = {**node("worker", "192.0.2.21"), "capacity": capacity}
        nodes = {"cp-1": node("control-plane", "192.0.2.11"), "worker-1": worker}
        return config(machines={"nodes": nodes})

    measured = machines(worker_1={"memory-kib": "8140001"})
    finding = only(
        judge.judge(stack({**declared, kind: "100Gi" if kind == "memory" else "64"}), measured)
    )
    proposal = finding.fix.split()[3]
    assert finding.fix == (
        f"set nordmesh:machines.nodes.worker-1.capacity.{kind} to {proposal} or less"
    )
    assert judge.judge(stack({**declared, kind: proposal}), measured) == []


def test_nodes_download_from_the_mirror_if_it_is_set() -> None:
    mirrored = config(
        artifacts={"mirror": "http://10.0.0.1:8080", "registry": "https://r.example.no"}
    )
    assert needs.endpoints(mirrored) == [("10.0.0.1", 8080), ("r.example.no", 443)]
    assert ("dl.k8s.io", 443) in needs.endpoints(config())
    assert ("registry-1.docker.io", 443) in needs.endpoints(config())


def test_links_are_parsed_from_the_output_of_the_script() -> None:
    printed = """\
tcp w-1 10250 ok
tcp w-1 6443 Connection refused
rtt w-1 812
udp w-1 8472 ok
mtu w-1 no answer
tcp w-2 10250 no answer
udp w-2 8472 no answer
end
"""
    assert links(printed) == {
        "w-1": Link(
            tcp={10250: "ok", 6443: "Connection refused"},
            udp={8472: "ok"},
            round_trip=0.812,
            full_size=False,
        ),
        "w-2": Link(tcp={10250: "no answer"}, udp={8472: "no answer"}),
    }


def test_missing_and_malformed_facts_are_none() -> None:
    nothing = Facts("uid\t0\nbroken line\ncores\tmany\n")
    assert not nothing.is_whole
    assert nothing.number("cores") is None
    assert nothing.steal is None
    assert nothing.interface is None
    assert nothing.sync_p99 is None
    assert nothing.listeners == []
