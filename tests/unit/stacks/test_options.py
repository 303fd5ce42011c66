"""Pulumi options of the platform's resources: protection, replacement, secrets, hooks, order."""

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
def recorded(
    machines: str, *, lost: str = "", storage_class: str | None = "local-path"
) -> Recorder:
    """Deploy a stack with every feature on one kind of machine, with Pulumi's mocks.

    lost: what may be lost, for example `etcd cp-1`, or `everything` in the old form.
    """
    kind, _, name = lost.partition(" ")
    entries = [{kind: name, "reason": "a test of its entry"}] if name else []
    prometheus = {"enabled": True, "storage": {"storageClass": storage_class}}
    recorder, _ = run(
        config(
            machines=_MACHINES[machines] | {"allowDataLoss": entries or lost == "everything"},
            istio=_ISTIO,
            mesh=_MESH,
            demo={"enabled": True},
            observability={"prometheus": prometheus},
        ),
        ssh_key=kvm_stack.private_key(),
    )
    return recorder


def option(recorder: Recorder, option: str) -> dict[str, Any]:
    """Return the value of an option for each resource that sets it, by `Kind name`."""
    return {
        resource: options[option]
        for resource, options in recorder.options.items()
        if option in options
    }


def scripts(recorder: Recorder) -> list[str]:
    """List the resources that run a script on a machine."""
    return [f"Command {name}" for name in recorder.names("remote:Command")]


# The scripts whose output is a credential.
_WITH_SECRETS = ("Command cp-1-init", "Command cp-1-credentials")


# --- data -----------------------------------------------------------------------------------------

_DATA = {
    "Command cp-1-init",
    "Command istio-install",
    "Namespace shop",
    "Namespace backend",
    "Namespace monitoring",
}


def with_protections(holders: set[str]) -> set[str]:
    """Return resources that hold data, with what is deleted before the dependents of each."""
    things = {"Command cp-1-init": "etcd-cp-1", "Command istio-install": "namespace-istio-system"}

    def thing(holder: str) -> str:
        name = holder.partition(" ")[2]
        default = f"namespace-{name}" if holder.startswith("Namespace ") else f"disk-{name}"
        return things.get(holder, default.removesuffix("-guest").removesuffix("-machine"))

    return holders | {f"Protection {thing(holder)}" for holder in holders}


@pytest.mark.parametrize(
    ("machines", "holders"),
    [
        ("bought", set()),
        ("guests", {"Command cp-1-guest", "Command worker-1-guest"}),
        ("containers", {"Command cp-1-machine", "Command worker-1-machine"}),
    ],
)
def test_resources_that_hold_data_are_protected(machines: str, holders: set[str]) -> None:
    expected = with_protections(_DATA | holders) | {"Protection data"}
    assert set(option(recorded(machines), "protect")) == expected
    assert option(recorded(machines, lost="everything"), "protect") == {}


@pytest.mark.parametrize(
    ("thing", "unprotected"),
    [
        ("etcd cp-1", {"Command cp-1-init"}),
        ("disk cp-1", {"Command cp-1-guest"}),
        ("disk worker-1", {"Command worker-1-guest"}),
        ("volumes worker-1", set()),
        ("namespace shop", {"Namespace shop"}),
        ("namespace monitoring", {"Namespace monitoring"}),
        ("namespace istio-system", {"Command istio-install"}),
        ("identities cluster.local", set()),
        ("namespace gone", set()),
    ],
)
def test_an_entry_unprotects_its_thing_and_nothing_else(thing: str, unprotected: set[str]) -> None:
    protected = set(option(recorded("guests"), "protect"))
    allowed = recorded("guests", lost=thing)
    assert protected - set(option(allowed, "protect")) == with_protections(unprotected)


@pytest.mark.parametrize(
    ("thing", "scripts"),
    [
        ("etcd cp-1", set()),
        ("disk worker-1", {"worker-1-guest"}),
        ("volumes worker-1", {"worker-1-join", "worker-1-ready"}),
        ("namespace shop", set()),
    ],
)
def test_an_entry_changes_the_scripts_of_its_thing_only(thing: str, scripts: set[str]) -> None:
    before, after = recorded("guests"), recorded("guests", lost=thing)
    assert before.resources.keys() == after.resources.keys()
    changed = {
        name
        for key in before.resources
        if before.resources[key].inputs != after.resources[key].inputs
        for _, name in [key]
    }
    assert changed == scripts


