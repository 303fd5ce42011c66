"""Labels and taints of nodes: their syntax, and the names that belong to Kubernetes.

A name may have a prefix: `example.com/tier`. The prefixes kubernetes.io and k8s.io are reserved for
Kubernetes. Of them, an administrator sets only node-role.kubernetes.io/ and
node-restriction.kubernetes.io/, which Cluster API copies to nodes too.
"""

import re
from typing import Annotated

from pydantic import AfterValidator

from config.annotations import PREFIX
from config.scalars.names import DNS_NAME, LABEL_VALUE
from config.scalars.refused import Refused
from config.scalars.shapes import shaped, text

_KEY = rf"({DNS_NAME}/)?{LABEL_VALUE}"  # the name has the syntax of a value
_VALUE = rf"({LABEL_VALUE})?"
_LONGEST_PREFIX = 253

_SETTABLE = ("node-role.kubernetes.io", "node-restriction.kubernetes.io")
_OF_KUBEADM = (
    "node-role.kubernetes.io/control-plane",
    "node-role.kubernetes.io/master",
    "node.kubernetes.io/exclude-from-external-load-balancers",
)
_TOPOLOGY = {
    f"{prefix}.kubernetes.io/{key}": key
    for prefix in ("topology", "failure-domain.beta")
    for key in ("region", "zone")
}
# kubelet registers its node with them, and sets them again.
_OF_KUBELET = (
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
)


def _is_name(value: str) -> bool:
    prefix, _, _ = value.rpartition("/")
    return len(prefix) <= _LONGEST_PREFIX and re.fullmatch(_KEY, value) is not None


_SYNTAX = (
    "the API server accepts at most 63 letters, digits, '-', '_' and '.', with a letter or digit "
    "at both ends, after an optional prefix: a DNS name in lower case and one slash"
)


def _is_reserved(prefix: str) -> bool:
    of_kubernetes = re.fullmatch(r"(.+\.)?(kubernetes|k8s)\.io", prefix) is not None
    return prefix not in _SETTABLE and (of_kubernetes or prefix == PREFIX.rstrip("/"))


def _own_prefix(value: str) -> str:
    return f"use a prefix of your own, for example example.com/{value.rpartition('/')[2]}"


@shaped(text(_KEY))
def _label(value: str) -> str:
    if not _is_name(value):
        raise Refused(
            "label-name-format",
            f"{value!r} is not the name of a label",
            _SYNTAX,
            "use a name such as tier or example.com/tier",
        )
    if value in _TOPOLOGY:
        raise Refused(
            "label-topology",
            f"{value} has its own key, {_TOPOLOGY[value]}",
            "the mesh's locality settings are checked against the regions and zones of the nodes",
            f"remove the label, and set {_TOPOLOGY[value]} on the node or its pool",
        )
    if value in _OF_KUBELET:
        raise Refused(
            "label-of-kubelet",
            f"kubelet sets {value} itself",
            "schedulers and volumes trust it to describe the machine, and kubelet sets it again",
            _own_prefix(value),
        )
    if value in _OF_KUBEADM:
        raise Refused(
            "label-of-kubeadm",
            f"kubeadm sets {value} on control planes",
            "Kubernetes, kubeadm and nordmesh recognise a control plane by it",
            "remove it; the key role of a node decides which nodes are control planes",
        )
    if _is_reserved(value.rpartition("/")[0]):
        raise Refused(
            "label-prefix-reserved",
            f"the prefix of {value} is reserved",
            "Kubernetes and nordmesh may give such a label their own meaning",
            _own_prefix(value),
        )
    return value


@shaped(text(_KEY))
def _taint(value: str) -> str:
    if not _is_name(value):
        raise Refused(
            "taint-key-format",
            f"{value!r} is not the key of a taint",
            _SYNTAX,
            "use a key such as dedicated or example.com/dedicated",
        )
    if value.startswith("node.kubernetes.io/"):
        raise Refused(
            "taint-of-kubernetes",
            f"Kubernetes adds and removes {value} itself",
            "it follows the state of the node, for example not-ready or unschedulable",
            "remove it; to keep new pods off a node for a while, use `kubectl cordon`",
        )
    if value in _OF_KUBEADM:
        raise Refused(
            "taint-of-kubeadm",
            f"nordmesh and kubeadm decide whether control planes have {value}",
            "a control plane runs workloads only in a cluster without workers",
            "remove it; to keep pods off other nodes, use a key of your own, for example dedicated",
        )
    if _is_reserved(value.rpartition("/")[0]):
        raise Refused(
            "taint-prefix-reserved",
            f"the prefix of {value} is reserved",
            "Kubernetes and nordmesh may give such a taint their own meaning",
            _own_prefix(value),
        )
    return value


@shaped(text(_VALUE))
def _value(value: str) -> str:
    if re.fullmatch(_VALUE, value):
        return value
    near = re.sub(r"[^A-Za-z0-9_.]+", "-", value)[:63].strip("-_.")
    count = f" ({len(value)} characters)" if len(value) > 63 else ""
    raise Refused(
        "label-value-format",
        f"{value!r}{count} is not a value of a label or taint",
        "the API server accepts at most 63 letters, digits, '-', '_' and '.', with a letter or "
        "digit at both ends, or nothing",
        f"use {near}" if near else 'use "" for no value',
    )


NodeLabel = Annotated[str, AfterValidator(_label)]
TaintKey = Annotated[str, AfterValidator(_taint)]
LabelValue = Annotated[str, AfterValidator(_value)]
