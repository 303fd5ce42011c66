"""Scripts on nodes: the identity of the machine, failures of kubectl, and removal."""

import base64
import re
import shlex
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import yaml

from components.handover import PIPE
from components.host.templates import render
from components.manifests import kubeadm
from components.membership import INIT
from components.remote.node_command import FOLDER, Script, text_alone, text_of
from config import Kubernetes, catalogue
from tests.support import documented
from tests.support.joining import HANDED, TOKEN, handing_over
from tests.unit.machine import Machine, Result
from tests.unit.node import ENDPOINT_PROGRAM, KEYS, KUBEADM_PHASES, encoded, with_endpoint_program

ENDPOINT = "api.prod.example.internal"
OTHER_ENDPOINT = "api.other.example.internal"
KUBELET_CONF = "/etc/kubernetes/kubelet.conf"
ADMIN_CONF = "/etc/kubernetes/admin.conf"
JOINED = "/etc/kubernetes/nordmesh-joined.yaml"
INITIALISED = "/etc/kubernetes/nordmesh-initialised.yaml"
CERTIFICATE = "/var/lib/kubelet/pki/kubelet-client-current.pem"
ENCRYPTION = "/etc/kubernetes/pki/encryption.yaml"
KUBELET_CONFIG = "/var/lib/kubelet/config.yaml"
MEMBERS = "/etc/nordmesh/members.nft"
CLUSTER_CONFIG = "kind: ClusterConfiguration"
PLANE_JOIN_CONFIG = kubeadm.to_yaml(
    [kubeadm.control_plane_join_document(name="cp-1", address="192.0.2.11")]
)
AUDIT_POLICY = "kind: Policy"
# Files that control the fake kubectl: the number of the call that fails, and its responses.
FAILS_AT, NODE, VOLUMES, UNSCHEDULABLE = "/fails-at", "/node", "/volumes", "/unschedulable"
_KUBECTL = """
number=$(grep -c '^kubectl ' /calls)
if [ "$number" = "$(cat /fails-at 2>/dev/null)" ] || [ -e /api-down ]; then
    echo "Unable to connect to the server: dial tcp: i/o timeout" >&2
    exit 1
fi
case "$*" in
*unschedulable*) cat /unschedulable 2>/dev/null || true ;;
*' persistentvolumes '*) cat /volumes 2>/dev/null || true ;;
*conditions*) printf True ;;
*taints*) cat /taints 2>/dev/null || true ;;
*'get node '*) cat /node 2>/dev/null || true ;;
*'drain '*) [ ! -e /stuck ] || { echo 'cannot evict pod'; exit 1; } ;;
esac
"""


@dataclass(frozen=True)
class Pki:
    """CA of a cluster, which issues certificates for its nodes."""

    directory: Path

    @classmethod
    def make(cls, directory: Path) -> "Pki":
        directory.mkdir()
        pki = cls(directory)
        pki._openssl("req", "-x509", *_KEY, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=k")
        return pki

    @property
    def ca(self) -> str:
        return (self.directory / "ca.crt").read_text()

    def certificate(self, node: str, *, days: int = 1) -> str:
        subject = f"/O=system:nodes/CN=system:node:{node}"
        out = self.directory / f"{node}.{days}.crt"
        if not out.exists():
            self._openssl("req", *_KEY, "-keyout", "n.key", "-out", "n.csr", "-subj", subject)
            signed = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", str(days))
            self._openssl("x509", "-req", "-in", "n.csr", *signed, "-out", str(out))
        return out.read_text()

    def _openssl(self, *arguments: str) -> None:
        command = ["openssl", *arguments]
        subprocess.run(command, cwd=self.directory, check=True, capture_output=True)


_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki.make(tmp_path_factory.mktemp("pki") / "cluster")


@pytest.fixture(scope="module")
def other_pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki.make(tmp_path_factory.mktemp("pki") / "other")


def join_config(name: str = "worker-1", address: str = "192.0.2.21") -> str:
    return kubeadm.to_yaml([kubeadm.join_document(name=name, address=address)])


def joined(
    machine: Machine,
    pki: Pki,
    *,
    name: str = "worker-1",
    endpoint: str = ENDPOINT,
    has_mark: bool = True,
    days: int = 1,
) -> None:
    """Turn the machine into a worker that joined; without its mark, the join was interrupted."""
    server = f"    server: https://{endpoint}:6443"
    machine.write(KUBELET_CONF, f"apiVersion: v1\nclusters:\n- cluster:\n{server}\n", mode=0o600)
    machine.write(CERTIFICATE, pki.certificate(name, days=days))
    machine.write("/etc/kubernetes/pki/ca.crt", pki.ca)
    machine.write(KUBELET_CONFIG, "cgroupDriver: systemd\nkind: KubeletConfiguration\n")
    machine.write("/var/lib/kubelet/kubeadm-flags.env", "KUBELET_KUBEADM_ARGS=\n")
    if has_mark:
        machine.write(JOINED, f"{join_config(name)}\n", mode=0o600)


def initialised(machine: Machine, pki: Pki, *, name: str = "cp-1") -> None:
    """Turn the machine into a control plane."""
    joined(machine, pki, name=name, has_mark=False)
    machine.write(ADMIN_CONF, f"    server: https://{ENDPOINT}:6443\n", mode=0o600)
    _has_settings(machine, CLUSTER_CONFIG)
    machine.write("/var/lib/etcd/member/wal", "data")


def _has_settings(machine: Machine, config: str) -> None:
    """Record that the control plane runs with the settings of this release."""
    machine.write(INITIALISED, f"{config}\n", mode=0o600)
    functions = text_of("kubeadm-init.sh").partition("\nsingle_run\n")[0]
    settings = {
        "AUDIT_POLICY": AUDIT_POLICY,
        "CLUSTER_CONFIG": config,
        "ENCRYPTION_KEY": "1",
        "OIDC_CA": "",
    }
    exports = (f"export {name}={shlex.quote(value)}\n" for name, value in settings.items())
    text = f"export NODE_NAME=cp-1 ENDPOINT={ENDPOINT}\n{''.join(exports)}{functions}\n"
    result = machine.shell(f"{text}write_keys key1\nrecord_settings")
    assert result.status == 0, result.stderr


def files(machine: Machine) -> dict[str, str]:
    """Return the content of every file that a script could damage."""
    folders = ("/etc", "/var/lib/kubelet", "/var/lib/etcd", "/var/lib/nordmesh")
    return {
        str(path.relative_to(machine.root)): path.read_text(errors="replace")
        for folder in folders
        for path in sorted(machine.path(folder).rglob("*"))
        if path.is_file() and not path.is_symlink() and machine.path(FOLDER) not in path.parents
    }


@pytest.fixture
def kubernetes(machine: Machine) -> Machine:
    """Machine with fakes of everything that the scripts call."""
    machine.fake("kubectl", _KUBECTL)
    machine.fake(
        "systemctl",
        """
        case "$*" in
        *is-active*kubelet*) [ -e /kubelet-runs ] || exit 3 ;;
        'stop kubelet' | *disable*kubelet*) rm -f /kubelet-runs ;;
        'start kubelet') touch /kubelet-runs ;;
        *is-active*) exit 3 ;;
        esac
        """,
    )
    machine.fake(
        "kubeadm",
        """
        case "$1" in
        join) printf 'new identity' >/etc/kubernetes/kubelet.conf; touch /kubelet-runs ;;
        init)
            mkdir -p /var/lib/kubelet
            echo '    server: https://api.prod.example.internal:6443' >/etc/kubernetes/admin.conf
            ;;
        esac
        mkdir -p /var/lib/kubelet
        touch /var/lib/kubelet/config.yaml /var/lib/kubelet/kubeadm-flags.env
        """,
    )
    for command in ("ip", "nft", "apt-mark", "ctr"):
        machine.fake(command)
    with_endpoint_program(machine)
    return machine


def discovery(pki: Pki) -> str:
    """Render the kubeconfig by which a worker finds the cluster."""
    ca = base64.b64encode(pki.ca.encode()).decode()
    return kubeadm.discovery_kubeconfig({"ca": ca}, endpoint=ENDPOINT)


def join(machine: Machine, pki: Pki, *, handed: str = HANDED, **settings: str) -> Result:
    """Run kubeadm-join.sh as an update does. handed: what comes through the pipe."""
    defaults = {"ENDPOINT": ENDPOINT, "JOIN_CONFIG": join_config(), "API_SECONDS": "1"}
    with handing_over(machine.path(PIPE), handed):
        return machine.run("kubeadm-join.sh", defaults | settings, stdin=discovery(pki))


def torn_down(machine: Machine) -> bool:
    """Return whether kubelet was stopped or its identity was removed."""
    return "systemctl stop kubelet" in machine.calls() or not machine.exists(CERTIFICATE)


# --- kubeadm join ---------------------------------------------------------------------------------


def test_a_new_machine_joins(kubernetes: Machine, pki: Pki) -> None:
    assert join(kubernetes, pki).status == 0
    assert kubernetes.read(JOINED) == f"{join_config()}\n"
    assert kubernetes.calls("kubeadm join")


@pytest.mark.parametrize("has_mark", [True, False])
@pytest.mark.parametrize("runs", [True, False])
def test_joining_does_not_change_a_node_of_the_cluster(
    kubernetes: Machine, pki: Pki, has_mark: bool, runs: bool
) -> None:
    """Even if the join was killed before it wrote its mark, or if kubelet was stopped."""
    joined(kubernetes, pki, has_mark=has_mark)
    kubernetes.write(NODE, "node/worker-1\n")
    if runs:
        kubernetes.write("/kubelet-runs", "")
    assert join(kubernetes, pki).status == 0
    assert not torn_down(kubernetes)
    assert kubernetes.exists("/kubelet-runs")
    assert kubernetes.read(JOINED) == f"{join_config()}\n"


def test_what_kubeadm_wrote_stays_known_after_a_change_by_hand(
    kubernetes: Machine, pki: Pki
) -> None:
    """`nordmesh drift` compares with it."""
    joined(kubernetes, pki)
    kubernetes.write(NODE, "node/worker-1\n")
    assert join(kubernetes, pki).status == 0
    written = kubernetes.read(KUBELET_CONFIG)
    kubernetes.write(KUBELET_CONFIG, "changed by hand\n")
    assert join(kubernetes, pki).status == 0
    assert kubernetes.read("/etc/kubernetes/nordmesh-made/config.yaml") == written


def test_a_joined_node_is_not_changed_while_the_api_server_is_down(
    kubernetes: Machine, pki: Pki
) -> None:
    joined(kubernetes, pki)
    kubernetes.write("/kubelet-runs", "")
    kubernetes.write("/api-down", "")
    before = files(kubernetes)
    result = join(kubernetes, pki)
    assert result.status == 1
    assert "[api-server-silent]" in result.stderr
    assert files(kubernetes) == before
    assert not torn_down(kubernetes)


def test_joining_waits_for_a_restarting_api_server(kubernetes: Machine, pki: Pki) -> None:
    joined(kubernetes, pki)
    kubernetes.write("/kubelet-runs", "")
    kubernetes.write(NODE, "node/worker-1\n")
    kubernetes.write(FAILS_AT, "1")
    assert join(kubernetes, pki, API_SECONDS="20").status == 0
    assert not torn_down(kubernetes)


def test_an_interrupted_join_is_reset_only_if_the_api_server_answers(
    kubernetes: Machine, pki: Pki
) -> None:
    joined(kubernetes, pki, has_mark=False)
    kubernetes.write("/api-down", "")
    before = files(kubernetes)
    result = join(kubernetes, pki, handed="error: cp-1: no route to host")
    assert result.status == 1
    assert "bootstrap token: cp-1: no route to host [no-bootstrap-token]" in result.stderr
    assert files(kubernetes) == before
    assert not torn_down(kubernetes)
    kubernetes.path("/api-down").unlink()
    assert join(kubernetes, pki).status == 0  # the node is not in the cluster
    assert kubernetes.read(KUBELET_CONF) == "new identity"


def test_remains_of_an_earlier_cluster_are_reset(
    kubernetes: Machine, pki: Pki, other_pki: Pki
) -> None:
    joined(kubernetes, other_pki, has_mark=False)
    assert join(kubernetes, pki).status == 0
    assert kubernetes.read(KUBELET_CONF) == "new identity"


@pytest.mark.parametrize("file", [JOINED, ADMIN_CONF])
def test_a_node_of_a_cluster_with_another_ca_does_not_join(
    kubernetes: Machine, pki: Pki, other_pki: Pki, file: str
) -> None:
    joined(kubernetes, other_pki, has_mark=False)
    kubernetes.write(file, f"{join_config()}\n")
    before = files(kubernetes)
    result = join(kubernetes, pki)
    assert result.status == 1
    assert "[another-cluster]" in result.stderr
    assert files(kubernetes) == before
    assert not torn_down(kubernetes)


def test_a_node_missing_from_the_cluster_joins_again(kubernetes: Machine, pki: Pki) -> None:
    joined(kubernetes, pki)
    assert join(kubernetes, pki).status == 0
    assert kubernetes.read(KUBELET_CONF) == "new identity"
    assert kubernetes.read(JOINED) == f"{join_config()}\n"


@pytest.mark.parametrize(("days", "joins"), [(-1, True), (1, False)])
def test_a_refused_identity_is_replaced_only_if_it_has_expired(
    kubernetes: Machine, pki: Pki, days: int, joins: bool
) -> None:
    joined(kubernetes, pki, days=days)
    kubernetes.fake("kubectl", "echo 'You must be logged in (Unauthorized)' >&2; exit 1")
    result = join(kubernetes, pki)
    assert (result.status == 0) == joins == torn_down(kubernetes)


@pytest.mark.parametrize("has_mark", [True, False])
@pytest.mark.parametrize("changes", [{"name": "worker-2"}, {"endpoint": OTHER_ENDPOINT}])
def test_the_machine_of_another_node_does_not_join(
    kubernetes: Machine, pki: Pki, has_mark: bool, changes: Mapping[str, str]
) -> None:
    joined(kubernetes, pki, has_mark=has_mark, **changes)  # type: ignore[arg-type]
    before = files(kubernetes)
    result = join(kubernetes, pki)
    assert result.status == 1
    for value in changes.values():
        assert value in result.stderr
    assert files(kubernetes) == before
    assert not torn_down(kubernetes)


def test_changed_node_settings_are_refused_without_an_api_server(
    kubernetes: Machine, pki: Pki
) -> None:
    joined(kubernetes, pki)
    kubernetes.write("/api-down", "")
    result = join(kubernetes, pki, JOIN_CONFIG=join_config(address="192.0.2.99"))
    assert "[node-settings-differ]" in result.stderr
    assert not torn_down(kubernetes)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("skipPhases:\n- preflight", "skipPhases: []"),
        ("name: worker-1\n  criSocket", "name: 'worker-1'\n  criSocket"),
        ("criSocket: unix:///run", "criSocket: unix:///var/run"),
        ("v1beta3", "v1beta4"),
        ("discovery:", "patches: {}\ndiscovery:"),
    ],
)
def test_an_equivalent_join_document_is_accepted(
    kubernetes: Machine, pki: Pki, old: str, new: str
) -> None:
    """A new release of nordmesh may render the document differently."""
    joined(kubernetes, pki)
    kubernetes.write(NODE, "node/worker-1\n")
    assert old in join_config()
    result = join(kubernetes, pki, JOIN_CONFIG=join_config().replace(old, new))
    assert result.status == 0, result.stderr
    assert not torn_down(kubernetes)