def test_a_destroy_begins_with_what_refuses_it() -> None:
    """Pulumi deletes dependents first."""
    recorder = recorded("guests")
    depends_on = set(recorder.options["Protection data"]["depends_on"])
    needed = {
        resource
        for options in recorder.options.values()
        for resource in (*options.get("depends_on", []), options.get("parent"))
    }
    custom = {
        f"{kind.rpartition(':')[2]} {name}"
        for kind, name in recorder.resources
        if not kind.startswith(("nordmesh:", "pulumi:"))
    }
    assert custom - needed <= depends_on


def test_a_removal_begins_with_what_refuses_it() -> None:
    """The refusal of one thing precedes the deletion of everything else, also of what may go."""
    options = recorded("guests", lost="namespace shop").options
    protections = {name for name in options if name.startswith("Protection ")} - {"Protection data"}
    refusing = {name for name in protections if options[name].get("protect")}
    assert protections - refusing == {"Protection namespace-shop"}
    assert "Protection namespace-shop" in options["Protection data"]["depends_on"]
    for name in refusing:
        assert sorted(options[name]["depends_on"]) == ["Protection data", "Stack nordmesh-test"]


def test_ephemeral_metrics_are_not_protected() -> None:
    assert "Namespace monitoring" not in option(recorded("bought", storage_class=None), "protect")


# --- deletion -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("machines", "plane", "worker"),
    [
        # A bought machine stays, so its scripts have to remove Kubernetes from it.
        ("bought", None, None),
        ("guests", "Command cp-1-guest", "Command worker-1-guest"),
        ("containers", "Command cp-1-machine", "Command worker-1-machine"),
    ],
)
def test_scripts_are_not_run_on_deleted_machines(
    machines: str, plane: str | None, worker: str | None
) -> None:
    recorder = recorded(machines)
    deleted_with = {
        script: recorder.options[script].get("deleted_with")
        for script in scripts(recorder)
        if not script.endswith("-guest")
    }
    assert deleted_with == {
        "Command cp-1-prepare": plane,
        "Command cp-1-init": plane,
        "Command cp-1-credentials": plane,
        "Command cp-1-key-use": plane,
        "Command cp-1-key-retire": plane,
        "Command cp-1-member": "ControlPlanes control-planes",
        "Command worker-1-prepare": worker,
        "Command worker-1-join": worker,
        # These clean up in the cluster, which is deleted with its control plane.
        "Command worker-1-ready": "Command cp-1-init",
        "Command istio-install": "Command cp-1-init",
        "Command istio-rollout": "Command cp-1-init",
    }


def test_every_object_is_deleted_with_its_cluster() -> None:
    recorder = recorded("bought")
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


def test_resources_on_the_same_machine_are_deleted_before_replacement() -> None:
    """Otherwise the delete script of the old resource would undo the work of the new one."""
    deleted_first = {
        machines: set(option(recorded(machines), "delete_before_replace")) for machines in _MACHINES
    }
    on_every_machine = {
        f"Command {name}"
        for name in (
            "cp-1-init",
            "cp-1-member",
            "worker-1-join",
            "worker-1-ready",
            "istio-install",
        )
    }
    assert deleted_first == {
        "bought": on_every_machine,
        "guests": on_every_machine | {"Command cp-1-guest", "Command worker-1-guest"},
        "containers": on_every_machine | {"Command cp-1-machine", "Command worker-1-machine"},
    }


def test_a_host_key_is_created_once() -> None:
    """A new release of the script must not replace the key of a guest."""
    keys = {"Command cp-1-host-key": ["create"], "Command worker-1-host-key": ["create"]}
    assert option(recorded("guests"), "ignore_changes") == keys
    assert not option(recorded("bought"), "ignore_changes")


def test_moving_a_container_to_another_bridge_replaces_it() -> None:
    replaced = option(recorded("containers"), "replace_on_changes")
    for name in ("cp-1-machine", "worker-1-machine"):
        assert "environment.BRIDGE" in replaced[f"Command {name}"]
    other_paths = [paths for name, paths in replaced.items() if not name.endswith("-machine")]
    # The default of the command provider: a changed trigger replaces.
    assert all(paths == ["triggers[*]"] for paths in other_paths)


