"""Settings that istio.values and istio.overlay may not contain.

These are settings with their own key, and settings that the mesh depends on. The names come from
Istio 1.16's charts, its MeshConfig and ProxyConfig, and its operator API.
"""

import re
from collections.abc import Iterator, Mapping

from config.errors import KeyPath, Problem
from config.raw_settings import Rules, canonical, forbidden, written
from config.scalars.names import ROOT_NAMESPACE
from config.sections import Sections

_ONE_PLACE = "a setting in two places can have two values"
_OF_THE_VERSION = ("the tag of the images is the version", "use istio.version instead")
_OF_THE_REVISION = ("the revision follows from the version", "remove it")
_WHERE_ISTIOD_IS = (f"nordmesh expects istiod in {ROOT_NAMESPACE}", "remove it")
_HUB = (_ONE_PLACE, "use istio.hub instead")
_SAMPLING = (_ONE_PLACE, "use istio.tracing.sampling instead")
_REPLICAS = (_ONE_PLACE, "use istio.pilot.replicas instead")
_PILOT_RESOURCES = (_ONE_PLACE, "use istio.pilot.requests and istio.pilot.limits instead")
_CONCURRENCY = (_ONE_PLACE, "use istio.proxy.concurrency instead")
_HOLD = (_ONE_PLACE, "use istio.proxy.holdApplicationUntilProxyStarts instead")
_LIFETIME = (_ONE_PLACE, "use istio.proxy.certificateLifetime instead")
_TRUST_DOMAIN = (_ONE_PLACE, "use istio.trustDomain instead")
_OUTBOUND = (_ONE_PLACE, "use istio.outboundTrafficPolicy instead")
_PATHS = (_ONE_PLACE, "use istio.pathNormalization instead")
_DRAIN = (_ONE_PLACE, "use istio.proxy.drainDuration instead")
_IMAGE = (_ONE_PLACE, "use istio.hub and istio.version instead")
_INTERCEPTION = (
    "traffic that bypasses the proxies has no mTLS, no caller rules and no egress list",
    "remove it; use mesh.egress to allow hosts outside, and mesh.services.<name>.mtls for ports "
    "that speak plaintext",
)
_INJECTION = (
    "a pod without a sidecar has no mTLS, no caller rules and no egress list",
    "remove it, and use mesh.namespaces.<name>.injection",
)
_IDENTITY = (
    "it controls which certificates the mesh trusts, and they identify callers",
    "remove it",
)
_METRICS = ("the gates read the proxies' metrics by these names", "remove it")
_LISTENERS = ("traffic redirection, gates and metrics use the proxies' default ports", "remove it")
_VISIBILITY = (
    "it controls which routes and policies proxies see, and would override the section mesh",
    "remove it, and use mesh.services.<name>.exportTo or mesh.namespaces.<name>.limitView",
)
_CONFIGURATION = ("istiod would not read what nordmesh writes", "remove it")
_AUTO_MTLS = (
    "without it, callers inside the mesh use plaintext",
    "remove it, and set the mode with mesh.mtls",
)