def test_a_kubelet_that_does_not_stop_keeps_its_identity(kubernetes: Machine, pki: Pki) -> None:
    joined(kubernetes, pki, has_mark=False)
    kubernetes.fake("systemctl", "[ $1 != stop ]")
    before = files(kubernetes)
    result = join(kubernetes, pki)
    assert result.status == 1
    assert "[step-failed]" in result.stderr
    assert files(kubernetes) == before
    assert not kubernetes.calls("kubeadm join")


def test_the_join_writes_its_secrets_to_no_file(kubernetes: Machine, pki: Pki) -> None:
    """So even a SIGKILL leaves no secret behind; kubeadm reads them from file descriptors."""
    look = 'for file; do case $file in /dev/fd/*) cat "$file" >>"/read-$1" ;; esac; done\n'
    body = kubernetes.read("/usr/local/bin/kubeadm").split("\n", 2)[2]
    kubernetes.fake("kubeadm", f"{look}cp -r /run/nordmesh /at-join\n{body}")
    assert join(kubernetes, pki).status == 0
    assert f"tlsBootstrapToken: '{TOKEN}'" in kubernetes.read("/read-join")
    seen = [path.name for path in kubernetes.path("/at-join").rglob("*") if path.is_file()]
    assert "discovery.kubeconfig" in seen
    for path in kubernetes.path("/at-join").rglob("*"):
        if path.is_file():
            assert TOKEN not in path.read_text()
    assert not kubernetes.exists(PIPE)


@pytest.mark.parametrize(
    "line", ["error: cp-1: timed out", "", "abc", "abcdef.0123456789ABCDEF 192.0.2.11", TOKEN]
)
def test_without_a_token_nothing_is_changed(kubernetes: Machine, pki: Pki, line: str) -> None:
    joined(kubernetes, pki, has_mark=False)
    before = files(kubernetes)
    result = join(kubernetes, pki, handed=line)
    assert result.status == 1
    assert "[no-bootstrap-token]" in result.stderr
    assert TOKEN not in result.stderr
    assert files(kubernetes) == before
    assert not torn_down(kubernetes)


def test_a_token_that_never_comes_is_reported(kubernetes: Machine, pki: Pki) -> None:
    settings = {"ENDPOINT": ENDPOINT, "JOIN_CONFIG": join_config(), "HANDOVER_SECONDS": "1"}
    result = kubernetes.run("kubeadm-join.sh", settings, stdin=discovery(pki))
    assert result.status == 1
    assert "none came within 1 s [no-bootstrap-token]" in result.stderr
    assert not kubernetes.exists(PIPE)


