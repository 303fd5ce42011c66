"""The options of the platform's resources: what is lost, leaked or done too early without them."""

from functools import cache
from typing import Any

import pytest

from tests.support import kvm_stack
from tests.support.mocked import Recorder, base_sections, config, run

_WHY = {
    "owner": "@shop",
    "purpose": "settle card payments",
    "legalBasis": "GDPR art. 6(1)(b), processor agreement of 2026-01-12",
    "country": "NO",
    "namespaces": ["shop"],
}
_SERVICE = {"port": 8080, "stable": "v1"}
_CHECKOUT = {
    **_SERVICE,
    "namespace": "shop",
    "gateway": "public",
    "hosts": ["shop.example.no"],
    "callers": [{"gateway": "istio-ingressgateway"}],
    "serviceAccount": "checkout",
}
_MESH: dict[str, Any] = {
    "namespaces": {"shop": {"mtls": "STRICT", "limitView": True}, "backend": {}},
    "services": {
        "checkout": _CHECKOUT,
        "ledger": {**_SERVICE, "namespace": "backend", "mtls": {"mode": "STRICT"}},
    },
    "gateways": {
        "public": {
            "ingressGateway": "istio-ingressgateway",
            "namespace": "istio-system",
            "hosts": ["shop.example.no"],
            "httpPort": 80,
        }
    },
    "egress": {
        "gateway": "istio-egressgateway",
        "hosts": {"bank": {**_WHY, "host": "api.bank.example"}},
    },
    "workloads": {"ledger-v1": {"namespace": "backend"}},
}
_MACHINES: dict[str, dict[str, Any]] = {
    "bought": base_sections()["machines"],  # type: ignore[dict-item]
    "guests": kvm_stack.machines(),
    "containers": {
        "container": {"bridge": "nordmesh0", "subnet": "10.66.0.0/24"},
        "nodes": {
            "cp-1": {"role": "control-plane", "provider": "container", "address": "10.66.0.11"},
            "worker-1": {"role": "worker", "provider": "container", "address": "10.66.0.21"},
        },
    },
}
_ISTIO = {"version": "1.16.5", "egressGateways": {"istio-egressgateway": {}}}


@cache
def made(
    machines: str, *, allow_data_loss: bool = False, storage_class: str | None = "local-path"
) -> Recorder:
    """A stack of one kind of machines with everything on it."""
    prometheus = {"enabled": True, "storage": {"storageClass": storage_class}}
    recorder, _ = run(
        config(
            machines=_MACHINES[machines] | {"allowDataLoss": allow_data_loss},
            istio=_ISTIO,
            mesh=_MESH,
            demo={"enabled": True},
            observability={"prometheus": prometheus},
        ),
        ssh_key=kvm_stack.private_key(),
    )
    return recorder


def option(recorder: Recorder, option: str) -> dict[str, Any]:
    """The resources that have an option, as `Kind name`, with its value."""
    return {
        resource: options[option]
        for resource, options in recorder.options.items()
        if option in options
    }


def scripts(recorder: Recorder) -> list[str]:
    """The scripts that run on machines."""
    return [f"Command {name}" for name in recorder.names("remote:Command")]


# --- data -----------------------------------------------------------------------------------------

_DATA = {"Command cp-1-init", "Namespace shop", "Namespace backend", "Namespace monitoring"}


@pytest.mark.parametrize(
    ("machines", "holders"),
    [
        ("bought", set()),
        ("guests", {"Command cp-1-guest", "Command worker-1-guest"}),
        ("containers", {"Command cp-1-machine", "Command worker-1-machine"}),
    ],
)
def test_what_holds_data_is_protected(machines: str, holders: set[str]) -> None:
    assert set(option(made(machines), "protect")) == _DATA | holders
    assert option(made(machines, allow_data_loss=True), "protect") == {}


def test_metrics_that_go_with_their_pod_are_not_protected() -> None:
    assert "Namespace monitoring" not in option(made("bought", storage_class=None), "protect")


# --- what is gone with what -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("machines", "plane", "worker"),
    [
        # A bought machine stays, and Kubernetes has to be taken off it.
        ("bought", None, None),
        ("guests", "Command cp-1-guest", "Command worker-1-guest"),
        ("containers", "Command cp-1-machine", "Command worker-1-machine"),
    ],
)
def test_a_script_undoes_only_what_is_still_there(
    machines: str, plane: str | None, worker: str | None
) -> None:
    recorder = made(machines)
    gone_with = {
        script: recorder.options[script].get("deleted_with")
        for script in scripts(recorder)
        if not script.endswith("-guest")
    }
    assert gone_with == {
        "Command cp-1-prepare": plane,
        "Command cp-1-init": plane,
        "Command worker-1-prepare": worker,
        "Command worker-1-join": worker,
        # These clean up in the cluster, which is gone with its control plane.
        "Command worker-1-ready": "Command cp-1-init",
        "Command istio-install": "Command cp-1-init",
        "Command istio-rollout": "Command cp-1-init",
    }


