"""The selection gate: it refuses a policy that misses pods, and proposes a selector."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
import yaml
from kubernetes import client

from components.gates import plaintext, scope, selection
from components.gates.api import Api
from components.gates.inventory import Inventory, Pod, pods_of
from components.manifests import authorization, mtls
from components.manifests.mtls import Modes
from config import Mesh, Service
from config.errors import NordmeshError

NAME = {"app.kubernetes.io/name": "checkout"}
APP = {"app": "checkout"}


def service(**settings: object) -> Service:
    return Service.model_validate(
        {"namespace": "shop", "port": 8080, "stable": "v1", "callers": [], **settings}
    )


def pod(
    name: str, labels: Mapping[str, str], *, has_proxy: bool = True, is_ready: bool = True
) -> Pod:
    return Pod(name=name, labels=labels, has_proxy=has_proxy, is_ready=is_ready)


def judge(
    settings: Service, selected: Mapping[str, str] | None, pods: Sequence[Pod]
) -> NordmeshError | int:
    try:
        return selection.judge_all(selection.callers("checkout", settings), selected, pods)
    except NordmeshError as error:
        return error


def refusal(
    settings: Service, selected: Mapping[str, str] | None, pods: Sequence[Pod]
) -> NordmeshError:
    error = judge(settings, selected, pods)
    assert isinstance(error, NordmeshError), error
    return error


@pytest.mark.parametrize("selected", [NAME, {**NAME, "tier": "web"}, {"app": "yes", "1": "2"}])
@pytest.mark.parametrize("count", [0, 2])
def test_other_labels_are_refused_and_the_proposed_selector_works(
    selected: dict[str, str], count: int
) -> None:
    pods = [pod(f"checkout-{n}", selected) for n in range(count)]
    error = refusal(service(), selected, pods)
    assert error.code == "gate-no-pod-selected"
    assert error.path == "nordmesh:mesh.services.checkout.callers"
    assert "app=checkout" in error.what
    assert "anyone could call it" in error.why
    proposal = error.fix.removeprefix("write ").partition(
        " at nordmesh:mesh.services.checkout.selector"
    )
    assert proposal[1]
    fixed = service(selector=yaml.safe_load(proposal[0]))
    assert judge(fixed, selected, pods) == count
    policy = authorization.authorization_policy("checkout", {"checkout": fixed})
    assert policy["spec"]["selector"] == {"matchLabels": selected}


def test_pods_with_both_labels_pass() -> None:
    assert judge(service(), NAME, [pod("one", APP | NAME), pod("two", APP | NAME)]) == 2


def test_pods_that_are_not_selected_are_named() -> None:
    pods = [pod("old", APP | NAME), *(pod(f"new-{n}", NAME) for n in range(5))]
    error = refusal(service(), NAME, pods)
    assert "new-0, new-1, new-2 and 2 more (5 of 6)" in error.what
    assert "app.kubernetes.io/name: checkout" in error.fix


def test_no_service_and_no_pod_is_refused() -> None:
    error = refusal(service(), None, [pod("other", {"app": "other"})])
    assert "no pod in shop has the labels app=checkout" in error.what
    assert "anyone could call it" in error.why
    assert "deploy" in error.fix
    assert "mesh.services.checkout.selector" in error.fix


def test_pods_without_a_service_pass() -> None:
    assert judge(service(), None, [pod("one", APP)]) == 1


@pytest.mark.parametrize("selector", [None, APP])
def test_a_service_without_a_selector_needs_labels_in_the_file(
    selector: dict[str, str] | None,
) -> None:
    """Only the file can name the labels of its pods."""
    settings = service(selector=selector)
    assert "has no selector" in refusal(settings, {}, []).what
    result = judge(settings, {}, [pod("one", APP)])
    assert result == 1 if selector else isinstance(result, NordmeshError)


def test_a_service_scaled_to_0_passes() -> None:
    assert judge(service(), APP, []) == 0
    assert judge(service(), {**APP, "tier": "web"}, []) == 0


def test_pods_without_a_sidecar_are_named() -> None:
    pods = [pod("with", APP), pod("without", APP, has_proxy=False)]
    error = refusal(service(), APP, pods)
    assert "have no sidecar" in error.what
    assert "without (1 of 2)" in error.what
    assert "hostNetwork" in error.fix


def test_finished_pods_do_not_count() -> None:
    def item(name: str, phase: str, **metadata: object) -> dict[str, Any]:
        containers = [{"name": "istio-proxy"}]
        conditions = [{"type": "Ready", "status": "True" if phase == "Running" else "False"}]
        return {
            "metadata": {"name": name, "labels": APP, **metadata},
            "spec": {"containers": containers},
            "status": {"phase": phase, "conditions": conditions},
        }

    items = [
        item("runs", "Running"),
        item("starts", "Pending"),
        item("done", "Succeeded"),
        item("ends", "Running", deletionTimestamp="2027-01-01T00:00:00Z"),
    ]
    assert pods_of(items) == [pod("runs", APP), pod("starts", APP, is_ready=False)]


# --- one function for the labels of a service's pods ---------------------------------------------


def test_all_policies_of_a_service_use_its_selector() -> None:
    settings = service(selector=NAME, mtls={"mode": "STRICT", "ports": {9090: "PERMISSIVE"}})
    assert settings.mtls is not None
    objects = [
        authorization.authorization_policy("checkout", {"checkout": settings}),
        mtls.service_peer_authentication("checkout", settings, settings.mtls),
    ]
    for manifest in objects:
        assert manifest["spec"]["selector"] == {"matchLabels": NAME}


# --- modes ---------------------------------------------------------------------------------------


class FakeApi:
    """A namespace with one pod, and a Service that selects it."""

    def inventory(self) -> Inventory:
        return Inventory(proxies=[])

    def stats(self, proxies: Sequence[object], _filter: str) -> dict[str, str]:
        assert not proxies
        return {}

    def selector(self, namespace: str, name: str) -> Mapping[str, str] | None:
        return NAME if (namespace, name) == ("shop", "checkout") else None

    def pods(self, _namespace: str) -> list[Pod]:
        return [pod("one", NAME)]


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"mtls": {"mode": "STRICT"}}, "mesh.services.checkout.selector"),
        (
            {"mtls": {"mode": "STRICT", "selector": APP}},
            "mesh.services.checkout.mtls.selector",
        ),
        ({"mtls": {"mode": "STRICT"}, "selector": NAME}, None),
    ],
)
def test_strict_that_selects_no_pod_is_refused(settings: dict[str, Any], key: str | None) -> None:
    checkout = service(**settings)
    change = scope.Change(
        namespace="shop",
        name="checkout",
        before=Modes(mode=None),
        after=Modes(mode="STRICT"),
    )
    mesh = Mesh(services={"checkout": checkout})

    def check() -> str:
        return plaintext.check(FakeApi(), change, mesh, lambda _line: None)  # type: ignore[arg-type]

    if key is None:
        assert "STRICT gate" in check()
        return
    with pytest.raises(NordmeshError) as caught:
        check()
    assert "still accept plaintext" in caught.value.why
    assert f"at nordmesh:{key}," in caught.value.fix


# --- the API server ------------------------------------------------------------------------------


@pytest.fixture
def make_api() -> Iterator[Callable[[int, object], Api]]:
    """Start an API server that gives the same response to every request."""
    servers = []

    def make(status: int, content: object) -> Api:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(content).encode())

            def log_message(self, *_: object) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return Api(client.Configuration(host=f"http://127.0.0.1:{server.server_port}"))

    yield make
    for server in servers:
        server.shutdown()
        server.server_close()


def test_only_404_means_that_a_service_does_not_exist(
    make_api: Callable[[int, object], Api],
) -> None:
    assert make_api(200, {"spec": {"selector": NAME}}).selector("shop", "checkout") == NAME
    assert make_api(200, {"spec": {}}).selector("shop", "checkout") == {}
    assert make_api(404, {"reason": "NotFound"}).selector("shop", "checkout") is None
    for status in (403, 500, 503):
        with pytest.raises(NordmeshError, match=f"status {status}"):
            make_api(status, {}).selector("shop", "checkout")
