"""When a gate measures: only for an edit that could break callers."""

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

from components.gates import api, canary, plaintext, pod_security, selection, subsets
from components.gates.hooks import Gates
from components.manifests import authorization, mtls
from config import Mesh, Namespace
from config.errors import NordmeshError
from config.mtls.checks import warnings
from tests.support.mocked import config


class Measured(Exception):
    """Raised when a gate starts to measure."""


@pytest.fixture
def gates(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Gates]:
    """Build the gates of a mesh, with plain callbacks instead of engine hooks."""
    monkeypatch.setattr(pulumi, "ResourceHook", lambda _name, callback, _opts=None: callback)

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
    split = [
        {"destination": {"subset": "v1"}, "weight": 100 - weight},
        {"destination": {"subset": "v2"}, "weight": weight},
    ]
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


def create_namespace(gates: Gates, name: str) -> None:
    assert gates.namespaces.after_create is not None
    note: Any = gates.namespaces.after_create[0]
    note(SimpleNamespace(new_inputs={"metadata": {"name": name}}))


def test_strict_is_measured(gates: Callable[..., Gates]) -> None:
    for old in ("PERMISSIVE", None):
        for namespace in ("shop", "istio-system"):
            with pytest.raises(Measured):
                strict(gates(), old, "STRICT", namespace)


def test_other_edits_of_a_mode_are_not_measured(gates: Callable[..., Gates]) -> None:
    strict(gates(), "STRICT", "STRICT")
    strict(gates(), "STRICT", "PERMISSIVE")
    strict(gates(), None, "PERMISSIVE")


def test_a_new_namespace_is_not_measured(gates: Callable[..., Gates]) -> None:
    mesh_gates = gates()
    create_namespace(mesh_gates, "shop")
    strict(mesh_gates, None, "STRICT")
    with pytest.raises(Measured):
        strict(mesh_gates, None, "STRICT", "pay")
    with pytest.raises(Measured):
        strict(mesh_gates, None, "STRICT", "istio-system")
    create_namespace(mesh_gates, "pay")
    strict(mesh_gates, None, "STRICT", "istio-system")


def test_disable_to_strict_is_refused_without_measuring(gates: Callable[..., Gates]) -> None:
    with pytest.raises(NordmeshError, match="from DISABLE to STRICT"):
        strict(gates(), "DISABLE", "STRICT")


def test_an_override_skips_the_gate_with_a_warning(gates: Callable[..., Gates]) -> None:
    reason = "the importer is switched off tonight"
    override = {"mtlsGate": {"override": reason}}
    strict(gates(**override), "DISABLE", "STRICT")
    (line,) = warnings(config(mesh=override).mesh)
    assert reason in line


def test_a_mesh_without_namespaces_is_measured(gates: Callable[..., Gates]) -> None:
    with pytest.raises(Measured):
        strict(gates(namespaces={}, services={}), "PERMISSIVE", "STRICT", "istio-system")


@pytest.mark.parametrize("is_refused", [False, True])
def test_a_measurement_runs_in_its_own_thread_and_decides(
    monkeypatch: pytest.MonkeyPatch, is_refused: bool
) -> None:
    """Progress is logged from the main thread."""
    monkeypatch.setattr(pulumi, "ResourceHook", lambda _name, callback, _opts=None: callback)
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
    mesh_gates = Gates(Mesh(), SimpleNamespace(future=secret))  # type: ignore[arg-type]
    if is_refused:
        with pytest.raises(NordmeshError):
            strict(mesh_gates, "PERMISSIVE", "STRICT")
    else:
        strict(mesh_gates, "PERMISSIVE", "STRICT")
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


def test_first_routes_are_checked(gates: Callable[..., Gates]) -> None:
    mesh_gates = gates()
    (hook,) = mesh_gates.canary.before_create or []
    with pytest.raises(Measured):
        run(hook, None, route(10))
    create_namespace(mesh_gates, "shop")
    run(hook, None, route(10))


