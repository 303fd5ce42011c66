"""Encryption at rest and the audit log, with a real kubeadm, etcd and API server."""

import json
import shutil
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from components.encryption_keys import PIPE, RETIRE, USE
from components.manifests import hardening, kubeadm
from components.remote.node_command import Script
from config import Kubernetes, catalogue
from lab import paths
from tests.support.joining import handing_over
from tests.unit.machine import Machine

NODE, ADDRESS, ENDPOINT = "cp-1", "192.0.2.11", "api.test.internal"
EARLY, LATE = "text-of-an-early-secret", "text-of-a-late-secret"
CONFIG_MAP, TOKEN = "text-of-a-config-map", "text-of-a-token"
VERSION = "1.23.17"
LOG = "/var/log/pods/kube-system_kube-apiserver-cp-1_uid/kube-apiserver/0.log"
PREFIX = "k8s:enc:secretbox:v1:"
# Nothing on this machine is a service or an image.
_FAKES = {"systemctl": "case $1 in is-active) exit 3 ;; esac", "ctr": "exit 0"}


@dataclass(frozen=True)
class Story:
    """What was seen while a cluster was hardened and its key was rotated."""

    machine: Machine

    def read(self, name: str) -> str:
        """What was seen, with U+FFFD for bytes that are no text."""
        return self.machine.path(f"/seen/{name}").read_text(errors="replace")

    def etcd(self) -> bytes:
        files = (path for path in self.machine.path("/var/lib/etcd").rglob("*") if path.is_file())
        return b"".join(path.read_bytes() for path in files)

    def audit(self) -> list[dict[str, object]]:
        log = self.machine.read(hardening.AUDIT_LOG)
        return [json.loads(line) for line in log.splitlines()]


def _earlier(documents: str) -> str:
    """The settings of a release that did not harden the control plane."""
    cluster, *others = kubeadm.from_yaml(documents)
    cluster["apiServer"] = {"certSANs": cluster["apiServer"]["certSANs"]}
    del cluster["controllerManager"], cluster["scheduler"]
    return kubeadm.to_yaml([cluster, *others])


def _settings(key: int) -> dict[str, str]:
    cluster = Kubernetes(cluster_name="test", version=VERSION, endpoint=ENDPOINT)
    documents = kubeadm.cluster_documents(cluster, catalogue.KUBERNETES[VERSION], address=ADDRESS)
    return {
        "AUDIT_POLICY": hardening.audit_policy(),
        "OIDC_CA": "",
        "CLUSTER": "exists",
        "CLUSTER_CONFIG": kubeadm.to_yaml(documents),
        "ENCRYPTION_KEY": str(key),
        "ENDPOINT": ENDPOINT,
        "INIT_CONFIG": kubeadm.to_yaml([kubeadm.init_document(name=NODE, address=ADDRESS)]),
        "PODS_SECONDS": "900",
        "SCHEDULABLE": "false",
    }


def _command(machine: Machine, file: str, settings: Mapping[str, str]) -> str:
    return machine.command(Script(file=file, node=NODE, settings=settings))


