"""The IstioOperator document that istioctl installs from."""

from collections.abc import Mapping
from typing import Any

from components.manifests import Manifest, proxy_stats
from stacks.config import Istio


def istio_operator(istio: Istio) -> Manifest:
    """The mesh's control plane and gateways under a named revision.

    hub and tag are always set, because an istioctl without version stamps defaults to a testing
    hub. istio.values is merged last, so that it can override anything here.
    """
    proxy = istio.proxy
    values: Manifest = {
        "global": {
            "proxy": {
                "resources": {
                    "requests": proxy.requests.model_dump(),
                    "limits": proxy.limits.model_dump(),
                }
            }
        }
    }
    return {
        "apiVersion": "install.istio.io/v1alpha1",
        "kind": "IstioOperator",
        "metadata": {"name": "nordmesh", "namespace": "istio-system"},
        "spec": {
            "profile": istio.profile,
            "hub": istio.hub,
            "tag": istio.version,
            "revision": istio.revision,
            "meshConfig": {
                "enableAutoMtls": True,
                "outboundTrafficPolicy": {"mode": istio.outbound_traffic_policy},
                "defaultConfig": {
                    "concurrency": proxy.concurrency,
                    "holdApplicationUntilProxyStarts": proxy.hold_application_until_proxy_starts,
                    "proxyStatsMatcher": proxy_stats.matcher(),
                },
            },
            "components": {
                "egressGateways": [{"name": "istio-egressgateway", "enabled": istio.egress_gateway}]
            },
            "values": merged(values, istio.values),
        },
    }


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> Manifest:
    """base with over's values on top, mapping by mapping."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        result[key] = merged(below, value) if both else value  # type: ignore[arg-type]
    return result
