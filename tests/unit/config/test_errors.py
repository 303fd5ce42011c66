"""Invalid stacks: each is one edit of a valid stack, and gives one error at the right path."""

import base64
import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from config import StackConfig, errors

Values = dict[str, Any]
Load = Callable[[Values], StackConfig]

GONE = object()
PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGv0457aEuQP9UlUZmC2e8QC9Qktw9CdAUl2NmMRN67m"
# The type and 128 bytes in place of the numbers.
RSA_KEY = "ssh-rsa " + base64.b64encode(b"\0\0\0\7ssh-rsa" + bytes(128)).decode()
LOCKED_KEY = (
    "-----BEGIN OPENSSH PRIVATE KEY-----\n"
    "b3BlbnNzaC1rZXktdjEAAAAACmFlczI1Ni1jdHIAAAAGYmNyeXB0AAAAGAAAABDoR4ZT\n"
    "-----END OPENSSH PRIVATE KEY-----\n"
)


PKCS8_KEY = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIGbMFcGCSqGSIb3DQEFDTBKMCkG\n"
BASTION = {"address": "192.0.2.5", "hostKey": PUBLIC_KEY}


class Wrong(NamedTuple):
    """An edit of a valid stack, and the error that it must give."""

    name: str
    edit: dict[str, object]  # by path, with GONE to remove a key
    path: str
    code: str
    phrases: tuple[str, ...]


CONTAINER_NODE = {"role": "worker", "provider": "container"}
CHECKOUT = "mesh.services.checkout"
WORKER = "machines.nodes.worker-1"


def control_planes(*numbers: int) -> dict[str, object]:
    """The edit that adds control planes with these numbers."""
    return {
        f"machines.nodes.cp-{n}": {
            **CONTAINER_NODE,
            "role": "control-plane",
            "address": f"10.66.0.{30 + n}",
        }
        for n in numbers
    }


