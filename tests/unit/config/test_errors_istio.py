"""Invalid settings of istiod, gateways and exposure: each edit gives one error."""

from datetime import date

import pytest

from config import StackConfig
from config.kubernetes import checks as kubernetes
from tests.unit.config.test_errors import GONE, Load, Values, Wrong, edited, expect, refusal

INGRESS = "istio.ingressGateways"
EDGE = f"{INGRESS}.edge"
HTTP = {"name": "http2", "port": 80}


def with_edge(**settings: object) -> dict[str, object]:
    return {INGRESS: {"edge": settings}}


def exposed(type_: str, **settings: object) -> dict[str, object]:
    return {"expose": {"type": type_, **settings}}


HOST_PORT = exposed("HostPort", nodes=["worker-1"])

WRONG = [
    Wrong(
        "unknown exposure",
        with_edge(**exposed("Hostport")),
        f"{EDGE}.expose.type",
        "tag-unknown",
        ("'Hostport' is no", "set type: HostPort"),
    ),
    Wrong(
        "exposure without a type",
        with_edge(expose={}),
        f"{EDGE}.expose.type",
        "tag-missing",
        ("type is missing",),
    ),
    Wrong(
        "load balancer",
        with_edge(**exposed("LoadBalancer")),
        f"{EDGE}.expose.type",
        "tag-unknown",
        ("use one of ExternalIPs, HostPort, NodePort",),
    ),
    Wrong(
        "host ports without nodes",
        with_edge(**exposed("HostPort")),
        f"{EDGE}.expose.nodes",
        "key-missing",
        ("nodes is missing", "add nodes: [worker-1]"),
    ),
    Wrong(
        "no address",
        with_edge(**exposed("ExternalIPs", addresses=[])),
        f"{EDGE}.expose.addresses",
        "value-not-allowed",
        ("at least 1",),
    ),
    Wrong(
        "a name as address",
        with_edge(**exposed("ExternalIPs", addresses=["shop.example.no"])),
        f"{EDGE}.expose.addresses[0]",
        "ipv4-format",
        ("'shop.example.no' is not an IP address",),
    ),
    Wrong(
        "exposure on an unknown node",
        with_edge(**exposed("HostPort", nodes=["worker-1", "worker1"])),
        f"{EDGE}.expose.nodes[1]",
        "gateway-node-unknown",
        ("there is no node worker1", "use one of cp-1"),
    ),
    Wrong(
        "one node twice",
        with_edge(**exposed("HostPort", nodes=["worker-1", "worker-1"])),
        f"{EDGE}.expose.nodes[1]",
        "gateway-node-duplicate",
        ("worker-1 is",),
    ),
    Wrong(
        "two gateways on one host port",
        {INGRESS: {"edge": HOST_PORT, "shop": HOST_PORT | {"ports": [HTTP]}}},
        f"{INGRESS}.shop.expose.nodes[0]",
        "gateway-port-taken",
        ("port 80 of worker-1",),
    ),
    Wrong(
        "an address of a node whose host port is taken",
        {
            INGRESS: {
                "edge": HOST_PORT,
                "shop": exposed("ExternalIPs", addresses=["10.66.0.21"]) | {"ports": [HTTP]},
            }
        },
        f"{INGRESS}.shop.expose.addresses[0]",
        "gateway-port-taken",
        ("port 80 of worker-1",),
    ),
    Wrong(
        "sshd's port",
        with_edge(**HOST_PORT, ports=[{"name": "tcp-git", "port": 22}]),
        f"{EDGE}.expose.nodes[0]",
        "gateway-port-taken",
        ("port 22 of worker-1", "cut off"),
    ),
    Wrong(
        "the API server's port",
        with_edge(**exposed("HostPort", nodes=["cp-1"]), ports=[{"name": "https", "port": 6443}]),
        f"{EDGE}.expose.nodes[0]",
        "gateway-port-taken",
        ("port 6443 of cp-1",),
    ),
    Wrong(
        "replicas behind host ports",
        with_edge(**HOST_PORT, replicas={"min": 1, "max": 4}),
        f"{EDGE}.replicas",
        "host-port-replicas",
        ("one pod on each of its nodes", "remove replicas"),
    ),
    Wrong(
        "fewer pods than nodes",
        with_edge(**exposed("NodePort", nodes=["worker-1", "cp-1"])),
        f"{EDGE}.replicas.min",
        "gateway-replicas-below-nodes",
        ("2 nodes are", "client's address", "min: 2"),
    ),
    Wrong(
        "an address of a node without a pod",
        with_edge(**exposed("ExternalIPs", addresses=["10.66.0.11"], nodes=["worker-1"])),
        f"{EDGE}.expose.addresses[0]",
        "external-ip-without-pod",
        ("10.66.0.11 is the address of cp-1", "add cp-1"),
    ),
    Wrong(
        "node port out of range",
        with_edge(**exposed("NodePort"), ports=[{**HTTP, "nodePort": 80}]),
        f"{EDGE}.ports[0].nodePort",
        "node-port-range",
        ("80 is not a port for a Service of type NodePort", "30000 to 32767", "HostPort"),
    ),
    Wrong(
        "one node port twice",
        {
            INGRESS: {
                name: exposed("NodePort") | {"ports": [{**HTTP, "nodePort": 30080}]}
                for name in ("edge", "shop")
            }
        },
        f"{INGRESS}.shop.ports[0].nodePort",
        "node-port-duplicate",
        ("a nodePort of edge",),
    ),
    Wrong(
        "node port without exposure",
        with_edge(ports=[{**HTTP, "nodePort": 30080}]),
        f"{EDGE}.ports[0].nodePort",
        "node-port-not-exposed",
        ("type: NodePort",),
    ),
    Wrong("no ports", with_edge(ports=[]), f"{EDGE}.ports", "value-not-allowed", ("at least 1",)),
    Wrong(
        "one port twice",
        with_edge(ports=[HTTP, {"name": "http-b", "port": 80, "targetPort": 9000}]),
        f"{EDGE}.ports[1].port",
        "gateway-port-duplicate",
        ("the port of another port",),
    ),
    Wrong(
        "one name twice",
        with_edge(ports=[HTTP, {"name": "http2", "port": 81}]),
        f"{EDGE}.ports[1].name",
        "gateway-port-duplicate",
        ("the name of another port",),
    ),
    Wrong(
        "one target port twice",
        with_edge(ports=[HTTP, {"name": "http-b", "port": 8080}]),
        f"{EDGE}.ports[1].targetPort",
        "gateway-port-duplicate",
        ("the targetPort of another", "8000"),
    ),
    Wrong(
        "a proxy's own port",
        with_edge(ports=[{"name": "stats", "port": 15090}]),
        f"{EDGE}.ports[0].port",
        "gateway-port-reserved",
        ("15090 is", "for health checks of a load balancer, use 15021"),
    ),
    Wrong(
        "requests at the port for health checks",
        with_edge(ports=[HTTP, {"name": "status-port", "port": 8081, "targetPort": 15021}])
        | {
            "mesh.gateways": {
                "web": {"ingressGateway": "edge", "hosts": ["a.example.com"], "httpPort": 8081}
            }
        },
        "mesh.gateways.web.httpPort",
        "gateway-port-health",
        ("the proxy itself answers at 8081", "use another of the gateway's ports"),
    ),
    Wrong(
        "a minimum above the maximum",
        with_edge(replicas={"min": 6}),
        f"{EDGE}.replicas.max",
        "replicas-min-above-max",
        (
            "use 6 or more",
            "max is 5",
        ),
    ),
    Wrong(
        "no replica of istiod",
        {"istio.pilot": {"replicas": {"min": 0}}},
        "istio.pilot.replicas.min",
        "replicas-range",
        ("0 is below 1",),
    ),
    Wrong(
        "fewer istiods than the minimum",
        {"istio.pilot": {"replicas": {"min": 3, "max": 2}}},
        "istio.pilot.replicas.max",
        "replicas-min-above-max",
        (
            "max is 2",
            "min: 3",
        ),
    ),
    Wrong(
        "half a pod",
        {"istio.pilot": {"replicas": {"min": 1.5}}},
        "istio.pilot.replicas.min",
        "whole-number",
        ("1.5 is not a whole number",),
    ),
    Wrong(
        "istiod's request above its limit",
        {
            "istio.pilot": {
                "requests": {"cpu": "1", "memory": "4Gi"},
                "limits": {"cpu": "2", "memory": "2Gi"},
            }
        },
        "istio.pilot.requests.memory",
        "request-above-limit",
        ("4Gi is above the limit of 2Gi",),
    ),
    Wrong(
        "a gateway's request above its limit",
        with_edge(requests={"cpu": "3"}),
        f"{EDGE}.requests.cpu",
        "request-above-limit",
        ("3 is above the limit of 2000m",),
    ),
    Wrong(
        "half of istiod's limits",
        {"istio.pilot": {"limits": {"cpu": "2"}}},
        "istio.pilot.limits.memory",
        "key-missing",
        ("memory is missing", "add memory: 2Gi"),
    ),
    Wrong(
        "CPU target above 100%",
        with_edge(targetCpu=150),
        f"{EDGE}.targetCpu",
        "utilisation-range",
        ("150 is not a",),
    ),
    Wrong(
        "a gateway's name",
        {INGRESS: {"Edge_1": {}}},
        f"{INGRESS}.Edge_1",
        "service-name-format",
        ("'Edge_1'", "use edge-1"),
    ),
    Wrong(
        "an ingress and an egress gateway with one name",
        {INGRESS: {"istio-egressgateway": {}}},
        "istio.egressGateways.istio-egressgateway",
        "gateway-name-duplicate",
        ("an ingress gateway",),
    ),
    Wrong(
        "istiod as a gateway",
        {INGRESS: {"istiod-edge": {}}},
        f"{INGRESS}.istiod-edge",
        "gateway-name-reserved",
        ("the control plane",),
    ),
    Wrong(
        "an egress gateway exposed",
        {"istio.egressGateways": {"out": exposed("NodePort")}},
        "istio.egressGateways.out.expose",
        "key-unknown",
        ("there is no key expose",),
    ),
    Wrong(
        "debounce without a unit",
        {"istio.pilot": {"debounceAfter": 100}},
        "istio.pilot.debounceAfter",
        "duration-unit",
        ("100 has no unit", "use 100ms"),
    ),
    Wrong(
        "debounce of a minute",
        {"istio.pilot": {"debounceAfter": "1m"}},
        "istio.pilot.debounceAfter",
        "debounce-range",
        ("1m is outside 0s to 10s",),
    ),
    Wrong(
        "a drain without time",
        {"istio.proxy.drainDuration": "0s"},
        "istio.proxy.drainDuration",
        "drain-duration-range",
        ("0s is outside 1s to 1h", "20s"),
    ),
    Wrong(
        "a misspelt path normalization",
        {"istio.pathNormalization": "DECODE"},
        "istio.pathNormalization",
        "choice-unknown",
        ("DECODE_AND_MERGE_SLASHES",),
    ),
    Wrong(
        "certificates for a minute",
        {"istio.proxy.certificateLifetime": "1m"},
        "istio.proxy.certificateLifetime",
        "certificate-lifetime-range",
        ("1m is outside 10m to 2160h", "24h"),
    ),
    Wrong(
        "readiness timeout too short",
        {"istio.readinessTimeout": "1s"},
        "istio.readinessTimeout",
        "readiness-timeout-range",
        ("1s is outside 10s to 1h", "for example 8m"),
    ),
    Wrong(
        "an access log in a file",
        {"istio.accessLog": {"target": "/var/log/access"}},
        "istio.accessLog.target",
        "choice-unknown",
        ("none, stdout, stderr",),
    ),
    Wrong(
        "an unknown log format",
        {"istio.accessLog": {"target": "stdout", "format": "xml"}},
        "istio.accessLog.format",
        "choice-unknown",
        ("text, json",),
    ),
    Wrong(
        "a URL as trust domain",
        {"istio.trustDomain": "spiffe://prod"},
        "istio.trustDomain",
        "trust-domain-format",
        ("is not a trust domain", "cluster.local"),
    ),
    Wrong(
        "sampling above 100%",
        {"istio.tracing": {"enabled": True, "sampling": 101}},
        "istio.tracing.sampling",
        "sampling-range",
        ("101 is not a",),
    ),
    Wrong(
        "a collector without a port",
        {"istio.tracing": {"collector": "zipkin"}},
        "istio.tracing.collector",
        "collector-format",
        ("'zipkin' is not a host and a port",),
    ),
    Wrong(
        "gateways in the overlay",
        {"istio.overlay": {"components": {"ingressGateways": []}}},
        "istio.overlay.components.ingressGateways",
        "setting-reserved",
        ("may not be set here", "istio.ingressGateways"),
    ),
    Wrong(
        "the tag in the overlay",
        {"istio.overlay": {"tag": "latest"}},
        "istio.overlay.tag",
        "setting-reserved",
        ("may not be set here", "istio.version"),
    ),
    Wrong(
        "the debounce among the values",
        {"istio.values": {"pilot": {"env": {"PILOT_DEBOUNCE_AFTER": "1s"}}}},
        "istio.values.pilot.env.PILOT_DEBOUNCE_AFTER",
        "setting-reserved",
        ("may not be set here", "istio.pilot.debounceAfter"),
    ),
    *(
        Wrong(
            f"{key} by {section}",
            {f"istio.{section}": settings},
            f"istio.{section}.{path}",
            "setting-reserved",
            ("may not be set here", f"use istio.tracing.{key}"),
        )
        for section, path, key, settings in (
            (
                "values",
                "meshConfig.enableTracing",
                "enabled",
                {"meshConfig": {"enableTracing": False}},
            ),
            ("values", "global.tracer", "collector", {"global": {"tracer": {"zipkin": {}}}}),
            ("values", "pilot.traceSampling", "sampling", {"pilot": {"traceSampling": 1.0}}),
            (
                "overlay",
                "meshConfig.enableTracing",
                "enabled",
                {"meshConfig": {"enableTracing": True}},
            ),
        )
    ),
    Wrong(
        "traces of every proxy by overlay",
        {"istio.overlay": {"meshConfig": {"defaultConfig": {"tracing": {"sampling": 1}}}}},
        "istio.overlay.meshConfig.defaultConfig.tracing",
        "setting-reserved",
        ("may not be set here", "use istio.tracing"),
    ),
    Wrong(
        "a mesh without Istio",
        {"istio": GONE},
        "istio",
        "istio-missing",
        ("mesh.services.checkout", "mesh.namespaces.shop", "demo.enabled", "injection: false"),
    ),
]

