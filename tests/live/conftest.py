"""A real cluster for the live tests, with its own stack, bridge and state.

Nothing here is skipped when it cannot run: a machine that lacks what the lab needs fails the tests.
"""

import time
from collections.abc import Iterator

import pytest

from lab.screen import Cluster
from tests.live.harness import Built, CommandLines, Project, lab_project


@pytest.fixture(scope="session")
def built() -> Iterator[Built]:
    """A cluster that `lab up` creates once for all tests."""
    with lab_project("test", bridge="nordmesh-test", network="10.67.0") as project:
        started = time.monotonic()
        with CommandLines() as command_lines:
            output = project.lab("up")
        print(f"\nlab up took {time.monotonic() - started:.0f} s\n{output}")
        yield Built(project=project, screen=output, command_lines=command_lines.seen)


@pytest.fixture(scope="session")
def project(built: Built) -> Project:
    return built.project


@pytest.fixture(scope="session")
def cluster(project: Project) -> Iterator[Cluster]:
    with project.cluster() as cluster:
        yield cluster


@pytest.fixture
def stack_file(project: Project) -> Iterator[None]:
    """Restore the stack at the end."""
    before = project.stack_file.read_text()
    try:
        yield
    finally:
        project.stack_file.write_text(before)
        project.up()