CONTAINER = [
    # --- canary and services
    Wrong(
        "weight above 100",
        {f"{CHECKOUT}.canary.weight": 101},
        f"{CHECKOUT}.canary.weight",
        "canary-weight-range",
        ("101 is not a", "stable subset gets the rest", "from 0"),
    ),
    Wrong(
        "negative weight",
        {f"{CHECKOUT}.canary.weight": -1},
        f"{CHECKOUT}.canary.weight",
        "canary-weight-range",
        ("-1 is not a",),
    ),
    Wrong(
        "broken weight",
        {f"{CHECKOUT}.canary.weight": 12.5},
        f"{CHECKOUT}.canary.weight",
        "whole-number",
        ("12.5 is not a whole number", "whole number from 0 to 100"),
    ),
    Wrong(
        "weight as a word",
        {f"{CHECKOUT}.canary.weight": "ten"},
        f"{CHECKOUT}.canary.weight",
        "whole-number",
        ("'ten' is not a whole number",),
    ),
    Wrong(
        "weight true",
        {f"{CHECKOUT}.canary.weight": True},
        f"{CHECKOUT}.canary.weight",
        "whole-number",
        ("True is not a whole number",),
    ),
    Wrong(
        "no weight",
        {f"{CHECKOUT}.canary.weight": GONE},
        f"{CHECKOUT}.canary.weight",
        "key-missing",
        ("weight is missing", "add weight: 10"),
    ),
    Wrong(
        "canary equal to stable",
        {f"{CHECKOUT}.canary.subset": "v1"},
        f"{CHECKOUT}.canary.subset",
        "canary-equals-stable",
        ("the canary is v1", "for example v2"),
    ),
    Wrong(
        "subset is not a label",
        {f"{CHECKOUT}.stable": "V1 0"},
        f"{CHECKOUT}.stable",
        "version-format",
        ("'V1 0' cannot be the value of a label", "use V1-0"),
    ),
    Wrong(
        "subset a number",
        {f"{CHECKOUT}.stable": 1},
        f"{CHECKOUT}.stable",
        "text-expected",
        ("the number 1", 'use "1"'),
    ),
    Wrong(
        "service name with a digit first",
        {"mesh.services.2pay": {"namespace": "shop", "port": 80, "stable": "v1"}},
        "mesh.services.2pay",
        "service-name-format",
        ("'2pay'", "with a letter", "svc-2pay"),
    ),
    Wrong(
        "port out of range",
        {f"{CHECKOUT}.port": 70000},
        f"{CHECKOUT}.port",
        "port-range",
        ("70000 is not a port", "1 to 65535"),
    ),
    Wrong(
        "service outside the mesh",
        {"mesh.services.pay": {"namespace": "shopp", "port": 80, "stable": "v1"}},
        "mesh.services.pay.namespace",
        "namespace-not-in-mesh",
        ("shopp is not in mesh.namespaces", "use shop"),
    ),
    Wrong(
        "service without sidecars",
        {"mesh.services.pay": {"namespace": "plain", "port": 80, "stable": "v1"}},
        "mesh.services.pay.namespace",
        "namespace-without-sidecars",
        ("plain has injection: false", "nothing splits the requests"),
    ),
    # --- namespaces
    *(
        Wrong(
            f"injection on {namespace}",
            {f"mesh.namespaces.{namespace}": {"injection": True}},
            f"mesh.namespaces.{namespace}",
            "namespace-system",
            (f"{namespace} is a system namespace", "remove it"),
        )
        for namespace in ("kube-system", "kube-public", "istio-system", "kube-flannel")
    ),
    Wrong(
        "the namespace default without a reason",
        {"mesh.namespaces.default": {"mtls": "STRICT"}},
        "mesh.namespaces.default",
        "default-namespace-reason-missing",
        ("has no reason", "names no namespace goes there", "add useDefault: <a reason>"),
    ),
    Wrong(
        "a reason for default that is none",
        {"mesh.namespaces.default": {"useDefault": "todo"}},
        "mesh.namespaces.default.useDefault",
        "use-default-reason",
        ("is not a reason that a reviewer can judge",),
    ),
    Wrong(
        "a reason for default at another namespace",
        {"mesh.namespaces.plain.useDefault": "it was always used like this"},
        "mesh.namespaces.plain.useDefault",
        "default-namespace-reason-unneeded",
        ("for the namespace plain", "remove useDefault"),
    ),
    Wrong(
        "STRICT on a system namespace",
        {"mesh.namespaces.kube-system": {"injection": False, "mtls": "STRICT"}},
        "mesh.namespaces.kube-system",
        "namespace-system",
        ("system namespace", "can stop the cluster's own"),
    ),
    Wrong(
        "STRICT without sidecars",
        {"mesh.namespaces.plain.mtls": "STRICT"},
        "mesh.namespaces.plain.mtls",
        "namespace-strict-without-sidecars",
        ("without sidecars", "injection: true"),
    ),
    Wrong(
        "a PodSecurity level with sidecars",
        {"mesh.namespaces.shop.podSecurity": {"level": "baseline"}},
        "mesh.namespaces.shop.podSecurity",
        "pod-security-with-sidecars",
        ("shop", "NET_ADMIN", "injection: false"),
    ),
    Wrong(
        "privileged pods without a reason",
        {"mesh.namespaces.plain.podSecurity": {"level": "privileged"}},
        "mesh.namespaces.plain.podSecurity",
        "privileged-reason-missing",
        ("take over its node", "add reason"),
    ),
    Wrong(
        "a reason for privileged pods that is none",
        {"mesh.namespaces.plain.podSecurity": {"level": "privileged", "reason": "todo"}},
        "mesh.namespaces.plain.podSecurity.reason",
        "privileged-reason",
        ("is not a reason that a reviewer can judge",),
    ),
    Wrong(
        "a reason for pods that are not privileged",
        {"mesh.namespaces.plain.podSecurity": {"level": "restricted", "reason": "they are ours"}},
        "mesh.namespaces.plain.podSecurity.reason",
        "privileged-reason-unneeded",
        ("the level is restricted", "remove reason"),
    ),
    Wrong(
        "unknown PodSecurity level",
        {"mesh.namespaces.plain.podSecurity": {"level": "strict"}},
        "mesh.namespaces.plain.podSecurity.level",
        "choice-unknown",
        ("of privileged, baseline, restricted",),
    ),
    Wrong(
        "namespace is not a label",
        {"mesh.namespaces.Back_End": {}},
        "mesh.namespaces.Back_End",
        "dns-label-format",
        ("not a DNS label", "use back-end"),
    ),
    Wrong(
        "unknown mTLS mode",
        {"mesh.mtls": "STRIKT"},
        "mesh.mtls",
        "choice-unknown",
        ("of DISABLE, PERMISSIVE, STRICT", "use STRICT"),
    ),
    # --- istio
    Wrong(
        "unknown profile",
        {"istio.profile": "defualt"},
        "istio.profile",
        "choice-unknown",
        ("of default, demo, minimal", "use default"),
    ),
    Wrong(
        "unsupported pair, too new",
        {"istio.version": "1.18.7"},
        "istio.version",
        "version-pair-unsupported",
        ("Istio 1.18.7 does not support Kubernetes", "use 1.17.8", "istio.allowUnsupported"),
    ),
    Wrong(
        "unsupported pair, too old",
        {"istio.version": "1.12.9"},
        "istio.version",
        "version-pair-unsupported",
        ("does not support", "use 1.13.9"),
    ),
    Wrong(
        "a reason that is too short",
        {"istio.version": "1.18.7", "istio.allowUnsupported": "because"},
        "istio.allowUnsupported",
        "unsupported-pair-reason",
        ("'because' is not a reason", "10 characters"),
    ),
    Wrong(
        "unknown Istio version",
        {"istio.version": "1.16.2"},
        "istio.version",
        "version-not-in-catalogue",
        ("1.16.2 is not in the catalogue", "use 1.16.5"),
    ),
    Wrong(
        "version as a number",
        {"istio.version": 1.16},
        "istio.version",
        "version-number",
        ("1.16 is a number, not a version", "all three parts"),
    ),
    Wrong(
        "unknown outbound policy",
        {"istio.outboundTrafficPolicy": "registry_only"},
        "istio.outboundTrafficPolicy",
        "choice-unknown",
        ("'registry_only' is", "use REGISTRY_ONLY"),
    ),
    Wrong(
        "hub with a scheme",
        {"istio.hub": "https://docker.io/istio"},
        "istio.hub",
        "hub-format",
        ("scheme",),
    ),
    Wrong(
        "malformed CPU",
        {"istio.proxy.limits.cpu": "2 cores"},
        "istio.proxy.limits.cpu",
        "cpu-format",
        ("'2 cores' is not", "500m or 2"),
    ),
    Wrong(
        "malformed memory",
        {"istio.proxy.limits.memory": "1024MB"},
        "istio.proxy.limits.memory",
        "memory-format",
        ("'1024MB' is not", "128Mi"),
    ),
    Wrong(
        "memory in millibytes",
        {"istio.proxy.limits.memory": "1024m"},
        "istio.proxy.limits.memory",
        "memory-minimum",
        ("less than a mebibyte", "use 1024Mi"),
    ),
    Wrong(
        "CPU request above its limit",
        {"istio.proxy.requests.cpu": "3"},
        "istio.proxy.requests.cpu",
        "request-above-limit",
        ("request of 3 is above the limit of 2000m", "istio.proxy.limits.cpu"),
    ),
    Wrong(
        "memory request above its limit",
        {"istio.proxy.requests.memory": "2Gi"},
        "istio.proxy.requests.memory",
        "request-above-limit",
        ("request of 2Gi is above the limit of 1024Mi",),
    ),
    Wrong(
        "CPU limit too low",
        {"istio.proxy.limits.cpu": "200m"},
        "istio.proxy.limits.cpu",
        "proxy-limit-too-low",
        ("200m is too low", "at least 500m"),
    ),
    Wrong(
        "memory limit too low",
        {"istio.proxy.requests.memory": "32Mi", "istio.proxy.limits.memory": "64Mi"},
        "istio.proxy.limits.memory",
        "proxy-limit-too-low",
        ("64Mi is too low", "at least 128Mi"),
    ),
    Wrong(
        "negative concurrency",
        {"istio.proxy.concurrency": -1},
        "istio.proxy.concurrency",
        "concurrency-range",
        ("-1 is below 0", "worker threads"),
    ),
    Wrong(
        "proxy resources as raw values",
        {"istio.values": {"global": {"proxy": {"resources": {"limits": {"cpu": "1"}}}}}},
        "istio.values.global.proxy.resources",
        "setting-reserved",
        ("may not be set here", "istio.proxy.limits"),
    ),
    Wrong(
        "neither true nor false",
        {"istio.proxy.holdApplicationUntilProxyStarts": "on please"},
        "istio.proxy.holdApplicationUntilProxyStarts",
        "boolean-expected",
        ("true or false", "waits until its proxy"),
    ),
    # --- kubernetes
    Wrong(
        "unknown Kubernetes version",
        {"kubernetes.version": "1.23.4"},
        "kubernetes.version",
        "version-not-in-catalogue",
        ("1.23.4 is not in the catalogue", "1.23.15, 1.23.16, 1.23.17", "use 1.23.15"),
    ),
    Wrong(
        "bad CIDR",
        {"kubernetes.podCidr": "10.244.0.0/33"},
        "kubernetes.podCidr",
        "network-format",
        ("'10.244.0.0/33' is not a network",),
    ),
    Wrong(
        "no prefix length",
        {"kubernetes.podCidr": "10.244.0.0"},
        "kubernetes.podCidr",
        "network-size-missing",
        ("has no prefix length",),
    ),
    Wrong(
        "host bits set",
        {"kubernetes.podCidr": "10.244.0.1/16"},
        "kubernetes.podCidr",
        "network-host-bits",
        ("use 10.244.0.0/16",),
    ),
    Wrong(
        "IPv6 pods",
        {"kubernetes.podCidr": "fd00::/48"},
        "kubernetes.podCidr",
        "network-version",
        ("IPv6 network",),
    ),
    Wrong(
        "pods and services overlap",
        {"kubernetes.serviceCidr": "10.240.0.0/12"},
        "kubernetes.serviceCidr",
        "networks-overlap",
        ("10.240.0.0/12 overlaps kubernetes.podCidr (10.244.0.0/16)",),
    ),
    Wrong(
        "service network too large",
        {"kubernetes.serviceCidr": "172.0.0.0/8"},
        "kubernetes.serviceCidr",
        "service-network-size",
        ("24 bits", "at most 20"),
    ),
    Wrong(
        "pod network too small for the nodes",
        {"kubernetes.podCidr": "10.244.0.0/24"},
        "kubernetes.podCidr",
        "pod-network-size",
        ("room for 1 of the 2 nodes",),
    ),
    Wrong(
        "endpoint is an address",
        {"kubernetes.endpoint": "10.66.0.11"},
        "kubernetes.endpoint",
        "endpoint-address",
        ("an address, not a DNS name", "certificate"),
    ),
    Wrong(
        "endpoint with a port",
        {"kubernetes.endpoint": "api.example.internal:6443"},
        "kubernetes.endpoint",
        "endpoint-port",
        ("use api.example.internal",),
    ),
    Wrong(
        "endpoint is not a name",
        {"kubernetes.endpoint": "https://api"},
        "kubernetes.endpoint",
        "dns-name-format",
        ("not a DNS name",),
    ),
    Wrong(
        "cluster name is not a label",
        {"kubernetes.clusterName": "My Cluster"},
        "kubernetes.clusterName",
        "dns-label-format",
        ("not a DNS label", "use my-cluster"),
    ),
    Wrong(
        "cgroup driver of the kubelet alone",
        {"kubernetes.kubelet": {"cgroupDriver": "systemd"}},
        "kubernetes.kubelet.cgroupDriver",
        "setting-reserved",
        ("kubernetes.cgroupDriver",),
    ),
    Wrong(
        "cluster DNS",
        {"kubernetes.kubelet": {"clusterDNS": ["10.0.0.10"]}},
        "kubernetes.kubelet.clusterDNS",
        "setting-reserved",
        ("may not be set",),
    ),
    Wrong(
        "kube-proxy's network",
        {"kubernetes.kubeProxy": {"clusterCIDR": "10.0.0.0/16"}},
        "kubernetes.kubeProxy.clusterCIDR",
        "setting-reserved",
        ("kubernetes.podCidr",),
    ),
    Wrong(
        "kubelet is not a mapping",
        {"kubernetes.kubelet": ["failSwapOn"]},
        "kubernetes.kubelet",
        "mapping-expected",
        (),
    ),
    # --- machines
    Wrong(
        "two nodes with the same address",
        {f"{WORKER}.address": "10.66.0.11"},
        f"{WORKER}.address",
        "node-address-duplicate",
        ("the address of cp-1",),
    ),
    Wrong(
        "node name in capitals",
        {"machines.nodes.Worker-2": {**CONTAINER_NODE, "address": "10.66.0.22"}},
        "machines.nodes.Worker-2",
        "node-name-format",
        ("'Worker-2' cannot be the name of a node", "use worker-2"),
    ),
    Wrong(
        "no control plane",
        {"machines.nodes.cp-1.role": "worker"},
        "machines.nodes",
        "control-plane-missing",
        ("no node is a control plane", "role: control-plane"),
    ),
    Wrong(
        "two control planes",
        {f"{WORKER}.role": "control-plane"},
        "machines.nodes",
        "control-plane-count",
        (
            "2 nodes are control planes: cp-1, worker-1",
            "2 of 2, so the cluster survives the loss of 0; with 1 it survives the loss of 0, too",
            "add one for 3",
        ),
    ),
    Wrong(
        "four control planes",
        control_planes(2, 3, 4),
        "machines.nodes",
        "control-plane-count",
        (
            "4 nodes are control planes: cp-1, cp-2, cp-3, cp-4",
            "3 of 4, so the cluster survives the loss of 1; with 3 it survives the loss of 1, too",
            "control-plane on 3 of them",
            "add one for 5",
        ),
    ),
    Wrong(
        "seven control planes",
        control_planes(*range(2, 8)),
        "machines.nodes",
        "control-plane-count",
        (
            "7 nodes are control planes",
            "4 of 7; 5 control planes already survive the loss of 2",
            "control-plane on 5 of them",
        ),
    ),
    Wrong(
        "no node",
        {"machines.nodes": {}},
        "machines.nodes",
        "control-plane-missing",
        ("no node is a control plane",),
    ),
    Wrong(
        "unknown role",
        {f"{WORKER}.role": "workr"},
        f"{WORKER}.role",
        "choice-unknown",
        ("of control-plane, worker", "use worker"),
    ),
    Wrong(
        "unknown provider",
        {f"{WORKER}.provider": "contaner"},
        f"{WORKER}.provider",
        "tag-unknown",
        ("'contaner' is no", "set provider: container"),
    ),
    Wrong(
        "no provider",
        {f"{WORKER}.provider": GONE},
        f"{WORKER}.provider",
        "tag-missing",
        ("provider is missing", "existing"),
    ),
    Wrong(
        "container nodes without a bridge",
        {"machines.container": GONE},
        "machines.container",
        "container-network-missing",
        ("these nodes need it: cp-1, worker-1", "bridge: nordmesh0"),
    ),
    Wrong(
        "container node outside its subnet",
        {f"{WORKER}.address": "10.67.0.21"},
        f"{WORKER}.address",
        "container-node-address",
        ("10.67.0.21 lies outside 10.66.0.0/24", "from 10.66.0.2 to 10.66.0.254"),
    ),
    Wrong(
        "container node at the gateway",
        {f"{WORKER}.address": "10.66.0.1"},
        f"{WORKER}.address",
        "container-node-address",
        ("10.66.0.1 is the gateway's address",),
    ),
    Wrong(
        "container node at the broadcast address",
        {f"{WORKER}.address": "10.66.0.255"},
        f"{WORKER}.address",
        "container-node-address",
        ("broadcast",),
    ),
    Wrong(
        "long bridge name",
        {"machines.container.bridge": "nordmesh-bridge0"},
        "machines.container.bridge",
        "interface-name-length",
        ("16 characters", "use nordmesh-bridge"),
    ),
    Wrong(
        "tiny subnet",
        {"machines.container.subnet": "10.66.0.0/30"},
        "machines.container.subnet",
        "subnet-size",
        ("10.66.0.0/30 is too small",),
    ),
    Wrong(
        "container subnet in the services' network",
        {"machines.container.subnet": "10.64.0.0/10"},
        "kubernetes.serviceCidr",
        "networks-overlap",
        ("10.96.0.0/12 overlaps machines.container.subnet",),
    ),
    Wrong(
        "invalid address",
        {f"{WORKER}.address": "worker.example.com"},
        f"{WORKER}.address",
        "ipv4-format",
        ("is not an IP address", "IPv4"),
    ),
    Wrong(
        "loopback address",
        {f"{WORKER}.address": "127.0.0.1"},
        f"{WORKER}.address",
        "ipv4-not-a-host",
        ("address of a machine",),
    ),
    # --- artifacts
    Wrong(
        "mirror without a scheme",
        {"artifacts.mirror": "10.66.0.1:8080"},
        "artifacts.mirror",
        "http-url-format",
        ("not an http or https",),
    ),
    Wrong(
        "lock of the lab missing",
        {"artifacts.lock": ".lab/artifacts.lock.json"},
        "artifacts.lock",
        "lock-unusable",
        ("make up",),
    ),
    Wrong(
        "lock missing",
        {"artifacts.lock": "other.json"},
        "artifacts.lock",
        "lock-unusable",
        ("other.json cannot be used", "nordmesh lock"),
    ),
    # --- demo
    Wrong(
        "demo without its service",
        {"mesh.services": {}},
        CHECKOUT,
        "demo-service",
        ("the demo needs the service checkout in shop with a canary", "demo.enabled"),
    ),
    Wrong(
        "demo without a canary",
        {f"{CHECKOUT}.canary": GONE},
        CHECKOUT,
        "demo-service",
        ("with a canary",),
    ),
    Wrong(
        "demo's other namespace",
        {"mesh.namespaces.outside": {}},
        "mesh.namespaces.outside",
        "demo-outside-namespace",
        ("namespace outside itself",),
    ),
    # --- unknown keys
    Wrong(
        "unknown key",
        {f"{CHECKOUT}.canary.wieght": 10, f"{CHECKOUT}.canary.weight": GONE},
        f"{CHECKOUT}.canary.wieght",
        "key-unknown",
        ("there is no key wieght", "use weight"),
    ),
    Wrong(
        "key in snake case",
        {"kubernetes.pod_cidr": "x"},
        "kubernetes.pod_cidr",
        "key-unknown",
        ("podCidr",),
    ),
    Wrong(
        "unknown section",
        {"demmo": {}},
        "demmo",
        "key-unknown",
        ("there is no key demmo", "use demo"),
    ),
    Wrong(
        "misspelt section",
        {"mehs": {"mtls": "STRICT"}, "mesh": GONE},
        "mehs",
        "key-unknown",
        ("there is no key mehs", "use mesh"),
    ),
    Wrong(
        "a key without a similar key",
        {"istio.zzz": 1},
        "istio.zzz",
        "key-unknown",
        ("there is no key zzz", "the keys here are version, hub"),
    ),
    # --- sections
    Wrong(
        "no section",
        {"kubernetes": GONE},
        "kubernetes",
        "section-missing",
        ("section kubernetes is missing", "version"),
    ),
    Wrong("section is a string", {"demo": "yes"}, "demo", "mapping-expected", ()),
    Wrong(
        "missing required key",
        {"kubernetes.endpoint": GONE},
        "kubernetes.endpoint",
        "key-missing",
        ("endpoint is missing", "stable name", "add endpoint: api."),
    ),
]

