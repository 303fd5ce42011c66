"""The mesh from outside: traffic shares, refused connections, one update in a preview."""

import json
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from lab import paths
from lab.screen import Cluster
from tests.live.counted import assert_share
from tests.live.harness import Project

CHECKOUT = "http://checkout.shop.svc.cluster.local:8080/"
WEIGHT = "mesh.services.checkout.canary.weight"


def send(cluster: Cluster, requests: int) -> dict[str, Any]:
    return cluster.call("shop", CHECKOUT, "--count", str(requests), "--concurrency", "8")


def assert_split(tally: dict[str, Any], version: str, weight: int) -> None:
    assert tally["failed"] == 0, tally
    assert_share(tally["versions"].get(version, 0), tally["requests"], weight)


def test_the_canary_gets_its_share(cluster: Cluster) -> None:
    assert_split(send(cluster, 2000), "v2", 10)


def test_the_summary_of_a_weight_edit_shows_both_splits(project: Project) -> None:
    before = project.stack_file.read_text()
    project.set_config(WEIGHT, 25)
    summary = project.review()
    project.stack_file.write_text(before)
    print(summary)
    assert summary.startswith(f"## Preview of `{project.stack}`: 1 updated\n")
    assert "| `shop/checkout` | all | `v1/v2` | 90/10 | **75/25** |" in summary


def test_a_weight_edit_is_one_update_and_fails_no_request(
    project: Project, cluster: Cluster
) -> None:
    steady = ("--duration", "25s", "--rate", "80", "--concurrency", "4")
    with ThreadPoolExecutor() as threads:
        client = threads.submit(cluster.call, "shop", CHECKOUT, *steady)
        project.set_config(WEIGHT, 25)
        updated = project.up()
        during = client.result()
    print(f"while the weight changed: {during}")
    assert during["requests"] > 1000
    assert during["failed"] == 0
    assert re.search(r"~ 1 updated\n\s+\d+ unchanged", updated.text), updated.text
    assert re.search(r"VirtualService shop/checkout updated", updated.text), updated.text
    assert_split(send(cluster, 2000), "v2", 25)


def test_weight_0_is_the_revert(project: Project, cluster: Cluster) -> None:
    project.set_config(WEIGHT, 0)
    project.up()
    tally = send(cluster, 1000)
    assert tally["versions"] == {"v1": 1000}
    project.set_config(WEIGHT, 10)
    project.up()


def test_plaintext_is_refused_by_the_strict_namespace(cluster: Cluster) -> None:
    outside = cluster.call("outside", CHECKOUT, "--count", "5", "--concurrency", "1")
    inside = cluster.call("shop", CHECKOUT, "--count", "5", "--concurrency", "1")
    assert outside["ok"] == 0, outside
    assert inside["ok"] == 5, inside


def test_an_undeclared_host_is_refused(project: Project, cluster: Cluster) -> None:
    # The mirror of the lab answers, so the mesh causes the refusal.
    mirror = f"http://{project.machine_addresses()['cp-1'].rsplit('.', 1)[0]}.1:8080/"
    without_sidecar = cluster.call("outside", mirror, "--count", "3", "--concurrency", "1")
    with_sidecar = cluster.call("shop", mirror, "--count", "3", "--concurrency", "1")
    assert without_sidecar["ok"] == 3, without_sidecar
    assert with_sidecar["ok"] == 0, with_sidecar


def test_istioctl_analyze_has_no_findings(cluster: Cluster) -> None:
    # An Info reports a namespace outside the mesh, which is as configured.
    findings = cluster.istioctl("analyze", "--all-namespaces").splitlines()
    assert [line for line in findings if line and not line.startswith("Info")] == []
    assert cluster.istioctl("analyze", "--namespace", "shop").strip() == ""
    lines = cluster.istioctl("proxy-status").splitlines()
    assert len(lines) > 4
    for line in lines[1:]:
        # A gateway without routes receives none.
        assert "STALE" not in line
        assert line.count("SYNCED") >= 3, line
        assert line.count("SYNCED") + line.count("NOT SENT") == 5, line


def test_proxies_have_the_configured_resources(cluster: Cluster) -> None:
    pods = cluster.items("pods", "--namespace=shop")
    assert pods
    for pod in pods:
        (proxy,) = (c for c in pod["spec"]["containers"] if c["name"] == "istio-proxy")
        assert proxy["resources"]["requests"] == {"cpu": "100m", "memory": "128Mi"}
        assert proxy["resources"]["limits"] == {"cpu": "2", "memory": "1Gi"}
        # First in the list, because the application starts only after the proxy.
        assert pod["spec"]["containers"][0]["name"] == "istio-proxy"


def test_deployed_objects_pass_server_side_validation(cluster: Cluster) -> None:
    """The objects in the cluster also pass the validation of istioctl."""
    for kind in ("virtualservice", "destinationrule", "peerauthentication"):
        for item in cluster.items(kind, "--all-namespaces"):
            manifest = {k: item[k] for k in ("apiVersion", "kind", "spec")}
            names = {k: item["metadata"][k] for k in ("name", "namespace")}
            text = json.dumps({**manifest, "metadata": names})
            checked = subprocess.run(
                [str(paths.cache().bin / "istio" / "istioctl"), "validate", "-f", "-"],
                input=text, text=True, capture_output=True, check=False,
            )  # fmt: skip
            assert checked.returncode == 0, checked.stderr


def test_the_default_tag_points_at_the_named_revision(cluster: Cluster) -> None:
    tags = [
        item["metadata"]["labels"]["istio.io/rev"]
        for item in cluster.items("mutatingwebhookconfiguration")
        if item["metadata"].get("labels", {}).get("istio.io/tag") == "default"
    ]
    assert set(tags) == {"1-16-5"}
