"""The preflight's findings: which measurements fail, and what the report says."""

from collections.abc import Mapping
from typing import Any

import pytest

from components.preflight import judge, needs
from components.preflight.facts import Clock, Facts, Link, Measured, links
from components.preflight.report import failure, report, summary
from config import StackConfig
from config.warnings import warnings
from tests.support.mocked import config, node

# A good machine of a good provider, as measure.sh prints it.
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
    "end": "yes",
}
MODULES = ["overlay", "br_netfilter", "vxlan"]
ADDRESSES = {"cp-1": "192.0.2.11", "worker-1": "192.0.2.21"}


def facts(name: str, changes: Mapping[str, Any] | None = None) -> Facts:
    """The facts of a good machine, with changes: a value, several, or None for what is absent."""
    address = ADDRESSES.get(name, "192.0.2.22")
    octet = address.rpartition(".")[2]
    good: dict[str, Any] = {
        key: value.format(name=name, address=address, octet=octet) for key, value in GOOD.items()
    }
    places = [f"{host}:{port}" for host, port in needs.endpoints(config())]
    good |= {"module": MODULES, "reaches": places}
    good["resolves"] = [place.partition(":")[0] for place in places]
    lines = []
    for key, value in {**good, **(changes or {})}.items():
        values = value if isinstance(value, list) else [] if value is None else [value]
        lines += [f"{key}\t{one}" for one in values]
    return Facts("\n".join(lines))


def link(**changes: Any) -> Link:
    ports = dict.fromkeys((6443, 10250, *needs.MESH), "ok")
    good: dict[str, Any] = {"tcp": ports, "udp": {8472: "ok"}, "round_trip": 0.3}
    return Link(**{**good, "full_size": True, **changes})


def machines(**changes: Mapping[str, Any]) -> dict[str, Measured]:
    """A control plane and a worker, good but for changes of their facts."""
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


def only(found: list[judge.Finding]) -> judge.Finding:
    (finding,) = found
    return finding


def test_good_machines_pass() -> None:
    measured = machines()
    assert judge.judge(config(), measured) == []
    text = report([], measured)
    assert text.startswith("preflight passed on 2 nodes\n")
    assert "cp-1" in text
    assert "0.30" in text


@pytest.mark.parametrize(
    ("check", "changes", "words"),
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
        ("dns", {"resolves": []}, ("cannot be resolved", "/etc/resolv.conf")),
        ("downloads", {"reaches": []}, ("port 443 does not answer", "artifacts.mirror")),
        ("ports", {"missing": "perl"}, ("perl is not installed", "apt-get install perl-base")),
    ],
)
def test_what_refuses_a_machine(
    check: str, changes: Mapping[str, Any], words: tuple[str, ...]
) -> None:
    found = judge.judge(config(), machines(cp_1=changes))
    assert {finding.check for finding in found} == {check}
    assert all(finding.stops and finding.nodes == ("cp-1",) for finding in found)
    text = " ".join(summary(found, nodes=2).split())
    assert text.startswith("preflight failed on 1 of 2 nodes (")
    assert "nothing was changed [preflight-failed] cp-1 [preflight-" in text
    assert f"cp-1 [preflight-{check}]" in text
    for word in words:
        assert word in text


@pytest.mark.parametrize(
    ("check", "changes", "words"),
    [
        ("os", {"os": "ubuntu", "os-version": "22.04"}, "ubuntu 22.04"),
        ("virtualization", {"virtualization": "vmware"}, "ask the provider whether it is KVM"),
        ("virtualization", {"virtualization": None}, "unknown"),
        ("dedicated-cores", {"cpu-before": "cpu  1000 0 1000 97000 0 0 0 1000 0 0",
                             "cpu-after": "cpu  1900 0 1000 98080 0 0 0 1001 0 0"}, "1.0%"),
        ("disk-kind", {"disk": "sda 1"}, "sda is a hard disk"),
    ],
)  # fmt: skip
def test_what_is_only_a_warning(check: str, changes: Mapping[str, Any], words: str) -> None:
    finding = only(judge.judge(config(), machines(worker_1=changes)))
    assert (finding.check, finding.stops) == (check, False)
    text = " ".join(summary([finding], nodes=2).split())
    assert f"preflight passed on 2 nodes warnings: worker-1 [preflight-{check}]" in text
    assert words in text