def test_the_pipe_of_a_killed_script_is_not_used(kubernetes: Machine, pki: Pki) -> None:
    kubernetes.path("/run/nordmesh").mkdir()
    kubernetes.write(PIPE, "left by someone")
    assert join(kubernetes, pki).status == 0
    assert not kubernetes.exists(PIPE)


# --- kubeadm init ---------------------------------------------------------------------------------


def init(
    machine: Machine,
    *,
    cluster: str = "new",
    schedulable: bool = False,
    config: str = CLUSTER_CONFIG,
    handed: str = INIT,
) -> Result:
    settings = {
        "AUDIT_POLICY": AUDIT_POLICY,
        "OIDC_CA": "",
        "CLUSTER": cluster,
        "CLUSTER_CONFIG": config,
        "ENCRYPTION_KEY": "1",
        "ENDPOINT": ENDPOINT,
        "INIT_CONFIG": "kind: InitConfiguration",
        "JOIN_CONFIG": PLANE_JOIN_CONFIG,
        "SCHEDULABLE": str(schedulable).lower(),
        "HANDOVER_SECONDS": "30",
    }
    with handing_over(machine.path(PIPE), handed):
        return machine.run("kubeadm-init.sh", settings, node="cp-1")


def test_an_update_never_creates_a_cluster(kubernetes: Machine) -> None:
    before = files(kubernetes)
    result = init(kubernetes, cluster="exists")
    assert result.status == 1
    assert "[cluster-missing]" in result.stderr
    assert "hostKey" in result.stderr
    assert files(kubernetes) == before
    assert not kubernetes.calls("kubeadm")


@pytest.mark.parametrize("cluster", ["new", "exists"])
def test_an_initialised_control_plane_is_not_changed(
    kubernetes: Machine, pki: Pki, cluster: str
) -> None:
    initialised(kubernetes, pki)
    result = init(kubernetes, cluster=cluster)
    assert result.status == 0, result.stderr
    assert result.stdout.startswith('{"ca":"')
    # The account that made tokens in earlier releases.
    assert any(" delete " in call and "secret/nordmesh-join" in call for call in kubernetes.calls())
    assert not kubernetes.calls("kubeadm")


CLUSTER = Kubernetes(
    cluster_name="oslo",
    version="1.23.17",
    endpoint=ENDPOINT,
    kubelet={"failSwapOn": False, "evictionHard": {"memory.available": "200Mi"}},
    kube_proxy={"conntrack": {"maxPerCore": 0}},
)


RELEASE = catalogue.KUBERNETES["1.23.17"]


def cluster_config(**changes: object) -> str:
    cluster = CLUSTER.model_copy(update=changes)
    return kubeadm.to_yaml(kubeadm.cluster_documents(cluster, RELEASE, address="192.0.2.11"))


def with_etcd_metrics(_: str) -> str:
    """Return the document of a new cluster with host.firewall.enabled."""
    documents = kubeadm.cluster_documents(CLUSTER, RELEASE, address="192.0.2.11", etcd_metrics=True)
    return kubeadm.to_yaml(documents)


def reordered(text: str) -> str:
    """Return the same documents with documents and keys in another order."""
    documents = [dict(reversed(document.items())) for document in yaml.safe_load_all(text)]
    text = yaml.safe_dump_all(reversed(documents), sort_keys=False, indent=4)
    return text.replace("clusterName: oslo", 'clusterName: "oslo"')


@pytest.mark.parametrize(
    "change",
    [
        reordered,
        lambda text: text.replace("imageTag: ", "imageTag: new-"),
        lambda text: text.replace("v1beta3", "v1beta4"),
        lambda text: text.replace("apiServer:", "featureGates: {}\napiServer:"),
        with_etcd_metrics,
    ],
)
def test_an_equivalent_cluster_document_is_accepted(
    kubernetes: Machine, pki: Pki, change: Callable[[str], str]
) -> None:
    """A new release of nordmesh may render it differently; a running cluster does not change."""
    initialised(kubernetes, pki)
    _has_settings(kubernetes, cluster_config())
    text = change(cluster_config())
    assert text != cluster_config()
    result = init(kubernetes, config=text)
    assert result.status == 0, result.stderr
    assert kubernetes.read(INITIALISED) == f"{cluster_config()}\n"
    assert not kubernetes.calls("kubeadm")


@pytest.mark.parametrize(
    "changes",
    [
        {"cluster_name": "bergen"},
        {"version": "1.23.16"},
        {"endpoint": OTHER_ENDPOINT},
        {"pod_cidr": "10.99.0.0/16"},
        {"service_cidr": "10.98.0.0/16"},
        {"cgroup_driver": "cgroupfs"},
        {"kubelet": {"failSwapOn": True, "evictionHard": {"memory.available": "200Mi"}}},
        {"kubelet": {"failSwapOn": False, "evictionHard": {"memory.available": "100Mi"}}},
        {"kubelet": {"failSwapOn": False}},
        {"kube_proxy": {"conntrack": {"maxPerCore": 1}}},
        {"kube_proxy": {"conntrack": {"maxPerCore": 0}, "mode": "ipvs"}},
    ],
)
def test_changed_cluster_settings_are_refused(
    kubernetes: Machine, pki: Pki, changes: Mapping[str, object]
) -> None:
    initialised(kubernetes, pki)
    _has_settings(kubernetes, cluster_config())
    before = files(kubernetes)
    result = init(kubernetes, config=cluster_config(**changes))
    assert result.status == 1
    assert "[cluster-settings-differ]" in result.stderr
    assert files(kubernetes) == before
    assert not kubernetes.calls("kubeadm")


def test_an_interrupted_init_is_completed(kubernetes: Machine, pki: Pki) -> None:
    joined(kubernetes, pki, name="cp-1", has_mark=False)
    kubernetes.write("/etc/kubernetes/nordmesh-started", "")
    kubernetes.write(ENCRYPTION, KEYS)
    kubernetes.write("/var/lib/etcd/member/wal", "data")
    assert init(kubernetes).status == 0
    assert kubernetes.read(INITIALISED) == f"{CLUSTER_CONFIG}\n"


@pytest.mark.parametrize(
    "line", ["error: cp-2: timed out", "", "join", "join 192.0.2.12 token key ca -", "initialise"]
)
def test_without_an_answer_about_the_cluster_nothing_is_created(
    kubernetes: Machine, line: str
) -> None:
    before = files(kubernetes)
    result = init(kubernetes, handed=line)
    assert result.status == 1
    assert "[cluster-unknown]" in result.stderr
    assert files(kubernetes) == before
    assert not kubernetes.calls("kubeadm")


def test_an_answer_that_never_comes_is_reported(kubernetes: Machine) -> None:
    settings = {
        "CLUSTER": "new",
        "ENCRYPTION_KEY": "1",
        "ENDPOINT": ENDPOINT,
        "HANDOVER_SECONDS": "1",
    }
    result = kubernetes.run("kubeadm-init.sh", settings, node="cp-1")
    assert "none came within 1 s [cluster-unknown]" in result.stderr
    assert not kubernetes.calls("kubeadm")


# --- a further control plane ----------------------------------------------------------------------

KEY = "0123456789abcdef" * 4
HOSTS = "192.0.2.12 api.prod.example.internal # nordmesh-join"


def offer(pki: Pki) -> str:
    """Return what a control plane with the cluster hands over."""
    return f"join 192.0.2.12 {TOKEN} {KEY} {encoded(discovery(pki))} {encoded(KEYS)}"


@pytest.fixture
def joining(kubernetes: Machine) -> Machine:
    """Machine whose kubeadm joins as a control plane, and keeps what it was given."""
    kubernetes.write("/etc/hosts", "127.0.0.1 localhost\n")
    kubernetes.fake(
        "kubeadm",
        f"""
        {KUBEADM_PHASES}
        cat "$3" >/read-join
        cp -p /etc/kubernetes/pki/encryption.yaml /keys-at-join
        cp -r /etc/kubernetes/nordmesh-patches /etc/kubernetes/audit /
        cp /etc/hosts /hosts-at-join
        cp /run/nordmesh/discovery.kubeconfig /discovery-at-join
        mkdir -p /etc/kubernetes/manifests /var/lib/kubelet
        [ ! -e /announce-fails ] || exit 1
        echo pod >/etc/kubernetes/manifests/etcd.yaml
        write_pods
        touch /var/lib/kubelet/config.yaml /var/lib/kubelet/kubeadm-flags.env
        echo '    server: https://api.prod.example.internal:6443' >/etc/kubernetes/admin.conf
        [ ! -e /mark-fails ] || exit 1
        """,
    )
    return kubernetes


def test_a_further_control_plane_joins(joining: Machine, pki: Pki) -> None:
    result = init(joining, handed=offer(pki))
    assert result.status == 0, result.stderr
    assert result.stdout.startswith('{"ca":"')
    assert joining.read(INITIALISED) == f"{CLUSTER_CONFIG}\n"
    join, *others = joining.calls("kubeadm")
    assert join.split()[1] == "join"
    assert not [call for call in others if "init --config" in call]
    given = joining.read("/read-join")
    assert f"tlsBootstrapToken: '{TOKEN}'" in given
    assert f"certificateKey: {KEY}" in given.replace("'", "")
    assert joining.read("/discovery-at-join").strip() == discovery(pki).strip()
    assert HOSTS in joining.read("/hosts-at-join")
    # Afterwards the name leads where node-prepare.sh has set it, and nobody can use the secrets.
    assert joining.read("/etc/hosts") == "127.0.0.1 localhost\n"
    (deleted,) = (call for call in joining.calls("kubectl") if "secret/kubeadm-certs" in call)
    assert " delete " in deleted
    assert f"secret/bootstrap-token-{TOKEN.partition('.')[0]}" in deleted
    assert not joining.exists("/etc/kubernetes/nordmesh-joining")


