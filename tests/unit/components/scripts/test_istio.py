"""Scripts of the mesh against a fake cluster where the n-th call fails, for every n.

kubectl and istioctl keep the cluster in files. A failed command is never read as an answer: nothing
in use is removed, and a script that reports success has done its work.
"""

import shutil
from pathlib import Path

import pytest

from tests.unit.machine import STARTUP, Machine, Result

OLD, NEW = "1-16-5", "1-17-8"
FOREIGN, OWN = "gateways.networking.istio.io", "sidecars.networking.istio.io"
ADMIN = "/etc/kubernetes/admin.conf"
SETTINGS = {
    "ALLOW_UNSUPPORTED": "false",
    "BINARIES": "",
    "CONTROL_PLANE": "kind: IstioOperator",
    "GATEWAYS": "kind: IstioOperator\nGateways:",
    "NAMESPACES": "shop",
    "READINESS_TIMEOUT": "60s",
    "REVISION": NEW,
}
REFUSED = "The connection to the server 10.0.0.1:6443 was refused"

# All calls from number `first` on fail; with `flaky`, each read fails the first time.
_FAULTS = f"""
ulimit -S -f unlimited
cd /cluster
is_read() {{ case "$*" in *" get "*|*proxy-status*|analyze*) ;; *) return 1 ;; esac; }}
is_first() {{ [ "$(grep -cxF -- "$*" /calls)" = 1 ]; }}
if [ "$(wc -l </calls)" -ge "$(cat first)" ] ||
    {{ [ -e flaky ] && is_read " $*" && is_first "${{0##*/}} $*"; }}; then
    echo "{REFUSED}" >&2
    exit 1
fi
"""
_KUBECTL = (
    _FAULTS
    + """
case "$*" in
*--raw*/readyz*) echo ok ;;
*--raw*cadvisor*) echo 'container_cpu_cfs_periods_total 1' ;;
*--raw*) echo 'pilot_proxy_convergence_time_count 1' ;;
*"get "*istio-revision-tag-default*) cat tag ;;
*"get "*customresourcedefinitions*) ls definitions | tr '\\n' ' ' ;;
*"get "*.networking.istio.io*)
    [[ "$*" =~ [a-z]+\\.networking.istio.io ]]
    cat "objects/${BASH_REMATCH[0]}"
    ;;
*"get "*deployments,mutating*) cat revisions ;;
*"get "*"state.terminated"*) cat jobs 2>/dev/null || true ;;
*"get "*ownerReferences*pods*|*"get "*pods*ownerReferences*)
    while read -r name revision; do
        echo "shop|$name-1||ReplicaSet|$name-rs|{\\"revision\\":\\"$revision\\"}"
    done <workloads
    ;;
*"get "*replicaset*) [[ "$*" =~ ([a-z]+)-rs ]] && echo "Deployment/${BASH_REMATCH[1]}" ;;
*"get "*poddisruptionbudgets*) echo "pay 2 1" ;;
*"get "*Deployment/*)
    [[ "$*" =~ Deployment/([a-z]+) ]]
    cat "state-${BASH_REMATCH[1]}" 2>/dev/null || echo "Deployment|2|||2|"
    ;;
*"get "*horizontalpodautoscalers*) echo "istiod 1" ;;
*"get "*deployment*istiod*) echo 1 ;;
*"get "*spec.containers*) sed 's/ .*/-1.shop||app istio-proxy/' workloads ;;
*"get "*app=istiod*) echo "istiod-1 cp-1 0 " ;;
*"rollout restart"*)
    [[ "$*" =~ Deployment/([a-z]+) ]]
    sed -i "s/^\\(${BASH_REMATCH[1]}\\) .*/\\1 $(cat tag)/" workloads
    ;;
*"rollout status"*) [[ ! "$*" =~ Deployment/([a-z]+) || ! -e "broken-${BASH_REMATCH[1]}" ]] ;;
*"label customresourcedefinition"*) mv "definitions/$3" kept/ ;;
*"delete "*webhookconfigurations*) : >revisions ;;
*"delete namespace"*) rm -f namespace ;;
*delete*) ;;
*) echo "kubectl $*: not faked here" >&2; exit 1 ;;
esac
"""
)
_ISTIOCTL = (
    _FAULTS
    + """
case "$*" in
uninstall*--purge*) for name in definitions/*; do rm -f "$name" "objects/${name##*/}"; done ;;
uninstall*--revision*)
    sed -i "/^$3\\$/d" revisions
    echo "$3" >>removed
    cp workloads workloads-at-removal
    ;;
proxy-status*)
    echo "NAME CLUSTER CDS LDS EDS RDS ECDS ISTIOD VERSION"
    while read -r name revision; do
        state=SYNCED
        [ ! -e "stale-$name" ] || state=STALE
        [ -e "silent-$name" ] ||
            echo "$name-1.shop Kubernetes SYNCED SYNCED $state SYNCED - istiod-$revision-1 x"
    done <workloads
    ;;
"tag set default"*) echo "$5" >tag ;;
install*) grep -qx "$(cat wanted)" revisions || cat wanted >>revisions ;;
analyze*) echo "Warning [IST0102] a finding"; exit 79 ;;
"manifest generate"*|*precheck*|verify-install*) ;;
*) echo "istioctl $*: not faked here" >&2; exit 1 ;;
esac
"""
)


