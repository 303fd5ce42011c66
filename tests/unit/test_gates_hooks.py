"""When a gate measures at all: only for an edit that could cut callers off."""

import asyncio
import contextlib
import subprocess
import sys
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pulumi
import pytest

from components.gates import api, canary, plaintext, selection
from components.gates.hooks import Gates
from components.manifests import authorization
from config import Mesh
from config.errors import NordmeshError
from config.mtls.checks import warnings
from tests.support.mocked import config


class Measured(Exception):
    """A check was about to be run."""


@pytest.fixture
def gates(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Gates]:
    """Make the gates of a mesh, with callbacks in place of hooks that an engine knows."""
    monkeypatch.setattr(pulumi, "ResourceHook", lambda _name, callback: callback)

    async def measure(_self: Gates, _check: object) -> None:
        raise Measured

    monkeypatch.setattr(Gates, "_measure", measure)

    def make(**mesh: object) -> Gates:
        values = {
            "namespaces": {"shop": {}, "pay": {}},
            "services": {
                "checkout": {
                    "namespace": "shop",
                    "port": 8080,
                    "stable": "v1",
                    "canary": {"subset": "v2", "weight": 10, "gate": {}},
                }
            },
        }
        return Gates(Mesh.model_validate(values | mesh), SimpleNamespace())  # type: ignore[arg-type]

    return make


def policy(mode: str | None, namespace: str = "shop") -> dict[str, Any] | None:
    if mode is None:
        return None
    metadata = {"namespace": namespace, "name": "default"}
    return {"metadata": metadata, "spec": {"mtls": {"mode": mode}}}


def route(weight: int) -> dict[str, Any]:
    split = [{"destination": {"subset": "v2"}, "weight": weight}]
    metadata = {"namespace": "shop", "name": "checkout"}
    return {"metadata": metadata, "spec": {"http": [{"route": split}]}}


MESH = Mesh.model_validate(
    {
        "namespaces": {"shop": {}},
        "services": {
            "checkout": {
                "namespace": "shop",
                "port": 8080,
                "stable": "v1",
                "callers": [],
                "canary": {"subset": "v2", "weight": 10, "gate": {}},
            }
        },
    }
)
CALLERS = authorization.authorization_policy("checkout", MESH.services)


def run(hook: Any, old: dict[str, Any] | None, new: dict[str, Any]) -> None:
    asyncio.run(hook(SimpleNamespace(old_inputs=old, new_inputs=new)))


def strict(gates: Gates, old: str | None, new: str, namespace: str = "shop") -> None:
    event = gates.strict.before_create if old is None else gates.strict.before_update
    assert event is not None
    run(event[0], policy(old, namespace), policy(new, namespace) or {})


def made_namespace(gates: Gates, name: str) -> None:
    assert gates.namespaces.after_create is not None
    note: Any = gates.namespaces.after_create[0]
    note(SimpleNamespace(new_inputs={"metadata": {"name": name}}))


def test_strict_is_measured(gates: Callable[..., Gates]) -> None:
    for old in ("PERMISSIVE", None):
        for namespace in ("shop", "istio-system"):
            with pytest.raises(Measured):
                strict(gates(), old, "STRICT", namespace)


def test_what_does_not_become_strict_is_not_measured(gates: Callable[..., Gates]) -> None:
    strict(gates(), "STRICT", "STRICT")
    strict(gates(), "STRICT", "PERMISSIVE")
    strict(gates(), None, "PERMISSIVE")


def test_a_namespace_that_this_run_made_has_no_clients_yet(gates: Callable[..., Gates]) -> None:
    some = gates()
    made_namespace(some, "shop")
    strict(some, None, "STRICT")
    with pytest.raises(Measured):
        strict(some, None, "STRICT", "pay")
    with pytest.raises(Measured):
        strict(some, None, "STRICT", "istio-system")
    made_namespace(some, "pay")
    strict(some, None, "STRICT", "istio-system")


def test_disable_to_strict_is_refused_without_measuring(gates: Callable[..., Gates]) -> None:
    with pytest.raises(NordmeshError, match="from DISABLE to STRICT"):
        strict(gates(), "DISABLE", "STRICT")


def test_an_override_skips_the_gate_with_a_warning(gates: Callable[..., Gates]) -> None:
    reason = "the importer is switched off tonight"
    override = {"mtlsGate": {"override": reason}}
    strict(gates(**override), "DISABLE", "STRICT")
    (line,) = warnings(config(mesh=override).mesh)
    assert reason in line


