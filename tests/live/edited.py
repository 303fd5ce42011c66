"""Temporary edits of the session's stack, and pods that call from another namespace."""

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
    """The stack with its mesh edited and brought up; as it was at the end, whatever happened."""
    before = project.stack_file.read_text()
    try:
        bring_up(project, edit)
        yield
    finally:
        project.stack_file.write_text(before)
        project.up()


def bring_up(project: Project, edit: Callable[[dict[str, Any]], None]) -> str:
    """Edit the mesh of the stack file and bring the stack up; what pulumi said."""
    with project.config() as config:
        edit(config["nordmesh:mesh"])
    return project.up().text


def add_client(cluster: Cluster, namespace: str) -> None:
    """A client in a namespace of the mesh, as the demo has one; ready when this returns."""
    objects = [
        echo.service_account(echo.CLIENT, namespace),
        echo.client_deployment(namespace, image=catalogue.ECHO_IMAGE),
        echo.client_service(namespace),
    ]
    apply(cluster, objects)
    place = ("-n", namespace, f"deploy/{echo.CLIENT}")
    cluster.kubectl("rollout", "status", *place, "--timeout=120s", seconds=130)
