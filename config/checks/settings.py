"""Checks of what is passed on as it is written: that it sets nothing that has a key of its own."""

import re
from collections.abc import Iterator, Mapping

from config.checks import istio_settings
from config.checks.istio_settings import Rules
from config.errors import KeyPath, Problem
from config.faults import value_at
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


def _check_raw_settings(sections: Sections) -> Iterator[Problem]:
    kubernetes, istio = sections.kubernetes, sections.istio
    if kubernetes is not None:
        yield from _forbidden(("kubernetes", "kubelet"), kubernetes.kubelet, _KUBELET_OURS)
        yield from _forbidden(("kubernetes", "kubeProxy"), kubernetes.kube_proxy, _KUBE_PROXY_OURS)
    if istio is not None:
        for name, settings, rules in (
            ("values", istio.values, istio_settings.VALUES),
            ("overlay", istio.overlay, istio_settings.OVERLAY),
        ):
            problems = list(_forbidden(("istio", name), settings, rules))
            yield from problems
            for problem in istio_settings.check(name, settings):
                if not any(problem.path[: len(known.path)] == known.path for known in problems):
                    yield problem


def _forbidden(path: KeyPath, settings: Mapping[str, object], rules: Rules) -> Iterator[Problem]:
    """The settings that a rule refuses, and those that would take away all that is below them."""
    problems: dict[KeyPath, Problem] = {}
    for keys in _written(settings, ()):
        name = _canonical(keys)
        above = [rule for rule in rules if f"{name}.".startswith(f"{rule}.")]
        below = [rule for rule in rules if rule.startswith(f"{name}.")]
        if above:
            rule = max(above, key=len)
            place = next(keys[:n] for n in range(1, len(keys) + 1) if _reaches(keys[:n], rule))
            why, fix = rules[rule]
            what = f"{rule} may not be set here"
        elif below and value_at(settings, keys) != {}:
            place, fix = keys, "remove it, or write the keys that you need below it"
            what = f"{'.'.join(keys)} may not be set as a whole"
            why = f"it would take away what the program needs below it, such as {below[0]}"
        else:
            continue
        problem = Problem(path=(*path, *place), what=what, why=why, fix=fix)
        problems.setdefault(problem.path, problem)
    yield from problems.values()


def _written(settings: object, path: KeyPath) -> Iterator[KeyPath]:
    """The paths of all values; a mapping that is not empty is no value."""
    if isinstance(settings, Mapping) and (settings or not path):
        for key, below in settings.items():
            yield from _written(below, (*path, str(key)))
    else:
        yield path


def _canonical(keys: KeyPath) -> str:
    """A path with dots, in the spelling of the rules: Istio also reads outbound_traffic_policy."""
    return re.sub(r"_([a-z])", lambda match: match[1].upper(), ".".join(keys))


def _reaches(keys: KeyPath, rule: str) -> bool:
    return f"{_canonical(keys)}.".startswith(f"{rule}.")


CHECKS = (_check_raw_settings,)
