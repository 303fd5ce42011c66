"""STRICT that would leave a door open, or shut out the API server: the gate names both."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from components.gates.inventory import BarePod, Inventory, Pod, inventory_of
from components.manifests.mtls import Modes
from tests.unit.components.gates.test_verdicts import (
    FakeApi,
    change,
    inbound_statistics,
    mesh,
    policy,
    proxy,
    refusal,
    strict_check,
)

pytestmark = pytest.mark.usefixtures("clock")

QUIET = [inbound_statistics()]


def bare(name: str, namespace: str = "shop", **settings: Any) -> BarePod:
    labels = settings.pop("labels", {"app": name})
    return BarePod(namespace=namespace, workload=f"{namespace}/{name}", labels=labels, **settings)


def api_with(*pods: BarePod, **settings: Any) -> FakeApi:
    return FakeApi([proxy("checkout")], {"checkout": QUIET}, bare=pods, **settings)


# --- pods without a sidecar ----------------------------------------------------------------------


@pytest.mark.parametrize("edited", ["shop", "istio-system"])
def test_pods_without_a_sidecar_are_named(edited: str) -> None:
    text = refusal(api_with(bare("importer"), bare("agent", on_host=True)), change(edited), mesh())
    assert "[gate-pods-without-sidecar]" in text
    assert "shop/agent, shop/importer have no sidecar (shop/agent: hostNetwork)" in text
    assert "the mode stays as it was" in text


def test_a_namespace_with_only_bare_pods_is_refused() -> None:
    api = FakeApi([], {}, bare=[bare("importer")])
    assert "shop/importer have no sidecar" in refusal(api, change(), mesh())


def test_pods_that_opted_out_are_reported() -> None:
    report = strict_check(api_with(bare("debug", opted_out=True)), change(), mesh())
    assert "no plaintext to 1 workload in 10s; shop/debug still accept plaintext" in report


@pytest.mark.parametrize(
    ("pod", "settings"),
    [
        (bare("dns", "kube-system"), {}),  # not in the mesh
        (bare("old", "legacy"), {}),  # has its own mode
        (bare("checkout"), {"mtls": {"mode": "PERMISSIVE"}}),
    ],
)
def test_pods_that_do_not_become_strict_are_not_named(
    pod: BarePod, settings: dict[str, Any]
) -> None:
    edited = change("istio-system")
    assert "kube-system" not in strict_check(api_with(pod), edited, mesh(**settings))


def test_modes_of_a_service_must_select_all_its_pods() -> None:
    """One of two pods with the labels left the other one open."""
    pods = [
        Pod(name=name, labels=labels, has_proxy=True, is_ready=True)
        for name, labels in (
            ("new", {"app": "shop-checkout"}),
            ("old", {"app": "shop-checkout", "tier": "web"}),
        )
    ]
    edited = change(name="checkout", before=Modes(mode=None), after=policy("STRICT"))
    old = proxy("old", app="shop-checkout", tier="web")
    strict = {"mtls": {"mode": "STRICT"}, "selector": {"app": "shop-checkout", "tier": "web"}}

    def check(**settings: Any) -> str:
        api = FakeApi([old], {"old": QUIET}, other_pods=pods)
        try:
            return strict_check(api, edited, mesh(**settings))
        except Exception as error:
            return " ".join(str(error).split())

    assert "do not have the labels app=shop-checkout,tier=web: new (1 of" in check(**strict)
    own = {"mtls": {"mode": "STRICT", "selector": strict["selector"]}}
    assert "no plaintext" in check(**own), "an own selector may be meant for some pods"


def test_bare_pods_are_read_from_the_api_server() -> None:
    def pod(name: str, *, spec: Mapping[str, Any] = {}, **metadata: Any) -> dict[str, Any]:
        return {
            "metadata": {"namespace": "shop", "name": name, **metadata},
            "spec": {"containers": [{"name": "app"}], **spec},
            "status": {"podIPs": [{"ip": "10.0.0.1"}]},
        }

    inject = {"sidecar.istio.io/inject": "false"}
    inventory = inventory_of(
        [
            pod("plain"),
            pod("agent", spec={"hostNetwork": True}),
            pod("label", labels=inject),
            pod("note", annotations=inject),
            pod("label-wins", annotations=inject, labels={"sidecar.istio.io/inject": "true"}),
            pod("ends", deletionTimestamp="2027-01-01T00:00:00Z"),
        ],
        [],
    )
    assert [(one.workload, one.opted_out, one.on_host) for one in inventory.bare] == [
        ("shop/plain", False, False),
        ("shop/agent", False, True),
        ("shop/label", True, False),
        ("shop/note", True, False),
        ("shop/label-wins", False, False),
    ]


# --- what the API server calls -------------------------------------------------------------------

CLIENT = {"service": {"namespace": "shop", "name": "guard"}}
METADATA = {"metadata": {"name": "guard.shop.example"}}
OBJECTS: dict[str, dict[str, Any]] = {
    "validatingwebhookconfigurations": {"webhooks": [{"clientConfig": CLIENT}]},
    "mutatingwebhookconfigurations": {
        "webhooks": [
            {"clientConfig": {"url": "https://outside.example"}},
            {"clientConfig": CLIENT},
        ]
    },
    "apiservices": {"spec": CLIENT},
    "customresourcedefinitions": {"spec": {"conversion": {"webhook": {"clientConfig": CLIENT}}}},
}
GUARD = {"selector": {"app": "guard"}, "ports": [{"port": 443, "targetPort": 9443}]}


def guarded(kind: str, service: Mapping[str, Any] = GUARD, **settings: Any) -> FakeApi:
    pod = proxy("guard")
    return FakeApi(
        [inventory_proxy(pod, **settings)],
        {"guard": QUIET},
        objects={kind: [METADATA | OBJECTS[kind]]},
        services={"guard": service},
    )


def inventory_proxy(pod: Any, **settings: Any) -> Any:
    return replace(pod, **settings)


@pytest.mark.parametrize("kind", OBJECTS)
def test_pods_that_the_api_server_calls_are_not_made_strict(kind: str) -> None:
    text = refusal(guarded(kind), change(), mesh())
    assert "[gate-api-server-calls]" in text
    assert "the API server calls port 9443 of shop/guard for" in text
    assert "guard.shop.example" in text
    assert "ports: {9443: PERMISSIVE} at nordmesh:mesh.services.guard.mtls" in text


def test_a_port_by_name_is_the_pods() -> None:
    named = {**GUARD, "ports": [{"port": 443, "targetPort": "https"}]}
    api = guarded("apiservices", named, port_names={"https": "10250"})
    assert "calls port 10250 of shop/guard" in refusal(api, change(), mesh())


def test_the_proposed_exception_is_accepted() -> None:
    exception = {"guard": {"namespace": "shop", "port": 443, "stable": "v1",
                           "mtls": {"ports": {9443: "PERMISSIVE"}}}}  # fmt: skip
    config = mesh()
    services = {**config.services, **type(config).model_validate({"services": exception}).services}
    allowed = config.model_copy(update={"services": services})
    assert "no plaintext" in strict_check(guarded("apiservices"), change(), allowed)


@pytest.mark.parametrize(
    ("service", "settings"),
    [
        (GUARD, {"excluded_ports": frozenset({"9443"})}),
        ({**GUARD, "selector": {"app": "other"}}, {}),
        ({**GUARD, "selector": None}, {}),
        ({**GUARD, "ports": [{"port": 80}]}, {}),
        (None, {}),
    ],
)
def test_calls_that_strict_does_not_refuse(service: Any, settings: dict[str, Any]) -> None:
    assert "no plaintext" in strict_check(
        guarded("apiservices", service, **settings), change(), mesh()
    )


def test_ports_and_exceptions_are_read_from_the_pod() -> None:
    pod = {
        "metadata": {
            "namespace": "shop",
            "name": "guard",
            "annotations": {"traffic.sidecar.istio.io/excludeInboundPorts": "9443, 9444"},
        },
        "spec": {
            "containers": [
                {"name": "istio-proxy", "args": ["proxy", "sidecar"]},
                {"name": "app", "ports": [{"name": "https", "containerPort": 9443}]},
            ]
        },
        "status": {},
    }
    inventory: Inventory = inventory_of([pod], [])
    (only,) = inventory.proxies
    assert only.port_names == {"https": "9443"}
    assert only.excluded_ports == {"9443", "9444"}