class Cluster:
    """Fake cluster on a machine: a mesh with one revision, two workloads and two CRDs."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        machine.fake("kubectl", _KUBECTL)
        machine.fake("istioctl", _ISTIOCTL)
        machine.skip_waits()
        machine.write(ADMIN, "")

    def path(self, name: str) -> Path:
        return self.machine.path(f"/cluster/{name}")

    def reset(self, *, fails_from: int = 10**6, is_flaky: bool = False) -> None:
        """Reset the cluster. fails_from: the number of the first call that fails."""
        shutil.rmtree(self.path(""), ignore_errors=True)
        self.machine.path("/calls").unlink(missing_ok=True)
        files = {
            "definitions/" + FOREIGN: "",
            "definitions/" + OWN: "",
            "objects/" + FOREIGN: "shop/entry\nistio-system/own\n",
            "objects/" + OWN: "istio-system/own\n",
            "revisions": f"{OLD}\n",
            "tag": f"{OLD}\n",
            "workloads": f"pay {OLD}\nnews {OLD}\n",
            "namespace": "",
            "wanted": f"{NEW}\n",
            "first": str(fails_from),
            **({"flaky": ""} if is_flaky else {}),
        }
        for name, text in files.items():
            self.machine.write(f"/cluster/{name}", text)
        self.path("kept").mkdir()

    def add_new_revision(self) -> None:
        """Install the new revision beside the old one, which still serves traffic."""
        self.machine.write("/cluster/revisions", f"{OLD}\n{NEW}\n")

    def lines(self, name: str) -> list[str]:
        path = self.path(name)
        return path.read_text().split("\n")[:-1] if path.exists() else []

    def names(self, name: str) -> list[str]:
        return sorted(path.name for path in self.path(name).iterdir())

    def run(self, script: str) -> Result:
        return self.machine.run(script, SETTINGS)


@pytest.fixture
def cluster(machine: Machine) -> Cluster:
    return Cluster(machine)


def calls_of(cluster: Cluster, script: str) -> int:
    """Count the calls of a run without failures."""
    cluster.reset()
    cluster.add_new_revision()
    ended = cluster.run(script)
    assert ended.status == 0, ended.stderr
    assert "could not be checked" not in ended.stderr
    calls = len(cluster.machine.calls())
    assert calls > 5
    return calls


# --- removal --------------------------------------------------------------------------------------


def assert_removed(cluster: Cluster) -> None:
    """Check that everything is removed except resources that other programs use."""
    assert cluster.names("definitions") == []
    assert cluster.names("kept") == [FOREIGN]
    assert not cluster.path("namespace").exists()


def test_a_failed_removal_keeps_foreign_resources(cluster: Cluster) -> None:
    for number in range(1, calls_of(cluster, "istio-uninstall.sh") + 1):
        cluster.reset(fails_from=number)
        ended = cluster.run("istio-uninstall.sh")
        case = f"from call {number} on: {ended.stderr}"
        assert cluster.lines("objects/" + FOREIGN) == ["shop/entry", "istio-system/own"], case
        assert ended.status != 0, case
        assert REFUSED in ended.stderr, case
        assert "\n    fix   " in ended.stderr, case
        assert "mesh removed" not in ended.stderr, case


def test_a_removal_waits_for_a_restarting_api_server(cluster: Cluster) -> None:
    cluster.reset(is_flaky=True)
    ended = cluster.run("istio-uninstall.sh")
    assert ended.status == 0, ended.stderr
    assert_removed(cluster)


def test_a_removal_succeeds_without_a_control_plane(cluster: Cluster) -> None:
    """Remains of a control plane mean that there may still be a mesh."""
    cluster.reset(fails_from=1)
    cluster.machine.path(ADMIN).unlink()
    cluster.machine.write("/var/lib/etcd/member/wal", "")
    refused = cluster.run("istio-uninstall.sh")
    assert "[api-server-down]" in refused.stderr
    assert "/var/lib/etcd/member" in refused.stderr
    shutil.rmtree(cluster.machine.path("/var/lib/etcd"))
    ended = cluster.run("istio-uninstall.sh")
    assert ended.status == 0, ended.stderr
    assert "no longer has a control plane" in ended.stderr


# --- rollout --------------------------------------------------------------------------------------


def test_a_rollout_moves_all_workloads_or_fails(cluster: Cluster) -> None:
    for number in range(1, calls_of(cluster, "istio-rollout.sh") + 1):
        cluster.reset(fails_from=number)
        cluster.add_new_revision()
        ended = cluster.run("istio-rollout.sh")
        case = f"from call {number} on: {ended.stderr}"
        if cluster.lines("removed"):
            moved = {f"pay {NEW}", f"news {NEW}"}
            assert set(cluster.lines("workloads-at-removal")) == moved, case
        if ended.status == 0:
            assert cluster.lines("removed") == [OLD], case
            assert cluster.lines("revisions") == [NEW], case
            # A check that could not run is not reported as healthy.
            assert "could not be checked: " in ended.stderr, case
        else:
            assert "\n    fix   " in ended.stderr, case
            assert "mesh serves" not in ended.stderr, case
        assert REFUSED in ended.stderr, case


def test_a_rollout_waits_for_a_restarting_api_server(cluster: Cluster) -> None:
    cluster.reset(is_flaky=True)
    cluster.add_new_revision()
    ended = cluster.run("istio-rollout.sh")
    assert ended.status == 0, ended.stderr
    assert "could not be checked" not in ended.stderr
    assert cluster.lines("removed") == [OLD]
    assert set(cluster.lines("workloads")) == {f"pay {NEW}", f"news {NEW}"}


def test_an_unreadable_disruption_budget_stops_the_rollout(cluster: Cluster) -> None:
    """All other calls succeed."""
    cluster.reset()
    cluster.add_new_revision()
    unreadable = '[[ "$*" != *poddisruptionbudgets* ]] || { echo refused >&2; exit 1; }'
    cluster.machine.fake("kubectl", unreadable + _KUBECTL)
    ended = cluster.run("istio-rollout.sh")
    assert ended.status != 0
    assert cluster.lines("workloads") == [f"pay {OLD}", f"news {OLD}"]


def test_an_unmet_disruption_budget_is_named(cluster: Cluster) -> None:
    cluster.reset()
    cluster.add_new_revision()
    unmet = '[[ "$*" != *poddisruptionbudgets* ]] || { echo "pay 1 2"; exit; }'
    cluster.machine.fake("kubectl", unmet + _KUBECTL)
    ended = cluster.run("istio-rollout.sh")
    assert ended.status != 0
    assert "pay has 1 healthy pods and requires 2" in ended.stderr
    assert cluster.lines("workloads") == [f"pay {OLD}", f"news {OLD}"]


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ("Deployment|2|true||2|", "it is paused"),
        ("StatefulSet|2||OnDelete|2|", "its update strategy is OnDelete"),
        ("DaemonSet|||OnDelete|2|2", "its update strategy is OnDelete"),
    ],
)
def test_a_workload_that_only_its_owner_can_restart_is_named(
    cluster: Cluster, state: str, reason: str
) -> None:
    cluster.reset()
    cluster.add_new_revision()
    cluster.machine.write("/cluster/state-news", f"{state}\n")
    ended = cluster.run("istio-rollout.sh")
    assert f"Deployment/news of shop keeps its proxy until its owner acts: {reason}" in ended.stderr
    assert "[proxies-outdated]" in ended.stderr
    assert "shop Deployment/news" in ended.stderr
    assert cluster.lines("workloads") == [f"pay {NEW}", f"news {OLD}"]
    assert cluster.lines("removed") == []


@pytest.mark.parametrize("state", ["Deployment|2|||1|", "Deployment|2||||", "DaemonSet||||1|2"])
def test_a_workload_that_was_broken_does_not_hold_the_others(cluster: Cluster, state: str) -> None:
    cluster.reset()
    cluster.add_new_revision()
    cluster.machine.write("/cluster/state-news", f"{state}\n")
    cluster.machine.write("/cluster/broken-news", "")
    ended = cluster.run("istio-rollout.sh")
    assert "keeps its proxy until its owner acts: it had " in ended.stderr
    assert "of 2 pods ready before" in ended.stderr
    assert f"pay {NEW}" in cluster.lines("workloads")


def test_a_healthy_workload_that_fails_to_restart_stops_the_rollout(cluster: Cluster) -> None:
    """The new proxies may be the reason, so no other workload gets them."""
    cluster.reset()
    cluster.add_new_revision()
    cluster.machine.write("/cluster/broken-news", "")
    ended = cluster.run("istio-rollout.sh")
    assert ended.status != 0
    assert cluster.lines("workloads") == [f"pay {OLD}", f"news {NEW}"]


@pytest.mark.parametrize(
    ("pod", "is_finished"),
    [
        ("Job|app=Completed;istio-proxy=;", True),
        ("Job|istio-proxy=;app=Error;", True),
        ("Job|app=;istio-proxy=;", False),
        ("Job|app=Completed;other=;istio-proxy=;", False),
        ("ReplicaSet|app=Completed;istio-proxy=;", False),
    ],
)
def test_a_finished_job_does_not_hold_an_upgrade(
    cluster: Cluster, pod: str, is_finished: bool
) -> None:
    cluster.reset()
    cluster.add_new_revision()
    cluster.machine.write("/cluster/jobs", f"news-1.shop|{pod}\n")
    owner = 'sed "s/|ReplicaSet|news-rs|/|Job|news|/"'
    as_job = _KUBECTL.replace(
        "    done <workloads\n    ;;", f"    done <workloads | {owner}\n    ;;"
    )
    cluster.machine.fake("kubectl", as_job)
    ended = cluster.run("istio-rollout.sh")
    assert cluster.lines("workloads") == [f"pay {NEW}", f"news {OLD}"]
    assert cluster.lines("removed") == ([OLD] if is_finished else []), ended.stderr
    assert ("shop Job/news" in ended.stderr) is not is_finished


# --- install --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("proxy", "warning"),
    [("stale-pay", "these proxies are STALE"), ("silent-pay", "no connection to istiod")],
)
def test_a_proxy_that_receives_no_configuration_is_named(
    cluster: Cluster, proxy: str, warning: str
) -> None:
    cluster.reset()
    cluster.machine.write("/cluster/workloads", f"pay {NEW}\nnews {NEW}\n")
    cluster.machine.write("/cluster/revisions", f"{NEW}\n")
    healthy = cluster.run("istio-rollout.sh").stderr
    assert "STALE" not in healthy
    assert "connection to istiod" not in healthy
    cluster.machine.write(f"/cluster/{proxy}", "")
    ended = cluster.run("istio-rollout.sh")
    (line,) = [line for line in ended.stderr.splitlines() if warning in line]
    assert "WARNING" in line
    assert "pay-1.shop" in line
    assert "news-1" not in line


def test_a_proxy_that_istiod_disconnects_is_named(cluster: Cluster) -> None:
    """STALE at the first check, and missing from the list of istiod at the next."""
    cluster.reset()
    cluster.machine.write("/cluster/workloads", f"pay {NEW}\nnews {NEW}\n")
    cluster.machine.write("/cluster/revisions", f"{NEW}\n")
    cluster.machine.write("/cluster/stale-pay", "")
    disconnects = "mv -f /cluster/stale-pay /cluster/silent-pay 2>/dev/null || true"
    cluster.machine.write(STARTUP, f"sleep() {{ SECONDS=$((SECONDS + 30)); {disconnects}; }}\n")
    ended = cluster.run("istio-rollout.sh")
    assert "no connection to istiod, so no change reaches them: pay-1.shop;" in ended.stderr


def test_a_failed_install_does_not_move_the_default_revision(cluster: Cluster) -> None:
    for number in range(1, calls_of(cluster, "istio-install.sh") + 1):
        cluster.reset(fails_from=number)
        ended = cluster.run("istio-install.sh")
        case = f"from call {number} on: {ended.stderr}"
        assert cluster.lines("tag") == [OLD], case
        assert ended.status != 0, case
        assert REFUSED in ended.stderr, case
        assert "\n    fix   " in ended.stderr, case


def test_an_install_waits_for_a_restarting_api_server(cluster: Cluster) -> None:
    cluster.reset(is_flaky=True)
    ended = cluster.run("istio-install.sh")
    assert ended.status == 0, ended.stderr
    assert cluster.lines("revisions") == [OLD, NEW]
    assert cluster.lines("tag") == [OLD]
