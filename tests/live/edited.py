"""Temporary edits of the shared stack, and clients in other namespaces."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from components.manifests import echo
from config import catalogue
from lab.screen import Cluster
from tests.live.harness import Project
from tests.support.applied import apply

STRANGER = "stranger"
"""A namespace of the mesh that nobody has named anywhere."""


@contextmanager
def edited(project: Project, edit: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Deploy the stack with an edit of its mesh, and revert it at the end."""
    before = project.stack_file.read_text()
    try:
        bring_up(project, edit)
        yield
    finally:
        project.stack_file.write_text(before)
        project.up()


def bring_up(project: Project, edit: Callable[[dict[str, Any]], None]) -> str:
    """Edit the mesh in the stack file and deploy; return the output of pulumi."""
    with project.config() as config:
        edit(config["nordmesh:mesh"])
    return project.up().text


def add_client(cluster: Cluster, namespace: str) -> None:
    """Deploy a client like that of the demo in a namespace of the mesh; wait until it is ready."""
    objects = [
        echo.service_account(echo.CLIENT, namespace),
        echo.client_deployment(namespace, image=catalogue.ECHO_IMAGE),
        echo.client_service(namespace),
    ]
    apply(cluster, objects)
    metadata = ("-n", namespace, f"deploy/{echo.CLIENT}")
    cluster.kubectl("rollout", "status", *metadata, "--timeout=300s", seconds=310)
