"""`nordmesh report cis`: the items, and the facts of a node."""

import base64
from pathlib import Path

import pytest
import typer
import yaml

from cli.cis import command, items
from cli.cis.items import FAIL, PASS, REASON, UNKNOWN, Result
from cli.drift.hosts import Facts
from components.manifests import hardening
from config import Kubernetes, kubelet
from config.errors import NordmeshError
from tests.unit.machine import Machine

_CLUSTER = Kubernetes(cluster_name="a", version="1.23.17", endpoint="api.example.com")
_PKI = "/etc/kubernetes/pki"
# What kubeadm 1.23 sets by itself.
_KUBEADM = {
    "kube-apiserver": {
        "authorization-mode": "Node,RBAC",
        "client-ca-file": f"{_PKI}/ca.crt",
        "enable-admission-plugins": "NodeRestriction",
        "etcd-cafile": f"{_PKI}/etcd/ca.crt",
        "etcd-certfile": f"{_PKI}/apiserver-etcd-client.crt",
        "etcd-keyfile": f"{_PKI}/apiserver-etcd-client.key",
        "kubelet-client-certificate": f"{_PKI}/apiserver-kubelet-client.crt",
        "kubelet-client-key": f"{_PKI}/apiserver-kubelet-client.key",
        "secure-port": "6443",
        "service-account-key-file": f"{_PKI}/sa.pub",
        "tls-cert-file": f"{_PKI}/apiserver.crt",
        "tls-private-key-file": f"{_PKI}/apiserver.key",
    },
    "kube-controller-manager": {
        "bind-address": "127.0.0.1",
        "root-ca-file": f"{_PKI}/ca.crt",
        "service-account-private-key-file": f"{_PKI}/sa.key",
        "use-service-account-credentials": "true",
    },
    "kube-scheduler": {"bind-address": "127.0.0.1"},
    "etcd": {
        "cert-file": f"{_PKI}/etcd/server.crt",
        "key-file": f"{_PKI}/etcd/server.key",
        "client-cert-auth": "true",
        "peer-cert-file": f"{_PKI}/etcd/peer.crt",
        "peer-key-file": f"{_PKI}/etcd/peer.key",
        "peer-client-cert-auth": "true",
        "trusted-ca-file": f"{_PKI}/etcd/ca.crt",
    },
    "kubelet": {"config": "/var/lib/kubelet/config.yaml"},
}
_KUBELET = {
    "authentication": {
        "anonymous": {"enabled": False},
        "x509": {"clientCAFile": f"{_PKI}/ca.crt"},
    },
    "authorization": {"mode": "Webhook"},
    "rotateCertificates": True,
}
_FILES = [
    *(
        f"600 root:root /etc/kubernetes/manifests/{pod}.yaml"
        for pod in ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
    ),
    *(
        f"600 root:root /etc/kubernetes/{name}.conf"
        for name in ("admin", "scheduler", "controller-manager", "kubelet")
    ),
    f"644 root:root {_PKI}/ca.crt",
    f"600 root:root {_PKI}/ca.key",
    "644 root:root /var/lib/kubelet/config.yaml",
    "700 root:root /var/lib/etcd",
]


def hardened() -> dict[str, dict[str, str]]:
    """The flags of a control plane of this release."""
    programs = {name: dict(flags) for name, flags in _KUBEADM.items()}
    programs["kube-apiserver"] |= hardening.api_server()["extraArgs"]
    for name in ("kube-controller-manager", "kube-scheduler"):
        programs[name] |= hardening.NO_PROFILING
    programs["kubelet"] |= kubelet.flags(_CLUSTER)
    return programs


def facts(
    programs: dict[str, dict[str, str]],
    *,
    files: list[str] = _FILES,
    kubelet: object = _KUBELET,
    providers: str = "secretbox\n",
) -> Facts:
    values = {
        ("files", "all"): "\n".join(files),
        ("file", "kubelet"): yaml.safe_dump(kubelet),
        ("providers", "encryption"): providers,
        ("end", "end"): "",
    }
    for name, flags in programs.items():
        words = [name, *(f"--{flag}={value}" for flag, value in flags.items())]
        values["process", name] = "\n".join(words)
    lines = (
        f"{kind}\t{name}\t{base64.b64encode(value.encode()).decode()}"
        for (kind, name), value in values.items()
    )
    return Facts("\n".join(lines))


def judged(found: Facts | None) -> dict[str, Result]:
    return {result.id: result for result in items.judge({"cp-1": found}, ["cp-1"])}


def test_each_item_has_a_number_and_a_check_or_a_reason() -> None:
    every = items.items()
    numbers = [item["id"] for item in every]
    assert len(numbers) == len(set(numbers)) > 120
    for item in every:
        assert ("reason" in item) or ({"files", "process", "providers"} & item.keys()), item


def test_a_hardened_control_plane(capsys: pytest.CaptureFixture[str]) -> None:
    results = judged(facts(hardened()))
    failing = {result.id for result in results.values() if result.result == FAIL}
    # kubelets' serving certificates are their own.
    assert failing == {"1.2.6"}
    passing = [result for result in results.values() if result.result == PASS]
    with capsys.disabled():
        print(f"\n{len(passing)} of {len(results)} items pass, {len(failing)} fail")
    assert all(result.detail for result in results.values() if result.result == REASON)


