"""Settings that kubernetes.kubelet and kubernetes.kubeProxy may not contain."""

from collections.abc import Iterator, Mapping

from config.errors import Problem, kind_of, nearest
from config.kubelet import RESERVING
from config.kubernetes.fields import KUBE_PROXY, KUBE_PROXY_MODES, KUBELET
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
    "registerWithTaints": (
        "it applies to all nodes, and only when they register; nordmesh registers workers with a "
        "taint until they have their own",
        "use taints of a node or of its pool in machines",
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


_KINDS: Mapping[str, tuple[type, ...]] = {
    "boolean": (bool,),
    "whole number": (int,),
    "number": (int, float),
    "text": (str,),
    "duration": (str,),
    "list": (list,),
    "mapping": (dict,),
}


def _check_keys(sections: Sections) -> Iterator[Problem]:
    """The problems of keys and values that kubelet or kube-proxy refuse when they start."""
    kubernetes = sections.kubernetes
    if kubernetes is None:
        return
    for key, settings, fields, ours in (
        ("kubelet", kubernetes.kubelet, KUBELET, _KUBELET_OURS),
        ("kubeProxy", kubernetes.kube_proxy, KUBE_PROXY, _KUBE_PROXY_OURS),
    ):
        for name, value in settings.items():
            path = ("kubernetes", key, name)
            if name in ours or name in RESERVING:  # config.host checks the reserves
                continue
            if name not in fields:
                guess = nearest(name, fields)
                yield Problem(
                    code="component-key-unknown",
                    path=path,
                    what=f"{key} has no setting {name}",
                    why="it is refused when the component starts, so nodes would not become ready",
                    fix=f"use {guess}" if guess else "remove it",
                )
            elif value is not None and not _is_of(value, fields[name]):
                yield Problem(
                    code="component-value-kind",
                    path=path,
                    what=f"expected a {fields[name]}, not {kind_of(value)}",
                    why="it is refused when the component starts, so nodes would not become ready",
                    fix=f"set {name} to a {fields[name]}, or remove it",
                )
    mode = kubernetes.kube_proxy.get("mode")
    if isinstance(mode, str) and mode not in KUBE_PROXY_MODES:
        yield Problem(
            code="kube-proxy-mode-unknown",
            path=("kubernetes", "kubeProxy", "mode"),
            what=f"{mode!r} is not a mode of kube-proxy",
            why="kube-proxy would not start, and no Service would be reachable",
            fix=f"use {nearest(mode, KUBE_PROXY_MODES[1:]) or 'iptables'}",
        )


def _is_of(value: object, kind: str) -> bool:
    is_boolean = isinstance(value, bool)
    return is_boolean if kind == "boolean" else not is_boolean and isinstance(value, _KINDS[kind])


def _check_settings(sections: Sections) -> Iterator[Problem]:
    kubernetes = sections.kubernetes
    if kubernetes is not None:
        yield from forbidden(("kubernetes", "kubelet"), kubernetes.kubelet, _KUBELET_OURS)
        yield from forbidden(("kubernetes", "kubeProxy"), kubernetes.kube_proxy, _KUBE_PROXY_OURS)


CHECKS = (_check_settings, _check_keys)
