"""Image references as containerd reads them."""

import pytest

from config.image_references import registry, server, split


@pytest.mark.parametrize(
    ("reference", "host", "repository", "tag"),
    [
        ("registry.k8s.io/pause:3.6", "registry.k8s.io", "registry.k8s.io/pause", "3.6"),
        ("docker.io/istio/pilot:1.16.5", "docker.io", "docker.io/istio/pilot", "1.16.5"),
        ("localhost:5000/a/b", "localhost:5000", "localhost:5000/a/b", ""),
        ("localhost/a:1@sha256:0f", "localhost", "localhost/a", "1"),
        ("grafana/grafana:9", "docker.io", "grafana/grafana", "9"),
        ("auto", "docker.io", "auto", ""),
    ],
)
def test_a_reference_has_a_registry_a_repository_and_a_tag(
    reference: str, host: str, repository: str, tag: str
) -> None:
    assert registry(reference) == host
    assert split(reference) == (repository, tag)


def test_the_images_of_docker_hub_come_from_another_host() -> None:
    assert server("docker.io") == "registry-1.docker.io"
    assert server("localhost:5000") == "localhost:5000"