_PROXY_CONFIG: Rules = {
    "concurrency": _CONCURRENCY,
    "holdApplicationUntilProxyStarts": _HOLD,
    "proxyStatsMatcher": _METRICS,
    "extraStatTags": _METRICS,
    "serviceCluster": _METRICS,
    "proxyMetadata.SECRET_TTL": _LIFETIME,
    "proxyMetadata.DISABLE_ENVOY": _INTERCEPTION,
    "proxyMetadata.EXIT_ON_ZERO_ACTIVE_CONNECTIONS": _DRAIN,
    "proxyMetadata.TERMINATION_DRAIN_DURATION_SECONDS": _DRAIN,
    "proxyMetadata.ISTIO_META_HTTP10": (_ONE_PLACE, "use istio.http10 instead"),
    "terminationDrainDuration": _DRAIN,
    "image": _IMAGE,
    "tracing": (_ONE_PLACE, "use istio.tracing instead"),
    "zipkinAddress": (_ONE_PLACE, "use istio.tracing.collector instead"),
    "interceptionMode": _INTERCEPTION,
    "controlPlaneAuthPolicy": _IDENTITY,
    "caCertificatesPem": _IDENTITY,
    "discoveryAddress": _CONFIGURATION,
    "customConfigFile": _CONFIGURATION,
    "proxyBootstrapTemplatePath": _CONFIGURATION,
    "proxyAdminPort": _LISTENERS,
    "statusPort": _LISTENERS,
}
_MESH_CONFIG: Rules = {
    "outboundTrafficPolicy": _OUTBOUND,
    "pathNormalization": _PATHS,
    "enableAutoMtls": _AUTO_MTLS,
    "trustDomain": _TRUST_DOMAIN,
    "trustDomainAliases": _IDENTITY,
    "ca": _IDENTITY,
    "caCertificates": _IDENTITY,
    "certificates": _IDENTITY,
    "verifyCertificateAtClient": _IDENTITY,
    "rootNamespace": (
        f"nordmesh writes the policies for the whole mesh only in {ROOT_NAMESPACE}",
        "remove it",
    ),
    "configSources": _CONFIGURATION,
    "discoverySelectors": _CONFIGURATION,
    "defaultServiceExportTo": _VISIBILITY,
    "defaultVirtualServiceExportTo": _VISIBILITY,
    "defaultDestinationRuleExportTo": _VISIBILITY,
    "inboundClusterStatName": _METRICS,
    "outboundClusterStatName": _METRICS,
    "proxyListenPort": _LISTENERS,
    "proxyInboundListenPort": _LISTENERS,
    "enableTracing": (_ONE_PLACE, "use istio.tracing.enabled instead"),
    "accessLogFile": (_ONE_PLACE, "use istio.accessLog.target instead"),
    "accessLogEncoding": (_ONE_PLACE, "use istio.accessLog.format instead"),
    **{f"defaultConfig.{key}": rule for key, rule in _PROXY_CONFIG.items()},
}
_OF_THE_MESH: Rules = {f"meshConfig.{key}": rule for key, rule in _MESH_CONFIG.items()}
_VALUES: Rules = {
    **_OF_THE_MESH,
    "meshConfig": (_ONE_PLACE, "move it to istio.overlay.meshConfig"),
    "global.hub": _HUB,
    "global.tag": _OF_THE_VERSION,
    "global.istioNamespace": _WHERE_ISTIOD_IS,
    "global.meshConfig": (_ONE_PLACE, "move it to istio.overlay.meshConfig"),
    "global.outboundTrafficPolicy": _OUTBOUND,
    "global.trustDomain": _TRUST_DOMAIN,
    "global.mtls": _AUTO_MTLS,
    "global.caAddress": _IDENTITY,
    "global.caName": _IDENTITY,
    "global.jwtPolicy": _IDENTITY,
    "global.pilotCertProvider": _IDENTITY,
    "global.sds": _IDENTITY,
    "global.configCluster": _CONFIGURATION,
    "global.externalIstiod": _CONFIGURATION,
    "global.remotePilotAddress": _CONFIGURATION,
    "global.oneNamespace": _CONFIGURATION,
    "global.useMCP": _CONFIGURATION,
    "global.omitSidecarInjectorConfigMap": _INJECTION,
    "global.operatorManageWebhooks": _INJECTION,
    "global.tracer": (_ONE_PLACE, "use istio.tracing.collector instead"),
    "global.proxy.image": _IMAGE,
    "global.proxyInit": _IMAGE,
    "global.proxy.resources": (
        _ONE_PLACE,
        "use istio.proxy.requests and istio.proxy.limits instead",
    ),
    "global.proxy.holdApplicationUntilProxyStarts": _HOLD,
    "global.proxy.concurrency": _CONCURRENCY,
    "global.proxy.tracer": (_ONE_PLACE, "use istio.tracing.collector instead"),
    "global.proxy.autoInject": _INJECTION,
    "global.proxy.clusterDomain": ("the mesh's hosts end in svc.cluster.local", "remove it"),
    "global.proxy.statusPort": _LISTENERS,
    **{
        f"global.proxy.{key}": _INTERCEPTION
        for key in (
            "includeIPRanges",
            "excludeIPRanges",
            "includeInboundPorts",
            "excludeInboundPorts",
            "includeOutboundPorts",
            "excludeOutboundPorts",
            "interceptionMode",
        )
    },
    **{
        f"sidecarInjectorWebhook.{key}": _INJECTION
        for key in (
            "neverInjectSelector",
            "alwaysInjectSelector",
            "enableNamespacesByDefault",
            "injectedAnnotations",
            "objectSelector",
            "templates",
            "defaultTemplates",
        )
    },
    "sidecarInjectorWebhook.rewriteAppHTTPProbe": (
        "STRICT would refuse the kubelet's probes, so pods would never become ready",
        "remove it",
    ),
    "cni.excludeNamespaces": _INTERCEPTION,
    "istiodRemote": _INJECTION,
    "base.validationURL": _CONFIGURATION,
    "revision": _OF_THE_REVISION,
    "revisionTags": _OF_THE_REVISION,
    "pilot.env.PILOT_DEBOUNCE_AFTER": (_ONE_PLACE, "use istio.pilot.debounceAfter instead"),
    "pilot.env.PILOT_HTTP10": (_ONE_PLACE, "use istio.http10 instead"),
    "pilot.env.PILOT_TRACE_SAMPLING": _SAMPLING,
    "pilot.env.DEFAULT_WORKLOAD_CERT_TTL": _LIFETIME,
    "pilot.traceSampling": _SAMPLING,
    "pilot.autoscaleEnabled": _REPLICAS,
    "pilot.autoscaleMin": _REPLICAS,
    "pilot.autoscaleMax": _REPLICAS,
    "pilot.replicaCount": _REPLICAS,
    "pilot.resources": _PILOT_RESOURCES,
    "pilot.configMap": _CONFIGURATION,
    "pilot.configSource": _CONFIGURATION,
    "pilot.hub": _HUB,
    "pilot.tag": _OF_THE_VERSION,
    "pilot.image": _IMAGE,
}
_GATEWAYS = "a list would replace the gateways of the stack file"
_OVERLAY: Rules = {
    **_OF_THE_MESH,
    "profile": (_ONE_PLACE, "use istio.profile instead"),
    "hub": _HUB,
    "tag": _OF_THE_VERSION,
    "revision": _OF_THE_REVISION,
    "defaultRevision": _OF_THE_REVISION,
    "namespace": _WHERE_ISTIOD_IS,
    "values": (_ONE_PLACE, "use istio.values instead"),
    "unvalidatedValues": (_ONE_PLACE, "use istio.values instead"),
    "installPackagePath": ("the charts come with the istioctl of this version", "remove it"),
    "components.ingressGateways": (_GATEWAYS, "use istio.ingressGateways instead"),
    "components.egressGateways": (_GATEWAYS, "use istio.egressGateways instead"),
    "components.istiodRemote": _CONFIGURATION,
    "components.base.enabled": _CONFIGURATION,
    "components.pilot.enabled": (
        "without istiod there is no mesh",
        "remove nordmesh:istio instead",
    ),
    "components.pilot.namespace": _WHERE_ISTIOD_IS,
    "components.pilot.hub": _HUB,
    "components.pilot.tag": _OF_THE_VERSION,
    "components.pilot.k8s.env": (_ONE_PLACE, "use istio.values.pilot.env instead"),
    "components.pilot.k8s.hpaSpec": _REPLICAS,
    "components.pilot.k8s.replicaCount": _REPLICAS,
    "components.pilot.k8s.resources": _PILOT_RESOURCES,
    "components.pilot.k8s.podDisruptionBudget": (
        "it follows from the replicas, so that nodes can be drained",
        "use istio.pilot.replicas instead",
    ),
}
# Variables of istiod that control whom it trusts and where its settings come from.
_TRUST_VARIABLE = re.compile(
    r"AUTH|TRUST|CERT|TOKEN|JWT|SPIFFE|IDENTITY|MTLS|WEBHOOK|INJECT|REVISION|MESH_CONFIG|ISTIOD"
    r"|UNSAFE|INSECURE|(^|_)CA(_|$)"
)
# Variables of proxies that control their identity, their traffic and their configuration.
_PROXY_VARIABLE = re.compile(
    r"AUTH|TRUST|CERT|TOKEN|JWT|SPIFFE|IDENTITY|TLS|INTERCEPT|BOOTSTRAP|XDS|PILOT|PROXY_CONFIG"
    r"|ISTIO_META_CLUSTER|NAMESPACE|(^|_)CA(_|$)"
)
_METADATA = "meshConfig.defaultConfig.proxyMetadata"
# Annotations and labels that remove a pod, or part of its traffic, from the mesh.
_POD_SETTINGS = ("sidecar.istio.io/", "proxy.istio.io/")
# Kinds of objects that a patch may change.
_PATCHABLE = ("Deployment", "HorizontalPodAutoscaler", "PodDisruptionBudget", "Service")
_PATCHED_SETTING = re.compile(r"\.(env|envFrom|args|command|image)\b")


