"""A real cluster for the live tests, with its own stack, bridge and state.

Nothing here is skipped when it cannot run: a machine that lacks what the lab needs fails the tests.
"""

import time
from collections.abc import Generator, Iterator

import pytest

from lab.errors import LabError
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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Function,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add to the report of a failed test what its cluster looks like: it is gone afterwards."""
    report = yield
    cluster = item.funcargs.get("cluster")
    if report.failed and report.when != "teardown" and isinstance(cluster, Cluster):
        report.sections.append(("The cluster after the failure", _seen(cluster)))
    return report


_CLIENT_STATS = (
    "stats?usedonly&filter=cx_none_healthy|connect_fail|fail_verify|ssl.connection_error"
)


def _seen(cluster: Cluster) -> str:
    """The nodes, pods and proxies, and why connections of the demo's client failed."""
    client = ("-n", "shop", "exec", "deploy/client", "-c", "istio-proxy", "--", "pilot-agent")
    texts = []
    for program, *arguments in (
        ("kubectl", "get", "nodes,pods", "-A", "-o", "wide"),
        ("istioctl", "proxy-status"),
        ("kubectl", *client, "request", "GET", _CLIENT_STATS),
    ):
        run = cluster.istioctl if program == "istioctl" else cluster.kubectl
        try:
            texts.append(run(*arguments))
        except LabError as error:
            texts.append(f"not seen: {error}")
    return "\n".join(texts)
