"""Checks of what is passed on as it is written: that it sets nothing that has a key of its own."""

from collections.abc import Iterator

from stacks.errors import Problem
from stacks.faults import value_at
from stacks.fields.names import ROOT_NAMESPACE
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
_ONE_PLACE = "two places for one setting drift apart"
_OF_THE_VERSION = ("the images' tag is the version", "write istio.version")
_OF_THE_REVISION = ("the revision is made from the version", "remove it")
_WHERE_ISTIOD_IS = (f"the program looks for istiod in {ROOT_NAMESPACE}", "remove it")
_TRACING = {
    ("meshConfig", "enableTracing"): (_ONE_PLACE, "write istio.tracing.enabled"),
    ("meshConfig", "defaultConfig", "tracing"): (_ONE_PLACE, "write istio.tracing"),
}
_ISTIO_VALUES_OURS = {
    ("global", "proxy", "resources"): (
        _ONE_PLACE,
        "write istio.proxy.requests and istio.proxy.limits",
    ),
    ("global", "hub"): ("the images' names have a key of their own", "write istio.hub"),
    ("global", "tag"): _OF_THE_VERSION,
    ("global", "istioNamespace"): _WHERE_ISTIOD_IS,
    ("revision",): _OF_THE_REVISION,
    ("pilot", "env", "PILOT_DEBOUNCE_AFTER"): (
        _ONE_PLACE,
        "write istio.pilot.debounceAfter",
    ),
    **_TRACING,
    ("global", "tracer"): (_ONE_PLACE, "write istio.tracing.collector"),
    ("pilot", "traceSampling"): (_ONE_PLACE, "write istio.tracing.sampling"),
}
_ISTIO_OVERLAY_OURS = {
    ("profile",): (_ONE_PLACE, "write istio.profile"),
    ("hub",): (_ONE_PLACE, "write istio.hub"),
    ("tag",): _OF_THE_VERSION,
    ("revision",): _OF_THE_REVISION,
    ("namespace",): _WHERE_ISTIOD_IS,
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
    **_TRACING,
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


CHECKS = (_check_raw_settings,)
