"""Settings that kubernetes.kubelet and kubernetes.kubeProxy may not contain."""

import re
from collections.abc import Iterable, Iterator, Mapping

from config.errors import KeyPath, Problem, kind_of, nearest, one_of
from config.kubelet import RESERVING
from config.kubernetes.fields import CHOICES, KUBE_PROXY, KUBE_PROXY_MODES, KUBELET, NESTED
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


_DURATION = r"0|(\d+(\.\d+)?(ns|us|µs|ms|s|m|h))+"
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
                yield _unknown(path, fields)
            elif value is not None and not _is_of(value, fields[name]):
                yield Problem(
                    code="component-value-kind",
                    path=path,
                    what=f"expected a {fields[name]}, not {kind_of(value)}",
                    why="it is refused when the component starts, so nodes would not become ready",
                    fix=f"set {name} to a {fields[name]}, or remove it",
                )
            else:
                yield from _check_value(path, value, fields[name])
    mode = kubernetes.kube_proxy.get("mode")
    if isinstance(mode, str) and mode not in KUBE_PROXY_MODES:
        yield Problem(
            code="kube-proxy-mode-unknown",
            path=("kubernetes", "kubeProxy", "mode"),
            what=f"{mode!r} is not a mode of kube-proxy",
            why="kube-proxy would not start, and no Service would be reachable",
            fix=f"use {nearest(mode, KUBE_PROXY_MODES[1:]) or 'iptables'}",
        )


def _unknown(path: KeyPath, known: Iterable[str]) -> Problem:
    guess = nearest(path[-1], known)
    return Problem(
        code="component-key-unknown",
        path=path,
        what=f"{path[-2]} has no setting {path[-1]}",
        why="the component ignores it when it starts, and everything stays as it was",
        fix=f"use {guess}" if guess else "remove it",
    )


def _check_value(path: KeyPath, value: object, kind: str) -> Iterator[Problem]:
    """The problems of a value of the right kind: unknown keys, choices and durations."""
    name = path[-1]
    if isinstance(value, dict) and name in NESTED:
        yield from (_unknown((*path, x), NESTED[name]) for x in value if x not in NESTED[name])
    why = "kubelet or kube-proxy would not start, so nodes would not become ready"
    if isinstance(value, str) and value not in CHOICES.get(name, [value]):
        guess = nearest(value, CHOICES[name])
        yield Problem(
            code="component-choice-unknown",
            path=path,
            what=f"{value!r} is not one of {', '.join(CHOICES[name])}",
            why=why,
            fix=f"use {guess}" if guess else one_of(CHOICES[name]),
        )
    if kind == "duration" and not re.fullmatch(_DURATION, str(value or "0")):
        yield Problem(
            code="component-duration",
            path=path,
            what=f"{value!r} is not a duration",
            why=why,
            fix="use a value such as 30s or 1h30m, or remove it",
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
