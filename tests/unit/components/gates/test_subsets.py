"""The pods gate: no subset gets requests without a ready pod."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from components.gates import subsets
from components.gates.inventory import Pod
from components.manifests import routes
from config import Mesh, Service
from config.errors import NordmeshError

APP = {"app": "checkout"}
Labels = Mapping[str, str]


def service(**settings: Any) -> Service:
    checkout = {"namespace": "shop", "port": 8080, "stable": "v1", **settings}
    return Mesh.model_validate({"services": {"checkout": checkout}}).services["checkout"]


def canary(weight: int, **settings: Any) -> Service:
    return service(canary={"subset": "v2", "weight": weight}, **settings)


class FakeApi:
    def __init__(self, pods: Sequence[tuple[Labels, bool]], selector: Labels | None) -> None:
        self._pods, self._selector = pods, selector

    def selector(self, namespace: str, name: str) -> Labels | None:
        assert (namespace, name) == ("shop", "checkout")
        return self._selector

    def pods(self, _namespace: str) -> list[Pod]:
        return [
            Pod(name=str(number), labels=labels, has_proxy=True, is_ready=is_ready)
            for number, (labels, is_ready) in enumerate(self._pods)
        ]


def pods(*versions: str, ready: bool = True) -> list[tuple[Labels, bool]]:
    return [({**APP, "version": version}, ready) for version in versions]


def edit(
    before: Service | None,
    after: Service,
    running: Sequence[tuple[Labels, bool]],
    selector: Labels | None = APP,
) -> str:
    """Check an edit of a service; return the report or the error."""
    old = None if before is None else routes.virtual_service("checkout", before)
    gains = subsets.gains("checkout", after, old, routes.virtual_service("checkout", after))
    if gains is None:
        return "not checked"
    try:
        return subsets.check(FakeApi(running, selector), gains)  # type: ignore[arg-type]
    except NordmeshError as error:
        return " ".join(str(error).split())


NOT_V2 = [
    pods("v1"),
    [*pods("v1"), *pods("v2", ready=False)],
    [*pods("v1"), ({"app": "other", "version": "v2"}, True)],
]


@pytest.mark.parametrize("running", NOT_V2)
@pytest.mark.parametrize("weight", [0, 10])
def test_a_canary_without_a_ready_pod_gets_no_higher_weight(
    weight: int, running: list[tuple[Labels, bool]]
) -> None:
    """Also without a gate, which measures requests."""
    text = edit(canary(weight), canary(25), running)
    assert "mesh.services.checkout.canary [gate-canary-without-pods]" in text
    assert "the labels app=checkout,version=v2; its ready pods have v1; the routes stay" in text
    assert "25% of the requests would get 503" in text
    assert "v2 has 1" in edit(canary(weight), canary(25), pods("v1", "v2"))


def test_pods_without_the_label_version_are_named() -> None:
    text = edit(None, service(), [(APP, True)])
    assert "mesh.services.checkout.stable [gate-stable-without-pods]" in text
    assert "its ready pods have no label version" in text
    assert "100% of the requests would get 503" in text


def test_the_first_routes_need_pods_only_if_the_service_has_some() -> None:
    assert "no pod of it is ready yet" in edit(None, canary(10), [])
    assert "no pod of it is ready yet" in edit(None, canary(10), pods("v1"), None)
    assert "gate-canary-without-pods" in edit(None, canary(10), pods("v1"))
    assert "v1 has 1" in edit(None, canary(0), pods("v1"))


def test_a_finished_canary_needs_pods() -> None:
    assert "gate-stable-without-pods" in edit(canary(50), service(stable="v2"), pods("v1"))
    assert "v2 has 2" in edit(canary(50), service(stable="v2"), pods("v2", "v2"))


def test_a_lower_weight_is_not_checked() -> None:
    """The revert must not wait for anything."""
    assert edit(canary(25), canary(0), []) == "not checked"
    assert edit(canary(25), service(), []) == "not checked"
    assert edit(canary(25), canary(25, timeout="2s"), []) == "not checked"


def test_a_stable_version_without_requests_needs_pods() -> None:
    """At weight 100 it may have been deleted."""
    assert "gate-stable-without-pods" in edit(canary(100), canary(0), pods("v2"))
    assert "v1 has 1" in edit(canary(100), canary(0), pods("v1", "v2"))


def test_testers_need_a_ready_pod() -> None:
    tested = canary(0, testers=[{"header": {"name": "x", "exact": "y"}, "subset": "v2"}])
    text = edit(canary(0), tested, pods("v1"))
    assert "the testers' requests would get 503" in text
    assert edit(tested, tested, pods("v1")) == "not checked"


@pytest.mark.parametrize("protocol", ["http", "grpc", "tcp"])
def test_every_protocol_is_checked(protocol: str) -> None:
    old, new = canary(0, protocol=protocol), canary(10, protocol=protocol)
    assert "gate-canary-without-pods" in edit(old, new, pods("v1"))


def test_a_service_without_a_selector_needs_a_pod_of_the_version() -> None:
    assert "has the labels version=v2;" in edit(canary(0), canary(10), pods("v1"), {})
    assert "v2 has 1" in edit(canary(0), canary(10), pods("v2"), {})


DOTTED = service(stable="v1.2.0", canary={"subset": "1.3.0-rc1", "weight": 10})


def test_pods_are_found_by_the_whole_version() -> None:
    """Istio accepts no dot in the name of a subset; the label of the pods has them."""
    old = DOTTED.model_copy(update={"canary": None})
    assert "1-3-0-rc1 has 1" in edit(old, DOTTED, pods("v1.2.0", "1.3.0-rc1"))
    text = edit(old, DOTTED, pods("v1-2-0", "1-3-0-rc1"))
    assert "mesh.services.checkout.canary [gate-canary-without-pods]" in text
    assert "has the labels app=checkout,version=1.3.0-rc1" in text
    assert "deploy 1.3.0-rc1 with these labels" in text


@pytest.mark.parametrize(
    ("labels", "report"),
    [
        ({"app.kubernetes.io/version": "v1", "version": "v1"}, "v1 has 1"),
        ({"version": "v1"}, "has the labels app=checkout,app.kubernetes.io/version=v1; its ready"),
    ],
)
def test_another_version_label_waits_for_pods_that_have_it(labels: Labels, report: str) -> None:
    before, after = service(), service(versionLabel="app.kubernetes.io/version")
    (old,), (new,) = (routes.subset_rules("checkout", item) for item in (before, after))
    assert subsets.relabelled("checkout", after, old, old | {"metadata": {}}) is None
    gains = subsets.relabelled("checkout", after, old, new)
    assert gains is not None
    api = FakeApi([({**APP, **labels}, True)], APP)
    try:
        text = subsets.check(api, gains)  # type: ignore[arg-type]
    except NordmeshError as error:
        text = " ".join(str(error).split())
        assert "100% of the requests would get 503" in text
    assert report in text


def test_a_version_that_gets_no_requests_may_have_no_pods() -> None:
    before = canary(0)
    after = canary(0, versionLabel="app.kubernetes.io/version")
    rules = zip(
        routes.subset_rules("checkout", before), routes.subset_rules("checkout", after), strict=True
    )
    edits = [subsets.relabelled("checkout", after, old, new) for old, new in rules]
    assert [edit is not None for edit in edits] == [True, False]
