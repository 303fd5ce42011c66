"""Services of the same name in two namespaces: each entry is about its own Service."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pulumi
import pytest

from cli import report, status
from cli.review.preview import parse
from cli.review.summary import summary
from components.gates import canary
from components.gates.hooks import Gates
from components.manifests import Manifest, authorization, hosts, mtls, routes
from config import Caller, Mesh, account
from config.errors import NordmeshError
from config.scalars.names import subset_name
from tests.support.mocked import kubernetes_objects, run
from tests.support.sections import checkout
from tests.unit.conftest import Load, Values
from tests.unit.previews import object_change, preview

SHOP = "checkout.shop.svc.cluster.local"
BACKEND = "checkout.backend.svc.cluster.local"
ENTRY = "backend-checkout"
GATE = {"minSuccessRate": 99.5}
TWO: Values = {
    "namespaces": {"shop": {"mtls": "STRICT"}, "backend": {}},
    "gateways": {"web": {"hosts": ["shop.example.com"]}},
    "services": {
        "checkout": {
            **checkout(),
            "gateway": "web",
            "hosts": ["shop.example.com"],
            "serviceAccount": "shop-checkout",
            "callers": [{"service": "backend/checkout"}, {"gateway": "istio-ingressgateway"}],
        },
        ENTRY: {
            "service": "checkout",
            "namespace": "backend",
            "port": 8080,
            "stable": "v1",
            "canary": {"subset": "v3", "weight": 25, "gate": GATE},
            "gateway": "web",
            "hosts": ["shop.example.com"],
            "paths": [{"prefix": "/back"}],
            "serviceAccount": "backend-checkout",
            "callers": [{"service": "shop/checkout"}, {"gateway": "istio-ingressgateway"}],
            "mtls": {"mode": "STRICT"},
        },
    },
}


def two(stack: Values) -> Values:
    stack["mesh"] = TWO
    stack["demo"] = {"enabled": False}
    return stack


@pytest.fixture
def manifests(load: Load, container_stack: Values) -> dict[tuple[str, str, str], Manifest]:
    """The objects of the two, by kind, namespace and name."""
    recorder, _ = run(load(two(container_stack)))
    return {
        (kind["kind"], kind["metadata"]["namespace"], kind["metadata"]["name"]): kind
        for kind in kubernetes_objects(recorder)
        if "namespace" in kind["metadata"]
    }


def test_each_service_has_its_own_objects(
    manifests: dict[tuple[str, str, str], Manifest],
) -> None:
    for namespace, host, canary_name in (("shop", SHOP, "v2"), ("backend", BACKEND, "v3")):
        route = manifests["VirtualService", namespace, "checkout"]
        assert host in route["spec"]["hosts"]
        for rule in ("checkout", "checkout.v1", f"checkout.{canary_name}"):
            assert manifests["DestinationRule", namespace, rule]["spec"]["host"] == host
        access = manifests["AuthorizationPolicy", namespace, "checkout-callers"]
        assert access["spec"]["selector"] == {"matchLabels": {"app": "checkout"}}
    mode = manifests["PeerAuthentication", "backend", "checkout"]
    assert mode["spec"]["selector"] == {"matchLabels": {"app": "checkout"}}
    assert not [name for _, _, name in manifests if ENTRY in name]


def test_paths_of_one_host_lead_to_both(
    manifests: dict[tuple[str, str, str], Manifest],
) -> None:
    routes_of_host = manifests["VirtualService", "istio-system", "web.host.shop.example.com"]
    delegates = [route["delegate"] for route in routes_of_host["spec"]["http"]]
    assert delegates == [
        {"name": "checkout.split", "namespace": "backend"},
        {"name": "checkout.split", "namespace": "shop"},
    ]


def test_each_is_called_by_the_account_of_the_other(
    manifests: dict[tuple[str, str, str], Manifest],
) -> None:
    for namespace, other in (("shop", "backend"), ("backend", "shop")):
        access = manifests["AuthorizationPolicy", namespace, "checkout-callers"]
        (source, *_) = access["spec"]["rules"][0]["from"]
        assert source["source"]["principals"] == [
            f"cluster.local/ns/{other}/sa/{other}-checkout",
        ]


def test_a_caller_is_an_entry_or_the_service_of_a_namespace() -> None:
    services = Mesh.model_validate(TWO).services
    for reference, namespace in (
        ("checkout", "shop"),
        ("shop/checkout", "shop"),
        (ENTRY, "backend"),
        ("backend/checkout", "backend"),
    ):
        assert account(Caller(service=reference), services)[0] == namespace


class Api:
    """An API server without any Service; records the Services that are looked for."""

    def __init__(self) -> None:
        self.services: list[tuple[str, str]] = []

    def selector(self, namespace: str, name: str) -> None:
        self.services.append((namespace, name))

    def pods(self, _namespace: str) -> list[Any]:
        return []


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The keys and the first words of the errors of gates; none of them measures."""
    found: list[tuple[str, str]] = []

    async def measure(_self: Gates, check: Any) -> None:
        api = Api()
        try:
            check(api, lambda _line: None)
        except NordmeshError as error:
            found.append((str(error.path), error.what))
        assert set(api.services) <= {("shop", "checkout"), ("backend", "checkout")}

    monkeypatch.setattr(pulumi, "ResourceHook", lambda _name, callback, _opts=None: callback)
    monkeypatch.setattr(Gates, "_measure", measure)
    return found