EXISTING = [
    Wrong(
        "fallback without a mirror",
        {"artifacts": {"fallback": True}},
        "artifacts.fallback",
        "artifacts-fallback-unneeded",
        ("artifacts.mirror",),
    ),
    Wrong(
        "node in the pods' network",
        {
            "kubernetes.podCidr": "10.0.0.0/8",
            "kubernetes.serviceCidr": "172.16.0.0/16",
            f"{WORKER}.address": "10.1.2.3",
        },
        f"{WORKER}.address",
        "node-address-in-cluster-network",
        ("kubernetes.podCidr (10.0.0.0/8)",),
    ),
    Wrong(
        "no host key",
        {f"{WORKER}.hostKey": GONE},
        f"{WORKER}.hostKey",
        "host-key-missing",
        ("hostKey is missing", "no machine with another key", "/etc/ssh/ssh_host_ed25519_key.pub"),
    ),
    Wrong(
        "host key's base64 broken",
        {f"{WORKER}.hostKey": PUBLIC_KEY[:-4]},
        f"{WORKER}.hostKey",
        "host-key-format",
        ("base64",),
    ),
    Wrong(
        "host key of a different type",
        {f"{WORKER}.hostKey": PUBLIC_KEY.replace("ssh-ed25519", "ecdsa-sha2-nistp256")},
        f"{WORKER}.hostKey",
        "host-key-format",
        ("ecdsa-sha2-nistp256 is not",),
    ),
    Wrong(
        "RSA host key",
        {f"{WORKER}.hostKey": RSA_KEY},
        f"{WORKER}.hostKey",
        "host-key-rsa",
        ("SHA-1 signatures only", "ssh_host_ed25519_key.pub", "ssh-keygen -A"),
    ),
    Wrong(
        "RSA host key of a bastion",
        {"machines.ssh.bastion": {"address": "192.0.2.5", "hostKey": RSA_KEY}},
        "machines.ssh.bastion.hostKey",
        "host-key-rsa",
        ("no node could be reached",),
    ),
    Wrong(
        "host key without a type",
        {f"{WORKER}.hostKey": PUBLIC_KEY.split()[1]},
        f"{WORKER}.hostKey",
        "host-key-type",
        ("does not begin with a",),
    ),
    Wrong(
        "fingerprint as host key",
        {f"{WORKER}.hostKey": "SHA256:uNiVztksCsDhcc0u9e8BrxhGpHlqL0zjiVfMfq1WxTg"},
        f"{WORKER}.hostKey",
        "host-key-type",
        ("does not begin with a",),
    ),
    Wrong(
        "line of known_hosts",
        {f"{WORKER}.hostKey": f"192.0.2.21 {PUBLIC_KEY}"},
        f"{WORKER}.hostKey",
        "host-key-known-hosts",
        ("whole line of known_hosts", f'use "{PUBLIC_KEY}"'),
    ),
    Wrong(
        "private key as host key",
        {f"{WORKER}.hostKey": LOCKED_KEY},
        f"{WORKER}.hostKey",
        "host-key-private",
        ("this is a private key",),
    ),
    Wrong(
        "two nodes with the same host key",
        {
            f"{WORKER}.hostKey": PUBLIC_KEY,
            "machines.nodes.cp-1.hostKey": PUBLIC_KEY,
        },
        f"{WORKER}.hostKey",
        "machine-host-key-duplicate",
        ("the host key of cp-1", "ssh-keygen -A"),
    ),
    Wrong(
        "no SSH key",
        {"sshPrivateKey": GONE},
        "sshPrivateKey",
        "ssh-key-missing",
        ("cp-1, worker-1 is missing", "pulumi config set --secret nordmesh:sshPrivateKey <"),
    ),
    Wrong(
        "public SSH key",
        {"sshPrivateKey": PUBLIC_KEY},
        "sshPrivateKey",
        "ssh-key-format",
        ("not a private key", "without .pub"),
    ),
    Wrong(
        "locked SSH key",
        {"sshPrivateKey": LOCKED_KEY},
        "sshPrivateKeyPassword",
        "ssh-passphrase-missing",
        ("ssh-keygen -t ed25519 -N ''",),
    ),
    Wrong(
        "passphrase without a locked key",
        {"sshPrivateKeyPassword": "hunter2"},
        "sshPrivateKeyPassword",
        "ssh-passphrase-unneeded",
        ("pulumi config rm",),
    ),
    Wrong(
        "a disk of etcd on a worker",
        {"machines.nodes.worker-1.etcdMount": True},
        "machines.nodes.worker-1.etcdMount",
        "etcd-mount-without-etcd",
        ("worker-1 is a worker", "set it on a control plane"),
    ),
    Wrong(
        "locked SSH key in another form",
        {"sshPrivateKey": PKCS8_KEY, "sshPrivateKeyPassword": "hunter2"},
        "sshPrivateKey",
        "ssh-key-pkcs8",
        ("PKCS #8", "ssh-keygen -p"),
    ),
    Wrong(
        "unknown architecture",
        {f"{WORKER}.architecture": "aarch64"},
        f"{WORKER}.architecture",
        "choice-unknown",
        ("of amd64, arm64",),
    ),
    Wrong(
        "bastion without a host key",
        {"machines.ssh.bastion": {"address": "192.0.2.5"}},
        "machines.ssh.bastion.hostKey",
        "host-key-missing",
        ("hostKey is missing", "/etc/ssh/ssh_host_ed25519_key.pub"),
    ),
    Wrong(
        "bastion's address is a name",
        {"machines.ssh.bastion": {**BASTION, "address": "bastion.example.com"}},
        "machines.ssh.bastion.address",
        "ipv4-format",
        ("is not an IP address",),
    ),
    Wrong(
        "a node's bastion with a wrong port",
        {f"{WORKER}.bastion": {**BASTION, "port": 0}},
        f"{WORKER}.bastion.port",
        "port-range",
        ("0 is not a port",),
    ),
    Wrong(
        "adopted without a reason",
        {f"{WORKER}.adopt": "yes"},
        f"{WORKER}.adopt",
        "adoption-reason",
        ("not a reason",),
    ),
    Wrong(
        "invalid user",
        {"machines.ssh.user": "a b"},
        "machines.ssh.user",
        "user-name-format",
        ("Linux user name",),
    ),
    Wrong(
        "bad SSH port", {f"{WORKER}.port": 0}, f"{WORKER}.port", "port-range", ("0 is not a port",)
    ),
    Wrong(
        "key of the other provider",
        {f"{WORKER}.bridge": "br0"},
        f"{WORKER}.bridge",
        "key-unknown",
        (
            "there is no key bridge",
            "the keys here are provider, role",
            "address, privateAddress, hostKey",
        ),
    ),
]