def test_every_object_is_gone_with_its_cluster() -> None:
    recorder = made("bought")
    objects = {
        f"{kind.rpartition(':')[2]} {name}"
        for kind, name in recorder.resources
        if kind.startswith("kubernetes:")
    }
    assert "DeploymentPatch backend/ledger-v1" in objects
    for resource in objects:
        options = recorder.options[resource]
        assert options["deleted_with"] == "Command cp-1-init", resource
        assert options["provider"] == "kubernetes cluster", resource


# --- replacement ----------------------------------------------------------------------------------


def test_what_is_replaced_on_the_same_machine_goes_first() -> None:
    """Else the script of the old one would undo what the new one has just made."""
    first = {
        machines: set(option(made(machines), "delete_before_replace")) for machines in _MACHINES
    }
    everywhere = {
        f"Command {name}"
        for name in ("cp-1-init", "worker-1-join", "worker-1-ready", "istio-install")
    }
    assert first == {
        "bought": everywhere,
        "guests": everywhere | {"Command cp-1-guest", "Command worker-1-guest"},
        "containers": everywhere | {"Command cp-1-machine", "Command worker-1-machine"},
    }


def test_a_host_key_is_made_once() -> None:
    """Another release's script must not give a guest another key."""
    keys = {"Command cp-1-host-key": ["create"], "Command worker-1-host-key": ["create"]}
    assert option(made("guests"), "ignore_changes") == keys
    assert not option(made("bought"), "ignore_changes")


def test_a_container_on_another_bridge_is_another_machine() -> None:
    replaced = option(made("containers"), "replace_on_changes")
    for name in ("cp-1-machine", "worker-1-machine"):
        assert "environment.BRIDGE" in replaced[f"Command {name}"]
    others = [paths for name, paths in replaced.items() if not name.endswith("-machine")]
    # The command provider's own: a changed trigger replaces.
    assert all(paths == ["triggers[*]"] for paths in others)


# --- secrets --------------------------------------------------------------------------------------


@pytest.mark.parametrize("machines", _MACHINES)
def test_what_is_secret_is_encrypted_in_the_state(machines: str) -> None:
    recorder = made(machines)
    for script in scripts(recorder):
        printed = ["stderr", "stdout"] if script == "Command cp-1-init" else []
        secrets = recorder.options[script]["additional_secret_outputs"]
        assert secrets == ["connection", *printed], script
    for name in recorder.names("local:Command"):
        secrets = recorder.options[f"Command {name}"]["additional_secret_outputs"]
        assert secrets == ["stdout"], name


# --- hooks ----------------------------------------------------------------------------------------

_IMMUTABLE, _FIRST = "immutable settings", ["preflight", "nothing is refused"]
_STRICT = {"before_create": ["STRICT gate"], "before_update": ["STRICT gate"]}
_CALLERS = {"before_create": ["callers gate"], "before_update": ["callers gate"]}


def judged(machines: str) -> dict[str, Any]:
    """The hooks that measure or refuse, by resource; not those that copy, or explain a failure."""
    hooks = option(made(machines), "hooks")
    before = {
        name: {
            event: judging
            for event, names in events.items()
            if event.startswith("before") and (judging := [n for n in names if n != "copy-scripts"])
        }
        for name, events in hooks.items()
    }
    return {name: events for name, events in before.items() if events}


_OF_NODES = {
    "Node cp-1": {"before_update": [_IMMUTABLE]},
    "Node worker-1": {"before_update": [_IMMUTABLE]},
    "Command cp-1-prepare": {"before_create": _FIRST},
    "Command worker-1-prepare": {"before_create": _FIRST},
    "Command cp-1-init": {"before_update": [_IMMUTABLE]},
    "Command worker-1-join": {"before_update": [_IMMUTABLE]},
}
_OF_MESH = {
    "PeerAuthentication istio-system/default": _STRICT,
    "PeerAuthentication shop/default": _STRICT,
    "PeerAuthentication backend/ledger": _STRICT,
    "VirtualService shop/checkout": {"before_update": ["canary gate"]},
    "VirtualService backend/ledger": {"before_update": ["canary gate"]},
    "AuthorizationPolicy shop/checkout-callers": _CALLERS,
}


@pytest.mark.parametrize(
    ("machines", "of_machines"),
    [
        ("bought", {}),
        ("containers", {}),
        (
            "guests",
            {
                f"Command {name}-guest": {"before_update": [_IMMUTABLE, f"growth of {name}"]}
                for name in ("cp-1", "worker-1")
            },
        ),
    ],
)
def test_what_is_judged_before_it_is_changed(machines: str, of_machines: dict[str, Any]) -> None:
    assert judged(machines) == {**_OF_NODES, **_OF_MESH, **of_machines}


