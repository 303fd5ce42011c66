"""Settings passed on to Istio and Kubernetes: they cannot override what the program sets."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from components.manifests import istio_operator
from config import Istio, StackConfig
from config.errors import ConfigError
from config.faults import value_at
from tests.unit.config.test_errors import edited, refusal

Values = dict[str, Any]
Load = Callable[[Values], StackConfig]

ALLOW_ANY = {"outboundTrafficPolicy": {"mode": "ALLOW_ANY"}}
EXCLUDED = "traffic.sidecar.istio.io/excludeOutboundIPRanges"


def nested(path: str, value: object) -> Values:
    """A mapping with a value at a dotted path."""
    for key in reversed(path.split(".")):
        value = {key: value}
    assert isinstance(value, dict)
    return value


# The section, the settings, and the path of the error below the section.
REFUSED: list[tuple[str, Values, str]] = [
    # --- egress policy
    ("values", {"meshConfig": ALLOW_ANY}, "meshConfig.outboundTrafficPolicy"),
    ("overlay", {"meshConfig": ALLOW_ANY}, "meshConfig.outboundTrafficPolicy"),
    (
        "overlay",
        nested("meshConfig.outboundTrafficPolicy.mode", None),
        "meshConfig.outboundTrafficPolicy",
    ),
    (
        "overlay",
        nested("meshConfig.outboundTrafficPolicy", None),
        "meshConfig.outboundTrafficPolicy",
    ),
    (
        "overlay",
        {"meshConfig": {"outbound_traffic_policy": {"mode": "ALLOW_ANY"}}},
        "meshConfig.outbound_traffic_policy",
    ),
    (
        "overlay",
        {"meshConfig.outboundTrafficPolicy.mode": "ALLOW_ANY"},
        '["meshConfig.outboundTrafficPolicy.mode"]',
    ),
    ("overlay", {"meshConfig": None}, "meshConfig"),
    ("overlay", {"meshConfig": []}, "meshConfig"),
    ("overlay", {"meshConfig": "outboundTrafficPolicy: {mode: ALLOW_ANY}"}, "meshConfig"),
    ("overlay", nested("meshConfig.defaultConfig", None), "meshConfig.defaultConfig"),
    ("overlay", {"components": None}, "components"),
    ("overlay", nested("components.pilot", None), "components.pilot"),
    ("overlay", nested("components.pilot.k8s", None), "components.pilot.k8s"),
    ("overlay", {"values": None}, "values"),
    ("overlay", {"unvalidatedValues": {"meshConfig": ALLOW_ANY}}, "unvalidatedValues"),
    ("values", {"meshConfig": None}, "meshConfig"),
    ("values", {"global": None}, "global"),
    ("values", {"global": {"proxy": None}}, "global.proxy"),
    ("values", {"pilot": {"env": None}}, "pilot.env"),
    ("values", {"meshConfig": {"accessLogFormat": "x"}}, "meshConfig"),
    # --- interception
    *(
        ("values", nested(f"global.proxy.{key}", value), f"global.proxy.{key}")
        for key, value in (
            ("excludeIPRanges", "0.0.0.0/0"),
            ("includeIPRanges", "10.0.0.0/8"),
            ("excludeInboundPorts", "8080"),
            ("includeInboundPorts", ""),
            ("excludeOutboundPorts", "443"),
            ("includeOutboundPorts", "80"),
            ("autoInject", "disabled"),
        )
    ),
    ("values", {"global.proxy.excludeIPRanges": "0.0.0.0/0"}, '["global.proxy.excludeIPRanges"]'),
    (
        "values",
        nested("sidecarInjectorWebhook.injectedAnnotations", {EXCLUDED: "0.0.0.0/0"}),
        "sidecarInjectorWebhook.injectedAnnotations",
    ),
    *(
        ("values", nested(f"sidecarInjectorWebhook.{key}", value), f"sidecarInjectorWebhook.{key}")
        for key, value in (
            ("neverInjectSelector", [{}]),
            ("alwaysInjectSelector", [{}]),
            ("enableNamespacesByDefault", True),
            ("objectSelector", {"enabled": False}),
            ("templates", {"own": "x"}),
            ("defaultTemplates", ["own"]),
        )
    ),
    (
        "values",
        nested("sidecarInjectorWebhook.rewriteAppHTTPProbe", False),
        "sidecarInjectorWebhook.rewriteAppHTTPProbe",
    ),
    (
        "values",
        nested("global.omitSidecarInjectorConfigMap", True),
        "global.omitSidecarInjectorConfigMap",
    ),
    ("values", nested("cni.excludeNamespaces", ["shop"]), "cni.excludeNamespaces"),
    (
        "values",
        {"gateways": {"edge": {"podAnnotations": {EXCLUDED: "0.0.0.0/0"}}}},
        f'gateways.edge.podAnnotations["{EXCLUDED}"]',
    ),
    (
        "overlay",
        nested("meshConfig.defaultConfig.interceptionMode", "NONE"),
        "meshConfig.defaultConfig.interceptionMode",
    ),
    (
        "overlay",
        {"components": {"cni": {"k8s": {"podAnnotations": {EXCLUDED: "0.0.0.0/0"}}}}},
        f'components.cni.k8s.podAnnotations["{EXCLUDED}"]',
    ),
    (
        "overlay",
        {
            "components": {
                "pilot": {
                    "k8s": {"overlays": [{"kind": "ConfigMap", "name": "istio", "patches": []}]}
                }
            }
        },
        "components.pilot.k8s.overlays[0]",
    ),
    (
        "overlay",
        {
            "components": {
                "pilot": {
                    "k8s": {
                        "overlays": [
                            {
                                "kind": "Deployment",
                                "name": "istiod",
                                "patches": [
                                    {
                                        "path": "spec.template.spec.containers.[name:d].env",
                                        "value": "x",
                                    }
                                ],
                            }
                        ]
                    }
                }
            }
        },
        "components.pilot.k8s.overlays[0]",
    ),
    # --- identity
    ("overlay", nested("meshConfig.enableAutoMtls", False), "meshConfig.enableAutoMtls"),
    ("values", nested("meshConfig.enableAutoMtls", False), "meshConfig.enableAutoMtls"),
    ("overlay", nested("meshConfig.enable_auto_mtls", False), "meshConfig.enable_auto_mtls"),
    ("overlay", nested("meshConfig.trustDomain", "x"), "meshConfig.trustDomain"),
    ("values", nested("meshConfig.trustDomain", "x"), "meshConfig.trustDomain"),
    ("values", nested("global.trustDomain", "x"), "global.trustDomain"),
    ("overlay", nested("meshConfig.trustDomainAliases", ["x"]), "meshConfig.trustDomainAliases"),
    ("overlay", nested("meshConfig.rootNamespace", "x"), "meshConfig.rootNamespace"),
    (
        "values",
        nested("pilot.env.PILOT_SKIP_VALIDATE_TRUST_DOMAIN", "true"),
        "pilot.env.PILOT_SKIP_VALIDATE_TRUST_DOMAIN",
    ),
    ("values", nested("pilot.env.XDS_AUTH", "false"), "pilot.env.XDS_AUTH"),
    ("values", nested("pilot.env.SHARED_MESH_CONFIG", "mine"), "pilot.env.SHARED_MESH_CONFIG"),
    (
        "values",
        nested("pilot.env.ENABLE_AUTO_MTLS_CHECK_POLICIES", "false"),
        "pilot.env.ENABLE_AUTO_MTLS_CHECK_POLICIES",
    ),
    (
        "overlay",
        nested("components.pilot.k8s.env", [{"name": "XDS_AUTH", "value": "false"}]),
        "components.pilot.k8s.env",
    ),
    # --- settings with their own key, and settings that the gates read
    (
        "overlay",
        nested("meshConfig.defaultConfig.proxyStatsMatcher", {"inclusionRegexps": []}),
        "meshConfig.defaultConfig.proxyStatsMatcher",
    ),
    (
        "values",
        nested("meshConfig.defaultConfig.proxyStatsMatcher", None),
        "meshConfig.defaultConfig.proxyStatsMatcher",
    ),
    (
        "overlay",
        nested("meshConfig.inboundClusterStatName", "x"),
        "meshConfig.inboundClusterStatName",
    ),
    (
        "overlay",
        nested("meshConfig.proxyInboundListenPort", 15016),
        "meshConfig.proxyInboundListenPort",
    ),
    (
        "overlay",
        nested("meshConfig.defaultConfig.concurrency", 0),
        "meshConfig.defaultConfig.concurrency",
    ),
    (
        "overlay",
        nested("meshConfig.defaultConfig.holdApplicationUntilProxyStarts", False),
        "meshConfig.defaultConfig.holdApplicationUntilProxyStarts",
    ),
    (
        "overlay",
        nested("meshConfig.defaultConfig.proxyMetadata.SECRET_TTL", "1h"),
        "meshConfig.defaultConfig.proxyMetadata.SECRET_TTL",
    ),
    (
        "values",
        nested("global.proxy.holdApplicationUntilProxyStarts", False),
        "global.proxy.holdApplicationUntilProxyStarts",
    ),
    *(
        (
            "overlay",
            nested(f"meshConfig.defaultConfig.{key}", value),
            f"meshConfig.defaultConfig.{key}",
        )
        for key, value in (
            ("terminationDrainDuration", "0s"),
            ("image", {"imageType": "mine"}),
            ("proxyMetadata.EXIT_ON_ZERO_ACTIVE_CONNECTIONS", "true"),
            ("proxyMetadata.ISTIO_META_HTTP10", "1"),
            ("proxyMetadata.CA_ADDR", "mine:443"),
            ("proxyMetadata.XDS_ROOT_CA", "/mine"),
            ("proxyMetadata.ISTIO_META_TLS_CLIENT_KEY", "/mine"),
            ("proxyMetadata.PROXY_CONFIG", "{}"),
            ("proxyMetadata.ISTIO_BOOTSTRAP", "/mine"),
            ("proxyMetadata.ISTIO_META_INTERCEPTION_MODE", "NONE"),
        )
    ),
    (
        "overlay",
        nested("meshConfig.default_config.proxy_metadata.CA_ADDR", "mine:443"),
        "meshConfig.default_config.proxy_metadata.CA_ADDR",
    ),
    ("overlay", nested("meshConfig.pathNormalization", None), "meshConfig.pathNormalization"),
    (
        "values",
        nested("meshConfig.pathNormalization.normalization", "NONE"),
        "meshConfig.pathNormalization",
    ),
    ("values", nested("global.proxy.image", "mine.example/proxy"), "global.proxy.image"),
    ("values", nested("global.proxy_init.image", "mine.example/x"), "global.proxy_init"),
    ("values", nested("istiodRemote.injectionURL", "https://x.example"), "istiodRemote"),
    ("values", nested("base.validationURL", "https://x.example"), "base.validationURL"),
    ("values", {"revisionTags": ["default"]}, "revisionTags"),
    ("values", nested("pilot.env.PILOT_HTTP10", "1"), "pilot.env.PILOT_HTTP10"),
    ("values", nested("pilot.autoscaleMax", 9), "pilot.autoscaleMax"),
    ("values", nested("pilot.configMap", False), "pilot.configMap"),
    (
        "overlay",
        nested("components.pilot.k8s.hpaSpec.maxReplicas", 9),
        "components.pilot.k8s.hpaSpec",
    ),
]


@pytest.mark.parametrize(
    ("section", "settings", "path"),
    REFUSED,
    ids=[f"{section}.{json.dumps(settings)[:70]}" for section, settings, _ in REFUSED],
)
def test_settings_that_the_mesh_relies_on_are_refused(
    load: Load, container_stack: Values, section: str, settings: Values, path: str
) -> None:
    error = refusal(load, edited(container_stack, {f"istio.{section}": settings}))
    dot = "" if path.startswith("[") else "."
    assert [problem.key for problem in error.problems] == [f"nordmesh:istio.{section}{dot}{path}"]


@pytest.mark.parametrize(
    ("section", "settings"),
    [
        ("values", {"telemetry": {"enabled": False}}),
        ("values", {"pilot": {"env": {"PILOT_ENABLE_ALPN_FILTER": "false"}}}),
        ("values", {"global": {"logAsJson": True, "proxy": {"logLevel": "debug"}}}),
        ("values", {"global": {"proxy": {}}, "pilot": {}}),
        ("overlay", {"components": {"cni": {"enabled": True}, "pilot": {}}, "meshConfig": {}}),
        ("overlay", {"meshConfig": {"accessLogFormat": "%PROTOCOL%"}}),
        (
            "overlay",
            nested("meshConfig.defaultConfig.proxyMetadata", {"ISTIO_META_DNS_CAPTURE": "true"}),
        ),
        ("overlay", {"components": {"pilot": {"k8s": {"nodeSelector": {"disk": "ssd"}}}}}),
        ("overlay", {"meshConfig": {"defaultConfig": {"drainDuration": "60s"}}}),
    ],
)
def test_other_settings_are_passed_on(
    load: Load, container_stack: Values, section: str, settings: Values
) -> None:
    assert load(edited(container_stack, {f"istio.{section}": settings}))


def _leaves(settings: object, keys: tuple[str, ...]) -> list[tuple[str, ...]]:
    if not isinstance(settings, dict):
        return [keys]
    return [
        leaf
        for key, nested_settings in settings.items()
        for leaf in _leaves(nested_settings, (*keys, key))
    ]


def _program_settings() -> list[tuple[str, ...]]:
    """Every key that the program sets in the control plane's document."""
    istio = Istio.model_validate(
        {
            "version": "1.16.5",
            "accessLog": {"target": "stdout"},
            "http10": True,
            "tracing": {"enabled": True},
            "pilot": {
                "requests": {"cpu": "1", "memory": "1Gi"},
                "limits": {"cpu": "1", "memory": "1Gi"},
            },
        }
    )
    return _leaves(istio_operator.control_plane(istio)["spec"], ())