def edited(values: Values, edit: dict[str, object]) -> Values:
    """A copy of the values with an edit applied."""
    values = deepcopy(values)
    for path, value in edit.items():
        *parents, key = path.split(".")
        section = values
        for parent in parents:
            section = section[parent]
        if value is GONE:
            del section[key]
        else:
            section[key] = value
    return values


def refusal(load: Load, values: Values) -> errors.ConfigError:
    with pytest.raises(errors.ConfigError) as caught:
        load(values)
    return caught.value


def expect(error: errors.ConfigError, wrong: Wrong) -> None:
    problems = [(problem.key, problem.code) for problem in error.problems]
    assert problems == [(f"nordmesh:{wrong.path}", wrong.code)]
    text = " ".join(str(error).split())
    assert [phrase for phrase in wrong.phrases if phrase not in text] == []
    assert text.endswith("1 error")
    (problem,) = error.problems
    assert all((problem.what, problem.why, problem.fix))


@pytest.mark.parametrize("wrong", CONTAINER, ids=[wrong.name for wrong in CONTAINER])
def test_an_invalid_container_stack_is_refused(
    load: Load, container_stack: Values, wrong: Wrong
) -> None:
    expect(refusal(load, edited(container_stack, wrong.edit)), wrong)


@pytest.mark.parametrize("wrong", EXISTING, ids=[wrong.name for wrong in EXISTING])
def test_an_invalid_existing_stack_is_refused(
    load: Load, existing_stack: Values, wrong: Wrong
) -> None:
    expect(refusal(load, edited(existing_stack, wrong.edit)), wrong)