def _steps(machine: Machine, key: int) -> str:
    """The scripts of a rotation, in the order of `pulumi up`."""
    settings = _settings(key)
    own = {name: settings[name] for name in ("ENCRYPTION_KEY", "ENDPOINT", "PODS_SECONDS")}
    scripts = (("kubeadm-init.sh", settings), (USE, own), (RETIRE, own))
    return "\n".join(_command(machine, file, values) for file, values in scripts)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """Make a control plane of an earlier release, harden it, and rotate its key."""
    folder = tmp_path_factory.mktemp("encryption")
    machine = Machine.make(folder / "machine")
    machine = Machine(machine.root, name=NODE, timeout=3000)
    cache = paths.cache().bin
    for program in ("kubeadm", "kubectl", "kube-apiserver"):
        shutil.copy(cache / "kubernetes" / program, machine.path(f"/usr/local/bin/{program}"))
    shutil.copy(cache / "etcd" / "etcd", machine.path("/usr/local/bin/etcd"))
    for command, body in _FAKES.items():
        machine.fake(command, body)
    machine.write("/etc/hosts", f"127.0.0.1 localhost\n{ADDRESS} {NODE} {ENDPOINT}\n")
    machine.write("/kubelet.sh", (Path(__file__).parent / "kubelet.sh").read_text())
    settings = _settings(1)
    machine.write(
        "/config", f"{settings['INIT_CONFIG']}\n---\n{_earlier(settings['CLUSTER_CONFIG'])}"
    )
    machine.write(
        "/etc/kubernetes/nordmesh-initialised.yaml", f"{_earlier(settings['CLUSTER_CONFIG'])}\n"
    )
    for name in ("config.yaml", "kubeadm-flags.env"):
        machine.write(f"/var/lib/kubelet/{name}", "")
    machine.path("/etc/kubernetes/nordmesh-patches").mkdir()
    bad = {**_settings(2), "PODS_SECONDS": "20", "BACK_SECONDS": "900"}
    bad["CLUSTER_CONFIG"] = bad["CLUSTER_CONFIG"].replace("audit-policy-file", "no-such-flag")
    text = _STORY.replace("@FIRST@", _steps(machine, 1)).replace("@SECOND@", _steps(machine, 2))
    text = text.replace("@BROKEN@", _command(machine, "kubeadm-init.sh", bad))
    with handing_over(machine.path(PIPE), "keys"):
        result = machine.shell(text)
    assert result.status == 0, _end(machine, LOG) + result.stderr
    machine.write("/seen/output", result.stdout + result.stderr)
    return Story(machine)


def _end(machine: Machine, path: str) -> str:
    return machine.read(path)[-2000:] if machine.exists(path) else ""


_STORY = textwrap.dedent(
    f"""
    set -euo pipefail
    trap 'echo "failed: $BASH_COMMAND" >&2' ERR
    mkdir /seen
    ip link set lo up
    ip link add br0 type bridge
    ip address add {ADDRESS}/24 dev br0
    ip link set br0 up
    for phase in 'certs all' 'kubeconfig admin' 'control-plane all' 'etcd local'; do
        kubeadm init phase $phase --config /config >&2
    done
    bash /kubelet.sh >/var/log/kubelet.log 2>&1 &
    kube() {{ kubectl --kubeconfig /etc/kubernetes/admin.conf --request-timeout 60s "$@"; }}
    until kube get --raw /readyz >/dev/null 2>&1; do sleep 1; done
    until kube get namespace default >/dev/null 2>&1; do sleep 1; done
    kube create -f - <<'END' >&2
    {{"apiVersion": "v1", "kind": "Node", "metadata": {{"name": "{NODE}"}}}}
    END
    # etcd_value NAME: the value of a Secret in etcd.
    etcd_value() {{
        local key
        key=$(printf %s "/registry/secrets/default/$1" | base64 -w 0)
        curl --silent --show-error --cacert /etc/kubernetes/pki/etcd/ca.crt \\
            --cert /etc/kubernetes/pki/apiserver-etcd-client.crt \\
            --key /etc/kubernetes/pki/apiserver-etcd-client.key \\
            https://127.0.0.1:2379/v3/kv/range --data '{{"key": "'"$key"'"}}' |
            sed 's/.*"value":"\\([^"]*\\)".*/\\1/' | base64 -d | head -c 40
    }}
    kube create secret generic early --from-literal=a={EARLY} >&2
    etcd_value early >/seen/early-before
    @FIRST@
    kube create secret generic late --from-literal=a={LATE} >&2
    kube create configmap settings --from-literal=a={CONFIG_MAP} >&2
    kube create -f - --validate=false <<'END' >/seen/review
    {{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
      "spec": {{"token": "{TOKEN}"}}}}
    END
    etcd_value early >/seen/early-hardened
    cp -p /etc/kubernetes/pki/encryption.yaml /seen/old-key
    @SECOND@
    etcd_value early >/seen/early-rotated
    etcd_value late >/seen/late-rotated
    kube get secrets early late -o 'jsonpath={{.items[*].data.a}}' >/seen/readable
    kube -n kube-system get configmap kubeadm-config -o 'jsonpath={{.data}}' >/seen/kubeadm-config
    cp -p /etc/kubernetes/pki/encryption.yaml /seen/new-key
    cp -rp /etc/kubernetes/manifests /seen/manifests-before
    {{ @BROKEN@
    }} >/seen/broken 2>&1 || echo "status $?" >>/seen/broken
    cp -rp /etc/kubernetes/manifests /seen/manifests-after
    kube get secret early -o name >/seen/after-broken
    # An API server that has the old key only.
    cp -p /seen/old-key /etc/kubernetes/pki/encryption.yaml
    kill "$(pidof kube-apiserver)"
    sleep 2
    until kube get --raw /livez >/dev/null 2>&1; do sleep 1; done
    kube get secret early -o name >/seen/old-key-opens 2>&1 || true
    """
)


