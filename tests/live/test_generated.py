"""Made-up meshes: what a preview accepts, istioctl and the API server accept too."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings

from components.manifests import Manifest
from lab import paths
from lab.screen import Cluster
from tests.generated import Values
from tests.generated_mesh import accepted, meshes
from tests.mocked import kubernetes_objects, run

# Of made-up meshes a third is accepted.
EXAMPLES, AT_LEAST = 40, 10
# Of files without pods, Services and Secrets: something that is referred to is not there, or no pod
# has a gateway's port.
NOT_IN_FILES = ("IST0101", "IST0104", "IST0127")


@pytest.fixture(scope="module")
def made_up(cluster: Cluster) -> Iterator[list[list[Manifest]]]:
    """The Istio objects of each accepted mesh; its namespaces are there for a dry run."""
    found: list[list[Manifest]] = []

    @given(mesh=meshes)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def collect(mesh: Values) -> None:
        stack = accepted(mesh)
        if stack is not None:
            recorded, _ = run(stack)
            objects = kubernetes_objects(recorded)
            found.append([one for one in objects if "istio.io/" in one["apiVersion"]])

    collect()
    cluster.kubectl("create", "namespace", "back")
    yield found
    cluster.kubectl("delete", "namespace", "back")


def istioctl(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = paths.cache().bin / "istio" / "istioctl"
    return subprocess.run([str(program), *arguments], capture_output=True, text=True, check=False)


def write(path: Path, objects: list[Manifest]) -> str:
    path.write_text(yaml.safe_dump_all(objects))
    return str(path)


def test_istioctl_and_the_api_server_accept_what_a_preview_accepts(
    cluster: Cluster, made_up: list[list[Manifest]], tmp_path: Path
) -> None:
    assert len(made_up) >= AT_LEAST
    for number, objects in enumerate(made_up):
        file = write(tmp_path / f"{number}.yaml", objects)
        validated = istioctl("validate", "--filename", file)
        assert validated.returncode == 0, validated.stderr
        applied = cluster.kubectl("apply", "--dry-run=server", "--filename", file, seconds=120)
        assert applied.count("(server dry run)") == len(objects)


def findings(path: Path, objects: list[Manifest]) -> list[str]:
    """What istioctl's analysis says of the objects alone."""
    arguments = ("--use-kube=false", "--all-namespaces", write(path, objects))
    analysed = istioctl("analyze", *arguments)
    lines = (analysed.stdout + analysed.stderr).splitlines()
    found = [line for line in lines if line.startswith(("Error [", "Warning ["))]
    return [line for line in found if not any(code in line for code in NOT_IN_FILES)]


def test_istioctl_finds_nothing_wrong_in_what_a_preview_accepts(
    made_up: list[list[Manifest]], tmp_path: Path
) -> None:
    for number, objects in enumerate(made_up):
        assert findings(tmp_path / f"{number}.yaml", objects) == []


def test_istioctl_would_find_a_host_that_no_gateway_takes(tmp_path: Path) -> None:
    """The test above can fail."""
    wrong = {
        "apiVersion": "networking.istio.io/v1beta1",
        "kind": "VirtualService",
        "metadata": {"name": "wrong", "namespace": "shop"},
        "spec": {
            "hosts": ["wrong.example.com"],
            "gateways": ["nowhere"],
            "http": [{"route": [{"destination": {"host": "wrong"}}]}],
        },
    }
    (line,) = findings(tmp_path / "wrong.yaml", [wrong])
    assert "wrong.example.com" in line
