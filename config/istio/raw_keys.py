"""Checks of the keys of istio.values and istio.overlay: istioctl refuses unknown ones.

The keys are those of Istio 1.18, which has all of earlier releases: IstioOperatorSpec and
IstioComponentSetSpec, MeshConfig and ProxyConfig of istio.io/api, and Values of the operator.
"""

import re
from collections.abc import Iterator, Mapping

from config.errors import KeyPath, Problem, nearest
from config.sections import Sections

_VALUES = (
    "cni gateways global pilot ztunnel telemetry sidecarInjectorWebhook istioCni revision "
    "ownerName meshConfig base istiodRemote revisionTags defaultRevision"
)
_SPEC = (
    "profile installPackagePath hub tag resourceSuffix namespace revision defaultRevision "
    "meshConfig components addonComponents values unvalidatedValues"
)
_COMPONENTS = "base pilot cni ztunnel istiodRemote ingressGateways egressGateways"
_MESH_CONFIG = (
    "proxyListenPort proxyInboundListenPort proxyHttpPort connectTimeout protocolDetectionTimeout "
    "tcpKeepalive ingressClass ingressService ingressControllerMode ingressSelector enableTracing "
    "accessLogFile accessLogFormat accessLogEncoding enableEnvoyAccessLogService "
    "disableEnvoyListenerLog defaultConfig outboundTrafficPolicy configSources enableAutoMtls "
    "trustDomain trustDomainAliases caCertificates defaultServiceExportTo "
    "defaultVirtualServiceExportTo defaultDestinationRuleExportTo rootNamespace localityLbSetting "
    "dnsRefreshRate h2UpgradePolicy inboundClusterStatName outboundClusterStatName certificates "
    "serviceSettings enablePrometheusMerge verifyCertificateAtClient ca extensionProviders "
    "defaultProviders discoverySelectors pathNormalization defaultHttpRetryPolicy meshMTLS "
    "tlsDefaults"
)
_PROXY_CONFIG = (
    "configPath binaryPath serviceCluster tracingServiceName drainDuration discoveryAddress "
    "discoveryRefreshDelay zipkinAddress statsdUdpAddress envoyMetricsServiceAddress "
    "proxyAdminPort availabilityZone controlPlaneAuthPolicy customConfigFile statNameLength "
    "concurrency proxyBootstrapTemplatePath interceptionMode tracing sds envoyAccessLogService "
    "envoyMetricsService proxyMetadata runtimeValues statusPort extraStatTags gatewayTopology "
    "terminationDrainDuration meshId readinessProbe proxyStatsMatcher "
    "holdApplicationUntilProxyStarts caCertificatesPem image privateKeyProvider"
)
_KEYS: Mapping[KeyPath, str] = {
    ("values",): _VALUES,
    ("overlay",): _SPEC,
    ("overlay", "components"): _COMPONENTS,
    ("overlay", "meshConfig"): _MESH_CONFIG,
    ("overlay", "meshConfig", "defaultConfig"): _PROXY_CONFIG,
}


def _check_keys(sections: Sections) -> Iterator[Problem]:
    istio = sections.istio
    if istio is None:
        return
    settings = {"values": istio.values, "overlay": istio.overlay}
    for path, text in _KEYS.items():
        known = text.split()
        for name in _below(settings, path):
            if _in_camel_case(name.partition(".")[0]) in known:
                continue
            guess = nearest(name, known)
            yield Problem(
                code="istio-key-unknown",
                path=("istio", *path, name),
                what=f"Istio has no setting {'.'.join((*path[1:], name))}",
                why="istioctl refuses it, so the install would fail",
                fix=f"use {guess}" if guess else "remove it",
            )


def _below(settings: object, path: KeyPath) -> Mapping[str, object]:
    """The settings below a path; {} if there are only other values."""
    for key in path:
        settings = settings.get(key) if isinstance(settings, dict) else None
    return settings if isinstance(settings, dict) else {}


def _in_camel_case(name: str) -> str:
    """A key as in the lists: Istio also accepts outbound_traffic_policy."""
    return re.sub(r"_([a-z])", lambda match: match[1].upper(), name)


CHECKS = (_check_keys,)
