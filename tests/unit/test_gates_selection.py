"""The selection gate: a rule that selects no pod, or not all, is refused with what to write."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
import yaml
from kubernetes import client

from components.gates import plaintext, selection
from components.gates.api import Api
from components.gates.inventory import Inventory, Pod, pods_of
from components.manifests import authorization, mtls
from components.manifests.mtls import Modes
from config import Mesh, Service
from config.errors import NordmeshError

NAME = {"app.kubernetes.io/name": "checkout"}
APP = {"app": "checkout"}


def service(**more: object) -> Service:
    return Service.model_validate(
        {"namespace": "shop", "port": 8080, "stable": "v1", "callers": [], **more}
    )


def pod(
    name: str, labels: Mapping[str, str], *, has_proxy: bool = True, is_ready: bool = True
) -> Pod:
    return Pod(name=name, labels=labels, has_proxy=has_proxy, is_ready=is_ready)


def judged(
    settings: Service, selected: Mapping[str, str] | None, pods: Sequence[Pod]
) -> NordmeshError | int:
    try:
        return selection.judge_all(selection.callers("checkout", settings), selected, pods)
    except NordmeshError as error:
        return error


def refused(
    settings: Service, selected: Mapping[str, str] | None, pods: Sequence[Pod]
) -> NordmeshError:
    error = judged(settings, selected, pods)
    assert isinstance(error, NordmeshError), error
    return error


@pytest.mark.parametrize("selected", [NAME, {**NAME, "tier": "web"}, {"app": "yes", "1": "2"}])
@pytest.mark.parametrize("count", [0, 2])
def test_a_service_of_other_labels_is_refused_and_the_proposal_works(
    selected: dict[str, str], count: int
) -> None:
    pods = [pod(f"checkout-{n}", selected) for n in range(count)]
    error = refused(service(), selected, pods)
    assert error.code == "gate-no-pod-selected"
    assert error.path == "nordmesh:mesh.services.checkout.callers"
    assert "app=checkout" in error.what
    assert "anyone could call it" in error.why
    written = error.fix.removeprefix("write ").partition(
        " at nordmesh:mesh.services.checkout.selector"
    )
    assert written[1]
    followed = service(selector=yaml.safe_load(written[0]))
    assert judged(followed, selected, pods) == count
    policy = authorization.authorization_policy("checkout", {"checkout": followed})
    assert policy["spec"]["selector"] == {"matchLabels": selected}


def test_pods_of_both_labels_need_nothing() -> None:
    assert judged(service(), NAME, [pod("one", APP | NAME), pod("two", APP | NAME)]) == 2


def test_some_pods_that_are_not_selected_are_named() -> None:
    pods = [pod("old", APP | NAME), *(pod(f"new-{n}", NAME) for n in range(5))]
    error = refused(service(), NAME, pods)
    assert "new-0, new-1, new-2 and 2 more (5 of 6)" in error.what
    assert "app.kubernetes.io/name: checkout" in error.fix


def test_no_service_and_no_pod_is_refused() -> None:
    error = refused(service(), None, [pod("other", {"app": "other"})])
    assert "no pod in shop has the labels app=checkout" in error.what
    assert "anyone could call it" in error.why
    assert "deploy" in error.fix
    assert "mesh.services.checkout.selector" in error.fix


def test_pods_without_a_service_are_selected() -> None:
    assert judged(service(), None, [pod("one", APP)]) == 1


@pytest.mark.parametrize("selector", [None, APP])
def test_a_service_without_a_selector(selector: dict[str, str] | None) -> None:
    """Its labels must be in the file, since no one else knows them; without pods there are none."""
    settings = service(selector=selector)
    assert "has no selector" in refused(settings, {}, []).what
    found = judged(settings, {}, [pod("one", APP)])
    assert found == 1 if selector else isinstance(found, NordmeshError)


def test_a_service_that_was_scaled_to_nothing_is_no_open_door() -> None:
    assert judged(service(), APP, []) == 0
    assert judged(service(), {**APP, "tier": "web"}, []) == 0


def test_pods_without_a_sidecar_are_named() -> None:
    pods = [pod("with", APP), pod("without", APP, has_proxy=False)]
    error = refused(service(), APP, pods)
    assert "have no sidecar" in error.what
    assert "without (1 of 2)" in error.what
    assert "hostNetwork" in error.fix


def test_pods_that_are_no_more_do_not_count() -> None:
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


def test_every_object_for_pods_has_the_labels_of_the_file() -> None:
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

    def stats(self, proxies: Sequence[object], _wanted: str) -> dict[str, str]:
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
def test_strict_for_no_pod_is_refused(settings: dict[str, Any], key: str | None) -> None:
    checkout = service(**settings)
    change = plaintext.Change(
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
def answering() -> Iterator[Callable[[int, object], Api]]:
    """An API server that gives one answer to everything."""
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


def test_only_not_found_means_that_there_is_no_service(
    answering: Callable[[int, object], Api],
) -> None:
    assert answering(200, {"spec": {"selector": NAME}}).selector("shop", "checkout") == NAME
    assert answering(200, {"spec": {}}).selector("shop", "checkout") == {}
    assert answering(404, {"reason": "NotFound"}).selector("shop", "checkout") is None
    for status in (403, 500, 503):
        with pytest.raises(NordmeshError, match=f"status {status}"):
            answering(status, {}).selector("shop", "checkout")