BARE = {"istio": GONE, "mesh": GONE, "demo": GONE}
WRONG += [
    Wrong(
        "observability without Istio",
        {
            **BARE,
            "observability": {"prometheus": {"enabled": True}, "grafana": {"enabled": True}},
        },
        "istio",
        "istio-missing",
        ("observability.prometheus.enabled", "observability.grafana.enabled", "counts requests"),
    ),
    Wrong(
        "a gateway without Istio",
        {**BARE, "mesh": {"gateways": {"public": {"hosts": ["shop.example.com"]}}}},
        "istio",
        "istio-missing",
        ("these need a mesh: mesh.gateways.public",),
    ),
]


@pytest.mark.parametrize("wrong", WRONG, ids=[wrong.name for wrong in WRONG])
def test_an_invalid_istio_setting_is_refused(
    load: Load, container_stack: Values, wrong: Wrong
) -> None:
    expect(refusal(load, edited(container_stack, wrong.edit)), wrong)


def test_a_cluster_without_istio_loads(load: Load, existing_stack: Values) -> None:
    config: StackConfig = load(edited(existing_stack, {"istio": GONE}))
    assert config.istio is None


def test_namespaces_without_sidecars_need_no_istio(load: Load, container_stack: Values) -> None:
    edit: dict[str, object] = {
        "istio": GONE,
        "mesh": {"namespaces": {"shop": {"injection": False}}},
        "demo": GONE,
    }
    assert list(load(edited(container_stack, edit)).mesh.namespaces) == ["shop"]


def test_risky_istio_settings_give_warnings(load: Load, container_stack: Values) -> None:
    edit: dict[str, object] = with_edge(**HOST_PORT) | {"istio.tracing": {"enabled": True}}
    lines = kubernetes.warnings(load(edited(container_stack, edit)), date(2023, 1, 1))
    assert "edge uses host ports of one node" in lines[0]
    assert lines[1].startswith("istio.tracing: traces contain addresses")
