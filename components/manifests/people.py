"""The roles of people: ClusterRoles with their rules, and who has each.

RBAC only adds rights. So a role for the whole cluster has nothing that a namespace of the system
could be taken over with: no write of workloads, no exec, no Secrets. Such rights are given
namespace by namespace.
"""

from collections.abc import Iterator, Sequence

from components.manifests import Manifest
from config import Access, Oidc
from config.people import OWN_PREFIX, Subjects

VIEWER, DEPLOYER = "nordmesh-viewer", "nordmesh-deployer"
OPERATOR, NAMESPACE_OPERATOR = "nordmesh-operator", "nordmesh-namespace-operator"
EMERGENCY = "nordmesh-emergency"
EMERGENCY_GROUP = f"{OWN_PREFIX}emergency"
"""The group of certificates with administrator rights, which end after some hours."""

RBAC = "rbac.authorization.k8s.io"
_READ = ("get", "list", "watch")
_WRITE = ("create", "update", "patch", "delete")
_ALL = (*_READ, *_WRITE, "deletecollection")

# By name, because `*` would include Secrets. `get` of a subresource such as pods/exec or
# nodes/proxy runs commands, so only the harmless ones are here.
_CORE = (
    "configmaps",
    "endpoints",
    "events",
    "limitranges",
    "namespaces",
    "nodes",
    "persistentvolumeclaims",
    "persistentvolumes",
    "pods",
    "pods/log",
    "podtemplates",
    "replicationcontrollers",
    "resourcequotas",
    "serviceaccounts",
    "services",
)
# The other groups of Kubernetes and Istio have no Secrets and no subresource that acts on `get`.
_GROUPS = (
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "apiregistration.k8s.io",
    "apps",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "coordination.k8s.io",
    "discovery.k8s.io",
    "events.k8s.io",
    "extensions.istio.io",
    "flowcontrol.apiserver.k8s.io",
    "install.istio.io",
    "metrics.k8s.io",
    "networking.istio.io",
    "networking.k8s.io",
    "node.k8s.io",
    "policy",
    RBAC,
    "scheduling.k8s.io",
    "security.istio.io",
    "storage.k8s.io",
    "telemetry.istio.io",
)
_ISTIO = ("extensions", "networking", "security", "telemetry")


def rule(verbs: Sequence[str], group: str, *resources: str) -> Manifest:
    """A rule of a role."""
    return {"apiGroups": [group], "resources": list(resources), "verbs": list(verbs)}


def role(name: str, rules: Sequence[Manifest]) -> Manifest:
    """A ClusterRole."""
    return {
        "apiVersion": f"{RBAC}/v1",
        "kind": "ClusterRole",
        "metadata": {"name": name},
        "rules": list(rules),
    }


def binding(
    role_name: str, subjects: Sequence[Manifest], *, namespace: str | None = None
) -> Manifest:
    """The binding of a ClusterRole, for the whole cluster or for a namespace."""
    place = {"namespace": namespace} if namespace else {}
    return {
        "apiVersion": f"{RBAC}/v1",
        "kind": "RoleBinding" if namespace else "ClusterRoleBinding",
        "metadata": {"name": role_name, **place},
        "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": role_name},
        "subjects": list(subjects),
    }


def subject(kind: str, name: str) -> Manifest:
    """A User or a Group."""
    return {"kind": kind, "name": name, "apiGroup": RBAC}


def roles() -> list[Manifest]:
    """The ClusterRoles of people."""
    rules = list(reading())
    return [
        role(VIEWER, rules),
        role(DEPLOYER, [*rules, *_deploying()]),
        role(OPERATOR, [*rules, *_operating()]),
        role(NAMESPACE_OPERATOR, [*rules, *_operating_a_namespace()]),
    ]