def test_a_mesh_without_namespaces_is_measured_too(gates: Callable[..., Gates]) -> None:
    with pytest.raises(Measured):
        strict(gates(namespaces={}, services={}), "PERMISSIVE", "STRICT", "istio-system")


@pytest.mark.parametrize("is_refused", [False, True])
def test_a_measurement_runs_beside_the_program_and_decides(
    monkeypatch: pytest.MonkeyPatch, is_refused: bool
) -> None:
    """Its progress is logged from the program's own thread."""
    monkeypatch.setattr(pulumi, "ResourceHook", lambda _name, callback: callback)
    logged: list[tuple[str, bool]] = []

    def info(line: str, **_options: object) -> None:
        logged.append((line, threading.current_thread() is threading.main_thread()))

    async def secret() -> str:
        return "the kubeconfig"

    monkeypatch.setattr(pulumi.log, "info", info)
    monkeypatch.setattr(api, "connect", contextlib.nullcontext)

    def check(connected: object, _edit: object, _mesh: object, say: Callable[[str], None]) -> str:
        assert connected == "the kubeconfig"
        assert threading.current_thread() is not threading.main_thread()
        say("half")
        if is_refused:
            raise NordmeshError("plaintext", code="gate-plaintext")
        return "measured"

    monkeypatch.setattr(plaintext, "check", check)
    some = Gates(Mesh(), SimpleNamespace(future=secret))  # type: ignore[arg-type]
    if is_refused:
        with pytest.raises(NordmeshError):
            strict(some, "PERMISSIVE", "STRICT")
    else:
        strict(some, "PERMISSIVE", "STRICT")
        assert logged[-1] == ("measured", True)
    assert logged[0] == ("half", True)


def test_only_a_raised_weight_is_measured(gates: Callable[..., Gates]) -> None:
    assert gates().canary.before_update is not None
    (hook,) = gates().canary.before_update or []
    with pytest.raises(Measured):
        run(hook, route(5), route(10))
    run(hook, route(10), route(5))
    run(hook, route(10), route(0))
    run(hook, route(10), route(10))


@pytest.mark.parametrize("event", ["before_create", "before_update"])
def test_callers_are_looked_at_whenever_they_are_written(
    gates: Callable[..., Gates], event: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = gates()
    mesh = Mesh.model_validate(
        {"services": {"checkout": {"namespace": "shop", "port": 1, "stable": "v1", "callers": []}}}
    )
    policy = authorization.authorization_policy("checkout", mesh.services)
    (hook,) = getattr(some.callers, event)
    with pytest.raises(Measured):
        run(hook, None, policy)
    # There are no pods yet, and an `up` that makes everything must pass; but not in silence.
    warned: list[str] = []
    monkeypatch.setattr(pulumi.log, "warn", warned.append)
    made_namespace(some, "shop")
    run(hook, None, policy)
    (line,) = warned
    assert "app=checkout" in line
    assert "mesh.services.checkout.selector" in line


def test_the_kubernetes_client_is_imported_by_a_measurement_only() -> None:
    code = (
        "import sys, stacks.platform; from components.gates import canary, plaintext; "
        "assert 'kubernetes' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("module", "check", "gate", "old", "new"),
    [
        (plaintext, "check", "strict", policy("PERMISSIVE"), policy("STRICT")),
        (canary, "check", "canary", route(5), route(10)),
        (selection, "check_all", "callers", None, CALLERS),
    ],
)
def test_each_gate_measures_the_edit_on_the_cluster_and_logs_the_result(
    monkeypatch: pytest.MonkeyPatch,
    module: Any,
    check: str,
    gate: str,
    old: dict[str, Any] | None,
    new: dict[str, Any],
) -> None:
    monkeypatch.setattr(pulumi, "ResourceHook", lambda _name, callback: callback)
    monkeypatch.setattr(api, "connect", contextlib.nullcontext)
    logged: list[str] = []
    monkeypatch.setattr(pulumi.log, "info", lambda line, **_options: logged.append(line))
    measured: list[tuple[object, ...]] = []

    def measure(*arguments: object) -> str:
        measured.append(arguments)
        return "measured"

    monkeypatch.setattr(module, check, measure)

    async def secret() -> str:
        return "the kubeconfig"

    gates = Gates(MESH, SimpleNamespace(future=secret))  # type: ignore[arg-type]
    (hook,) = getattr(gates, gate).before_update
    run(hook, old, new)
    ((connected, edit, *_),) = measured
    assert connected == "the kubeconfig"
    edited: Any = edit
    assert edited.name == new["metadata"]["name"].removesuffix("-callers")
    assert logged == ["measured"]
