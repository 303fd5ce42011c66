"""The statistics of Envoy that proxies keep in addition to Istio's: the gates read them.

Envoy has some 5,000 for a proxy of a small mesh, and nearly all of them are never read.
"""

from components.manifests import Manifest

# A subset's cluster (its name has a third part) as callers see it: the metrics of a canary.
_SUBSETS = (
    r"cluster\.outbound\|[0-9]+\|[^|]+\|.+\.upstream_"
    r"(rq_completed|rq_[1-5]xx|rq_retry|rq_timeout|rq_rx_reset|cx_connect_fail|rq_time)"
)
# Of what a sidecar receives: the statuses of its pod's gRPC answers; how many connections
# there are, and how many of them have mTLS.
_INBOUND = (
    r"cluster\.inbound\|[0-9]+\|\|\.grpc\.[0-9]+",
    r"http\.[iI]nbound.+\.downstream_cx_(ssl_)?(total|active)",
    r"tcp\.[iI]nbound.+\.downstream_cx_total",
    r"listener\..+_15006\.(downstream_cx_total|ssl\.handshake)",
)
# Calls to hosts that the mesh does not know: the outbound gate.
_OUTSIDE = r"cluster\.PassthroughCluster\.upstream_(cx|rq)_(total|active)"


def matcher() -> Manifest:
    """meshConfig.defaultConfig.proxyStatsMatcher; a proxy reads it when it starts.

    Each expression must match a whole name (Envoy's safe_regex).
    """
    return {"inclusionRegexps": [_SUBSETS, *_INBOUND, _OUTSIDE]}
