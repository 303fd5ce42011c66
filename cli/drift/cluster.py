"""What kubeadm and istioctl have made in the cluster: objects that are no resources of Pulumi's.

A control plane tells of them. The API server says what it would make now of Istio's manifests, by
an apply that it only plays through; that is held against what is there.
"""

import gzip
import json
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from cli.drift.findings import NOTHING, Difference, Group, Unknown
from cli.drift.hosts import Expected, Facts
from cli.drift.objects import CONTROLLERS, added_beyond
from cli.drift.values import Field, differences, is_within, lacking, shown
from cli.review.markdown import code, counted
from cli.review.preview import Values

_ADMIN = "/etc/kubernetes/admin.conf"
_RBAC = "OBJECTS"
# What Kubernetes 1.23 calls the ConfigMaps of kubeadm's documents: the map, and the key in it.
_CONFIG_MAPS: Mapping[str, tuple[str, str]] = {
    "ClusterConfiguration": ("kubeadm-config", "ClusterConfiguration"),
    "KubeletConfiguration": ("kubelet-config-1.23", "kubelet"),
    "KubeProxyConfiguration": ("kube-proxy", "config.conf"),
}
# Of the API server's own, and what istioctl notes about itself when it installs.
_NOT_COMPARED = ("creationTimestamp", "generation", "managedFields", "resourceVersion", "uid")
_INSTALLED_BY = "install.operator.istio.io/owning-resource"
# istiod sets these in its own webhooks.
_WEBHOOKS = ("ValidatingWebhookConfiguration", "MutatingWebhookConfiguration")
_SET_BY_ISTIOD = (".failurePolicy", ".caBundle")
# kubeadm-init.sh applies the objects for joining with it.
_OWNER_OF_JOIN = "kubectl-client-side-apply"


def wanted(node: Expected) -> dict[str, str]:
    """What look.sh is to read besides on a control plane, by its variables."""
    if not node.is_control_plane:
        return {}
    rbac = list(yaml.safe_load_all(node.kubeadm["JOIN_RBAC"]))
    return {
        "CONFIG_MAPS": " ".join(name for name, _ in _CONFIG_MAPS.values()),
        # A Secret's data is not to leave the node.
        _RBAC: yaml.safe_dump_all(each for each in rbac if each["kind"] != "Secret"),
        **{f"DOCUMENT_{name}": node.mesh[name] for name in _documents(node)},
    }


def _documents(node: Expected) -> list[str]:
    """The settings of istio-install.sh that make objects; a mesh may have no gateways."""
    if not node.mesh:
        return []
    has_gateways = "Gateways:" in node.mesh["GATEWAYS"]
    return ["CONTROL_PLANE", *(["GATEWAYS"] if has_gateways else [])]


def groups(node: Expected, facts: Facts) -> list[Group]:
    """What differs in the cluster, and in the mesh, as a control plane told of them."""
    if said := facts.text("said", "readyz"):
        return unknown(node, said)
    rbac, mesh = _Objects(node, facts), _Objects(node, facts)
    rbac.compare(_RBAC)
    for name in _documents(node):
        file = f"/run/nordmesh/istio-{name.lower().replace('_', '-')}.yaml"
        command = f"KUBECONFIG={_ADMIN} istioctl install --skip-confirmation --filename {file}"
        mesh.compare(f"DOCUMENT_{name}", f"on {code(node.name)}, {code(command)}.")
    return [
        Group(
            title="Cluster",
            looked_at=f"kubeadm's configuration, and {counted(rbac.count, 'object')} for joining",
            differences=[*_config_maps(node, facts), *rbac.found],
            unknown=[*_unread_config_maps(node, facts), *rbac.unknown],
        ),
        Group(
            title="Mesh",
            looked_at=f"{counted(mesh.count, 'object')} that istioctl installed",
            differences=mesh.found,
            unknown=mesh.unknown,
        ),
    ]


def unknown(node: Expected, why: str) -> list[Group]:
    """That a control plane told nothing of it."""
    parts = [("Cluster", "what kubeadm made")]
    parts += [("Mesh", "what istioctl installed")] if node.mesh else []
    remedy = f"Look at {code(node.name)}: whether it and its API server answer."
    return [
        Group(title=title, looked_at="", unknown=[Unknown(place=what, why=why, remedy=remedy)])
        for title, what in parts
    ]