def edit(hooks: Any, old: Manifest, new: Manifest) -> None:
    (hook,) = hooks.before_update
    asyncio.run(hook(SimpleNamespace(old_inputs=old, new_inputs=new)))


ENTRIES = pytest.mark.parametrize(
    ("entry", "namespace"), [("checkout", "shop"), (ENTRY, "backend")]
)


@ENTRIES
def test_gates_of_routes_read_the_service_that_is_edited(
    monkeypatch: pytest.MonkeyPatch, refused: list[tuple[str, str]], entry: str, namespace: str
) -> None:
    """A hook sees an object only; the error names the entry in the stack file."""
    mesh = Mesh.model_validate(TWO)
    gates = Gates(mesh, SimpleNamespace())  # type: ignore[arg-type]
    measured: list[str] = []
    monkeypatch.setattr(canary, "check", lambda _api, edit, _say: measured.append(edit.cluster))
    service = mesh.services[entry]
    assert service.canary is not None
    more = service.canary.model_copy(update={"weight": service.canary.weight + 1})
    raised = service.model_copy(update={"canary": more})
    edit(gates.canary, hosts.split(entry, service), hosts.split(entry, raised))
    key = f"nordmesh:mesh.services.{entry}.canary"
    ((path, words),) = refused
    assert path == key
    assert f"no ready pod of {namespace}/checkout has" in words
    subset = subset_name(service.canary.subset)
    cluster = f"outbound|8080|{subset}|checkout.{namespace}.svc.cluster.local"
    assert measured == ([cluster] if service.canary.gate else [])
    refused.clear()
    other = service.model_copy(update={"version_label": "app.kubernetes.io/version"})
    edit(gates.pods, routes.subset_rules(entry, service)[1], routes.subset_rules(entry, other)[1])
    ((path, _),) = refused
    assert path == key


@ENTRIES
def test_the_gate_of_callers_reads_the_service_that_is_edited(
    refused: list[tuple[str, str]], entry: str, namespace: str
) -> None:
    mesh = Mesh.model_validate(TWO)
    gates = Gates(mesh, SimpleNamespace())  # type: ignore[arg-type]
    rule = authorization.authorization_policy(entry, mesh.services)
    edit(gates.callers, rule, rule)
    ((path, words),) = refused
    assert path == f"nordmesh:mesh.services.{entry}.callers"
    assert f"the Service {namespace}/checkout does not exist" in words


def test_the_gate_of_modes_names_the_entry(refused: list[tuple[str, str]]) -> None:
    mesh = Mesh.model_validate(TWO)
    gates = Gates(mesh, SimpleNamespace())  # type: ignore[arg-type]
    service = mesh.services[ENTRY]
    assert service.mtls is not None
    new = mtls.service_peer_authentication(ENTRY, service, service.mtls)
    edit(gates.strict, {**new, "spec": {"mtls": {"mode": "PERMISSIVE"}}}, new)
    ((path, words),) = refused
    assert path == f"nordmesh:mesh.services.{ENTRY}.mtls"
    assert "the Service backend/checkout does not exist" in words


def test_a_review_shows_the_gate_of_the_right_service() -> None:
    service = Mesh.model_validate(TWO).services[ENTRY]
    assert service.canary is not None
    raised = service.model_copy(update={"canary": service.canary.model_copy(update={"weight": 50})})
    change = object_change(hosts.split(ENTRY, service), hosts.split(ENTRY, raised), "spec")
    text = summary(parse(preview(change, config={"mesh": TWO}))).render()
    assert "| `backend/checkout` | all | `v1/v3` | 75/25 | **50/50** |" in text
    assert "measured first: minSuccessRate 99.5" in text


def test_reports_count_each_service(load: Load, container_stack: Values) -> None:
    config = load(two(container_stack))
    counted = {"shop/checkout/v2/v2/ok": 1.0, "backend/checkout/v3/v3/ok": 3.0}
    shares = {split.service: split.requests for split in status.splits(config, counted)}
    assert shares == {"shop/checkout": 1, "backend/checkout": 3}
    called = {row["Service"] for row in report.access(config).records()}
    assert called == {"shop/checkout", "backend/checkout"}