# --- secrets --------------------------------------------------------------------------------------


@pytest.mark.parametrize("machines", _MACHINES)
def test_secret_values_are_encrypted_in_the_state(machines: str) -> None:
    recorder = recorded(machines)
    for script in scripts(recorder):
        printed = ["stderr", "stdout"] if script in _WITH_SECRETS else []
        secrets = recorder.options[script]["additional_secret_outputs"]
        assert secrets == ["connection", *printed], script
    for name in recorder.names("local:Command"):
        secrets = recorder.options[f"Command {name}"]["additional_secret_outputs"]
        assert secrets == ["stdout"], name


# --- hooks ----------------------------------------------------------------------------------------

_IMMUTABLE, _FIRST = "immutable settings", ["preflight", "nothing is refused"]
_PLACE = "hand its place in the cluster to cp-1"
_HANDS_OVER, _NEW_SCRIPT = "hand a join token to worker-1", "note a new script"
_CANARY = {"before_create": ["canary gate"], "before_update": ["canary gate"]}
_STRICT = {"before_create": ["STRICT gate"], "before_update": ["STRICT gate"]}
_LEVEL = {"before_create": ["PodSecurity gate"], "before_update": ["PodSecurity gate"]}
_CALLERS = {"before_create": ["callers gate"], "before_update": ["callers gate"]}


def checks_before(machines: str) -> dict[str, Any]:
    """Return the hooks that measure or refuse, by resource: no copying, no keeping of what a script
    printed, no error handling, and not the one of every object (test_taken_objects).
    """
    hooks = option(recorded(machines), "hooks")
    keeping = (f"cp-1-{script}: keep what it printed" for script in ("init", "credentials"))
    others = {"copy-scripts", _NEW_SCRIPT, "whose object", *keeping}
    before = {
        name: {
            event: checks
            for event, names in events.items()
            if event.startswith("before") and (checks := [n for n in names if n not in others])
        }
        for name, events in hooks.items()
    }
    return {name: events for name, events in before.items() if events}


_OF_PLANE = ["hand its place in the cluster to cp-1", "hand the keys of the others to cp-1"]
_OF_NODES = {
    "Node cp-1": {"before_create": ["note a new node"], "before_update": [_IMMUTABLE]},
    "Node worker-1": {"before_create": ["note a new node"], "before_update": [_IMMUTABLE]},
    "Command cp-1-prepare": {"before_create": _FIRST},
    "Command worker-1-prepare": {"before_create": _FIRST},
    "ControlPlanes control-planes": {"before_update": ["quorum"]},
    "Command cp-1-init": {
        "before_create": _OF_PLANE,
        "before_update": [_IMMUTABLE, *_OF_PLANE],
    },
    "Command worker-1-join": {
        "before_create": [_HANDS_OVER],
        "before_update": [_IMMUTABLE, _HANDS_OVER],
    },
}
_OF_MESH = {
    "PeerAuthentication istio-system/default": _STRICT,
    "PeerAuthentication shop/default": _STRICT,
    "PeerAuthentication backend/ledger": _STRICT,
    "Command istio-install": {"before_update": ["trust domain", "outbound gate"]},
    "Namespace monitoring": {"before_update": ["metrics volume"]},
    "Namespace shop": _LEVEL,
    "Namespace backend": _LEVEL,
    "DestinationRule shop/checkout.v1": {"before_update": ["pods gate"]},
    "DestinationRule backend/ledger.v1": {"before_update": ["pods gate"]},
    "VirtualService shop/checkout": _CANARY,
    "VirtualService backend/ledger": _CANARY,
    "AuthorizationPolicy shop/checkout-callers": _CALLERS,
}


