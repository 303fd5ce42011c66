"""The IstioOperator documents that istioctl installs from."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import yaml

from components.manifests import Manifest, proxy_stats
from components.manifests.istio_gateways import gateway
from config import EGRESS_GATEWAY, INGRESS_GATEWAY, ROOT_NAMESPACE, GatewayDeployment, Istio
from config.scalars.durations import seconds

CONTROL_PLANE = "nordmesh"
"""The name of the control plane's document."""


def control_plane(istio: Istio) -> Manifest:
    """The mesh's definitions and its control plane under a named revision, without gateways.

    hub and tag are always set, because an istioctl without version stamps defaults to a testing
    hub. istio.values and istio.overlay are merged last, so that they can override anything here.
    """
    spec: Manifest = {
        "profile": istio.profile,
        **_common(istio),
        "components": {
            "pilot": _pilot(istio),
            "ingressGateways": [{"name": INGRESS_GATEWAY, "enabled": False}],
            "egressGateways": [{"name": EGRESS_GATEWAY, "enabled": False}],
        },
    }
    return _document(CONTROL_PLANE, merged(spec, istio.overlay))


def gateways(istio: Istio) -> Manifest:
    """The gateways; install them when the control plane is healthy.

    A separate document: with a single one, istioctl installs the gateways even after the control
    plane has failed, and moves them to a revision that does not serve.
    """
    components: Mapping[str, Mapping[str, GatewayDeployment]] = {
        "ingressGateways": istio.ingress,
        "egressGateways": istio.egress_gateways,
    }
    spec: Manifest = {
        "profile": "empty",
        **_common(istio),
        "components": {
            kind: [gateway(istio, name, settings) for name, settings in named.items()]
            for kind, named in components.items()
            if named
        },
    }
    overlay = {key: value for key, value in istio.overlay.items() if key != "components"}
    return _document("nordmesh-gateways", merged(spec, overlay))


def _document(name: str, spec: Manifest) -> Manifest:
    return {
        "apiVersion": "install.istio.io/v1alpha1",
        "kind": "IstioOperator",
        "metadata": {"name": name, "namespace": ROOT_NAMESPACE},
        "spec": spec,
    }


def _common(istio: Istio) -> Manifest:
    return {
        "hub": istio.hub,
        "tag": istio.version,
        "revision": istio.revision,
        "meshConfig": _mesh_config(istio),
        "values": merged(_values(istio), istio.values),
    }


def _mesh_config(istio: Istio) -> Manifest:
    proxy, tracing, log = istio.proxy, istio.tracing, istio.access_log
    traces: Manifest = {"sampling": tracing.sampling, "zipkin": {"address": tracing.collector}}
    return {
        "enableAutoMtls": True,
        "outboundTrafficPolicy": {"mode": istio.outbound_traffic_policy},
        "pathNormalization": {"normalization": istio.path_normalization},
        **(_access_log(log.target, log.format) if log else {}),
        "trustDomain": istio.trust_domain,
        "enableTracing": tracing.enabled,
        "defaultConfig": {
            "concurrency": proxy.concurrency,
            "holdApplicationUntilProxyStarts": proxy.hold_application_until_proxy_starts,
            "terminationDrainDuration": f"{seconds(proxy.drain_duration).normalize():f}s",
            "proxyStatsMatcher": proxy_stats.matcher(),
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
            # With Istio's default of 1, the node of a single istiod could never be drained.
            "podDisruptionBudget": {"minAvailable": pilot.replicas.min - 1},
        },
    }


def _values(istio: Istio) -> Manifest:
    requests, limits = istio.proxy.requests.model_dump(), istio.proxy.limits.model_dump()
    variables = {"PILOT_DEBOUNCE_AFTER": istio.pilot.debounce_after}
    if istio.http10:
        variables["PILOT_HTTP10"] = "1"
    return {
        "global": {"proxy": {"resources": {"requests": requests, "limits": limits}}},
        "pilot": {"env": variables},
    }


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> Manifest:
    """Merge two mappings recursively; the values of `over` win."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        result[key] = merged(below, value) if both else value  # type: ignore[arg-type]
    return result


def specs(settings: Mapping[str, str]) -> dict[str, Manifest]:
    """The specs of the documents in a script's settings, by the documents' names."""
    documents = [_parsed(text) for text in settings.values() if "kind: IstioOperator" in text]
    return {document["metadata"]["name"]: document.get("spec") or {} for document in documents}


@cache
def _parsed(text: str) -> Manifest:
    document: Manifest = yaml.safe_load(text)
    return document