def test_a_join_has_the_keys_and_settings_before_its_api_server_starts(
    joining: Machine, pki: Pki
) -> None:
    assert init(joining, handed=offer(pki)).status == 0
    assert joining.read("/keys-at-join") == KEYS == joining.read(ENCRYPTION)
    assert joining.path("/keys-at-join").stat().st_mode & 0o777 == 0o600
    assert joining.read("/audit/policy.yaml") == f"{AUDIT_POLICY}\n"
    assert "keys key1" in joining.read("/nordmesh-patches/kube-apiserver+merge.json")
    assert "directory: /etc/kubernetes/nordmesh-patches" in joining.read("/read-join")
    # Nothing has to restart afterwards.
    assert not [call for call in joining.calls("kubectl") if "get pod kube-" in call]


def test_a_join_to_a_cluster_of_an_earlier_release_reads_secrets_in_the_clear(
    joining: Machine, pki: Pki
) -> None:
    handed = offer(pki).rpartition(" ")[0]
    joining.write("/mark-fails", "")
    assert init(joining, handed=f"{handed} -").status == 1
    assert "- identity: {}" in joining.read(ENCRYPTION)
    assert "secret:" not in joining.read(ENCRYPTION)


def test_a_join_writes_its_secrets_to_no_file(joining: Machine, pki: Pki) -> None:
    for trouble in ("", "/announce-fails"):
        if trouble:
            joining.write(trouble, "")
            joining.path(INITIALISED).unlink()
            joining.path(ADMIN_CONF).unlink()
            joining.write("/etc/kubernetes/nordmesh-joining", "")
            joining.path("/etc/kubernetes/manifests/etcd.yaml").unlink()
        init(joining, handed=offer(pki))
        joining.path("/read-join").unlink()
        for path in joining.root.rglob("*"):
            if (
                path.is_file()
                and not path.is_symlink()
                and not path.is_relative_to(joining.path("/usr"))
            ):
                text = path.read_text(errors="replace")
                assert KEY not in text, path
                assert TOKEN.partition(".")[2] not in text, path


def test_a_join_that_etcd_does_not_know_begins_again(joining: Machine, pki: Pki) -> None:
    joining.write("/announce-fails", "")
    failed = init(joining, handed=offer(pki))
    assert failed.status == 1
    assert "[step-failed]" in failed.stderr
    assert not joining.exists(INITIALISED)
    joining.path("/announce-fails").unlink()
    joining.write("/etc/kubernetes/pki/ca.crt", "of the interrupted join")
    joining.write(KUBELET_CONF, "of the interrupted join")
    assert init(joining, handed=offer(pki)).status == 0
    assert not joining.exists("/etc/kubernetes/pki/ca.crt")
    assert not joining.exists(KUBELET_CONF)
    assert len(joining.calls("kubeadm join")) == 2


def test_a_join_that_etcd_knows_is_continued_without_an_answer(joining: Machine, pki: Pki) -> None:
    """Otherwise etcd could wait for this member, and nobody could write."""
    joining.write("/mark-fails", "")
    assert init(joining, handed=offer(pki)).status == 1
    joining.path("/kubelet-runs").unlink(missing_ok=True)
    result = init(joining, handed="error: nobody answers")
    assert result.status == 0, result.stderr
    assert joining.exists("/kubelet-runs")
    assert len(joining.calls("kubeadm join")) == 1
    labels = [call for call in joining.calls("kubectl") if " label node cp-1 " in call]
    assert "node-role.kubernetes.io/control-plane=" in labels[0]
    assert joining.read("/etc/hosts") == "127.0.0.1 localhost\n"
    assert joining.read(INITIALISED) == f"{CLUSTER_CONFIG}\n"


def test_a_machine_that_began_to_create_a_cluster_does_not_join_another(
    joining: Machine, pki: Pki
) -> None:
    joining.write("/etc/kubernetes/nordmesh-started", "")
    joining.write("/var/lib/etcd/member/wal", "data")
    before = files(joining)
    result = init(joining, handed=offer(pki))
    assert "[two-clusters]" in result.stderr
    assert files(joining) == before
    assert not joining.calls("kubeadm")


def test_a_machine_that_began_to_join_creates_no_cluster(joining: Machine) -> None:
    joining.write("/etc/kubernetes/nordmesh-joining", "")
    before = files(joining)
    result = init(joining)
    assert "[cluster-lost]" in result.stderr
    assert files(joining) == before
    assert not joining.calls("kubeadm")


def test_a_machine_that_came_back_after_its_removal_is_recognised(
    kubernetes: Machine, pki: Pki
) -> None:
    initialised(kubernetes, pki)
    log = "/var/log/pods/kube-system_etcd-cp-1_0/etcd/0.log"
    kubernetes.write(log, '"error":"the member has been permanently removed from the cluster"\n')
    # Of an earlier time: the machine has joined again since.
    assert init(kubernetes).status == 0
    kubernetes.write("/api-down", "")
    before = files(kubernetes)
    result = init(kubernetes)
    assert result.status == 1
    assert_leads_to_clear(result.stderr, "removed-from-etcd")
    assert files(kubernetes) == before


# What kubeadm 1.23 removes, except mounts, containers and the data of etcd.
KUBEADM_RESET = """
kubeadm() {
    [ "$*" = "reset --force" ] || return
    rm -rf /etc/kubernetes/{manifests,pki}/* /var/lib/{kubelet,cni}/* /var/run/kubernetes
    rm -f /etc/kubernetes/{admin,kubelet,bootstrap-kubelet,controller-manager,scheduler}.conf
}
"""


def clear(machine: Machine) -> None:
    """Run the commands of docs/when-it-breaks.md that clear a machine."""
    (block,) = (
        block
        for block in documented.blocks("docs/when-it-breaks.md")
        if block.is_tried_with("tests/unit/components/scripts/test_nodes.py")
    )
    result = machine.shell(KUBEADM_RESET + block.commands)
    assert result.status == 0, result.stderr
    for path in ("/api-down", "/kubelet-runs"):
        machine.path(path).unlink(missing_ok=True)


def assert_leads_to_clear(message: str, code: str) -> None:
    """The message names what kubeadm leaves: the machine would still be a member."""
    assert f"[{code}]" in message
    for what in ("`kubeadm reset --force`", "/etc/kubernetes", "/var/lib/etcd/member"):
        assert what in message


def came_back(machine: Machine, pki: Pki) -> None:
    initialised(machine, pki)
    log = "/var/log/pods/kube-system_etcd-cp-1_0/etcd/0.log"
    machine.write(log, '"error":"the member has been permanently removed from the cluster"\n')
    machine.write("/api-down", "")


def has_two_clusters(machine: Machine, _pki: Pki) -> None:
    machine.write("/etc/kubernetes/nordmesh-started", "")
    machine.write("/var/lib/etcd/member/wal", "data")


def has_lost_cluster(machine: Machine, _pki: Pki) -> None:
    machine.write("/etc/kubernetes/nordmesh-joining", "")


@pytest.mark.parametrize(
    ("make", "code", "joins"),
    [
        (came_back, "removed-from-etcd", True),
        (has_two_clusters, "two-clusters", True),
        (has_lost_cluster, "cluster-lost", False),
        (lambda machine, pki: joined(machine, pki, name="cp-1"), "already-a-node", True),
        (
            lambda machine, pki: initialised(machine, pki, name="cp-9"),
            "another-node",
            True,
        ),
    ],
)
def test_a_control_plane_that_is_cleared_is_a_new_machine(
    joining: Machine, pki: Pki, make: Callable[[Machine, Pki], object], code: str, joins: bool
) -> None:
    make(joining, pki)
    handed = offer(pki) if joins else INIT
    assert_leads_to_clear(init(joining, handed=handed).stderr, code)
    clear(joining)
    assert member_state(joining) == "none"
    result = init(joining, handed=handed)
    assert result.status == 0, result.stderr
    assert bool(joining.calls("kubeadm join")) == joins


@pytest.mark.parametrize(
    ("file", "code"),
    [("/api-down", "api-server-silent"), ("/var/lib/etcd/member/wal", "node-has-etcd")],
)
def test_a_worker_that_is_cleared_can_be_reset_without_the_cluster(
    kubernetes: Machine, pki: Pki, file: str, code: str
) -> None:
    joined(kubernetes, pki)
    kubernetes.write(file, "")
    refused = reset(kubernetes, allow=False, cluster=pki, API_SECONDS="1")
    assert_leads_to_clear(refused.stderr, code)
    clear(kubernetes)
    kubernetes.write("/api-down", "")
    result = reset(kubernetes, allow=False, cluster=pki, API_SECONDS="1")
    assert result.status == 0, result.stderr