def _check_settings(sections: Sections) -> Iterator[Problem]:
    istio = sections.istio
    if istio is None:
        return
    for name, settings, rules in (
        ("values", istio.values, _VALUES),
        ("overlay", istio.overlay, _OVERLAY),
    ):
        problems = list(forbidden(("istio", name), settings, rules))
        yield from problems
        for problem in _other_ways(("istio", name), settings):
            if not any(problem.path[: len(known.path)] == known.path for known in problems):
                yield problem


def _other_ways(path: KeyPath, settings: Mapping[str, object]) -> Iterator[Problem]:
    """The problems of settings that take effect without a key of the rules."""
    yield from _variables(path, settings)
    yield from _pod_settings(path, settings)
    yield from _patches(path, settings)


def _variables(path: KeyPath, settings: Mapping[str, object]) -> Iterator[Problem]:
    pilot = settings.get("pilot")
    variables = pilot.get("env") if isinstance(pilot, Mapping) else None
    for name in variables if isinstance(variables, Mapping) else ():
        if _TRUST_VARIABLE.search(str(name)) and f"pilot.env.{name}" not in _VALUES:
            yield Problem(
                code="istiod-variable-reserved",
                path=(*path, "pilot", "env", str(name)),
                what=f"istiod's variable {name} may not be set here",
                why="it controls whom istiod trusts, or where its settings come from",
                fix="remove it",
            )
    for keys in written(settings, ()):
        parent, _, name = canonical(keys).rpartition(".")
        if parent == _METADATA and _PROXY_VARIABLE.search(name):
            yield Problem(
                code="proxy-variable-reserved",
                path=(*path, *keys),
                what=f"the proxies' variable {name} may not be set here",
                why="it controls which identity a proxy has, whom it trusts, or what it intercepts",
                fix="remove it",
            )


