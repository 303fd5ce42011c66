"""An object that someone else created is neither overwritten nor deleted."""

import asyncio
import contextlib
import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pulumi
import pytest
from kubernetes import client

from components import taken_objects
from components.gates import api
from components.taken_objects import ADOPT, TakenObjects, refuse_taken
from config.errors import NordmeshError
from tests.unit.components.gates.test_server import Answer, Server, serve
from tests.unit.stacks.test_options import recorded

ROUTE = {
    "apiVersion": "networking.istio.io/v1beta1",
    "kind": "VirtualService",
    "metadata": {"namespace": "shop", "name": "checkout"},
}
NAMESPACE = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}
ROUTES = "/apis/networking.istio.io/v1beta1"
ROUTE_PATH = f"{ROUTES}/namespaces/shop/virtualservices/checkout"
NAMESPACE_PATH = "/api/v1/namespaces/shop"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Server, api.Api]]:
    """An API server with no object of these names, and a client of it."""
    monkeypatch.setattr(taken_objects, "_PAUSES", (0.01,) * 3)
    kinds = {
        ROUTES: {"virtualservices": "VirtualService", "virtualservices/status": "VirtualService"},
        "/api/v1": {"namespaces": "Namespace"},
    }
    scripted = Server(
        {
            path: Answer(
                json.dumps(
                    {"resources": [{"name": name, "kind": kind} for name, kind in names.items()]}
                ).encode()
            )
            for path, names in kinds.items()
        }
    )
    with serve(scripted) as port:
        configuration = client.Configuration(host=f"http://127.0.0.1:{port}")
        configuration.retries = False
        yield scripted, api.Api(configuration)


def stored(*managers: str, **annotations: str) -> Answer:
    metadata = {
        "name": "a",
        "annotations": annotations,
        "managedFields": [{"manager": manager} for manager in managers],
    }
    return Answer(json.dumps({"metadata": metadata}).encode())


@pytest.mark.parametrize(("manifest", "path"), [(ROUTE, ROUTE_PATH), (NAMESPACE, NAMESPACE_PATH)])
def test_an_object_of_somebody_else_is_not_taken_over(
    server: tuple[Server, api.Api], manifest: dict[str, Any], path: str
) -> None:
    scripted, connected = server
    refuse_taken(connected, manifest)
    scripted.answers[path] = stored("kubectl-client-side-apply", "helm")
    with pytest.raises(NordmeshError) as caught:
        refuse_taken(connected, manifest)
    print(caught.value)
    error = caught.value
    assert error.code == "object-exists"
    assert "written by kubectl-client-side-apply, helm" in error.what
    assert f"kubectl annotate {manifest['kind']}" in str(error)


def test_an_object_of_a_killed_run_is_written_again(server: tuple[Server, api.Api]) -> None:
    """The run created it, and was killed before the state had it."""
    scripted, connected = server
    scripted.answers[ROUTE_PATH] = stored("kubectl-edit", "nordmesh")
    refuse_taken(connected, ROUTE)


def test_an_object_that_its_owner_hands_over_is_taken(server: tuple[Server, api.Api]) -> None:
    scripted, connected = server
    scripted.answers[NAMESPACE_PATH] = stored("helm", **{ADOPT: "joins the mesh"})
    refuse_taken(connected, NAMESPACE)


def test_an_object_whose_kind_does_not_exist_yet_does_not_exist(
    server: tuple[Server, api.Api],
) -> None:
    scripted, connected = server
    del scripted.answers[ROUTES]
    refuse_taken(connected, ROUTE)


def test_only_not_found_means_that_there_is_no_object(server: tuple[Server, api.Api]) -> None:
    scripted, connected = server
    for path in (ROUTES, ROUTE_PATH):
        usable = scripted.answers.get(path, Answer(status=404))
        assert isinstance(usable, Answer)
        for unusable in (Answer(status=403), Answer(status=500), Answer(b"<html>")):
            scripted.answers[path] = unusable
            with pytest.raises(NordmeshError, match="gate-no-api-server"):
                refuse_taken(connected, ROUTE)
        # An API server that is unavailable for a moment does not end a run.
        scripted.answers[path] = [Answer(status=500), Answer(status=500), usable]
        refuse_taken(connected, ROUTE)


def test_every_object_that_is_created_whole_has_the_hook() -> None:
    recorder = recorded("bought")
    kinds = {
        f"{kind.rpartition(':')[2]} {name}"
        for (kind, name), args in recorder.resources.items()
        if kind.startswith("kubernetes:") and not kind.endswith("Patch")
    }
    assert len(kinds) > 50
    hooks = {one: recorder.options[one].get("hooks", {}) for one in kinds}
    assert not [one for one in kinds if "whose object" not in hooks[one].get("before_create", [])]


class Known:
    """A value of Pulumi that is known."""

    def __init__(self, value: str | None) -> None:
        self.value = value

    async def future(self) -> str | None:
        return self.value


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, server: tuple[Server, api.Api]) -> list[str]:
    """The kubeconfigs that were used. The cluster has an object of another team."""
    scripted, connected = server
    scripted.answers[ROUTE_PATH] = stored("helm")
    monkeypatch.setattr(pulumi, "ResourceHook", lambda _name, callback, _options: callback)
    opened: list[str] = []

    def connect(kubeconfig: str) -> Any:
        opened.append(kubeconfig)
        return contextlib.nullcontext(connected)

    monkeypatch.setattr(api, "connect", connect)

    return opened


def hook_of(taken: TakenObjects) -> Any:
    return (taken.hooks.before_create or [])[0]


def test_the_hook_asks_the_cluster_of_the_stack(opened: list[str]) -> None:
    first: Any = Known("the first kubeconfig")
    taken = TakenObjects(Known("the kubeconfig"), first=first)  # type: ignore[arg-type]
    with pytest.raises(NordmeshError, match="object-exists"):
        asyncio.run(hook_of(taken)(SimpleNamespace(new_inputs=ROUTE)))
    assert opened == ["the kubeconfig"]


def test_a_preview_that_renews_the_certificate_asks_with_the_first_one(
    monkeypatch: pytest.MonkeyPatch, opened: list[str]
) -> None:
    monkeypatch.setattr(pulumi.runtime, "is_dry_run", lambda: True)
    first: Any = Known("the first kubeconfig")
    taken = TakenObjects(Known(None), first=first)  # type: ignore[arg-type]
    asyncio.run(hook_of(taken)(SimpleNamespace(new_inputs=ROUTE)))

    async def refuse() -> None:
        await taken.refuse_at_preview().future()

    with pytest.raises(NordmeshError, match="object-exists"):
        asyncio.run(refuse())
    assert opened == ["the first kubeconfig"]
