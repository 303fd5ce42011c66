"""Compare the objects that kubeadm and istioctl created, which are not Pulumi resources.

A control plane reports them. Istio's manifests are applied in a server-side dry run, whose result
is compared with the objects in the cluster.
"""

import gzip
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from cli.drift import placement
from cli.drift.findings import NOTHING, Difference, Group, Inconclusive
from cli.drift.hosts import Expected, Facts
from cli.drift.objects import CONTROLLERS, added_beyond
from cli.drift.values import Field, differences, is_within, lacking, shown
from cli.review.markdown import code, counted
from cli.review.preview import Values

_ADMIN = "/etc/kubernetes/admin.conf"
# The ConfigMaps of kubeadm's documents in Kubernetes 1.23: the map, and the key in it.
_CONFIG_MAPS: Mapping[str, tuple[str, str]] = {
    "ClusterConfiguration": ("kubeadm-config", "ClusterConfiguration"),
    "KubeletConfiguration": ("kubelet-config-1.23", "kubelet"),
    "KubeProxyConfiguration": ("kube-proxy", "config.conf"),
}
# Fields of the API server, and the label that istioctl adds at installation.
_NOT_COMPARED = ("creationTimestamp", "generation", "managedFields", "resourceVersion", "uid")
_INSTALLED_BY = "install.operator.istio.io/owning-resource"
# istiod sets these in its own webhooks.
_WEBHOOKS = ("ValidatingWebhookConfiguration", "MutatingWebhookConfiguration")
_SET_BY_ISTIOD = (".failurePolicy", ".caBundle")


def variables(node: Expected) -> dict[str, str]:
    """The variables of look.sh for the objects that only a control plane can read."""
    if not node.is_control_plane:
        return {}
    return {
        "CONFIG_MAPS": " ".join(name for name, _ in _CONFIG_MAPS.values()),
        **{f"DOCUMENT_{name}": node.mesh[name] for name in _documents(node)},
    }


def _documents(node: Expected) -> list[str]:
    """The settings of istio-install.sh that create objects; a mesh may have no gateways."""
    if not node.mesh:
        return []
    has_gateways = "Gateways:" in node.mesh["GATEWAYS"]
    return ["CONTROL_PLANE", *(["GATEWAYS"] if has_gateways else [])]


def groups(planes: Sequence[Expected], facts: Mapping[str, Facts]) -> Iterator[Group]:
    """The differences in the cluster and in the mesh, each from one control plane's answer.

    The cluster's are from the first control plane that reports them. The mesh's need istioctl, so
    they are from the one on which it was installed. facts: of the nodes that answered, by name.
    """
    silent = {plane.name: why for plane in planes if (why := _silence(plane, facts))}
    answering = [plane for plane in planes if plane.name not in silent]
    if answering:
        yield _cluster(answering[0], facts[answering[0].name])
    elif planes:
        yield _inconclusive("Cluster", "objects of kubeadm", planes[0], "; ".join(silent.values()))
    for plane in [plane for plane in planes if plane.mesh] or answering[:1]:
        if plane.name in silent:
            yield _inconclusive("Mesh", "objects of istioctl", plane, silent[plane.name])
        else:
            yield _mesh(plane, facts[plane.name])


def _silence(plane: Expected, facts: Mapping[str, Facts]) -> str:
    """Why a control plane does not report the cluster's objects; "" if it does."""
    if plane.name not in facts:
        return f"{plane.name} did not answer"
    return facts[plane.name].text("error", "readyz")


def _cluster(node: Expected, facts: Facts) -> Group:
    return Group(
        title="Cluster",
        checked=_checked(node),
        differences=[*_config_maps(node, facts), *placement.differences(node, facts)],
        inconclusive=[*_unread_config_maps(node, facts), *placement.unread(node, facts)],
    )


def _mesh(node: Expected, facts: Facts) -> Group:
    mesh = _Objects(node, facts)
    for name in _documents(node):
        file = f"/run/nordmesh/istio-{name.lower().replace('_', '-')}.yaml"
        command = f"KUBECONFIG={_ADMIN} istioctl install --skip-confirmation --filename {file}"
        mesh.compare(f"DOCUMENT_{name}", f"On {code(node.name)}, run {code(command)}.")
    return Group(
        title="Mesh",
        checked=f"{counted(mesh.count, 'object')} that istioctl installed",
        differences=mesh.differences,
        inconclusive=mesh.inconclusive,
    )


