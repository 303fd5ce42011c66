"""The IstioOperator document that istioctl installs from."""

from collections.abc import Mapping
from typing import Any

from components.manifests import Manifest
from components.manifests.istio_gateways import egress_gateways, ingress_gateways
from stacks.config import Istio


def istio_operator(istio: Istio) -> Manifest:
    """The mesh's control plane and gateways under a named revision.

    hub and tag are always set, because an istioctl without version stamps defaults to a testing
    hub. istio.values and istio.overlay are merged last, so that they can override anything here.
    """
    spec: Manifest = {
        "profile": istio.profile,
        "hub": istio.hub,
        "tag": istio.version,
        "revision": istio.revision,
        "meshConfig": _mesh_config(istio),
        "components": {
            "pilot": _pilot(istio),
            "ingressGateways": ingress_gateways(istio),
            "egressGateways": egress_gateways(istio),
        },
        "values": merged(_values(istio), istio.values),
    }
    return {
        "apiVersion": "install.istio.io/v1alpha1",
        "kind": "IstioOperator",
        "metadata": {"name": "nordmesh", "namespace": "istio-system"},
        "spec": merged(spec, istio.overlay),
    }


def _mesh_config(istio: Istio) -> Manifest:
    proxy, tracing, log = istio.proxy, istio.tracing, istio.access_log
    traces: Manifest = {"sampling": tracing.sampling, "zipkin": {"address": tracing.collector}}
    return {
        "enableAutoMtls": True,
        "outboundTrafficPolicy": {"mode": istio.outbound_traffic_policy},
        **(_access_log(log.target, log.format) if log else {}),
        "trustDomain": istio.trust_domain,
        "enableTracing": tracing.enabled,
        "defaultConfig": {
            "concurrency": proxy.concurrency,
            "holdApplicationUntilProxyStarts": proxy.hold_application_until_proxy_starts,
            "proxyMetadata": {"SECRET_TTL": proxy.certificate_lifetime},
            **({"tracing": traces} if tracing.enabled else {}),
        },
    }


def _access_log(target: str, encoding: str) -> Manifest:
    file = "" if target == "none" else f"/dev/{target}"
    return {"accessLogFile": file, "accessLogEncoding": encoding.upper()}


def _pilot(istio: Istio) -> Manifest:
    pilot = istio.pilot
    resources = {
        kind: amount.model_dump()
        for kind, amount in (("requests", pilot.requests), ("limits", pilot.limits))
        if amount is not None
    }
    return {
        "enabled": True,
        "k8s": {
            **({"resources": resources} if resources else {}),
            "hpaSpec": {"minReplicas": pilot.replicas.min, "maxReplicas": pilot.replicas.max},
            # Istio's own is 1, with which the node of a single istiod could never be drained.
            "podDisruptionBudget": {"minAvailable": pilot.replicas.min - 1},
        },
    }


def _values(istio: Istio) -> Manifest:
    requests, limits = istio.proxy.requests.model_dump(), istio.proxy.limits.model_dump()
    return {
        "global": {"proxy": {"resources": {"requests": requests, "limits": limits}}},
        "pilot": {"env": {"PILOT_DEBOUNCE_AFTER": istio.pilot.debounce_after}},
    }


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> Manifest:
    """base with over's values on top, mapping by mapping."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        result[key] = merged(below, value) if both else value  # type: ignore[arg-type]
    return result
