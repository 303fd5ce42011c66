"""Numbers in a range, also as text: `pulumi config set` writes text."""

import math
import re
from typing import Annotated, Any

from pydantic import BeforeValidator

from config.scalars.refused import Refused
from config.scalars.shapes import shaped


def whole(
    code: str,
    low: int,
    high: int | None,
    why: str,
    example: int,
    *,
    what: str | None = None,
    fix: str | None = None,
) -> BeforeValidator:
    """Accept whole numbers from low to high (None: any). what: what a number outside is not."""
    span = f"from {low}" if high is None else f"from {low} to {high}"
    remedy = fix or f"use a whole number {span}, for example {example}"

    def check(value: Any) -> int:
        number = value
        if isinstance(value, str) and re.fullmatch(r"-?\d+", value.strip()):
            number = int(value)
        # bool is an int in Python: `weight: true` would otherwise be 1.
        if not isinstance(number, int) or isinstance(number, bool):
            raise Refused("whole-number", f"{value!r} is not a whole number", why, remedy)
        if number < low or (high is not None and number > high):
            below = f"is below {low}" if high is None else f"is not {span}"
            raise Refused(code, f"{number} {f'is not {what}' if what else below}", why, remedy)
        return number

    bounds = {"minimum": low} if high is None else {"minimum": low, "maximum": high}
    return BeforeValidator(shaped({"type": "integer", **bounds})(check))


def percent(code: str, why: str, example: str, *, what: str = "a percentage") -> BeforeValidator:
    """Accept numbers from 0 to 100, including fractions."""

    def check(value: Any) -> float:
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if 0 <= number <= 100:
            return number
        remedy = f"use a number from 0 to 100, for example {example}"
        raise Refused(code, f"{value!r} is not {what}", why, remedy)

    return BeforeValidator(shaped({"type": "number", "minimum": 0, "maximum": 100})(check))


_SHARE = "a percentage"
_OF_PODS = "it is a whole percentage of the pods"

Weight = Annotated[
    int,
    whole(
        "canary-weight-range",
        0,
        100,
        "the canary gets this many of 100 requests, and the stable subset gets the rest; Istio "
        "refuses weights that are not whole numbers or do not add up to 100",
        10,
        what=_SHARE,
        fix="use a whole number from 0 to 100, for example 10; with 0 the canary gets no requests",
    ),
]
IS_PORT = whole(
    "port-range", 1, 65535, "TCP and UDP ports range from 1 to 65535", 8080, what="a port"
)
Port = Annotated[int, IS_PORT]
NodePortNumber = Annotated[
    int,
    whole(
        "node-port-range",
        30000,
        32767,
        "the API server accepts node ports from 30000 to 32767",
        30443,
        what="a port for a Service of type NodePort",
        fix="use a free port in that range, or expose the gateway by HostPort or ExternalIPs, "
        "which accept any port",
    ),
]
Concurrency = Annotated[
    int,
    whole(
        "concurrency-range",
        0,
        None,
        "it is the number of Envoy's worker threads",
        2,
        fix="use a whole number, for example 2; 0 means one thread for each core of the proxy's "
        "CPU limit",
    ),
]
ReplicaCount = Annotated[
    int,
    whole(
        "replicas-range",
        1,
        None,
        "it is a number of pods; with 0 nothing serves requests, and the autoscaler cannot "
        "start from 0",
        2,
    ),
]
PodCount = Annotated[int, whole("pods-range", 0, None, "it is a number of pods", 10)]
RequestCount = Annotated[
    int,
    whole(
        "request-count-range",
        1,
        None,
        "without requests there is nothing to judge the canary by",
        100,
        what="a number of requests",
    ),
]
Utilisation = Annotated[
    int,
    whole(
        "utilisation-range",
        1,
        100,
        "the autoscaler adds pods when they use more than this share of the CPU that they request",
        80,
        what=_SHARE,
    ),
]
CoreCount = Annotated[
    int,
    whole(
        "core-count-range",
        1,
        None,
        "it is a number of cores; kubeadm refuses a control plane with one core",
        2,
    ),
]
StealLimit = Annotated[
    float,
    percent("steal-limit-range", "it is stolen CPU time in percent; 2.0 is the usual limit", "2.0"),
]
Attempts = Annotated[
    int,
    whole(
        "attempts-range",
        0,
        10,
        "it is how often a failed request is sent again; each attempt adds load",
        2,
    ),
]
ErrorStatus = Annotated[
    int, whole("error-status-range", 400, 599, "it is the error status that clients get", 503)
]
Count = Annotated[int, whole("limit-count-range", 1, 2**31 - 1, "Envoy treats 0 as not set", 100)]
EjectionShare = Annotated[int, whole("ejection-share-range", 1, 100, _OF_PODS, 50)]
HealthShare = Annotated[int, whole("health-share-range", 0, 100, _OF_PODS, 1)]
LocalityShare = Annotated[
    int, whole("locality-share-range", 1, 100, "it is a whole percentage of the requests", 80)
]
RequestShare = Annotated[
    float,
    percent(
        "request-share-range",
        "it is how many of 100 requests are affected; fractions are allowed",
        "5 or 0.5",
    ),
]
Sampling = Annotated[
    float, percent("sampling-range", "it is how many of 100 requests are traced", "1")
]
KeyNumber = Annotated[
    int,
    whole(
        "encryption-key-range",
        1,
        9999,
        "it counts the keys that the cluster has had",
        2,
        what="the number of a key",
    ),
]