def _checked(node: Expected) -> str:
    labels = f", the labels of {counted(len(node.labelled), 'node')}" if node.labelled else ""
    return f"kubeadm's configuration{labels}"


def _inconclusive(title: str, what: str, node: Expected, why: str) -> Group:
    """The group of objects that no control plane reported."""
    fix = f"Check that {code(node.name)} and its API server answer, then run this again."
    return Group(
        title=title, checked="", inconclusive=[Inconclusive(subject=what, why=why, fix=fix)]
    )


class _Objects:
    """Compare objects with those that the API server would create from their manifests."""

    def __init__(self, node: Expected, facts: Facts) -> None:
        self.differences: list[Difference] = []
        self.inconclusive: list[Inconclusive] = []
        self.count = 0
        self._node, self._facts = node, facts

    def compare(self, name: str, fix: str) -> None:
        """Compare the objects of one text of manifests."""
        planned = _items(self._facts.raw("planned", name))
        actual = {_name(item): item for item in _items(self._facts.raw("actual", name))}
        if not planned:
            error = " ".join(self._facts.text("error", name).split())
            self.inconclusive.append(
                Inconclusive(
                    subject=self._node.name,
                    why=error or f"{name}: the API server did not answer",
                    fix="Fix the error, then run this again.",
                )
            )
        elif not self._facts.has("actual", name):
            self.inconclusive.append(_unread(self._node, f"{name}: the objects in the cluster"))
            return
        self.count += len(planned)
        for item in planned:
            self.differences += _object(item, actual.get(_name(item)), fix)


def _object(planned: Values, actual: Values | None, fix: str) -> Iterator[Difference]:
    if actual is None:
        yield Difference(
            subject=_name(planned), what="the object", expected="an object", actual=NOTHING,
            fix=fix,
        )  # fmt: skip
        return
    fields = {field.path: field for field in differences(_compared(planned), _compared(actual))}
    for field in fields.values():
        if not (planned["kind"] in _WEBHOOKS and field.path.endswith(_SET_BY_ISTIOD)):
            yield _difference(planned, field, fix)
    for field, manager in added_beyond(actual, CONTROLLERS):
        if not any(is_within(path, field.path) for path in fields):
            yield _difference(planned, field, f"{code(manager)} set it. {_by_hand(planned)}")


def _difference(item: Values, field: Field, fix: str) -> Difference:
    return Difference(
        subject=_name(item), what=code(field.path), expected=shown(field.expected),
        actual=shown(field.actual), fix=fix,
    )  # fmt: skip


def _compared(item: Values) -> Values:
    metadata = {k: v for k, v in item["metadata"].items() if k not in _NOT_COMPARED}
    labels = {k: v for k, v in metadata.get("labels", {}).items() if k != _INSTALLED_BY}
    rest = {key: value for key, value in item.items() if key != "status"}
    return {**rest, "metadata": {**metadata, "labels": labels}}


def _unread(node: Expected, what: str) -> Inconclusive:
    fix = f"Check that `kubectl get nodes` works on {code(node.name)}, then run this again."
    return Inconclusive(subject=node.name, why=f"{what} could not be read", fix=fix)


def _unread_config_maps(node: Expected, facts: Facts) -> Iterator[Inconclusive]:
    for document in node.documents:
        name, _ = _CONFIG_MAPS[document["kind"]]
        if not facts.has("configmap", name):
            yield _unread(node, f"the ConfigMap {code(f'kube-system/{name}')}")


def _of_all_planes(document: Values) -> Values:
    """The document without the address of one control plane: the ConfigMap has that of the first.

    kubeadm adds each control plane's address to its own certificate.
    """
    server = document.get("apiServer")
    if not server or "certSANs" not in server:
        return document
    names = [name for name in server["certSANs"] if not re.fullmatch(r"[0-9.]+", name)]
    return {**document, "apiServer": {**server, "certSANs": names}}


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
        for field in lacking(_of_all_planes(document), _of_all_planes(yaml.safe_load(data))):
            in_key = Field(f"{key}, {field.path}", field.expected, field.actual)
            yield _difference(item, in_key, _by_hand(item))


def _items(packed: bytes) -> list[dict[str, Any]]:
    """The objects that kubectl printed: a list, or a single one."""
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
    return f"Fix it by hand with {code(command)}."
