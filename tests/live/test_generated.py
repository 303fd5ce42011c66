"""Generated meshes: istioctl and the API server accept what a preview accepts."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.manifests import Manifest
from lab import paths
from lab.screen import Cluster
from tests.support.generated import examples
from tests.support.generated_mesh import accepted, meshes
from tests.support.generated_routes import assert_varied
from tests.support.mocked import kubernetes_objects, run

EXAMPLES = 32
# Expected for files without pods, Services and Secrets: a reference does not exist, or no pod has
# the port of a gateway.
NOT_IN_FILES = ("IST0101", "IST0104", "IST0127")
# Istio 1.16 reports a missing CA in caCertificates even if credentialName names it.
IN_A_SECRET = ("IST0129",)


@pytest.fixture(scope="module")
def accepted_objects(cluster: Cluster) -> Iterator[list[list[Manifest]]]:
    """Istio objects of each accepted mesh; their namespaces exist for a dry run."""
    stacks = [stack for stack in map(accepted, examples(meshes, EXAMPLES)) if stack]
    services = [service for stack in stacks for service in stack.mesh.services.values()]
    assert_varied(services, shapes=45, of_each=2)
    runs = [kubernetes_objects(run(stack)[0]) for stack in stacks]
    missing = ("back", "plain")
    for namespace in missing:
        cluster.kubectl("create", "namespace", namespace)
    yield [[item for item in objects if "istio.io/" in item["apiVersion"]] for objects in runs]
    cluster.kubectl("delete", "namespace", *missing)


def istioctl(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = paths.cache().bin / "istio" / "istioctl"
    return subprocess.run([str(program), *arguments], capture_output=True, text=True, check=False)


def write(path: Path, objects: list[Manifest]) -> str:
    # JSON, as Pulumi writes it, because YAML parsers disagree on `-.0`.
    path.write_text("".join(f"---\n{json.dumps(plain(item))}\n" for item in objects))
    return str(path)


def plain(manifest: Manifest) -> Manifest:
    """Return a manifest with integers for whole numbers, which Pulumi's mocks turn into floats."""
    copied: Manifest = json.loads(json.dumps(manifest), parse_float=number)
    return copied


def number(text: str) -> float:
    value = float(text)
    return int(value) if value.is_integer() else value


def test_istioctl_and_the_api_server_accept_what_a_preview_accepts(
    cluster: Cluster, accepted_objects: list[list[Manifest]], tmp_path: Path
) -> None:
    for number, objects in enumerate(accepted_objects):
        file = write(tmp_path / f"{number}.yaml", objects)
        validated = istioctl("validate", "--filename", file)
        assert validated.returncode == 0, validated.stderr
        applied = cluster.kubectl("apply", "--dry-run=server", "--filename", file, seconds=120)
        assert applied.count("(server dry run)") == len(objects)


def findings(path: Path, objects: list[Manifest]) -> list[str]:
    """Return the findings of `istioctl analyze` for the objects alone."""
    arguments = ("--use-kube=false", "--all-namespaces", write(path, objects))
    analysed = istioctl("analyze", *arguments)
    lines = (analysed.stdout + analysed.stderr).splitlines()
    ignored = (*NOT_IN_FILES, *IN_A_SECRET)
    # istioctl skips an object that it cannot read.
    skipped = [line for line in lines if "error processing" in line]
    messages = skipped + [line for line in lines if line.startswith(("Error [", "Warning ["))]
    return [line for line in messages if not any(code in line for code in ignored)]


def test_istioctl_analyze_has_no_findings_for_accepted_meshes(
    accepted_objects: list[list[Manifest]], tmp_path: Path
) -> None:
    for number, objects in enumerate(accepted_objects):
        assert findings(tmp_path / f"{number}.yaml", objects) == []


def test_istioctl_analyze_reports_a_host_without_a_gateway(tmp_path: Path) -> None:
    """Otherwise the test above could pass without testing anything."""
    invalid = {
        "apiVersion": "networking.istio.io/v1beta1",
        "kind": "VirtualService",
        "metadata": {"name": "wrong", "namespace": "shop"},
        "spec": {
            "hosts": ["wrong.example.com"],
            "gateways": ["nowhere"],
            "http": [{"route": [{"destination": {"host": "wrong"}}]}],
        },
    }
    (line,) = findings(tmp_path / "wrong.yaml", [invalid])
    assert "wrong.example.com" in line