@pytest.mark.parametrize("keys", _program_settings(), ids=".".join)
def test_settings_of_the_program_cannot_be_overridden(
    load: Load, container_stack: Values, keys: tuple[str, ...]
) -> None:
    """Neither by a value nor by null, at the key or at any of its parents."""
    section, keys = ("values", keys[1:]) if keys[0] == "values" else ("overlay", keys)
    for depth in range(1, len(keys) + 1):
        for value in (None, "x"):
            settings = nested(".".join(keys[:depth]), value)
            with pytest.raises(ConfigError):
                load(edited(container_stack, {f"istio.{section}": settings}))


@pytest.mark.parametrize(
    ("path", "settings"),
    [
        ("kubelet", {"authentication": None}),
        ("kubelet", {"authentication": {"anonymous": {"enabled": True}}}),
        ("kubelet", {"readOnlyPort": None}),
        ("kubelet", {"rotateCertificates": None}),
        ("kubeProxy", {"clusterCIDR": None}),
    ],
)
def test_null_at_a_security_setting_of_kubernetes_is_refused(
    load: Load, container_stack: Values, path: str, settings: Values
) -> None:
    error = refusal(load, edited(container_stack, {f"kubernetes.{path}": settings}))
    (problem,) = error.problems
    assert value_at({"kubernetes": {path: settings}}, problem.path[:-1]) is not None