@pytest.mark.parametrize("event", ["before_create", "before_update"])
def test_callers_are_checked_on_create_and_update(
    gates: Callable[..., Gates], event: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh_gates = gates()
    mesh = Mesh.model_validate(
        {"services": {"checkout": {"namespace": "shop", "port": 1, "stable": "v1", "callers": []}}}
    )
    policy = authorization.authorization_policy("checkout", mesh.services)
    (hook,) = getattr(mesh_gates.callers, event)
    with pytest.raises(Measured):
        run(hook, None, policy)
    # A new namespace has no pods yet. The first `up` must pass, with a warning.
    warned: list[str] = []
    monkeypatch.setattr(pulumi.log, "warn", warned.append)
    create_namespace(mesh_gates, "shop")
    run(hook, None, policy)
    (line,) = warned
    assert "app=checkout" in line
    assert "mesh.services.checkout.selector" in line


def test_only_a_measurement_imports_the_kubernetes_client() -> None:
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
        (subsets, "check", "canary", route(5), route(10)),
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
    monkeypatch.setattr(pulumi, "ResourceHook", lambda _name, callback, _opts=None: callback)
    monkeypatch.setattr(api, "connect", contextlib.nullcontext)
    logged: list[str] = []
    monkeypatch.setattr(pulumi.log, "info", lambda line, **_options: logged.append(line))
    measured: list[tuple[object, ...]] = []

    def measure(*arguments: object) -> str:
        measured.append(arguments)
        return "measured"

    for other in (canary, subsets):
        monkeypatch.setattr(other, "check", lambda *_arguments: "other")
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
    assert "measured" in logged


@pytest.mark.parametrize("event", ["after_create", "after_update"])
def test_a_missing_secret_of_a_gateway_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, event: str
) -> None:
    monkeypatch.setattr(pulumi, "ResourceHook", lambda _name, callback, _opts=None: callback)
    warned: list[str] = []
    monkeypatch.setattr(pulumi.log, "warn", warned.append)
    monkeypatch.setattr(
        api,
        "connect",
        lambda _kubeconfig: contextlib.nullcontext(
            SimpleNamespace(items=lambda _path, **_query: [])
        ),
    )

    async def secret() -> str:
        return "the kubeconfig"

    gateways = {
        "web": {"hosts": ["a.example"], "tls": {"secret": "web-tls"}},
        "other": {"hosts": ["b.example"], "tls": {"secret": "other-tls"}},
    }
    gates = Gates(Mesh.model_validate({"gateways": gateways}), SimpleNamespace(future=secret))  # type: ignore[arg-type]
    (hook,) = getattr(gates.secrets, event)
    run(hook, None, {"metadata": {"namespace": "istio-system", "name": "web"}})
    (line,) = warned
    assert "the Secret istio-system/web-tls does not exist" in line


# --- PodSecurity ----------------------------------------------------------------------------------


def level(**settings: object) -> dict[str, Any]:
    return mtls.namespace("plain", Namespace.model_validate(settings), kubernetes="1.23.17")


BASELINE, MESH_MEMBER = level(injection=False), level()
BEFORE: dict[str, Any] = {
    "metadata": {"name": "plain", "labels": {"istio-injection": "disabled"}},
}


@pytest.fixture
def change_level(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Change a namespace, and return the warnings."""
    monkeypatch.setattr(pulumi, "ResourceHook", lambda _name, callback, _opts=None: callback)
    monkeypatch.setattr(api, "connect", contextlib.nullcontext)
    logged: list[str] = []
    monkeypatch.setattr(pulumi.log, "warn", logged.append)

    def change(
        old: dict[str, Any] | None,
        new: dict[str, Any],
        *,
        preview: bool,
        answer: str = "",
        kubeconfig: str | None = "the kubeconfig",
    ) -> list[str]:
        async def secret() -> str | None:
            return kubeconfig

        def check(*_arguments: object) -> None:
            if answer:
                raise NordmeshError(answer, code=answer)

        monkeypatch.setattr(pod_security, "check", check)
        monkeypatch.setattr(pulumi.runtime, "is_dry_run", lambda: preview)
        own = Gates(Mesh(), SimpleNamespace(future=secret))  # type: ignore[arg-type]
        binding = own.namespaces
        hooks = binding.before_create if old is None else binding.before_update
        assert hooks is not None
        run(hooks[0], old, new)
        return logged

    return change


def test_a_preview_refuses_a_level_that_running_pods_do_not_meet(
    change_level: Callable[..., list[str]],
) -> None:
    for preview in (True, False):
        with pytest.raises(NordmeshError, match="pod-security-refuses-pods"):
            change_level(BEFORE, BASELINE, preview=preview, answer="pod-security-refuses-pods")


def test_a_preview_without_the_cluster_warns_and_an_update_stops(
    change_level: Callable[..., list[str]],
) -> None:
    (line,) = change_level(BEFORE, BASELINE, preview=True, answer="gate-no-api-server")
    assert line.startswith("mesh.namespaces.plain: ")
    with pytest.raises(NordmeshError, match="gate-no-api-server"):
        change_level(BEFORE, BASELINE, preview=False, answer="gate-no-api-server")


@pytest.mark.parametrize(
    ("old", "new", "kubeconfig"),
    [
        (BASELINE, BASELINE, "the kubeconfig"),
        (BASELINE, MESH_MEMBER, "the kubeconfig"),
        (None, BASELINE, "the kubeconfig"),
        (BEFORE, BASELINE, None),
    ],
    ids=["the same level", "joins the mesh", "a new namespace", "a new cluster"],
)
def test_a_preview_asks_the_cluster_only_for_a_new_level(
    change_level: Callable[..., list[str]],
    old: dict[str, Any] | None,
    new: dict[str, Any],
    kubeconfig: str | None,
) -> None:
    refused = {"answer": "pod-security-refuses-pods", "kubeconfig": kubeconfig}
    assert change_level(old, new, preview=True, **refused) == []


def test_an_existing_namespace_is_checked_before_it_is_taken_over(
    change_level: Callable[..., list[str]],
) -> None:
    with pytest.raises(NordmeshError, match="pod-security-refuses-pods"):
        change_level(None, BASELINE, preview=False, answer="pod-security-refuses-pods")