def member_state(machine: Machine) -> str:
    result = machine.run("cluster-member.sh", {"ENDPOINT": ENDPOINT}, node="cp-1")
    assert result.status == 0, result.stderr
    return result.stdout.strip()


@pytest.mark.parametrize(
    ("make", "state"),
    [
        (lambda *_: None, "none"),
        (lambda machine, pki: initialised(machine, pki), "member"),
        (lambda machine, _: machine.write("/etc/kubernetes/nordmesh-started", ""), "started"),
        (lambda machine, _: machine.write("/etc/kubernetes/nordmesh-joining", ""), "joining"),
        (lambda machine, _: machine.write("/var/lib/etcd/member/wal", ""), "remains"),
        (
            lambda machine, pki: initialised(machine, pki, name="cp-9"),
            f"other cp-9 of the cluster at {ENDPOINT}",
        ),
        (
            lambda machine, pki: joined(machine, pki, name="cp-1", endpoint=OTHER_ENDPOINT),
            f"other cp-1 of the cluster at {OTHER_ENDPOINT}",
        ),
    ],
)
def test_a_machine_says_whether_it_has_the_cluster(
    kubernetes: Machine, pki: Pki, make: Callable[[Machine, Pki], None], state: str
) -> None:
    make(kubernetes, pki)
    before = files(kubernetes)
    assert member_state(kubernetes) == state
    assert files(kubernetes) == before


def test_a_control_plane_offers_what_another_one_needs(kubernetes: Machine, pki: Pki) -> None:
    initialised(kubernetes, pki)
    kubernetes.fake(
        "kubeadm",
        f"""
        case "$*" in
        token*) echo {TOKEN} ;;
        *upload-certs*) printf '[upload-certs] Using certificate key:\\n{KEY}\\n' ;;
        esac
        """,
    )
    result = kubernetes.run("cluster-offer.sh", {"ENDPOINT": ENDPOINT}, node="cp-1")
    assert result.status == 0, result.stderr
    ca = base64.b64encode(pki.ca.encode()).decode()
    assert result.stdout == f"{TOKEN} {KEY} {ca} {encoded(kubernetes.read(ENCRYPTION))}\n"
    token, certificates = kubernetes.calls("kubeadm")
    assert "--ttl 10m" in token
    # Without the configuration, kubeadm asks the internet for the newest version.
    assert f"--config {INITIALISED}" in certificates


@pytest.mark.parametrize("name", ["cp-1", "worker-2"])
def test_a_joined_node_is_not_initialised(kubernetes: Machine, pki: Pki, name: str) -> None:
    joined(kubernetes, pki, name=name)
    before = files(kubernetes)
    assert init(kubernetes).status == 1
    assert files(kubernetes) == before
    assert not kubernetes.calls("kubeadm")


# --- the identity of the machine ------------------------------------------------------------------


def prepare(machine: Machine, **settings: str) -> Result:
    """Run node-prepare.sh up to its first change."""
    machine.fake("df", "printf 'Avail\\n1M\\n'")
    defaults = {
        "ALLOW_SWAP": "true",
        "API_SECONDS": "1",
        "CGROUP_DRIVER": "systemd",
        "DISK_MIB": "2048",
        "ENDPOINT": ENDPOINT,
        "KUBERNETES_VERSION": "1.23.17",
    }
    return machine.run("node-prepare.sh", defaults | settings)


@pytest.mark.parametrize(
    "make",
    [
        lambda machine, pki: joined(machine, pki, name="worker-2"),
        lambda machine, pki: joined(machine, pki, name="worker-2", has_mark=False),
        lambda machine, pki: joined(machine, pki, endpoint=OTHER_ENDPOINT),
        lambda machine, pki: joined(machine, pki, name="worker-10"),
        lambda machine, pki: joined(machine, pki, name="worker"),
        lambda machine, pki: initialised(machine, pki, name="cp-2"),
        lambda machine, _: machine.write(
            ADMIN_CONF, f"    server: https://{OTHER_ENDPOINT}:6443\n"
        ),
    ],
)
def test_the_machine_of_another_node_is_not_prepared(
    kubernetes: Machine, pki: Pki, make: Callable[[Machine, Pki], None]
) -> None:
    make(kubernetes, pki)
    before = files(kubernetes)
    result = prepare(kubernetes)
    assert result.status == 1
    assert "[another-node]" in result.stderr
    assert files(kubernetes) == before
    assert not [call for call in kubernetes.calls() if "df" not in call]


@pytest.mark.parametrize(
    "make",
    [
        lambda *_: None,
        joined,
        lambda machine, pki: joined(machine, pki, has_mark=False),
        # Files that a killed run left truncated.
        lambda machine, _: machine.write(KUBELET_CONF, "apiVersion: v1\n"),
        lambda machine, _: machine.write(KUBELET_CONF, ""),
        lambda machine, _: machine.write(
            KUBELET_CONF, "    client-certificate-data: LS0tLS1CRUdJTiBDRVJUSUZ\n"
        ),
    ],
)
def test_the_machine_of_the_node_and_a_new_machine_are_prepared(
    kubernetes: Machine, pki: Pki, make: Callable[[Machine, Pki], None]
) -> None:
    make(kubernetes, pki)
    assert (
        "MiB free below /var/lib/containerd, 2048 MiB needed [disk-too-full]"
        in prepare(kubernetes).stderr
    )


def test_an_identity_embedded_in_kubelet_conf_counts(kubernetes: Machine, pki: Pki) -> None:
    data = base64.b64encode(pki.certificate("cp-1").encode()).decode()
    kubernetes.write(
        KUBELET_CONF, f"    server: https://{ENDPOINT}:6443\n    client-certificate-data: {data}\n"
    )
    assert f"node cp-1 of the cluster at {ENDPOINT} [another-node]" in prepare(kubernetes).stderr


@pytest.mark.parametrize("file", [JOINED, INITIALISED])
def test_another_cgroup_driver_is_refused_before_any_change(
    kubernetes: Machine, pki: Pki, file: str
) -> None:
    joined(kubernetes, pki, has_mark=False)
    # The node has not joined yet, so kubeadm rewrites the file.
    assert "[disk-too-full]" in prepare(kubernetes, CGROUP_DRIVER="cgroupfs").stderr
    kubernetes.write(file, "")
    before = files(kubernetes)
    result = prepare(kubernetes, CGROUP_DRIVER="cgroupfs")
    assert "[cgroup-driver-differs]" in result.stderr
    assert files(kubernetes) == before


def reset(
    machine: Machine, *, allow: bool = True, cluster: Pki | None = None, **settings: str
) -> Result:
    """Run node-reset.sh. cluster: the cluster that the worker in the state has joined."""
    defaults = {"ALLOW_DATA_LOSS": str(allow).lower(), "ENDPOINT": ENDPOINT}
    stdin = discovery(cluster) if cluster else ""
    return machine.run("node-reset.sh", defaults | settings, stdin=stdin)


@pytest.mark.parametrize("has_mark", [True, False])
def test_a_node_of_a_cluster_with_another_ca_is_not_reset(
    kubernetes: Machine, pki: Pki, other_pki: Pki, has_mark: bool
) -> None:
    """With the same name and endpoint: another stack created the cluster again."""
    joined(kubernetes, other_pki, has_mark=has_mark)
    kubernetes.write("/kubelet-runs", "")
    before = files(kubernetes)
    assert reset(kubernetes, cluster=pki).status == 0
    assert files(kubernetes) == before
    assert kubernetes.exists("/kubelet-runs")
    assert kubernetes.calls() == []
    assert reset(kubernetes, cluster=other_pki).status == 0
    assert not kubernetes.exists("/etc/kubernetes")


@pytest.mark.parametrize("changes", [{"name": "worker-2"}, {"endpoint": OTHER_ENDPOINT}])
@pytest.mark.parametrize("has_mark", [True, False])
def test_the_machine_of_another_node_is_not_reset(
    kubernetes: Machine, pki: Pki, has_mark: bool, changes: Mapping[str, str]
) -> None:
    joined(kubernetes, pki, has_mark=has_mark, **changes)  # type: ignore[arg-type]
    # Not even if it is a control plane of another stack.
    kubernetes.write("/var/lib/etcd/member/wal", "data")
    kubernetes.write("/kubelet-runs", "")
    before = files(kubernetes)
    for allow in (True, False):
        result = reset(kubernetes, allow=allow)
        assert result.status == 0
        assert next(iter(changes.values())) in result.stderr
    assert files(kubernetes) == before
    assert kubernetes.exists("/kubelet-runs")
    assert kubernetes.calls() == []


@pytest.mark.parametrize(
    "make",
    [
        joined,
        lambda machine, pki: joined(machine, pki, has_mark=False),
        # A join that was interrupted before kubelet had its identity.
        lambda machine, _: machine.write("/etc/kubernetes/bootstrap-kubelet.conf", "x"),
    ],
)
def test_the_machine_of_the_node_is_reset(
    kubernetes: Machine, pki: Pki, make: Callable[[Machine, Pki], None]
) -> None:
    make(kubernetes, pki)
    assert reset(kubernetes).status == 0
    assert not kubernetes.exists("/etc/kubernetes")
    assert not kubernetes.exists("/var/lib/kubelet")


