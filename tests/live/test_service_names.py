"""Services of one name in two namespaces: each has its own split, and an edit is of one."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from components.manifests import echo
from config import Service, catalogue
from lab.screen import Cluster
from tests.live.counted import assert_share
from tests.live.edited import STRANGER, bring_up, edited
from tests.live.harness import Project
from tests.support.applied import apply

REQUESTS = 600
ENTRY = "strangers-checkout"
OTHER = {
    "service": "checkout",
    "namespace": STRANGER,
    "port": 8080,
    "stable": "v1",
    "canary": {"subset": "v2", "weight": 40},
}


@pytest.fixture(scope="module")
def two(project: Project, cluster: Cluster) -> Iterator[None]:
    """A second Service named checkout, in its own namespace."""

    def add(mesh: dict[str, Any]) -> None:
        mesh["namespaces"][STRANGER] = {"injection": True}
        mesh["services"][ENTRY] = OTHER

    with edited(project, add):
        pods = [
            echo.echo_deployment(
                "checkout", version, namespace=STRANGER, image=catalogue.ECHO_IMAGE
            )
            for version in ("v1", "v2")
        ]
        apply(cluster, [*pods, echo.echo_service("checkout", Service.model_validate(OTHER))])
        available = ("--for=condition=Available", "deployment", "--all", "--timeout=180s")
        cluster.kubectl("-n", STRANGER, "wait", *available, seconds=190)
        yield


def canary_share(cluster: Cluster, namespace: str, percent: int) -> None:
    url = f"http://checkout.{namespace}.svc.cluster.local:8080/"
    tally = cluster.call("shop", url, "--count", str(REQUESTS), "--concurrency", "8")
    assert tally["failed"] == 0, tally
    assert_share(tally["versions"].get("v2", 0), REQUESTS, percent)


@pytest.mark.usefixtures("two")
def test_each_service_of_a_name_has_its_own_split(project: Project, cluster: Cluster) -> None:
    canary_share(cluster, STRANGER, 40)
    canary_share(cluster, "shop", 10)

    def raise_other(mesh: dict[str, Any]) -> None:
        mesh["services"][ENTRY]["canary"]["weight"] = 70

    output = bring_up(project, raise_other)
    assert re.search(r"~ 1 updated\n\s+\d+ unchanged", output), output
    canary_share(cluster, STRANGER, 70)
    canary_share(cluster, "shop", 10)
