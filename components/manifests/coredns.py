"""CoreDNS: what nordmesh adds to the Deployment that kubeadm creates."""

from components.manifests import Manifest

NAMESPACE = "kube-system"
NAME = "coredns"
_LABELS = {"k8s-app": "kube-dns"}


def spread() -> Manifest:
    """The part of the Deployment that keeps its two replicas on different nodes.

    Required: a preference also counts the pods of the old template, and can put both new ones on
    the same node. A cluster of one node cannot have it: the second replica would stay Pending.
    """
    term = {
        "labelSelector": {"matchLabels": _LABELS},
        "topologyKey": "kubernetes.io/hostname",
    }
    apart = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": NAME, "namespace": NAMESPACE},
        "spec": {"template": {"spec": {"affinity": apart}}},
    }
