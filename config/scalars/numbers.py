"""Numbers in a range; also as text, which is what `pulumi config set` writes."""

import math
import re
from typing import Annotated, Any

from pydantic import BeforeValidator

from config.scalars.refused import Refused
from config.scalars.shapes import shaped


def whole(
    low: int,
    high: int | None,
    why: str,
    example: int,
    *,
    what: str | None = None,
    fix: str | None = None,
) -> BeforeValidator:
    """Takes whole numbers from low to high (None: any). what: what one outside of that is not."""
    span = f"from {low}" if high is None else f"from {low} to {high}"
    remedy = fix or f"write a whole number {span}, such as {example}"

    def check(value: Any) -> int:
        number = value
        if isinstance(value, str) and re.fullmatch(r"-?\d+", value.strip()):
            number = int(value)
        # bool is an int in Python: `weight: true` would otherwise be 1.
        if not isinstance(number, int) or isinstance(number, bool):
            raise Refused(f"{value!r} is not a whole number", why, remedy)
        if number < low or (high is not None and number > high):
            below = f"is below {low}" if high is None else f"is not {span}"
            raise Refused(f"{number} {f'is not {what}' if what else below}", why, remedy)
        return number

    bounds = {"minimum": low} if high is None else {"minimum": low, "maximum": high}
    return BeforeValidator(shaped({"type": "integer", **bounds})(check))


def percent(why: str, example: str, *, what: str = "a share in percent") -> BeforeValidator:
    """Takes numbers from 0 to 100, fractions as well."""

    def check(value: Any) -> float:
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if 0 <= number <= 100:
            return number
        remedy = f"write a number from 0 to 100, such as {example}"
        raise Refused(f"{value!r} is not {what}", why, remedy)

    return BeforeValidator(shaped({"type": "number", "minimum": 0, "maximum": 100})(check))


_SHARE = "a share in percent"
_OF_PODS = "it is a whole share of the pods in percent"

Weight = Annotated[
    int,
    whole(
        0,
        100,
        "the canary gets this many of 100 requests and the stable subset gets the rest; Istio "
        "refuses a route whose weights are not whole or do not sum to 100",
        10,
        what=_SHARE,
        fix="write a whole number from 0 to 100, such as 10; at 0 none reaches the canary",
    ),
]
Port = Annotated[int, whole(1, 65535, "ports go from 1 to 65535", 8080, what="a port")]
NodePortNumber = Annotated[
    int,
    whole(
        30000,
        32767,
        "the API server takes these from 30000 to 32767",
        30443,
        what="a port for a Service of type NodePort",
        fix="write a free one of that range, or expose the gateway by HostPort or ExternalIPs, "
        "which take any port",
    ),
]
Concurrency = Annotated[
    int,
    whole(
        0,
        None,
        "it is the number of Envoy's worker threads",
        2,
        fix="write a whole number, such as 2; 0 means one for each core of the proxy's CPU limit",
    ),
]
ReplicaCount = Annotated[
    int,
    whole(
        1,
        None,
        "it is a number of pods; without one nothing is served, and the autoscaler does not start "
        "from none",
        2,
    ),
]
PodCount = Annotated[int, whole(0, None, "it is a number of pods", 10)]
RequestCount = Annotated[
    int,
    whole(
        1,
        None,
        "with no requests there is nothing that the canary could be judged by",
        100,
        what="a number of requests",
    ),
]
Utilisation = Annotated[
    int,
    whole(
        1,
        100,
        "pods are added when they use more than this share of the CPU that they request",
        80,
        what=_SHARE,
    ),
]
CoreCount = Annotated[
    int, whole(1, None, "it is a number of cores; kubeadm refuses a control plane with one", 2)
]
StealLimit = Annotated[float, percent("it is stolen CPU time, and the guides' limit is 2.0", "2.0")]
Attempts = Annotated[
    int, whole(0, 10, "it is how often a failed request is sent again; each adds to the load", 2)
]
ErrorStatus = Annotated[int, whole(400, 599, "it is the status that clients get as an error", 503)]
Count = Annotated[int, whole(1, 2**31 - 1, "Envoy counts with it, and takes 0 as not set", 100)]
EjectionShare = Annotated[int, whole(1, 100, _OF_PODS, 50)]
HealthShare = Annotated[int, whole(0, 100, _OF_PODS, 1)]
LocalityShare = Annotated[int, whole(1, 100, "it is a whole share of the requests in percent", 80)]
RequestShare = Annotated[
    float,
    percent("it is how many of 100 requests are meant; Istio takes fractions too", "5 or 0.5"),
]
Sampling = Annotated[float, percent("it is how many of 100 requests leave a trace", "1")]