def test_a_reset_empties_the_disk_of_etcd_and_keeps_it_mounted(
    kubernetes: Machine, pki: Pki
) -> None:
    initialised(kubernetes, pki)
    kubernetes.mount('mkdir -p "$root/disk" && mount --bind "$root/disk" "$root/var/lib/etcd"')
    kubernetes.write("/disk/member/wal", "data")
    kubernetes.write("/disk/lost+found/other", "")
    result = reset(kubernetes, NODE_NAME="cp-1")
    assert result.status == 0, result.stderr
    assert not kubernetes.exists("/disk/member")
    assert kubernetes.exists("/disk/lost+found/other")


def test_a_worker_that_is_still_in_its_cluster_is_not_reset(kubernetes: Machine, pki: Pki) -> None:
    """`pulumi destroy --skip-preview` deletes workers before the protected control plane."""
    joined(kubernetes, pki)
    kubernetes.write(NODE, "node/worker-1\n")
    kubernetes.write("/kubelet-runs", "")
    before = files(kubernetes)
    result = reset(kubernetes, allow=False)
    assert result.status == 1
    assert "[still-in-cluster]" in result.stderr
    assert files(kubernetes) == before
    assert kubernetes.exists("/kubelet-runs")


def test_a_worker_is_not_reset_while_the_api_server_is_silent(
    kubernetes: Machine, pki: Pki
) -> None:
    joined(kubernetes, pki)
    kubernetes.write("/api-down", "")
    before = files(kubernetes)
    result = reset(kubernetes, allow=False, API_SECONDS="1")
    assert result.status == 1
    assert "[api-server-silent]" in result.stderr
    assert files(kubernetes) == before


@pytest.mark.parametrize("allow", [True, False])
def test_a_worker_that_has_left_its_cluster_is_reset(
    kubernetes: Machine, pki: Pki, allow: bool
) -> None:
    joined(kubernetes, pki)
    assert reset(kubernetes, allow=allow).status == 0
    assert not kubernetes.exists("/etc/kubernetes")


def test_a_worker_that_may_lose_its_data_is_reset_without_draining(
    kubernetes: Machine, pki: Pki
) -> None:
    joined(kubernetes, pki)
    kubernetes.write(NODE, "node/worker-1\n")
    assert reset(kubernetes).status == 0
    assert not kubernetes.exists("/etc/kubernetes")


def test_a_kubelet_that_does_not_stop_keeps_its_files(kubernetes: Machine, pki: Pki) -> None:
    joined(kubernetes, pki)
    kubernetes.fake("systemctl", "case $* in *disable*) exit 1 ;; esac")
    before = files(kubernetes)
    assert reset(kubernetes).status == 1
    assert files(kubernetes) == before


def test_a_machine_is_not_reset_if_its_containers_cannot_be_listed(
    kubernetes: Machine, pki: Pki
) -> None:
    joined(kubernetes, pki)
    kubernetes.fake("systemctl", "case $* in *is-active*kubelet*) exit 3 ;; esac")
    kubernetes.fake("ctr", "echo 'connection error' >&2; exit 1")
    before = files(kubernetes)
    assert reset(kubernetes).status != 0
    assert files(kubernetes) == before


# --- the removal of a node ------------------------------------------------------------------------


@pytest.fixture
def control_plane(kubernetes: Machine, pki: Pki) -> Machine:
    initialised(kubernetes, pki)
    kubernetes.write(NODE, "node/worker-1\n")
    return kubernetes


def remove(machine: Machine, *, allow: bool = False) -> Result:
    settings = {"ALLOW_DATA_LOSS": str(allow).lower(), "JOINED_NODE": "worker-1"}
    return machine.run("node-remove.sh", settings, node="cp-1")


def is_removed(machine: Machine) -> bool:
    return "kubectl delete node worker-1" in machine.calls()


@pytest.mark.parametrize("allow", [True, False])
def test_scratch_volumes_are_deleted_with_a_node(control_plane: Machine, allow: bool) -> None:
    assert remove(control_plane, allow=allow).status == 0
    (drain,) = control_plane.calls("kubectl drain")
    assert "--delete-emptydir-data" in drain
    assert ("--force" in drain) == allow
    assert is_removed(control_plane)


def test_removing_a_missing_node_succeeds(control_plane: Machine) -> None:
    control_plane.write(NODE, "")
    assert remove(control_plane).status == 0
    assert len(control_plane.calls("kubectl")) == 1


def test_removal_fails_without_a_cluster(kubernetes: Machine) -> None:
    result = remove(kubernetes)
    assert result.status == 1
    assert "[no-cluster-here]" in result.stderr


@pytest.mark.parametrize(
    ("volumes", "blocks"),
    [
        ("data|Bound|/mnt/data|worker-1 |shop/db\n", True),
        ("data|Released|/mnt/data|worker-2 worker-1 |shop/db\n", True),
        ("data|Available|/mnt/data|worker-1 |/\n", False),
        ("data|Bound|/mnt/data|worker-10 worker-2 |shop/db\n", False),
        ("data|Bound||worker-1 |shop/db\n", False),  # network storage
        ("", False),
    ],
)
def test_local_volumes_block_the_removal_of_a_node(
    control_plane: Machine, volumes: str, blocks: bool
) -> None:
    control_plane.write(VOLUMES, volumes)
    result = remove(control_plane)
    assert (result.status != 0) == blocks == (not is_removed(control_plane))
    assert ("the volumes data (shop/db) [local-volumes]" in result.stderr) == blocks
    assert bool(control_plane.calls("kubectl drain")) != blocks
    allowed = remove(control_plane, allow=True)
    assert allowed.status == 0
    assert ("lost with worker-1: data (shop/db)." in allowed.stdout + allowed.stderr) == blocks


def test_volumes_are_named_with_their_claims(control_plane: Machine) -> None:
    control_plane.write(
        VOLUMES, "one|Failed|/mnt/1|worker-1 |/\ntwo|Bound|/mnt/2|worker-1 |shop/db\n"
    )
    result = remove(control_plane)
    assert "the volumes one, two (shop/db) [local-volumes]" in result.stderr


def test_a_failed_drain_is_followed_by_an_uncordon(control_plane: Machine) -> None:
    control_plane.write("/stuck", "")
    result = remove(control_plane)
    assert result.status == 1
    assert "cannot evict pod" in result.stderr
    assert "accepts pods again" in result.stderr
    assert control_plane.calls()[-1].endswith("uncordon worker-1")
    assert not is_removed(control_plane)


def test_a_node_that_was_already_cordoned_stays_cordoned(control_plane: Machine) -> None:
    control_plane.write(UNSCHEDULABLE, "true")
    control_plane.write("/stuck", "")
    assert remove(control_plane).status == 1
    assert not [call for call in control_plane.calls() if "uncordon" in call]


def test_an_interrupted_removal_uncordons_the_node(control_plane: Machine) -> None:
    """After a SIGKILL, the next run recognises the cordon as that of the killed run."""
    end = "case $* in drain*) kill -{} $PPID; sleep 0.2 ;; esac"
    control_plane.fake("kubectl", f"{_KUBECTL}\n{end.format('KILL')}")
    assert remove(control_plane).status != 0
    assert not [call for call in control_plane.calls() if "uncordon" in call]
    control_plane.write(UNSCHEDULABLE, "true")
    control_plane.fake("kubectl", f"{_KUBECTL}\n{end.format('TERM')}")
    assert remove(control_plane).status != 0
    assert [call for call in control_plane.calls() if "uncordon" in call]
    assert not is_removed(control_plane)


# --- a kubectl that fails ------------------------------------------------------------------------


@pytest.mark.parametrize("call", range(1, 7))
def test_a_failed_kubectl_stops_the_removal(control_plane: Machine, call: int) -> None:
    control_plane.write(FAILS_AT, str(call))
    before = files(control_plane)
    result = remove(control_plane)
    calls = control_plane.calls("kubectl")
    if call > 5:  # the script makes five calls
        assert result.status == 0
        assert is_removed(control_plane)
        return
    assert result.status == 1, calls
    assert not is_removed(control_plane) or call == 5
    # The script stopped at the failure, and the node accepts pods.
    assert len(calls) >= call
    drained = any("drain" in line for line in calls)
    assert drained == any("uncordon" in line for line in calls)
    assert files(control_plane) == before
    control_plane.write(FAILS_AT, "")
    assert remove(control_plane).status == 0


@pytest.mark.parametrize("call", range(1, 3))
def test_a_failed_kubectl_does_not_tear_down_a_node(
    kubernetes: Machine, pki: Pki, call: int
) -> None:
    joined(kubernetes, pki)
    kubernetes.write("/kubelet-runs", "")
    kubernetes.write(NODE, "node/worker-1\n")
    kubernetes.write(FAILS_AT, str(call))
    assert join(kubernetes, pki, API_SECONDS="0").status == (1 if call == 1 else 0)
    assert not torn_down(kubernetes)