def test_the_error_of_an_update_is_the_summary() -> None:
    findings = judge.judge(config(), machines(cp_1={"cores": "1"}, worker_1={"disk": "sda 1"}))
    error = failure(findings, nodes=2)
    assert error.code == "preflight-failed"
    assert str(error) == summary(findings, nodes=2)
    assert "1 of 2 nodes (1 check)" in error.what


def test_a_virtio_disk_is_no_hard_disk() -> None:
    assert judge.judge(config(), machines(cp_1={"disk": "vda 1"})) == []


def test_the_disk_of_a_worker_is_not_etcds() -> None:
    assert judge.judge(config(), machines(worker_1={"sync": None})) == []


def test_arm64_where_the_stack_file_says_so() -> None:
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


def test_swap_that_kubelet_accepts() -> None:
    lenient = config(
        kubernetes={
            "clusterName": "oslo",
            "version": "1.23.17",
            "endpoint": "api.oslo.example.internal",
            "kubelet": {"failSwapOn": False},
        }
    )
    assert judge.judge(lenient, machines(cp_1={"swap": ["/swapfile"]})) == []


@pytest.mark.parametrize(
    ("check", "value"), [("hostname", "debian"), ("machine-id", "abc"), ("product-uuid", "def")]
)
def test_what_cloned_machines_share(check: str, value: str) -> None:
    both = {check: value}
    finding = only(judge.judge(config(), machines(cp_1=both, worker_1=both)))
    assert (finding.check, finding.nodes) == (check, ("cp-1", "worker-1"))
    assert finding.stops
    assert f"both have {value}" in summary([finding], nodes=2)


def test_one_mac_address_twice() -> None:
    both = {"interface": "eth0 52:54:00:00:00:01 1500"}
    finding = only(judge.judge(config(), machines(cp_1=both, worker_1=both)))
    assert finding.check == "mac"


def test_empty_facts_are_not_shared() -> None:
    none = {"product-uuid": None}
    assert judge.judge(config(), machines(cp_1=none, worker_1=none)) == []


def with_link(**changes: Any) -> dict[str, Measured]:
    """Good machines with another way from the control plane to the worker."""
    measured = machines()
    old = measured["cp-1"]
    ways = {"worker-1": link(**changes)}
    measured["cp-1"] = Measured(facts=old.facts, clock=old.clock, links=ways)
    return measured


def test_closed_ports_are_reported_for_their_node() -> None:
    tcp = {10250: "no answer", 6443: "ok"}
    found = judge.judge(config(), with_link(tcp=tcp, udp={8472: "no answer"}))
    assert [(one.check, one.nodes) for one in found] == [("ports", ("worker-1", "cp-1"))] * 2
    assert "tcp 10250: no answer, from cp-1" in summary(found, nodes=2)
    assert "udp 8472: no answer, from cp-1" in summary(found, nodes=2)


def test_the_ports_of_setup_guides_are_only_a_warning() -> None:
    tcp = dict.fromkeys(needs.MESH, "no answer") | {10250: "ok", 15010: "Connection refused"}
    found = judge.judge(config(), with_link(tcp=tcp))
    assert [one.check for one in found] == ["mesh-ports"] * 2
    assert not any(one.refuses for one in found)
    assert "tcp 15000-15009, 15011-15021: no answer" in summary(found, nodes=2)
    assert needs.mesh_ports(config(istio=None, mesh={})) == ()


