"""Manual changes to a node, kubelet and the mesh are reported; the check changes nothing."""

import re
import sys

from lab import paths
from lab.screen import Cluster
from tests.live.harness import Project, Result

WORKER, ISTIOD = "worker-1", "istiod-1-16-5"
FLAGS = "/var/lib/kubelet/kubeadm-flags.env"
SYSCTL = "net.bridge.bridge-nf-call-iptables"
SYSCTLS = "/etc/sysctl.d/99-nordmesh.conf"
# Some count each write; others have a status, which Kubernetes may update at any time.
_KINDS = {
    "resourceVersion": "virtualservices,destinationrules,peerauthentications,services",
    "generation": "deployments,daemonsets,horizontalpodautoscalers",
}
# Everything that the check could have written, and whether anything was restarted.
_FILES = """
find /etc /opt/cni /root /tmp /usr/local /var/lib/nordmesh /var/lib/kubelet/config.yaml \
    /var/lib/kubelet/kubeadm-flags.env -xdev -type f -exec sha256sum {} + | sort -k 2
systemctl show kubelet containerd --property MainPID,ActiveEnterTimestamp
sysctl net.bridge net.ipv4.ip_forward
"""


def drift(project: Project, code: int) -> str:
    """Run `nordmesh drift`, which must exit with this code; return its report."""
    result: Result = project.run(sys.executable, "-m", "cli", "drift", "--stack", project.stack)
    assert result.code == code, result.text
    return result.text


def snapshot(project: Project, cluster: Cluster) -> dict[str, object]:
    """Return the state, the files of the nodes and the versions of the objects."""
    addresses = project.machine_addresses()
    (state,) = paths.state().pulumi.glob(f".pulumi/stacks/*/{project.stack}.json")
    return {
        "state": state.read_bytes(),
        "nodes": {name: project.ssh(address, _FILES) for name, address in addresses.items()},
        "objects": {
            (item["kind"], item["metadata"]["namespace"], item["metadata"]["name"]): item[
                "metadata"
            ].get(count)
            for count, kinds in _KINDS.items()
            for item in cluster.items(kinds, "--all-namespaces")
        },
    }


def test_manual_changes_are_reported_and_reverted(project: Project, cluster: Cluster) -> None:
    assert "**No drift found.**" in drift(project, 0)

    node = project.machine_addresses()[WORKER]
    project.ssh(node, f"sed -i 's/{SYSCTL} = 1/{SYSCTL} = 0/' {SYSCTLS} && sysctl -qp {SYSCTLS}")
    project.ssh(node, f"sed -i 's/--node-ip/--max-pods=50 --node-ip/' {FLAGS}")
    project.ssh(node, "systemctl restart kubelet")
    service = ("--namespace", "shop", "virtualservice", "checkout", "--type", "json", "--patch")
    weights = [
        f'{{"op": "replace", "path": "/spec/http/0/route/{n}/weight", "value": {weight}}}'
        for n, weight in enumerate((70, 30))
    ]
    fault = '{"op": "add", "path": "/spec/http/0/fault", "value": {"delay": {"fixedDelay": "1ms"}}}'
    cluster.kubectl("patch", *service, f"[{', '.join(weights)}, {fault}]")
    istiod = ("--namespace", "istio-system", "horizontalpodautoscaler", ISTIOD)
    cluster.kubectl("patch", *istiod, "--patch", '{"spec": {"maxReplicas": 3}}')
    cluster.kubectl("label", "--namespace", "istio-system", "deployment", ISTIOD, "hand=made")

    before = snapshot(project, cluster)
    report = drift(project, 1)
    assert snapshot(project, cluster) == before
    for messages in (
        f"- `{WORKER}`: the sysctl `{SYSCTL}` in effect\n  - expected: `1`\n  - found: `0`\n",
        f"- `{WORKER}`: `{SYSCTLS}`\n",
        f"- `{WORKER}`: kubelet's flag `--max-pods` in effect\n  - expected: nothing\n"
        "  - found: `50`\n",
        f"- `{WORKER}`: `{FLAGS}`, `--max-pods`\n",
        "- `VirtualService shop/checkout`: `spec.http[0].route[0].weight`\n"
        "  - expected: `90`\n  - found: `70`\n",
        "- `VirtualService shop/checkout`: `spec.http[0].fault`\n  - expected: nothing\n",
        f"- `HorizontalPodAutoscaler istio-system/{ISTIOD}`: `spec.maxReplicas`\n"
        "  - expected: `1`\n  - found: `3`\n",
        f"- `Deployment istio-system/{ISTIOD}`: `metadata.labels.hand`\n"
        "  - expected: nothing\n  - found: `made`\n",
        "**9 differences.**",
    ):
        assert messages in report, report
    assert "PRIVATE KEY" not in report

    # Fix it as the report says.
    (urn,) = set(re.findall(r"--target-replace '(urn:\S+)'", report))
    (copy,) = re.findall(rf"`(cp \S+ {FLAGS})`", report)
    (install,) = re.findall(r"On `cp-1`, run `(.*)`", report)
    project.up("--target-replace", urn)
    project.ssh(node, f"{copy} && systemctl restart kubelet")
    project.up("--refresh")
    project.ssh(project.machine_addresses()["cp-1"], install)
    # The report leaves manual additions to the user.
    cluster.kubectl("label", "--namespace", "istio-system", "deployment", ISTIOD, "hand-")
    assert "**No drift found.**" in drift(project, 0)
