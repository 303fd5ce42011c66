"""What kubernetes.kubelet and kubernetes.kubeProxy may not set."""

from collections.abc import Iterator

from config.errors import Problem
from config.raw_settings import Rules, forbidden
from config.sections import Sections

# Settings that have a place of their own, or that other parts of the program rely on.
_RENDERED = ("it is written by this program", "remove it")
_KUBELET_OURS: Rules = {
    "apiVersion": _RENDERED,
    "kind": _RENDERED,
    "cgroupDriver": (
        "containerd must have the same driver, or pods do not start",
        "write kubernetes.cgroupDriver, which sets both",
    ),
    "clusterDNS": (
        "kubeadm takes it from kubernetes.serviceCidr; with another, pods resolve no names",
        "remove it",
    ),
    "clusterDomain": ("the mesh's hosts end in svc.cluster.local", "remove it"),
    "staticPodPath": ("kubeadm puts the control plane's pods in its default", "remove it"),
    "authentication": ("the API server could lose its way to the kubelet", "remove it"),
    "authorization": ("the API server could lose its way to the kubelet", "remove it"),
    "rotateCertificates": ("without it a node is lost when a year is over", "remove it"),
    "readOnlyPort": ("it shows pods and nodes to anyone without a login", "remove it"),
}
_KUBE_PROXY_OURS: Rules = {
    "apiVersion": _RENDERED,
    "kind": _RENDERED,
    "clusterCIDR": (
        "kube-proxy and the pods' network must agree",
        "write kubernetes.podCidr, which sets both",
    ),
    "clientConnection": ("kubeadm gives kube-proxy its way to the API server", "remove it"),
}


def _check_settings(sections: Sections) -> Iterator[Problem]:
    kubernetes = sections.kubernetes
    if kubernetes is not None:
        yield from forbidden(("kubernetes", "kubelet"), kubernetes.kubelet, _KUBELET_OURS)
        yield from forbidden(("kubernetes", "kubeProxy"), kubernetes.kube_proxy, _KUBE_PROXY_OURS)


CHECKS = (_check_settings,)