def test_latency_warns_and_refuses_members_of_etcd_alone() -> None:
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


def test_packets_that_are_too_large_for_the_way() -> None:
    finding = only(judge.judge(config(), with_link(full_size=False)))
    assert finding.check == "mtu"
    assert finding.stops
    assert "1500 bytes" in finding.measured


def test_interfaces_of_different_size_are_reported() -> None:
    small = {"interface": "eth0 52:54:00:00:00:01 1450"}
    finding = only(judge.judge(config(), machines(worker_1=small)))
    assert (finding.check, finding.refuses) == ("mtu", False)
    assert finding.measured == "cp-1 1500, worker-1 1450"


def test_clocks_apart() -> None:
    measured = machines()
    old = measured["worker-1"]
    late = Measured(facts=old.facts, clock=Clock(ahead=5.0, error=0.02), links=old.links)
    finding = only(judge.judge(config(), {**measured, "worker-1": late}))
    assert (finding.check, finding.nodes) == ("clock", ("worker-1", "cp-1"))
    assert "5.0 s ahead of cp-1" in finding.measured
    # What the way to a machine leaves open is no skew.
    unsure = Measured(facts=old.facts, clock=Clock(ahead=1.5, error=0.8), links=old.links)
    assert judge.judge(config(), {**measured, "worker-1": unsure}) == []


def test_a_machine_that_cannot_be_asked() -> None:
    measured = {**machines(), "worker-1": Measured(problem="root@192.0.2.21 port 22: timed out")}
    finding = only(judge.judge(config(), measured))
    assert finding.check == "login"
    text = " ".join(summary([finding], nodes=2).split())
    assert "node worker-1: The machine does not answer over SSH" in text
    nobody = {**machines(), "cp-1": Measured(problem="sudo: a password is required")}
    assert "run sudo without a password" in only(judge.judge(config(), nobody)).fix
    failed = {**machines(), "cp-1": Measured(problem="bash: line 9: /run/x: Permission denied")}
    assert "login" not in only(judge.judge(config(), failed)).fix


def test_a_member_of_the_cluster_is_not_asked_what_it_runs() -> None:
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


def test_taken_ports_are_those_that_the_node_needs() -> None:
    measured = machines(cp_1={"listening": ["tcp 6443 nginx", "tcp 15001 envoy"]})
    old = measured["cp-1"]
    taken = frozenset({"tcp 6443", "tcp 15001", "udp 8472"})
    measured["cp-1"] = Measured(facts=old.facts, clock=old.clock, links=old.links, busy=taken)
    finding = only(judge.judge(config(), measured))
    assert finding.check == "in-use"
    assert finding.measured == "tcp 6443 is in use by nginx; udp 8472 is in use"


def test_the_ports_of_a_gateway_on_a_node_must_be_free() -> None:
    exposed = config(
        istio={
            "version": "1.16.5",
            "ingressGateways": {
                "istio-ingressgateway": {"expose": {"type": "HostPort", "nodes": ["worker-1"]}}
            },
        }
    )
    assert needs.own_ports(exposed, "worker-1")["tcp"] == (10250, 80, 443)
    assert 80 not in needs.own_ports(exposed, "cp-1")["tcp"]


def test_an_override_waives_a_check_on_its_nodes() -> None:
    reason = "the hypervisor hides the flag"
    wanting = machines(cp_1={"cpu-flags": "fpu"}, worker_1={"cpu-flags": "fpu"})
    everywhere = preflight(override={"aes": {"reason": reason}})
    assert [one.stops for one in judge.judge(everywhere, wanting)] == [False, False]
    there = preflight(override={"aes": {"reason": reason, "nodes": ["worker-1"]}})
    found = judge.judge(there, wanting)
    assert {one.nodes: one.stops for one in found} == {("cp-1",): True, ("worker-1",): False}
    text = " ".join(summary(found, nodes=2).split())
    assert "waived: worker-1 [preflight-aes]" in text
    assert f"waived: {reason}" in text