class _Objects:
    """Objects as they are, against those that the API server would make of their manifests."""

    def __init__(self, node: Expected, facts: Facts) -> None:
        self.found: list[Difference] = []
        self.unknown: list[Unknown] = []
        self.count = 0
        self._node, self._facts = node, facts

    def compare(self, name: str, remedy: str = "") -> None:
        """The objects of one text of manifests. remedy: what to do, by default by hand."""
        planned = _items(self._facts.raw("wanted", name))
        there = {_name(item): item for item in _items(self._facts.raw("there", name))}
        if not planned:
            said = " ".join(self._facts.text("said", name).split())
            self.unknown.append(
                Unknown(
                    place=self._node.name,
                    why=said or f"{name}: the API server answered nothing",
                    remedy="Look at what it says; then ask again.",
                )
            )
        elif not self._facts.has("there", name):
            self.unknown.append(_unread(self._node, f"{name}: the objects that the cluster has"))
            return
        self.count += len(planned)
        for item in planned:
            self.found += _object(item, there.get(_name(item)), remedy or _by_hand(item))


def _object(planned: Values, there: Values | None, remedy: str) -> Iterator[Difference]:
    if there is None:
        yield Difference(
            place=_name(planned), what="the object", expected="an object", found=NOTHING,
            remedy=remedy,
        )  # fmt: skip
        return
    fields = {each.path: each for each in differences(_compared(planned), _compared(there))}
    for each in fields.values():
        if not (planned["kind"] in _WEBHOOKS and each.path.endswith(_SET_BY_ISTIOD)):
            yield _difference(planned, each, remedy)
    for each, who in added_beyond(there, CONTROLLERS | {_OWNER_OF_JOIN}):
        if not any(is_within(path, each.path) for path in fields):
            yield _difference(planned, each, f"{code(who)} set it: {_by_hand(planned)}")


def _difference(item: Values, each: Field, remedy: str) -> Difference:
    return Difference(
        place=_name(item), what=code(each.path), expected=shown(each.expected),
        found=shown(each.found), remedy=remedy,
    )  # fmt: skip


def _compared(item: Values) -> Values:
    metadata = {k: v for k, v in item["metadata"].items() if k not in _NOT_COMPARED}
    labels = {k: v for k, v in metadata.get("labels", {}).items() if k != _INSTALLED_BY}
    rest = {key: value for key, value in item.items() if key != "status"}
    return {**rest, "metadata": {**metadata, "labels": labels}}


def _unread(node: Expected, what: str) -> Unknown:
    remedy = f"See whether `kubectl get nodes` works on {code(node.name)}; then ask again."
    return Unknown(place=node.name, why=f"{what} could not be read", remedy=remedy)


def _unread_config_maps(node: Expected, facts: Facts) -> Iterator[Unknown]:
    for document in node.documents:
        name, _ = _CONFIG_MAPS[document["kind"]]
        if not facts.has("configmap", name):
            yield _unread(node, f"the ConfigMap {code(f'kube-system/{name}')}")


def _config_maps(node: Expected, facts: Facts) -> Iterator[Difference]:
    for document in node.documents:
        name, key = _CONFIG_MAPS[document["kind"]]
        if not facts.has("configmap", name):
            continue
        text = facts.text("configmap", name)
        data = json.loads(text)["data"].get(key, "") if text else ""
        item = {"kind": "ConfigMap", "metadata": {"name": name, "namespace": "kube-system"}}
        if not data:
            yield from _object(item, None, _by_hand(item))
            continue
        for each in lacking(document, yaml.safe_load(data)):
            place = Field(f"{key}, {each.path}", each.expected, each.found)
            yield _difference(item, place, _by_hand(item))


def _items(packed: bytes) -> list[dict[str, Any]]:
    """The objects that kubectl printed: a list of them, or a single one."""
    text = gzip.decompress(packed) if packed else b""
    if not text.strip():
        return []
    document = json.loads(text)
    return list(document["items"]) if document["kind"] == "List" else [document]


def _name(item: Values) -> str:
    metadata = item["metadata"]
    names = (metadata.get("namespace"), metadata["name"])
    return f"{item['kind']} {'/'.join(filter(None, names))}"


def _by_hand(item: Values) -> str:
    metadata = item["metadata"]
    namespace = f"-n {metadata['namespace']} " if "namespace" in metadata else ""
    command = f"kubectl {namespace}edit {item['kind'].lower()} {metadata['name']}"
    return f"put it right by hand, with {code(command)}."
