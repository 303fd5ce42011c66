"""The ports that a node of the cluster listens on."""

from collections.abc import Mapping

API = 6443
KUBELET = 10250
OVERLAY = 8472
"""The UDP port of flannel's VXLAN."""
ETCD = (2379, 2380)
ETCD_METRICS = 2381
"""Metrics and health of etcd over HTTP, without keys or values."""
KUBE_PROXY_HEALTH = 10256
KUBE_PROXY = (10249, KUBE_PROXY_HEALTH)
"""Metrics, on the loopback interface, and health."""
CONTROL_PLANE_OWN = (10257, 10259)
"""The controller manager and the scheduler, which listen on the loopback interface."""

PROXY_HEALTH = 15021
"""The port where a proxy answers health checks."""
PROXY_STATS = 15090
"""The port of a proxy's statistics; to read them is not traffic of the mesh."""
AGENT_STATS = 15020
"""The port where a sidecar's agent serves them together with those of its pod."""
PROXY_LISTENERS = (15001, 15006, PROXY_HEALTH, PROXY_STATS)
"""The listeners of each sidecar on every address, as its listener for an HTTP port would be; istiod
leaves that one out (Istio 1.18, conflictWithStaticListener), or Envoy refuses it."""

OWNERS: Mapping[int, str] = {
    **dict.fromkeys(ETCD, "etcd"),
    ETCD_METRICS: "etcd",
    API: "the API server",
    KUBELET: "the kubelet",
    KUBE_PROXY_HEALTH: "kube-proxy",
    CONTROL_PLANE_OWN[0]: "the controller manager",
    CONTROL_PLANE_OWN[1]: "the scheduler",
}
"""The components whose TCP ports a gateway may not use."""