def test_a_control_plane_as_kubeadm_makes_it() -> None:
    """The items that kube-bench failed on such a cluster, and of those that it warned of."""
    results = judged(facts(_KUBEADM, providers=""))
    failing = {result.id for result in results.values() if result.result == FAIL}
    of_kube_bench = {
        *("1.2.6", "1.2.18", "1.2.19", "1.2.20", "1.2.21", "1.2.22", "1.3.2", "1.4.1"),
    }
    assert failing - of_kube_bench == {"1.2.30", "1.2.31", "1.2.32", "3.2.1", "4.2.13"}
    assert of_kube_bench <= failing
    assert results["1.2.18"].detail == "cp-1: --profiling is not set"


def test_every_check_can_fail() -> None:
    """With no program and no file, none passes by accident, except patterns that match nothing."""
    results = judged(facts({}, files=[], kubelet={}, providers=""))
    passing = {result.id for result in results.values() if result.result == PASS}
    assert passing <= {
        *("1.1.9", "1.1.10", "1.1.19", "1.1.20", "1.1.21", "4.1.1", "4.1.2"),
    }


@pytest.mark.parametrize(
    ("number", "program", "flag", "value"),
    [
        ("1.2.2", "kube-apiserver", "token-auth-file", "/tokens"),
        ("1.2.7", "kube-apiserver", "authorization-mode", "AlwaysAllow"),
        ("1.2.16", "kube-apiserver", "enable-admission-plugins", "EventRateLimit"),
        ("1.2.20", "kube-apiserver", "audit-log-maxage", "29"),
        ("1.2.32", "kube-apiserver", "tls-cipher-suites", "TLS_RSA_WITH_AES_128_CBC_SHA"),
        ("1.3.7", "kube-controller-manager", "bind-address", "192.0.2.11"),
        ("2.3", "etcd", "auto-tls", "true"),
        ("4.2.1", "kubelet", "anonymous-auth", "true"),
        ("4.2.4", "kubelet", "read-only-port", "10255"),
    ],
)
def test_a_weak_flag_fails(number: str, program: str, flag: str, value: str) -> None:
    programs = hardened()
    assert judged(facts(programs))[number].result == PASS
    programs[program][flag] = value
    result = judged(facts(programs))[number]
    assert (result.result, result.detail) == (FAIL, f"cp-1: --{flag} is {value}")


def test_weak_modes_and_owners_fail() -> None:
    weak = ["644 root:root /etc/kubernetes/admin.conf", f"640 alice:root {_PKI}/ca.key"]
    results = judged(facts(hardened(), files=[*_FILES, *weak]))
    assert results["1.1.13"].detail == "cp-1: /etc/kubernetes/admin.conf has 644 root:root"
    assert f"{_PKI}/ca.key has 640 alice:root" in results["1.1.19"].detail
    assert results["1.1.21"].result == FAIL


def test_secrets_that_are_still_written_in_the_clear_fail() -> None:
    result = judged(facts(hardened(), providers="identity\nsecretbox\n"))["1.2.31"]
    assert (result.result, result.detail) == (FAIL, "cp-1: the first provider is identity")


def test_a_node_that_does_not_answer_never_passes() -> None:
    kinds = {result.result for result in judged(None).values()}
    assert kinds == {UNKNOWN, REASON}


def test_the_exit_status_and_the_counts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [Result(id="1.2.18", text="profiling is off", result=PASS)]
    monkeypatch.setattr(command, "results", lambda *_, **__: found)
    command.command("prod")
    assert "1 pass, 0 fail, 0 unknown, 0 reason" in capsys.readouterr().out
    for kind, status in ((FAIL, 1), (UNKNOWN, 3)):
        found.append(Result(id="1.2.19", text="audit log", result=kind, detail="cp-1: no answer"))
        with pytest.raises(typer.Exit) as ended:
            command.command("prod")
        found.pop()
        assert ended.value.exit_code == status
        assert "1.2.19" in capsys.readouterr().out


def test_a_stack_without_a_control_plane_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "logins_by_script", lambda *_: ({}, {}))
    with pytest.raises(NordmeshError) as error:
        command.results("prod", seconds=1)
    assert error.value.code == "cis-no-cluster"


def test_the_facts_of_a_machine(machine: Machine) -> None:
    machine.write("/etc/kubernetes/admin.conf", "", mode=0o640)
    machine.write("/etc/kubernetes/pki/encryption.yaml", "  - secretbox:\n      keys:\n")
    machine.write("/var/lib/kubelet/config.yaml", "readOnlyPort: 10255\n")
    look = (Path(items.__file__).parent / "look.sh").read_text()
    machine.write("/look.sh", look)
    result = machine.shell(
        "(exec -a /usr/bin/kube-apiserver bash -c 'sleep 100; :' x --profiling=true) &\n"
        "sleep 1\nbash /look.sh"
    )
    assert result.status == 0, result.stderr
    results = judged(Facts(result.stdout))
    assert results["1.2.18"].detail == "cp-1: --profiling is true"
    assert results["1.3.2"].detail == "cp-1: kube-controller-manager does not run"
    assert results["1.1.13"].detail.startswith("cp-1: /etc/kubernetes/admin.conf has 640 ")
    assert results["1.2.31"].result == PASS