@pytest.mark.parametrize("schedulable", [True, False])
@pytest.mark.parametrize("is_initialised", [True, False])
def test_a_failed_kubectl_stops_the_initialisation(
    kubernetes: Machine, pki: Pki, schedulable: bool, is_initialised: bool
) -> None:
    kubernetes.write("/taints", "node-role.kubernetes.io/master:NoSchedule\n")
    for call in range(1, 8):
        if is_initialised:
            initialised(kubernetes, pki)
        kubernetes.path("/calls").unlink(missing_ok=True)
        kubernetes.write(FAILS_AT, str(call))
        result = init(kubernetes, schedulable=schedulable)
        taints = [line for line in kubernetes.calls("kubectl") if " taint node " in line]
        if result.status == 0:
            assert result.stdout.startswith('{"ca":"')
            assert len(taints) == 1
            assert taints[0].endswith("-") == schedulable
        else:
            assert result.stdout == ""
            assert init(kubernetes, schedulable=schedulable).status == 0


@pytest.mark.parametrize(
    ("kubectl", "code"),
    [
        ("case $* in *conditions*) exit 1 ;; esac", "node-not-in-cluster"),
        # Without a response, the state of the node is unknown.
        ("echo 'i/o timeout' >&2; exit 1", "timed-out"),
    ],
)
def test_waiting_for_a_missing_node_fails(kubernetes: Machine, kubectl: str, code: str) -> None:
    kubernetes.skip_waits()
    kubernetes.fake("kubectl", kubectl)
    settings = {"JOINED_NODE": "worker-1", "REGISTRATION_SECONDS": "1"}
    result = kubernetes.run("node-ready.sh", settings, node="cp-1")
    assert result.status == 1
    assert f"[{code}]" in result.stderr


def test_the_script_reports_a_node_that_does_not_become_ready(kubernetes: Machine) -> None:
    """Before the time limit, which would kill the script without a message."""
    kubernetes.skip_waits()
    kubernetes.fake("kubectl", "printf False")
    script = Script(file="node-ready.sh", node="cp-1", settings={"JOINED_NODE": "worker-1"})
    result = kubernetes.shell(kubernetes.command(script))
    assert result.status == 1
    seconds = re.search(
        r"timed out after (\d+) s waiting for node worker-1.*\[timed-out\]", result.stderr
    )
    assert seconds
    assert int(seconds[1]) <= script.timeout - 20


def test_a_failed_kubectl_does_not_count_as_ready(kubernetes: Machine) -> None:
    kubernetes.write(FAILS_AT, "1")
    assert kubernetes.run("node-ready.sh", {"JOINED_NODE": "worker-1"}, node="cp-1").status == 0
    assert len(kubernetes.calls("kubectl")) == 3


def test_pods_start_on_a_node_once_it_is_in_the_cluster(kubernetes: Machine) -> None:
    """node-ready.sh runs after label-node.sh; it removes only the taint of the join."""
    kubernetes.fake(
        "kubectl",
        """case $* in
        *spec.taints*) printf 'dedicated:NoSchedule\\nnordmesh.io/joining:NoSchedule\\n' ;;
        *conditions*) printf True ;;
        *'get node'*) printf node/worker-1 ;;
        esac""",
    )
    assert kubernetes.run("node-ready.sh", {"JOINED_NODE": "worker-1"}, node="cp-1").status == 0
    (call,) = (call for call in kubernetes.calls("kubectl") if " taint " in call)
    joining = kubeadm.JOINING
    assert call.endswith(f"taint node worker-1 {joining['key']}:{joining['effect']}-")


# --- the firewall and the images of a node that has joined ----------------------------------------

_LIBRARIES = (
    "lib.sh", "apt.sh", "identity.sh", "files.sh", "images.sh", "endpoint.sh", "firewall.sh",
    "host.sh",
)  # fmt: skip


def call(machine: Machine, function: str, **settings: str) -> Result:
    """Call a function of the libraries, with a writable /usr/local/lib."""
    text = "".join(map(text_alone, _LIBRARIES)).replace("/usr/local/lib/", "/lib-local/")
    machine.write("/script", f"{text}\n{function}\n")
    machine.write("/lib-local/nordmesh/members.sh", render("usr/local/lib/nordmesh/members.sh"))
    defaults = {"NODE_NAME": "worker-1", "ENDPOINT": ENDPOINT, "API_SECONDS": "1", **settings}
    exports = "".join(f"export {name}='{value}'\n" for name, value in defaults.items())
    return machine.shell(f"{exports}bash /script")


@pytest.mark.parametrize(("fails_at", "is_loaded"), [("", True), ("1", True), ("all", False)])
def test_rules_are_loaded_only_if_the_cluster_members_are_known(
    kubernetes: Machine, pki: Pki, fails_at: str, is_loaded: bool
) -> None:
    """On a node that joined before its firewall was enabled, on every run."""
    joined(kubernetes, pki)
    kubernetes.write("/etc/nordmesh/firewall.nft", "")
    answers = (
        f"[ {fails_at or 0} != all ] || exit 1\n{_KUBECTL}\nprintf '192.0.2.11\\n192.0.2.21\\n'"
    )
    kubernetes.fake("kubectl", answers)
    kubernetes.write(FAILS_AT, fails_at)
    for _ in range(2):
        seconds = "600" if is_loaded else "1"
        settings = {"ENDPOINT_ADDRESS": "192.0.2.11", "API_SECONDS": seconds}
        result = call(kubernetes, "firewall_on", **settings)
        assert (result.status == 0) == is_loaded, result.stderr
        assert bool(kubernetes.calls("nft -f")) == is_loaded
    if is_loaded:
        members = kubernetes.read("/etc/nordmesh/members.nft")
        assert members == "define members = { 192.0.2.11, 192.0.2.21 }\n"


@pytest.fixture
def member(kubernetes: Machine, pki: Pki) -> Machine:
    """A node with a firewall, in a cluster of three members; the firewall knows two of them."""
    joined(kubernetes, pki)
    kubernetes.path(ENDPOINT_PROGRAM).unlink()
    kubernetes.write("/etc/nordmesh/firewall.nft", "")
    kubernetes.write(MEMBERS, "define members = { 192.0.2.11, 192.0.2.21 }\n")
    kubernetes.fake("kubectl", "printf '192.0.2.11\\n192.0.2.21\\n192.0.2.22\\n'")
    kubernetes.write("/members.sh", render("usr/local/lib/nordmesh/members.sh"))
    return kubernetes


def look(machine: Machine) -> Result:
    """Look at the members once; not as the first process, which nothing kills."""
    return machine.shell("bash /members.sh once; exit")


def test_members_that_a_killed_turn_wrote_are_loaded_by_the_next(member: Machine) -> None:
    """Otherwise the firewall drops a new node's packets until another node comes or goes."""
    member.fake("nft", "kill -KILL $PPID")
    assert look(member).status != 0
    assert "192.0.2.22" in member.read(MEMBERS)
    member.fake("nft")
    before = len(member.calls("nft -f"))
    for _ in range(2):
        assert look(member).status == 0
    assert len(member.calls("nft -f")) - before == 1


@pytest.mark.parametrize("has_members", [True, False])
def test_members_that_the_firewall_refuses_are_not_kept(
    member: Machine, *, has_members: bool
) -> None:
    """A start of the machine loads the file: an empty one, too, would leave it without rules."""
    before = member.read(MEMBERS)
    if not has_members:
        member.path(MEMBERS).unlink()
    member.fake("nft", "exit 1")
    assert look(member).status == 1
    assert member.exists(MEMBERS) == has_members
    assert not has_members or member.read(MEMBERS) == before
    member.fake("nft")
    assert look(member).status == 0
    assert "192.0.2.22" in member.read(MEMBERS)


# The first call of a command waits, for up to two seconds, until another turn is over.
_FIRST_WAITS = """
if mkdir /first 2>/dev/null; then
    for _ in {1..20}; do [ ! -e /second-is-over ] || break; sleep 0.1; done
fi
"""


@pytest.mark.parametrize("waits_in", ["kubectl", "mv"])
def test_two_looks_at_once_leave_the_members_that_the_later_one_saw(
    member: Machine, waits_in: str
) -> None:
    """The service and a script of nordmesh: an older list must not replace a newer one."""
    members = ["192.0.2.11", "192.0.2.21", "192.0.2.22", "192.0.2.23"]
    member.write("/nodes", "\n".join(members[:3]) + "\n")
    waits = {waits_in: _FIRST_WAITS}
    member.fake("kubectl", f'answer=$(cat /nodes)\n{waits.get("kubectl", "")}\necho "$answer"')
    member.fake("mv", f'{waits.get("mv", "")}\nexec /usr/bin/mv "$@"')
    member.fake("nft", f"cp {MEMBERS} /loaded")
    result = member.shell(
        "bash /members.sh once & until [ -e /first ]; do sleep 0.1; done\n"
        "echo 192.0.2.23 >>/nodes\n"
        "bash /members.sh once && touch /second-is-over && wait $!"
    )
    assert result.status == 0, result.stderr
    assert member.read(MEMBERS) == f"define members = {{ {', '.join(members)} }}\n"
    assert member.read("/loaded") == member.read(MEMBERS)