def test_an_adopted_machine_may_run_what_it_runs() -> None:
    adopted = {
        "nodes": {
            "cp-1": node("control-plane", "192.0.2.11"),
            "worker-1": {**node("worker", "192.0.2.21"), "adopt": "its k3s is switched off"},
        }
    }
    measured = machines(worker_1={"found": ["/var/lib/rancher"], "package": ["k3s"]})
    found = judge.judge(config(machines=adopted), measured)
    assert sorted(one.check for one in found) == ["conflicts", "in-use"]
    assert not any(one.stops for one in found)
    assert any("its k3s is switched off" in line for line in warnings(config(machines=adopted)))


def test_each_preview_shows_what_is_waived() -> None:
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


def test_limits_are_the_stacks_own() -> None:
    strict = preflight(limits={"steal": 0.5, "cores": 8})
    found = judge.judge(strict, machines())
    assert sorted({one.check for one in found}) == ["cores", "steal"]


# --- exactly at each limit ------------------------------------------------------------------------

_PLANES = {"nodes": {name: node("control-plane", at) for name, at in ADDRESSES.items()}}


def cpu(stolen: int, *, since_boot: int = 10) -> dict[str, str]:
    """CPU time of a window of 1000 ticks, and of 100000 since the machine was started."""
    return {
        "cpu-before": f"cpu  1000 0 1000 {98000 - since_boot} 0 0 0 {since_boot} 0 0",
        "cpu-after": f"cpu  2000 0 1000 {98000 - since_boot - stolen} 0 0 0 {since_boot + stolen}",
    }


def checks(found: list[judge.Finding]) -> list[str]:
    return [finding.check for finding in found]


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
def test_a_machine_exactly_at_a_limit(
    check: str, limits: dict[str, Any], at: dict[str, str], beyond: dict[str, str]
) -> None:
    stack = preflight(limits=limits)
    assert judge.judge(stack, machines(cp_1=at, worker_1=at)) == []
    assert checks(judge.judge(stack, machines(cp_1=beyond, worker_1=at))) == [check]


def test_steal_is_judged_before_shared_cores() -> None:
    """A machine that loses too much now is refused, whatever it lost before."""
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
def test_a_way_exactly_at_a_limit(
    limits: dict[str, str], at: float, beyond: float, *, refuses: bool
) -> None:
    stack = config(machines=_PLANES, preflight={"limits": limits})
    assert judge.judge(stack, with_link(round_trip=at)) == []
    finding = only(judge.judge(stack, with_link(round_trip=beyond)))
    assert (finding.check, finding.refuses) == ("latency", refuses)


def test_members_of_etcd_are_refused_above_their_own_limit() -> None:
    planes = config(machines=_PLANES)
    for round_trip, refuses in ((10.0, False), (10.001, True)):
        finding = only(judge.judge(planes, with_link(round_trip=round_trip)))
        assert finding.refuses is refuses
    # The worse of the two ways counts, whichever it is.
    measured = with_link(round_trip=0.1)
    old = measured["worker-1"]
    slow = {"cp-1": link(round_trip=10.001)}
    measured["worker-1"] = Measured(facts=old.facts, clock=old.clock, links=slow)
    assert only(judge.judge(planes, measured)).refuses


def with_clocks(**clocks: Clock) -> dict[str, Measured]:
    """Good machines whose clocks were read so."""
    return {
        name: Measured(facts=facts(name, {"interface": None}), clock=clock)
        for name, clock in clocks.items()
    }


@pytest.mark.parametrize(
    ("limit", "ahead", "is_refused"),
    [("1s", 1.0, False), ("1s", 1.001, True), ("1.1s", 1.1, False), ("300ms", 0.3, False)],
)
def test_clocks_exactly_at_the_limit(limit: str, ahead: float, *, is_refused: bool) -> None:
    error = 0.1
    clocks = {"a": Clock(ahead=0.2, error=error), "b": Clock(ahead=0.4 + ahead, error=error)}
    found = judge.judge(stack_of(limit, *clocks), with_clocks(**clocks))
    assert checks(found) == ["clock"] * is_refused


