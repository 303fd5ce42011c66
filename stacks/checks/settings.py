"""Checks of what is passed on as it is written: raw settings, and the proxies' resources."""

from collections.abc import Iterator

from stacks.errors import Problem
from stacks.faults import value_at
from stacks.fields.quantities import quantity
from stacks.sections import Sections

# Settings that have a place of their own, or that other parts of the program rely on.
_RENDERED = ("it is written by this program", "remove it")
_KUBELET_OURS = {
    ("apiVersion",): _RENDERED,
    ("kind",): _RENDERED,
    ("cgroupDriver",): (
        "containerd must have the same driver, or pods do not start",
        "write kubernetes.cgroupDriver, which sets both",
    ),
    ("clusterDNS",): (
        "kubeadm takes it from kubernetes.serviceCidr; with another, pods resolve no names",
        "remove it",
    ),
    ("clusterDomain",): ("the mesh's hosts end in svc.cluster.local", "remove it"),
    ("staticPodPath",): ("kubeadm puts the control plane's pods in its default", "remove it"),
    ("authentication",): ("the API server could lose its way to the kubelet", "remove it"),
    ("authorization",): ("the API server could lose its way to the kubelet", "remove it"),
    ("rotateCertificates",): ("without it a node is lost when a year is over", "remove it"),
    ("readOnlyPort",): ("it shows pods and nodes to anyone without a login", "remove it"),
}
_KUBE_PROXY_OURS = {
    ("apiVersion",): _RENDERED,
    ("kind",): _RENDERED,
    ("clusterCIDR",): (
        "kube-proxy and the pods' network must agree",
        "write kubernetes.podCidr, which sets both",
    ),
    ("clientConnection",): ("kubeadm gives kube-proxy its way to the API server", "remove it"),
}
_ISTIO_VALUES_OURS = {
    ("global", "proxy", "resources"): (
        "two places for one number drift apart",
        "write istio.proxy.requests and istio.proxy.limits",
    ),
    ("global", "hub"): ("the images' names have a key of their own", "write istio.hub"),
    ("global", "tag"): ("the images' tag is the version", "write istio.version"),
    ("global", "istioNamespace"): ("the program looks for istiod in istio-system", "remove it"),
    ("revision",): ("the revision is made from the version", "remove it"),
    ("pilot", "env", "PILOT_DEBOUNCE_AFTER"): (
        "two places for one number drift apart",
        "write istio.pilot.debounceAfter",
    ),
}
_ONE_PLACE = "two places for one setting drift apart"
_ISTIO_OVERLAY_OURS = {
    ("profile",): (_ONE_PLACE, "write istio.profile"),
    ("hub",): (_ONE_PLACE, "write istio.hub"),
    ("tag",): ("the images' tag is the version", "write istio.version"),
    ("revision",): ("the revision is made from the version", "remove it"),
    ("namespace",): ("the program looks for istiod in istio-system", "remove it"),
    ("values",): (_ONE_PLACE, "write istio.values"),
    ("components", "ingressGateways"): (
        "a list replaces the gateways that the stack names",
        "write istio.ingressGateways",
    ),
    ("components", "egressGateways"): (
        "a list replaces the gateways that the stack names",
        "write istio.egressGateways",
    ),
    ("meshConfig", "outboundTrafficPolicy"): (_ONE_PLACE, "write istio.outboundTrafficPolicy"),
    ("meshConfig", "trustDomain"): (_ONE_PLACE, "write istio.trustDomain"),
    ("meshConfig", "enableTracing"): (_ONE_PLACE, "write istio.tracing.enabled"),
    ("meshConfig", "accessLogFile"): (_ONE_PLACE, "write istio.accessLog.target"),
    ("meshConfig", "accessLogEncoding"): (_ONE_PLACE, "write istio.accessLog.format"),
}


def _check_raw_settings(sections: Sections) -> Iterator[Problem]:
    kubernetes, istio = sections.kubernetes, sections.istio
    kubelet = kubernetes.kubelet if kubernetes else {}
    kube_proxy = kubernetes.kube_proxy if kubernetes else {}
    for path, settings, ours in (
        (("kubernetes", "kubelet"), kubelet, _KUBELET_OURS),
        (("kubernetes", "kubeProxy"), kube_proxy, _KUBE_PROXY_OURS),
        (("istio", "values"), istio.values if istio else {}, _ISTIO_VALUES_OURS),
        (("istio", "overlay"), istio.overlay if istio else {}, _ISTIO_OVERLAY_OURS),
    ):
        for keys, (why, instead) in ours.items():
            if value_at(settings, keys) is not None:
                yield Problem(
                    path=(*path, *keys),
                    what=f"{'.'.join(keys)} may not be set here",
                    why=why,
                    instead=instead,
                )


def _check_proxy(sections: Sections) -> Iterator[Problem]:
    if sections.istio is None:
        return
    proxy = sections.istio.proxy
    limits, requests = ("istio", "proxy", "limits"), ("istio", "proxy", "requests")
    for kind in ("cpu", "memory"):
        request, limit = getattr(proxy.requests, kind), getattr(proxy.limits, kind)
        if quantity(request) > quantity(limit):
            yield Problem(
                path=(*requests, kind),
                what=f"the request of {request} is above the limit of {limit}",
                why="the API server refuses such pods, so no pod with a sidecar could start",
                instead=f"write at most {limit}, or raise istio.proxy.limits.{kind}",
                about=((*limits, kind),),
            )
    # A proxy with less than half a core is stopped by the kernel for most of each 100 ms as soon
    # as its two worker threads are busy: latency of the whole mesh. The guides: never too low.
    if quantity(proxy.limits.cpu) < quantity("500m"):
        yield Problem(
            path=(*limits, "cpu"),
            what=f"a CPU limit of {proxy.limits.cpu} is too low for a proxy",
            why="every request of the application waits while the kernel holds the proxy back",
            instead="write at least 500m; Istio's default is 2000m, and a limit that is not used "
            "costs nothing",
        )
    if quantity(proxy.limits.memory) < quantity("128Mi"):
        yield Problem(
            path=(*limits, "memory"),
            what=f"a memory limit of {proxy.limits.memory} is too low for a proxy",
            why="Envoy takes about 50 MB before it knows any service; above the limit it is "
            "killed, and its application is cut off",
            instead="write at least 128Mi; Istio's default is 1024Mi",
        )


CHECKS = (_check_raw_settings, _check_proxy)
