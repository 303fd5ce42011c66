"""Settings that kubernetes.kubelet and kubernetes.kubeProxy may not contain."""

from collections.abc import Iterator

from config.errors import Problem
from config.raw_settings import Rules, forbidden
from config.sections import Sections

# Settings with their own key, and settings that other parts of nordmesh depend on.
_RENDERED = ("nordmesh writes it", "remove it")
_KUBELET_OURS: Rules = {
    "apiVersion": _RENDERED,
    "kind": _RENDERED,
    "cgroupDriver": (
        "containerd must use the same driver, or pods do not start",
        "use kubernetes.cgroupDriver instead, which sets both",
    ),
    "clusterDNS": (
        "kubeadm derives it from kubernetes.serviceCidr; with another, pods cannot resolve names",
        "remove it",
    ),
    "clusterDomain": ("the mesh's hosts end in svc.cluster.local", "remove it"),
    "staticPodPath": ("kubeadm writes the control plane's pods to the default path", "remove it"),
    "authentication": ("the API server could lose access to the kubelet", "remove it"),
    "authorization": ("the API server could lose access to the kubelet", "remove it"),
    "rotateCertificates": (
        "without it, a node's certificate expires after a year, and the node is lost",
        "remove it",
    ),
    "readOnlyPort": ("it shows pods and nodes to anyone without a login", "remove it"),
}
_KUBE_PROXY_OURS: Rules = {
    "apiVersion": _RENDERED,
    "kind": _RENDERED,
    "clusterCIDR": (
        "kube-proxy and the pods' network must agree",
        "use kubernetes.podCidr instead, which sets both",
    ),
    "clientConnection": ("kubeadm configures kube-proxy's access to the API server", "remove it"),
}


def _check_settings(sections: Sections) -> Iterator[Problem]:
    kubernetes = sections.kubernetes
    if kubernetes is not None:
        yield from forbidden(("kubernetes", "kubelet"), kubernetes.kubelet, _KUBELET_OURS)
        yield from forbidden(("kubernetes", "kubeProxy"), kubernetes.kube_proxy, _KUBE_PROXY_OURS)


CHECKS = (_check_settings,)
