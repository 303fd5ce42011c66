"""An edit of the session's stack for a while, and pods that call from another namespace."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from tempfile import NamedTemporaryFile
from typing import Any

import yaml

from components.manifests import Manifest, echo
from lab.screen import Cluster
from stacks import catalogue
from tests.live.harness import Project

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
    document = yaml.safe_load(project.stack_file.read_text())
    edit(document["config"]["nordmesh:mesh"])
    project.stack_file.write_text(yaml.safe_dump(document, sort_keys=False))
    return project.up().text


def apply(cluster: Cluster, *manifests: Manifest) -> None:
    """Apply objects that are not the program's."""
    with NamedTemporaryFile("w", suffix=".json") as file:
        json.dump({"apiVersion": "v1", "kind": "List", "items": manifests}, file)
        file.flush()
        cluster.kubectl("apply", "-f", file.name)


def add_client(cluster: Cluster, namespace: str) -> None:
    """A client in a namespace of the mesh, as the demo has one; ready when this returns."""
    apply(
        cluster,
        echo.service_account(echo.CLIENT, namespace),
        echo.client_deployment(namespace, image=catalogue.ECHO_IMAGE),
        echo.client_service(namespace),
    )
    place = ("-n", namespace, f"deploy/{echo.CLIENT}")
    cluster.kubectl("rollout", "status", *place, "--timeout=120s", seconds=130)