@pytest.mark.parametrize(
    ("machines", "of_machines"),
    [
        (
            "bought",
            {
                f"Node {name}": {
                    "before_create": ["whose cluster", "note a new node"],
                    "before_update": [_IMMUTABLE],
                }
                for name in ("cp-1", "worker-1")
            },
        ),
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
def test_changes_are_checked_before_they_are_made(
    machines: str, of_machines: dict[str, Any]
) -> None:
    assert checks_before(machines) == {**_OF_NODES, **_OF_MESH, **of_machines}


def test_new_scripts_of_nodes_are_recorded() -> None:
    """No other node waits for one that was never Ready."""
    hooks = option(recorded("guests"), "hooks")
    noted = {
        name for name, events in hooks.items() if _NEW_SCRIPT in events.get("before_create", [])
    }
    assert noted == {
        "Command cp-1-guest",
        "Command cp-1-prepare",
        "Command worker-1-guest",
        "Command worker-1-join",
        "Command worker-1-prepare",
        "Command worker-1-ready",
    }


def test_namespaces_created_by_the_run_are_recorded() -> None:
    """The gates skip a new namespace, which cannot have had any traffic."""
    after = {
        name: events["after_create"]
        for name, events in option(recorded("bought"), "hooks").items()
        if name.startswith("Namespace") and "after_create" in events
    }
    note = ["note a new namespace"]
    assert after == {"Namespace shop": note, "Namespace backend": note}


def test_every_script_explains_its_failure_and_repeats_its_warnings() -> None:
    recorder = recorded("guests")
    for script in scripts(recorder):
        hooks = recorder.options[script]["hooks"]
        assert hooks["on_error"].count("explain-failure") == 1, script
        # Hooks that refuse a change run before the hook that copies files to the machine.
        for event in ("before_create", "before_update"):
            assert hooks[event][-1] == "copy-scripts", script
        # The output of a step with secrets is not shown.
        shown = script not in _WITH_SECRETS
        for event in ("after_create", "after_update"):
            assert ("repeat-warnings" in hooks.get(event, [])) == shown, script


# --- order ----------------------------------------------------------------------------------------

_ISTIO_READY = {"Command istio-install", "Command istio-rollout"}


@pytest.mark.parametrize(
    ("resource", "dependencies"),
    [
        ("Command cp-1-init", {"Command cp-1-prepare"}),
        ("Command worker-1-join", {"Command worker-1-prepare", "Command cp-1-init"}),
        ("Command worker-1-ready", {"Command worker-1-join"}),
        ("Command cp-1-credentials", {"Command cp-1-init"}),
        ("Command cp-1-key-use", {"Command cp-1-init"}),
        ("Command cp-1-key-retire", {"Command cp-1-key-use"}),
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
        # Requests to a subset that no DestinationRule defines fail with 503.
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
        # A host that exists before its routes would be reached without the gateway.
        (
            "ServiceEntry istio-system/egress-bank",
            {
                "AuthorizationPolicy istio-system/egress",
                "DestinationRule istio-system/egress",
                "Gateway istio-system/egress-bank",
                "VirtualService istio-system/egress-bank",
            },
        ),
        # A pod that is created before the injection webhook is ready has no sidecar.
        (
            "Deployment shop/checkout-v1",
            {"Namespace shop", "ServiceAccount shop/checkout", *_ISTIO_READY},
        ),
        ("Deployment outside/client", {"Namespace outside"}),
        # A patch needs an existing Deployment.
        ("DeploymentPatch backend/ledger-v1", {"Deployment shop/checkout-v1", *_ISTIO_READY}),
    ],
)
def test_resources_depend_on_what_they_need(resource: str, dependencies: set[str]) -> None:
    assert dependencies <= set(recorded("bought").options[resource]["depends_on"])


@pytest.mark.parametrize(("machines", "suffix"), [("guests", "guest"), ("containers", "machine")])
def test_nodes_are_prepared_after_all_machines_exist(machines: str, suffix: str) -> None:
    """The preflight of the first node measures all machines."""
    options = recorded(machines).options
    for node in ("cp-1", "worker-1"):
        every_machine = {f"Command cp-1-{suffix}", f"Command worker-1-{suffix}"}
        assert every_machine <= set(options[f"Command {node}-prepare"]["depends_on"])


# --- identity -------------------------------------------------------------------------------------


def test_resources_keep_their_parent_component() -> None:
    """With another parent, Pulumi would delete the resource and create it again."""
    parents = option(recorded("guests"), "parent")
    data = ["Command cp-1-guest", "Command cp-1-init", "Namespace shop", "Namespace monitoring"]
    assert [parents[resource] for resource in data] == [
        "Guest cp-1", "ControlPlane cp-1", "MeshPolicy mesh", "Observability observability",
    ]  # fmt: skip