def test_all_errors_are_reported_at_once(load: Load, existing_stack: Values) -> None:
    edit: dict[str, object] = {
        "mehs": {},
        f"{WORKER}.hostKey": GONE,
        f"{WORKER}.address": "192.0.2.11",
        "machines.nodes.cp-1.role": "worker",
        "kubernetes.podCidr": "10.244.0.1/16",
        "kubernetes.version": "1.23.99",
        "istio.proxy": {"requests": {"cpu": "3"}, "concurrency": "many"},
        "artifacts": {"lock": "none.json"},
        "sshPrivateKey": GONE,
    }
    error = refusal(load, edited(existing_stack, edit))
    assert [problem.key for problem in error.problems] == [
        "nordmesh:mehs",
        f"nordmesh:{WORKER}.hostKey",
        "nordmesh:kubernetes.podCidr",
        "nordmesh:istio.proxy.concurrency",
        "nordmesh:machines.nodes",
        "nordmesh:sshPrivateKey",
        f"nordmesh:{WORKER}.address",
        "nordmesh:kubernetes.version",
        "nordmesh:artifacts.lock",
        "nordmesh:istio.proxy.requests.cpu",
    ]
    assert str(error).endswith("10 errors")


def test_an_empty_stack_is_refused(load: Load) -> None:
    error = refusal(load, {})
    assert [problem.key for problem in error.problems] == [
        "nordmesh:machines",
        "nordmesh:kubernetes",
    ]