def _pod_settings(path: KeyPath, value: object) -> Iterator[Problem]:
    """The problems of pod annotations, as keys and in the text of templates and patches."""
    if isinstance(value, Mapping):
        for key, below in value.items():
            if any(name in str(key) for name in _POD_SETTINGS):
                yield _pod_setting((*path, str(key)))
            else:
                yield from _pod_settings((*path, str(key)), below)
    elif isinstance(value, list):
        for index, below in enumerate(value):
            yield from _pod_settings((*path, f"[{index}]"), below)
    elif isinstance(value, str) and any(name in value for name in _POD_SETTINGS):
        yield _pod_setting(path)


def _pod_setting(path: KeyPath) -> Problem:
    why, fix = _INTERCEPTION
    return Problem(
        code="proxy-annotation-reserved",
        path=path,
        what="annotations that configure proxies may not be set here",
        why=why,
        fix=fix,
    )


def _patches(path: KeyPath, settings: Mapping[str, object]) -> Iterator[Problem]:
    """The problems of patches that could change istiod's settings."""
    components = settings.get("components")
    for name, component in components.items() if isinstance(components, Mapping) else ():
        k8s = component.get("k8s") if isinstance(component, Mapping) else None
        overlays = k8s.get("overlays") if isinstance(k8s, Mapping) else None
        for index, overlay in enumerate(overlays if isinstance(overlays, list) else ()):
            kind = overlay.get("kind") if isinstance(overlay, Mapping) else None
            if kind not in _PATCHABLE or _PATCHED_SETTING.search(str(overlay.get("patches"))):
                yield Problem(
                    code="overlay-patch-reserved",
                    path=(*path, "components", name, "k8s", "overlays", f"[{index}]"),
                    what="this patch could change the mesh's settings",
                    why="ConfigMaps, webhooks, images and istiod's arguments hold "
                    "settings that nordmesh writes",
                    fix="remove it; use istio.values or istio.overlay.meshConfig instead",
                )


CHECKS = (_check_settings,)
