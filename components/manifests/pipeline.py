"""The role that `pulumi up` acts with at the API server, instead of the administrator's.

It names the kinds and, where that is possible, the objects that the program makes. A new kind, or
a new ClusterRole, is added here, so that a review sees what the program may do from then on.
"""

from collections.abc import Sequence

from components.manifests import Manifest, alertmanager, kube_router, local_storage
from components.manifests.people import RBAC, binding, reading, role, rule, subject
from config.people import OWN_PREFIX

NAME = "nordmesh-pipeline"
USER = f"{OWN_PREFIX}pipeline"
"""Whom the program acts as; no certificate has the name."""

_WRITE = ("create", "patch", "update", "delete")
_KINDS = (
    ("", ("configmaps", "namespaces", "serviceaccounts", "services")),
    ("apiregistration.k8s.io", ("apiservices",)),
    ("apps", ("daemonsets", "deployments", "statefulsets")),
    (
        "networking.istio.io",
        ("destinationrules", "gateways", "serviceentries", "sidecars", "virtualservices"),
    ),
    ("networking.k8s.io", ("networkpolicies",)),
    (
        "security.istio.io",
        ("authorizationpolicies", "peerauthentications", "requestauthentications"),
    ),
    ("storage.k8s.io", ("storageclasses",)),
    ("telemetry.istio.io", ("telemetries",)),
)
# The roles of programs that nordmesh installs. For these the program may give rights that it does
# not have itself; the roles of people are the administrator's.
_CLUSTER_ROLES = (
    "flannel",
    kube_router.NAME,
    local_storage.NAME,
    "nordmesh-kiali",
    "nordmesh-prometheus",
    "system:aggregated-metrics-reader",
    "system:metrics-server",
)
_ROLES = (local_storage.NAME,)
_CLUSTER_BINDINGS = (
    "flannel",
    kube_router.NAME,
    local_storage.NAME,
    "metrics-server:system:auth-delegator",
    "nordmesh-kiali",
    "nordmesh-prometheus",
    "system:metrics-server",
)
_BINDINGS = (local_storage.NAME, "metrics-server-auth-reader")
# Roles of Kubernetes that the bindings above refer to.
_BOUND = (
    ("clusterroles", "system:auth-delegator"),
    ("roles", "extension-apiserver-authentication-reader"),
)


def objects() -> list[Manifest]:
    """The role, and its binding to USER."""
    return [role(NAME, _rules()), binding(NAME, [subject("User", USER)])]


def _rules() -> list[Manifest]:
    return [
        *reading(),
        *(rule(_WRITE, group, *resources) for group, resources in _KINDS),
        _named(("get", "list", "watch", *_WRITE), "", "secrets", [alertmanager.SECRET_NAME]),
        _named((*_WRITE, "bind", "escalate"), RBAC, "clusterroles", _CLUSTER_ROLES),
        _named((*_WRITE, "bind", "escalate"), RBAC, "roles", _ROLES),
        _named(_WRITE, RBAC, "clusterrolebindings", _CLUSTER_BINDINGS),
        _named(_WRITE, RBAC, "rolebindings", _BINDINGS),
        *(_named(("bind",), RBAC, kind, [name]) for kind, name in _BOUND),
    ]


def _named(verbs: Sequence[str], group: str, resource: str, names: Sequence[str]) -> Manifest:
    return {**rule(verbs, group, resource), "resourceNames": list(names)}