def test_an_invalid_value_causes_no_further_errors(load: Load, container_stack: Values) -> None:
    """Errors that follow from an invalid value are not reported until it is fixed."""
    edit: dict[str, object] = {
        "machines.nodes.cp-1.role": "boss",
        "mesh.namespaces.shop": 3,
        f"{CHECKOUT}.canery": {"subset": "v2", "weight": 10},
        f"{CHECKOUT}.canary": GONE,
    }
    error = refusal(load, edited(container_stack, edit))
    assert [problem.key for problem in error.problems] == [
        "nordmesh:machines.nodes.cp-1.role",
        "nordmesh:mesh.namespaces.shop",
        "nordmesh:mesh.services.checkout.canery",
    ]


def test_an_invalid_node_causes_no_missing_control_plane(
    load: Load, container_stack: Values
) -> None:
    error = refusal(load, edited(container_stack, {"machines.nodes.cp-1": 3}))
    assert [problem.key for problem in error.problems] == ["nordmesh:machines.nodes.cp-1"]


def test_a_section_with_invalid_json_is_refused(load: Load, container_stack: Values) -> None:
    error = refusal(load, edited(container_stack, {"mesh": "{", "istio": "null"}))
    assert [problem.key for problem in error.problems] == ["nordmesh:istio", "nordmesh:mesh"]


