"""Certificates by ACME (HTTP-01): challenges are answered in plain HTTP, the rest is redirected."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.manifests import echo
from config import OUTSIDE_NAMESPACE
from lab.screen import Cluster
from tests.live.counted import wait_for
from tests.live.edited import edited
from tests.live.harness import Project
from tests.live.tls import self_signed
from tests.support.applied import apply

HOST = "certified.example.com"
GATEWAY = "istio-ingressgateway.istio-system.svc.cluster.local"
SECRET = "certified-tls"  # noqa: S105 (its name)
CHALLENGE = "/.well-known/acme-challenge/token-1"
PAGE = "/pay?a=1"


@pytest.fixture(scope="module")
def certified(project: Project, cluster: Cluster) -> Iterator[None]:
    """Put checkout behind a gateway; the client outside the mesh answers the challenges."""

    def add(mesh: dict[str, Any]) -> None:
        acme = {"service": f"{OUTSIDE_NAMESPACE}/{echo.CLIENT}", "port": 8080}
        mesh.setdefault("gateways", {})["certified"] = {
            "hosts": [HOST],
            "tls": {"secret": SECRET, "acme": acme},
        }
        mesh["services"]["checkout"] |= {"gateway": "certified", "hosts": [HOST]}

    apply(cluster, [echo.client_service(OUTSIDE_NAMESPACE)])
    try:
        with edited(project, add):
            yield
    finally:
        cluster.kubectl("-n", OUTSIDE_NAMESPACE, "delete", "service", echo.CLIENT)


def get(cluster: Cluster, url: str, *options: str) -> dict[str, Any]:
    return cluster.call(
        OUTSIDE_NAMESPACE, url, "--host", HOST, "--follow=false", "--last", *options
    )


@pytest.mark.usefixtures("certified")
def test_challenges_are_answered_before_and_after_the_certificate(
    cluster: Cluster, tmp_path: Path
) -> None:
    """Without its certificate, the gateway resets TLS; the challenge must not wait for that."""

    def answers() -> bool:
        return bool(get(cluster, f"http://{GATEWAY}{CHALLENGE}")["statuses"] == {"200": 1})

    wait_for("the gateway answers the challenge", answers, seconds=60)
    answered = get(cluster, f"http://{GATEWAY}{CHALLENGE}")
    assert json.loads(answered["last"]["body"])["path"] == CHALLENGE
    assert get(cluster, f"https://{GATEWAY}{PAGE}", "--insecure")["ok"] == 0
    pair = self_signed(tmp_path, HOST)
    files = (f"--cert={pair.certificate}", f"--key={pair.key}")
    cluster.kubectl("-n", "istio-system", "create", "secret", "tls", SECRET, *files)
    try:
        wait_for(
            "the gateway has its certificate",
            lambda: get(cluster, f"https://{GATEWAY}{PAGE}", "--insecure")["ok"] == 1,
            seconds=60,
        )
        assert answers()
        redirect = get(cluster, f"http://{GATEWAY}{PAGE}")
        assert redirect["statuses"] == {"301": 1}
        assert redirect["last"]["headers"]["Location"] == [f"https://{HOST}{PAGE}"]
    finally:
        cluster.kubectl("-n", "istio-system", "delete", "secret", SECRET)