def stack_of(limit: str, *names: str) -> StackConfig:
    """Nodes whose clocks may be a limit apart."""
    nodes = {
        name: node("worker" if number else "control-plane", "192.0.2.22")
        for number, name in enumerate(names)
    }
    return config(machines={"nodes": nodes}, preflight={"limits": {"clockSkew": limit}})


def test_a_clock_that_was_read_badly_hides_no_other() -> None:
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
        # 100m for each proxy and a fifth more: 4.8 cores of 5, less 200m for the system.
        (40, {"cores": "5"}, False),
        (41, {"cores": "5"}, True),
        # 128Mi for each and a fifth more: 3072Mi, and 612Mi for the system.
        (20, {"memory-kib": "3772416"}, False),
        (20, {"memory-kib": "3772415"}, True),
    ],
)
def test_proxies_that_just_fit(pods: int, machine: dict[str, str], *, is_refused: bool) -> None:
    mesh = {"namespaces": {"shop": {"pods": pods}}, "services": {}}
    found = judge.judge(config(mesh=mesh), machines(worker_1=machine))
    assert checks(found) == ["mesh-capacity"] * is_refused


@pytest.mark.parametrize(
    ("declared", "is_refused"),
    [
        ({"cpu": "3800m", "memory": "3072Mi"}, False),
        ({"cpu": "3801m", "memory": "3072Mi"}, True),
        ({"cpu": "3800m", "memory": "3145729Ki"}, True),
    ],
)
def test_a_capacity_that_the_machine_just_has(
    declared: dict[str, str], *, is_refused: bool
) -> None:
    """4 cores less 200m for the system, and 3684Mi of memory less 612Mi."""
    nodes = {
        "cp-1": node("control-plane", "192.0.2.11"),
        "worker-1": {**node("worker", "192.0.2.21"), "capacity": declared},
    }
    machine = {"cores": "4", "memory-kib": "3772416"}
    found = judge.judge(config(machines={"nodes": nodes}), machines(worker_1=machine))
    assert checks(found) == ["mesh-capacity"] * is_refused


def test_proxies_that_the_machines_have_no_room_for() -> None:
    many = {"namespaces": {"shop": {"pods": 40}}, "services": {}}
    finding = only(judge.judge(config(mesh=many), machines()))
    assert (finding.check, finding.nodes) == ("mesh-capacity", ("worker-1",))
    assert "3.8 cores of cpu for pods" in finding.measured
    assert "4.8 cores" in finding.limit  # 40 of 100m, and a fifth more
    assert finding.stops
    running = machines(worker_1={"member": "yes"})
    assert not only(judge.judge(config(mesh=many), running)).refuses


def test_a_declared_capacity_that_the_machine_has_not() -> None:
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


def test_what_nodes_download_comes_from_the_mirror_where_there_is_one() -> None:
    own = config(artifacts={"mirror": "http://10.0.0.1:8080", "registry": "https://r.example.no"})
    assert needs.endpoints(own) == [("10.0.0.1", 8080), ("r.example.no", 443)]
    assert ("dl.k8s.io", 443) in needs.endpoints(config())
    assert ("registry-1.docker.io", 443) in needs.endpoints(config())


def test_ways_are_read_as_they_are_printed() -> None:
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


def test_facts_that_are_absent_are_not_known() -> None:
    nothing = Facts("uid\t0\nbroken line\ncores\tmany\n")
    assert not nothing.is_whole
    assert nothing.number("cores") is None
    assert nothing.steal is None
    assert nothing.interface is None
    assert nothing.sync_p99 is None
    assert nothing.listeners == []