def bindings(access: Access, namespaces: Sequence[str]) -> list[Manifest]:
    """Who has which role, and the group of an emergency. namespaces: those of the mesh.

    One object for each role and place, whose subjects an edit changes in place.
    """
    given: dict[tuple[str, str | None], list[Manifest]] = {}

    def give(name: str, entry: Subjects, places: Sequence[str | None]) -> None:
        for place in places:
            known = given.setdefault((name, place), [])
            known += [one for one in _subjects(entry, access.oidc) if one not in known]

    for viewer in access.roles.viewer:
        give(VIEWER, viewer, viewer.namespaces or [None])
    for deployer in access.roles.deployer:
        give(DEPLOYER, deployer, deployer.namespaces)
    for operator in access.roles.operator:
        if not operator.namespaces:
            give(OPERATOR, operator, [None])
        give(NAMESPACE_OPERATOR, operator, operator.namespaces or namespaces)
    return [
        *(
            binding(name, subjects, namespace=place)
            for (name, place), subjects in sorted(
                given.items(), key=lambda one: (one[0][0], one[0][1] or "")
            )
        ),
        {
            **binding("cluster-admin", [subject("Group", EMERGENCY_GROUP)]),
            "metadata": {"name": EMERGENCY},
        },
    ]


def certificate_roles(access: Access, users: Sequence[str], groups: Sequence[str]) -> list[str]:
    """The roles, in words, of the users and groups in a certificate; [] if they have none."""
    found = []
    for key, _, entry in access.roles.all():
        if set(users) & set(entry.users) or set(groups) & set(entry.groups):
            places = entry.namespaces
            found.append(f"{key} in {', '.join(places)}" if places else key)
    return list(dict.fromkeys(found))


def _subjects(entry: Subjects, oidc: Oidc | None) -> Iterator[Manifest]:
    for name in entry.users:
        yield subject("User", name)
    for name in entry.groups:
        yield subject("Group", name)
    if oidc is not None:
        for name in entry.oidc_users:
            yield subject("User", f"{oidc.username_prefix}{name}")
        for name in entry.oidc_groups:
            yield subject("Group", f"{oidc.groups_prefix}{name}")


def reading() -> Iterator[Manifest]:
    """The rules for reading everything but Secrets."""
    yield rule(_READ, "", *_CORE)
    for group in _GROUPS:
        yield rule(_READ, group, "*")


def _deploying() -> Iterator[Manifest]:
    """Workloads and routes. No Secrets, exec, policies of the mesh, or deletion of a claim."""
    yield rule(_WRITE, "", "configmaps", "services", "serviceaccounts")
    yield rule(("create", "update", "patch"), "", "persistentvolumeclaims")
    yield rule(("delete",), "", "pods")
    yield rule(("create",), "", "pods/eviction")
    yield rule(_WRITE, "apps", "daemonsets", "deployments", "statefulsets")
    yield rule(("update", "patch"), "apps", "deployments/scale", "statefulsets/scale")
    yield rule(_WRITE, "batch", "cronjobs", "jobs")
    yield rule(_WRITE, "autoscaling", "horizontalpodautoscalers")
    yield rule(_WRITE, "policy", "poddisruptionbudgets")
    yield rule(_WRITE, "networking.istio.io", "destinationrules", "virtualservices")


def _operating() -> Iterator[Manifest]:
    """Cordon and drain nodes, and restart any pod."""
    yield rule(("update", "patch"), "", "nodes")
    yield rule(("delete",), "", "pods")
    yield rule(("create",), "", "pods/eviction")
    yield {"nonResourceURLs": ["/metrics"], "verbs": ["get"]}


def _operating_a_namespace() -> Iterator[Manifest]:
    """Everything in a namespace but roles, quotas, the tokens of accounts and endpoints.

    An endpoint could lead a gateway of the mesh to an address of another namespace.
    """
    yield rule(
        _ALL,
        "",
        "configmaps",
        "persistentvolumeclaims",
        "pods",
        "replicationcontrollers",
        "secrets",
        "serviceaccounts",
        "services",
    )
    yield rule(("get", "create"), "", "pods/attach", "pods/exec", "pods/portforward")
    yield rule(("create",), "", "pods/eviction")
    yield rule(("update", "patch"), "", "pods/ephemeralcontainers")
    for group in ("apps", "autoscaling", "batch", "policy"):
        yield rule(_ALL, group, "*")
    yield rule(_ALL, "networking.k8s.io", "ingresses", "networkpolicies")
    for group in _ISTIO:
        yield rule(_ALL, f"{group}.istio.io", "*")
