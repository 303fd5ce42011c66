"""Previews and node facts of a stack without drift, for tests to edit."""

import base64
import gzip
import json
from collections.abc import Mapping
from typing import Any

import yaml

from cli.drift import hosts
from cli.review.preview import parse
from components.host import table
from components.manifests import Manifest, kubeadm
from config import tls
from tests.support.mocked import config, plain, run

STACK = "prod"
_KUBERNETES_UNITS = ("containerd.service", "kubelet.service")
Fact = tuple[str, str]


def urn(type_: str, name: str) -> str:
    return f"urn:pulumi:{STACK}::nordmesh::{type_}::{name}"


def same(type_: str, name: str, inputs: Manifest) -> dict[str, Any]:
    """The step of an unchanged resource."""
    return {
        "op": "same",
        "urn": urn(type_, name),
        "old": {"inputs": inputs},
        "new": {"inputs": inputs},
    }


def commands() -> list[dict[str, Any]]:
    """The script resources of a small stack."""
    recorder, _ = run(config())
    return [
        same(type_, name, {key: plain(value) for key, value in resource.inputs.items()})
        for (type_, name), resource in recorder.resources.items()
        if type_ == "command:remote:Command"
    ]


def events(
    steps: list[dict[str, Any]], refreshed: Mapping[str, dict[str, Any]] | None = None
) -> str:
    """The events of `pulumi preview`: the refreshed states by URN, then the steps."""
    stack = same("pulumi:pulumi:Stack", f"nordmesh-{STACK}", {})
    lines = [
        {"resOutputsEvent": {"metadata": {"op": "refresh", "urn": of, **state}}}
        for of, state in (refreshed or {}).items()
    ]
    lines += [{"resourcePreEvent": {"metadata": step}} for step in [stack, *steps]]
    lines.append({"summaryEvent": {"resourceChanges": {}}})
    return "\n".join(json.dumps({"sequence": n, **event}) for n, event in enumerate(lines))


def nodes() -> dict[str, hosts.Expected]:
    """The expected state of the small stack's nodes, by name."""
    return {node.name: node for node in hosts.expected(parse(events(commands())))}


def kubelet_config(node: hosts.Expected) -> Manifest:
    """The stack's KubeletConfiguration with the defaults that kubeadm adds."""
    (ours,) = (
        document for document in node.documents if document["kind"] == "KubeletConfiguration"
    )
    return {**ours, "clusterDNS": ["10.96.0.10"]}


def healthy(node: hosts.Expected) -> dict[Fact, str]:
    """The facts of a node without drift, except for the facts of the cluster."""
    files = {file.path: file.text.replace(table.BUFFER_POOL_PLACE, "12288M") for file in node.files}
    rules = files.get(table.RULES, "")
    if table.SSHD in files:
        files[table.SSHD] = table.sshd_on(files[table.SSHD], "")
    files[table.HOSTS] = (
        f"127.0.0.1 localhost\n{node.prepare['ENDPOINT_ADDRESS']} {node.prepare['ENDPOINT']} # ours"
    )
    flags = 'KUBELET_KUBEADM_ARGS="--node-ip=192.0.2.21 --container-runtime=remote"'
    kubeadm_files = {
        "/var/lib/kubelet/config.yaml": yaml.safe_dump(kubelet_config(node)),
        "/var/lib/kubelet/kubeadm-flags.env": flags,
    }
    pods = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
    if node.is_control_plane:
        kubeadm_files |= {
            f"/etc/kubernetes/manifests/{pod}.yaml": f"kind: Pod\nname: {pod}" for pod in pods
        }
    copies = {
        f"{kubeadm.MADE}/{path.rpartition('/')[2]}": text for path, text in kubeadm_files.items()
    }
    running = (
        "/usr/local/bin/kubelet", "--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf",
        "--kubeconfig=/etc/kubernetes/kubelet.conf", "--config=/var/lib/kubelet/config.yaml",
        f"--resolv-conf={table.POD_RESOLVER}", 
        f"--tls-cipher-suites={','.join(tls.CIPHERS)}", f"--tls-min-version={tls.MINIMUM}",
        "--node-ip=192.0.2.21",
        "--container-runtime=remote",
    )  # fmt: skip
    unit = "ActiveState=active\nUnitFileState=enabled\nDropInPaths={}\nNeedDaemonReload=no"
    drop_in = "/etc/systemd/system/kubelet.service.d/10-kubeadm.conf"
    manifests = "\n".join(f"{pod}.yaml" for pod in pods) if node.is_control_plane else ""
    return {
        **{
            ("file", path): f"{text}\n"
            for path, text in {**files, **kubeadm_files, **copies}.items()
        },
        **{("mode", path): "644 root" for path in files},
        ("directory", table.REGISTRIES): "\n".join(
            file.path.removeprefix(f"{table.REGISTRIES}/")
            for file in node.files
            if file.reader == "registries"
        ),
        ("directory", "/etc/kubernetes/manifests"): manifests,
        **{
            ("sha256", path) if path else ("download", name): sha256
            for name, (sha256, path) in node.binaries.items()
        },
        ("running", "containerd"): "/usr/local/bin/containerd",
        **{("sysctl", key): value for key, value in node.sysctls.items()},
        ("packages", "installed"): "\n".join(f"{name} installed" for name in hosts.packages(node)),
        ("packages", "held"): "\n".join(hosts.held(node)),
        ("packages", "verified"): "??5?????? c /etc/conntrackd/conntrackd.conf\n"
        "missing     /usr/share/man/man8/conntrack.8.gz",
        ("firewall", "rules"): rules.replace("counter drop", "counter packets 7 bytes 420 drop"),
        ("sshd", "effective"): "passwordauthentication no",
        ("memory", "kib"): "16384000",
        ("unit", "containerd.service"): unit.format(""),
        ("unit", "kubelet.service"): unit.format(drop_in),
        **{("unit", name): unit.format("") for name in node.units if name not in _KUBERNETES_UNITS},
        ("file", table.ENDPOINT_SERVERS): "backend ready\n    server 192.0.2.11 192.0.2.11\n"
        "backend any\n    server 192.0.2.11 192.0.2.11\n",
        ("kubelet", "flags"): "\0".join(running) + "\0",
        ("swap", "devices"): "",
        ("end", "end"): "",
    }


def answer(facts: Mapping[Fact, str | bytes]) -> str:
    """Facts in the format of look.sh."""
    return "".join(
        f"{kind}\t{name}\t{base64.b64encode(_bytes(value)).decode()}\n"
        for (kind, name), value in facts.items()
    )


def packed(*items: Manifest) -> bytes:
    """Objects in the compressed form in which look.sh returns kubectl's output."""
    return gzip.compress(json.dumps({"kind": "List", "items": items}).encode())


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()