def test_namespaces_that_a_run_makes_are_noted() -> None:
    """The gates measure nothing where nobody can have talked to anyone yet."""
    after = {
        name: events["after_create"]
        for name, events in option(made("bought"), "hooks").items()
        if name.startswith("Namespace")
    }
    note = ["note a new namespace"]
    assert after == {"Namespace shop": note, "Namespace backend": note}


def test_every_script_explains_its_failure_and_repeats_its_warnings() -> None:
    recorder = made("guests")
    repeating = ["repeat-warnings"]
    for script in scripts(recorder):
        hooks = recorder.options[script]["hooks"]
        assert hooks["on_error"] == ["explain-failure"], script
        # What refuses to change a machine comes before what changes it.
        for event in ("before_create", "before_update"):
            assert hooks[event][-1] == "copy-scripts", script
        # What a secret step prints is not shown.
        warnings = None if script == "Command cp-1-init" else repeating
        assert (hooks.get("after_create"), hooks.get("after_update")) == (warnings, warnings), (
            script
        )


# --- order ----------------------------------------------------------------------------------------

_ISTIO_READY = {"Command istio-install", "Command istio-rollout"}


@pytest.mark.parametrize(
    ("resource", "first"),
    [
        ("Command cp-1-init", {"Command cp-1-prepare"}),
        ("Command worker-1-join", {"Command worker-1-prepare", "Command cp-1-init"}),
        ("Command worker-1-ready", {"Command worker-1-join"}),
        ("Command istio-install", {"Command cp-1-init"}),
        ("Command istio-rollout", {"Command istio-install"}),
        # An object needs its namespace, and Istio's kinds need Istio.
        ("DaemonSet kube-flannel/flannel", {"Namespace kube-flannel"}),
        ("APIService v1beta1.metrics.k8s.io", {"Deployment kube-system/metrics-server"}),
        ("StatefulSet monitoring/prometheus", {"Namespace monitoring"}),
        ("PeerAuthentication shop/default", {"Namespace shop", *_ISTIO_READY}),
        ("PeerAuthentication istio-system/default", _ISTIO_READY),
        ("AuthorizationPolicy shop/checkout-callers", {"Namespace shop", *_ISTIO_READY}),
        ("Sidecar shop/default", {"Namespace shop", *_ISTIO_READY}),
        ("Gateway istio-system/public", _ISTIO_READY),
        # A route to a subset that no rule knows is answered with 503.
        ("DestinationRule shop/checkout", {"DestinationRule shop/checkout.v1"}),
        (
            "VirtualService shop/checkout",
            {
                "DestinationRule shop/checkout",
                "DestinationRule shop/checkout.v1",
                "Gateway istio-system/public",
                "Namespace shop",
                *_ISTIO_READY,
            },
        ),
        # A host that is known before its way would be called without the gateway.
        (
            "ServiceEntry istio-system/egress-bank",
            {
                "AuthorizationPolicy istio-system/egress",
                "DestinationRule istio-system/egress",
                "Gateway istio-system/egress-bank",
                "VirtualService istio-system/egress-bank",
            },
        ),
        # A pod that is made before the injection webhook answers stays without a sidecar.
        (
            "Deployment shop/checkout-v1",
            {"Namespace shop", "ServiceAccount shop/checkout", *_ISTIO_READY},
        ),
        ("Deployment outside/client", {"Namespace outside"}),
        # A patch is of a Deployment that is there.
        ("DeploymentPatch backend/ledger-v1", {"Deployment shop/checkout-v1", *_ISTIO_READY}),
    ],
)
def test_what_comes_first(resource: str, first: set[str]) -> None:
    assert first <= set(made("bought").options[resource]["depends_on"])


@pytest.mark.parametrize(("machines", "suffix"), [("guests", "guest"), ("containers", "machine")])
def test_nodes_are_prepared_once_all_machines_are_there(machines: str, suffix: str) -> None:
    """The preflight of the first one measures all of them."""
    options = made(machines).options
    for node in ("cp-1", "worker-1"):
        first = {f"Command cp-1-{suffix}", f"Command worker-1-{suffix}"}
        assert first <= set(options[f"Command {node}-prepare"]["depends_on"])


# --- identity -------------------------------------------------------------------------------------


def test_a_resource_is_found_again_below_its_component() -> None:
    """Below another one it is another resource: Pulumi would delete it and make it anew."""
    parents = option(made("guests"), "parent")
    data = ["Command cp-1-guest", "Command cp-1-init", "Namespace shop", "Namespace monitoring"]
    assert [parents[resource] for resource in data] == [
        "Guest cp-1", "ControlPlane cp-1", "MeshPolicy mesh", "Observability observability",
    ]  # fmt: skip