def follow(machine: Machine, until: str) -> None:
    """Follow the members of the cluster until a command succeeds."""
    is_over = f"timeout 120 bash -c 'until {until} 2>/dev/null; do sleep 0.1; done'"
    assert machine.shell(f"bash /members.sh &\n{is_over}").status == 0, machine.calls()


def test_a_node_without_an_address_is_a_member_as_soon_as_it_has_one(
    kubernetes: Machine, pki: Pki
) -> None:
    """A node is in the table before its address is, and that is not a new node."""
    joined(kubernetes, pki)
    kubernetes.path(ENDPOINT_PROGRAM).unlink()
    kubernetes.write("/etc/nordmesh/firewall.nft", "")
    kubernetes.fake(
        "kubectl",
        "case $* in\n"
        "*--watch-only*) touch /has-address; echo MODIFIED worker-1; sleep 600 ;;\n"
        "*) echo 192.0.2.11; [ ! -e /has-address ] || echo 192.0.2.21 ;; esac",
    )
    kubernetes.write("/members.sh", render("usr/local/lib/nordmesh/members.sh"))
    follow(kubernetes, "grep -q 192.0.2.21 /etc/nordmesh/members.nft")
    members = kubernetes.read("/etc/nordmesh/members.nft")
    assert members == "define members = { 192.0.2.11, 192.0.2.21 }\n"


_EVENTS = """
count() { grep -c "^$1" /calls; }
listed() { until [ "$(count '.* --request-timeout')" -ge "$1" ]; do sleep 0.1; done; }
handled() { until [ "$(count 'nft list')" -ge "$1" ]; do sleep 0.1; done; }
case $* in
*--watch-only*)
    echo MODIFIED worker-1
    listed 2
    echo 61 >/clock
    for _ in {1..50}; do echo MODIFIED worker-1; done
    handled 52
    echo 301 >/clock
    echo MODIFIED worker-1
    listed 3
    handled 53
    count '.* --request-timeout' >/lists
    touch /over
    sleep 600
    ;;
*) echo 192.0.2.11 ;;
esac
"""


def test_the_events_of_a_large_cluster_do_not_list_all_nodes_each_time(
    kubernetes: Machine, pki: Pki
) -> None:
    """With 50 nodes, one changes every few seconds: each of them must not ask for all.

    At the start, one event lists them; after a minute, 50 events do not; after five minutes, one
    does. Each event checks the rules, so that the number of checks is the number of events.
    """
    joined(kubernetes, pki)
    kubernetes.path(ENDPOINT_PROGRAM).unlink()
    kubernetes.write("/etc/nordmesh/firewall.nft", "")
    kubernetes.write("/clock", "0")
    kubernetes.fake("kubectl", _EVENTS)
    text = render("usr/local/lib/nordmesh/members.sh")
    clock = text.replace("$((SECONDS", "$(($(</clock)").replace('"$SECONDS"', '"$(</clock)"')
    assert "SECONDS" not in clock
    # An event of a busy machine may come late.
    assert "read -r -t 10 " in clock
    kubernetes.write("/members.sh", clock.replace("read -r -t 10 ", "read -r -t 1000 "))
    follow(kubernetes, "[ -e /over ]")
    assert len(kubernetes.calls("nft list")) == 53
    assert kubernetes.read("/lists") == "3\n"


@pytest.mark.parametrize(("table", "fails"), [(True, False), (True, True), (False, False)])
def test_the_firewall_counts_as_off_only_without_its_rules(
    kubernetes: Machine, table: bool, fails: bool
) -> None:
    kubernetes.write("/etc/nordmesh/members.nft", "")
    listed = f"*'list tables') {'echo table inet nordmesh' if table else 'true'} ;;"
    kubernetes.fake("nft", f"case $* in {listed} *delete*) {'false' if fails else 'true'} ;; esac")
    result = call(kubernetes, "firewall_off")
    assert (result.status != 0) == fails == kubernetes.exists("/etc/nordmesh/members.nft")
    assert bool(kubernetes.calls("nft delete")) == table


@pytest.mark.parametrize("wanted", [True, False])
def test_the_rules_for_pods_are_deleted_when_the_file_has_none(
    kubernetes: Machine, *, wanted: bool
) -> None:
    table = "table inet nordmesh-pods"
    kubernetes.write("/etc/nordmesh/members.nft", "")
    kubernetes.write("/etc/nordmesh/firewall.nft", f"add {table}\n" if wanted else "")
    listed = f"*'list tables') echo table inet nordmesh; echo {table} ;; 'list table '*) exit 1 ;;"
    kubernetes.fake("nft", f"case $* in {listed} esac")
    result = call(kubernetes, "firewall_on", ENDPOINT_ADDRESS="192.0.2.11")
    assert result.status == 0, result.stderr
    assert kubernetes.calls("nft delete") == ([] if wanted else [f"nft delete {table}"])


def test_an_unreadable_list_of_images_is_not_an_empty_list(kubernetes: Machine) -> None:
    digest = f"sha256:{'0' * 64}"
    kubernetes.write("/var/lib/nordmesh/images", f"registry.k8s.io/pause:3.6 {digest}\n")
    kubernetes.path("/run/nordmesh/pulled").mkdir(parents=True)
    result = call(kubernetes, "wait_for_images")
    assert result.status == 1
    assert "[pulled-images-unreadable]" in result.stderr
    kubernetes.path("/run/nordmesh/pulled").rmdir()
    kubernetes.write("/run/nordmesh/pulled", f"registry.k8s.io/pause:3.6 {digest}\n")
    assert call(kubernetes, "wait_for_images").status == 0


_PINNED, _TAG_ONLY, _MISSING = (
    "registry.k8s.io/pause:3.6",
    "docker.io/a/tag-only:1",
    "docker.io/a/missing:1",
)
_DIGEST = f"sha256:{'0' * 64}"


@pytest.fixture
def puller(kubernetes: Machine) -> Machine:
    """Machine that pulls images synchronously, from a registry that lacks one image."""
    run = 'while [[ $1 == --* ]]; do [[ $1 != --setenv=* ]] || export "${1#--setenv=}"; shift; done'
    kubernetes.fake("systemd-run", f'{run}\n"$@"')
    kubernetes.fake("systemctl", '[ "$1" != is-active ] || exit 3')
    kubernetes.fake("ctr", f"[[ $* != *'ls' ]] || cat /local-images\n[[ $* != *{_MISSING} ]]")
    kubernetes.write("/local-images", "")
    return kubernetes


def pulls(machine: Machine) -> list[str]:
    """List the images that containerd pulled."""
    return [line.split()[-1] for line in machine.calls("ctr") if " pull " in line]


def test_an_image_without_a_digest_is_pulled_by_tag(puller: Machine) -> None:
    puller.write("/var/lib/nordmesh/images", f"{_MISSING} -\n{_TAG_ONLY} -\n{_PINNED} {_DIGEST}\n")
    assert call(puller, "pull_images").status == 0
    # A missing image does not stop the other pulls.
    pinned = f"registry.k8s.io/pause@{_DIGEST}"
    assert pulls(puller) == [_MISSING, _TAG_ONLY, pinned]
    # Only an image with a digest is tagged and recorded as pulled.
    tags = [line for line in puller.calls("ctr") if " tag " in line]
    assert [line.split()[-2:] for line in tags] == [[pinned, _PINNED]]
    assert puller.read("/run/nordmesh/pulled") == f"{_PINNED} {_DIGEST}\n"


def test_a_node_does_not_wait_for_images_without_a_digest(puller: Machine) -> None:
    puller.write("/var/lib/nordmesh/images", f"{_MISSING} -\n{_TAG_ONLY} -\n")
    result = call(puller, "wait_for_images")
    assert result.status == 0, result.stderr
    assert pulls(puller) == []


def test_a_pull_that_hangs_is_ended_and_tried_again(puller: Machine) -> None:
    """After a second here, in place of ten minutes."""
    puller.fake("timeout", 'exec /usr/bin/timeout 1 "${@:2}"')
    hang = "[[ $* != *' pull '* ]] || [ -e /hung ] || { touch /hung; exec /bin/sleep 100; }"
    puller.fake("ctr", hang)
    puller.write("/var/lib/nordmesh/images", f"{_PINNED} {_DIGEST}\n")
    result = call(replace(puller, timeout=30), "wait_for_images")
    assert result.status == 0, result.stderr
    assert pulls(puller) == [f"registry.k8s.io/pause@{_DIGEST}"] * 2


def test_a_local_image_with_the_tag_is_not_pulled_again(puller: Machine) -> None:
    puller.write("/var/lib/nordmesh/images", f"{_TAG_ONLY} -\n")
    puller.write("/local-images", f"{_TAG_ONLY} type {_DIGEST}\n")
    assert call(puller, "pull_images").status == 0
    assert pulls(puller) == []


def test_an_image_with_a_digest_is_pulled_even_if_its_tag_is_local(puller: Machine) -> None:
    """The tag may name another image."""
    puller.write("/var/lib/nordmesh/images", f"{_PINNED} {_DIGEST}\n")
    puller.write("/local-images", f"{_PINNED} type sha256:{'1' * 64}\n")
    assert call(puller, "wait_for_images").status == 0
    assert pulls(puller) == [f"registry.k8s.io/pause@{_DIGEST}"]
