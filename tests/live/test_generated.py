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


def test_istioctl_finds_nothing_wrong_in_what_a_preview_accepts(
    made_up: list[list[Manifest]], tmp_path: Path
) -> None:
    secret = {"name": "web-tls", "namespace": "istio-system"}
    meant: list[Manifest] = [{"apiVersion": "v1", "kind": "Secret", "metadata": secret}]
    for number, objects in enumerate(made_up):
        file = write(tmp_path / f"{number}.yaml", [*meant, *objects])
        analysed = istioctl("analyze", "--use-kube=false", "--all-namespaces", file)
        found = (analysed.stdout + analysed.stderr).splitlines()
        assert [line for line in found if line.startswith(("Error", "Warning"))] == [], found


def test_istioctl_would_find_a_route_through_a_gateway_that_is_not_there(tmp_path: Path) -> None:
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
    file = write(tmp_path / "wrong.yaml", [wrong])
    analysed = istioctl("analyze", "--use-kube=false", "--all-namespaces", file)
    assert "IST0101" in analysed.stdout + analysed.stderr