def test_a_missing_checksum_is_named(load: Load, container_stack: Values, project: Path) -> None:
    lock = project / "stacks" / "artifacts.lock.json"
    content = json.loads(lock.read_text())
    key = "dl.k8s.io/release/v1.23.17/bin/linux/amd64/kubelet"
    del content["binaries"][key]
    lock.write_text(json.dumps(content))
    (problem,) = refusal(load, container_stack).problems
    assert problem.key == "nordmesh:artifacts.lock"
    assert key in problem.what
    assert "kubeadm" not in problem.what
    assert "nordmesh lock" in problem.fix


@pytest.mark.parametrize("content", ["{", "[]", '{"binaries": {"a": "abc"}}', '{"binaries": 1}'])
def test_an_invalid_lock_is_refused(
    load: Load, container_stack: Values, project: Path, content: str
) -> None:
    (project / "stacks" / "artifacts.lock.json").write_text(content)
    (problem,) = refusal(load, container_stack).problems
    assert problem.key == "nordmesh:artifacts.lock"
    assert "cannot be used" in problem.what


def test_errors_hide_secrets(load: Load, existing_stack: Values) -> None:
    word = "hunter2-and-more"
    edit: dict[str, object] = {
        "sshPrivateKey": word,
        "sshKey": word,
        "machines.password": word,
        "artifacts": {"mirror": f"https://user:{word}@mirror.example.com"},
        f"{WORKER}.hostKey": f"-----BEGIN OPENSSH PRIVATE KEY-----\n{word}",
    }
    error = refusal(load, edited(existing_stack, edit))
    assert len(error.problems) == 5
    assert word not in str(error)


def test_the_text_of_an_error(load: Load, container_stack: Values) -> None:
    error = refusal(load, edited(container_stack, {f"{CHECKOUT}.canary.weight": 101}))
    assert str(error) == (
        "the stack's configuration is invalid; nothing was changed [config-invalid]\n"
        "\n"
        "nordmesh:mesh.services.checkout.canary.weight [canary-weight-range]\n"
        "    what  101 is not a percentage\n"
        "    why   the canary gets this many of 100 requests, and the stable subset gets the "
        "rest;\n"
        "          Istio refuses weights that are not whole numbers or do not add up to 100\n"
        "    fix   use a whole number from 0 to 100, for example 10; with 0 the canary gets no\n"
        "          requests\n"
        "\n"
        "1 error"
    )
