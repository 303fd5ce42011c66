"""The last screen of `make up`: the status that it derives from the cluster."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from lab import screen
from lab.errors import LabError
from lab.screen import Cluster, Screen, Section, Split

STATUS = """\
NAME                              CLUSTER     CDS     LDS     EDS     RDS       ECDS      VERSION
checkout-v1-6c9f7bdf5-x2v8k.shop  Kubernetes  SYNCED  SYNCED  SYNCED  SYNCED    NOT SENT  1.16.5
istio-ingressgateway-1.istio      Kubernetes  SYNCED  SYNCED  STALE   NOT SENT  NOT SENT  1.16.5
"""

CONFIG: Mapping[str, Any] = {
    "mesh": {
        "namespaces": {"shop": {"mtls": "STRICT"}},
        "services": {
            "checkout": {
                "namespace": "shop",
                "port": 8080,
                "stable": "v1",
                "canary": {"subset": "v2", "weight": 10},
            }
        },
    },
}


class FakeCluster(Cluster):
    """A cluster that answers commands from a table of their prefixes."""

    def __init__(self, answers: Mapping[str, str]) -> None:
        self._answers = answers
        self.commands: list[str] = []

    def kubectl(self, *arguments: str, seconds: float = 30) -> str:
        return self._answer(" ".join(arguments), seconds)

    def istioctl(self, *arguments: str, seconds: float = 60) -> str:
        return self._answer(" ".join(arguments), seconds)

    def _answer(self, command: str, _seconds: float) -> str:
        self.commands.append(command)
        for prefix, answer in self._answers.items():
            if command.startswith(prefix):
                return answer
        raise LabError(f"{command} failed", code="unit")


def tally(**values: object) -> str:
    empty = {"requests": 1, "ok": 0, "failed": 0, "versions": {}, "statuses": {}, "errors": {}}
    return json.dumps({**empty, **values})


def split(weight: int, canary: int, failed: int = 0) -> Split:
    return Split(
        service="checkout",
        stable="v1",
        canary="v2",
        weight=weight,
        requests=1000,
        failed=failed,
        versions={"v1": 1000 - canary, "v2": canary},
    )


@pytest.mark.parametrize(
    ("weight", "canary"), [(10, 104), (10, 62), (0, 0), (100, 1000), (50, 560)]
)
def test_a_split_within_chance_is_not_a_problem(weight: int, canary: int) -> None:
    assert not list(split(weight, canary).problems())


@pytest.mark.parametrize(("weight", "canary"), [(10, 250), (0, 1), (100, 999), (25, 100)])
def test_a_wrong_split_is_a_problem(weight: int, canary: int) -> None:
    (problem,) = split(weight, canary).problems()
    assert f"{canary / 10:.1f}%" in problem


def test_failed_requests_are_a_problem() -> None:
    (problem,) = split(10, 100, failed=3).problems()
    assert problem == "3 of 1000 requests to checkout failed"


def test_proxy_status_is_parsed_by_columns() -> None:
    rows = screen.parse_proxy_status(STATUS)
    assert rows["checkout-v1-6c9f7bdf5-x2v8k.shop"] == ["SYNCED"] * 4 + ["NOT SENT"]
    section = screen.proxies(FakeCluster({"proxy-status": STATUS}))
    assert section.lines == ["1 of 2 in sync"]
    assert "istio-ingressgateway-1.istio" in section.problems[0]
    assert "STALE" in section.problems[0]


def test_a_mesh_without_proxies_is_a_problem() -> None:
    assert screen.proxies(FakeCluster({"proxy-status": ""})).problems


def test_istio_is_healthy_only_with_istiod_and_all_replicas() -> None:
    def deployment(name: str, ready: int) -> dict[str, Any]:
        containers = [{"image": "docker.io/istio/pilot:1.16.5"}]
        return {
            "metadata": {"name": name},
            "spec": {"replicas": 1, "template": {"spec": {"containers": containers}}},
            "status": {"readyReplicas": ready},
        }

    gateway = json.dumps({"items": [deployment("istio-ingressgateway", 0)]})
    problems = screen.istio(FakeCluster({"get deployments": gateway})).problems
    assert problems == [
        "istio-ingressgateway has 0 of 1 replicas ready",
        "there is no istiod in istio-system",
    ]
    istiod = json.dumps({"items": [deployment("istiod-1-16-5", 1)]})
    section = screen.istio(FakeCluster({"get deployments": istiod}))
    assert section.lines == ["istiod-1-16-5  1.16.5  1/1 ready"]
    assert not section.problems


def test_the_canary_is_measured_with_requests_in_the_mesh() -> None:
    answer = tally(requests=1000, ok=1000, versions={"v1": 896, "v2": 104})
    cluster = FakeCluster({"-n shop exec deploy/client -c client -- /echo call": answer})
    section = screen.canary(screen.measure_splits(cluster, CONFIG))
    assert "--url http://checkout:8080/ --count 1000" in cluster.commands[0]
    assert "10.4%   weight 10%" in section.lines[1]
    assert not section.problems


def test_the_split_port_of_several_is_measured() -> None:
    answer = tally(requests=1000, ok=1000, versions={"v1": 896, "v2": 104})
    cluster = FakeCluster({"-n shop exec deploy/client -c client -- /echo call": answer})
    service = {
        "namespace": "shop",
        "ports": {"admin": 9090, "http": 8081},
        "stable": "v1",
        "canary": {"subset": "v2", "weight": 10},
    }
    screen.measure_splits(cluster, {"mesh": {"services": {"checkout": service}}})
    assert "--url http://checkout:8081/ --count 1000" in cluster.commands[0]


@pytest.mark.parametrize(
    ("answer", "is_refused"),
    [
        (tally(failed=1, errors={"connection reset": 1}), True),
        (tally(ok=1, versions={"v1": 1}, statuses={"200": 1}), False),
        (tally(failed=1, errors={"name not found": 1}), False),
    ],
)
def test_only_a_reset_connection_counts_as_refused(answer: str, is_refused: bool) -> None:
    section = screen.plaintext(FakeCluster({"-n outside exec": answer}), CONFIG)
    assert bool(section.lines) is is_refused
    assert bool(section.problems) is not is_refused


def test_a_failed_section_is_reported() -> None:
    def ask() -> Section:
        return screen.nodes(FakeCluster({}))

    section = screen._answered("Nodes", ask)
    assert section.problems == ["Nodes: get nodes --output=json failed"]
    last_screen = Screen(sections=[section], problems=section.problems)
    text = screen.render(last_screen, colour=False)
    assert "1 problem: see ! above" in text
    assert "\033" not in text


def test_a_healthy_lab_is_reported() -> None:
    last_screen = Screen(sections=[Section(title="Nodes", lines=["cp-1  Ready"])])
    assert last_screen.is_healthy
    assert "All is well." in screen.render(last_screen, colour=False)
    assert "\033[32mAll is well." in screen.render(last_screen, colour=True)