def test_a_secret_is_encrypted_when_the_cluster_becomes_hardened(story: Story) -> None:
    assert story.read("early-before").startswith("k8s\0")
    assert story.read("early-hardened").startswith(f"{PREFIX}key1:")


def test_a_later_secret_is_in_no_file_of_etcd(story: Story) -> None:
    content = story.etcd()
    # The text from before shows that the search works; it is in etcd's history.
    assert EARLY.encode() in content
    assert LATE.encode() not in content


def test_every_secret_is_readable_after_a_rotation(story: Story) -> None:
    assert len(story.read("readable").split()) == 2
    for name in ("early", "late"):
        assert story.read(f"{name}-rotated").startswith(f"{PREFIX}key2:")


def test_the_old_key_opens_nothing_after_a_rotation(story: Story) -> None:
    assert "key1" in story.read("old-key")
    assert "key1" not in story.read("new-key")
    answer = story.read("old-key-opens")
    assert "secret/early" not in answer
    assert "no matching key was found" in answer or "Internal error" in answer, answer


def test_an_api_server_that_does_not_start_runs_as_before(story: Story) -> None:
    output = story.read("broken")
    assert "unknown flag: --no-such-flag" in output
    assert "[control-plane-not-ready]" in output
    assert output.endswith("status 1\n")
    assert story.read("after-broken") == "secret/early\n"
    before, after = (
        {path.name: path.read_text() for path in story.machine.path(f"/seen/{name}").iterdir()}
        for name in ("manifests-before", "manifests-after")
    )
    assert before == after
    assert not story.machine.exists("/etc/kubernetes/nordmesh-before")


def test_no_key_is_shown(story: Story) -> None:
    for name in ("old-key", "new-key"):
        key = story.read(name).rpartition("secret: ")[2].strip()
        assert key
        assert key not in story.read("output")
        assert key.encode() not in story.etcd()


def test_the_audit_log_names_objects_without_their_bodies(story: Story) -> None:
    events = story.audit()
    created = {
        event["objectRef"]["resource"]: event  # type: ignore[index]
        for event in events
        if event["verb"] == "create" and "objectRef" in event
    }
    assert {"secrets", "configmaps", "tokenreviews"} <= created.keys()
    assert all(
        "requestObject" not in created[kind] and "responseObject" not in created[kind]
        for kind in ("secrets", "configmaps", "tokenreviews")
    )
    log = story.machine.read(hardening.AUDIT_LOG)
    assert not [text for text in (EARLY, LATE, CONFIG_MAP, TOKEN) if text in log]
    mode = story.machine.path(hardening.AUDIT_LOG).stat().st_mode
    assert mode & 0o077 == 0


def test_the_settings_are_those_of_the_next_control_plane(story: Story) -> None:
    assert "encryption-provider-config" in story.read("kubeadm-config")
