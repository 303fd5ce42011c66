"""Lengths of time, such as 500ms, 30s or 1h30m: as Go writes them, and Istio after it."""

import re
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator

from config.scalars.refused import Refused
from config.scalars.shapes import shaped
from config.scalars.shapes import text as text_of

_PART = r"(\d+(?:\.\d+)?)(ms|s|m|h)"
_SECONDS = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600)}


def seconds(duration: str) -> Decimal:
    """The length of a duration in seconds; that of `1m1.5s` is 61.5."""
    if re.fullmatch(rf"({_PART})+", duration) is None:
        raise ValueError(f"not a duration: {duration!r}")
    parts = re.findall(_PART, duration)
    return sum((Decimal(number) * _SECONDS[unit] for number, unit in parts), Decimal(0))


def duration(least: str, most: str | None, why: str, example: str) -> BeforeValidator:
    """Takes lengths of time from least to most (None: any). why: of those bounds."""
    span = f"{least} to {most}" if most else f"{least} or more"

    def check(value: Any) -> str:
        is_scalar = isinstance(value, str | int | float) and not isinstance(value, bool)
        text = str(value).strip() if is_scalar else ""
        if re.fullmatch(r"\d+(\.\d+)?", text):
            raise Refused(
                f"{value!r} has no unit",
                "a time without a unit can be read as seconds or as milliseconds",
                f"write {text}s or {text}ms",
            )
        try:
            length = seconds(text)
        except ValueError:
            raise Refused(
                f"{value!r} is not a length of time",
                "it is a number and its unit: ms, s, m or h",
                f"write such as {example}",
            ) from None
        if length < seconds(least) or (most is not None and length > seconds(most)):
            wrong = f"is outside {span}" if most else f"is shorter than {least}"
            raise Refused(f"{text} {wrong}", why, f"write {span}, such as {example}")
        return text

    return BeforeValidator(shaped(text_of(rf"({_PART})+"))(check))


# Istio refuses less, and Envoy counts in milliseconds.
Duration = Annotated[
    str, duration("1ms", None, "Istio counts in milliseconds and refuses less", "500ms")
]
CookieTtl = Annotated[
    str, duration("0s", None, "0s is until the client is closed, and nothing is shorter", "1h")
]
Window = Annotated[
    str,
    duration(
        "10s",
        "15m",
        "in less time next to no requests come, and `pulumi up` waits for the whole of it",
        "1m",
    ),
]
Latency = Annotated[
    str,
    duration(
        "1ms",
        "1h",
        "the proxies count the times of requests in steps from 0.5 ms to an hour",
        "500ms",
    ),
]
CertificateLifetime = Annotated[
    str,
    duration(
        "10m",
        "2160h",  # istiod signs nothing for longer (MAX_WORKLOAD_CERT_TTL)
        "proxies renew at half of the lifetime: much shorter, and a restart of istiod lets "
        "certificates run out; istiod signs none for more than 90 days",
        "24h, which is Istio's default",
    ),
]
LatencyLimit = Annotated[
    str, duration("0.1ms", "10s", "disks and networks of a cluster are in between", "10ms")
]
SkewLimit = Annotated[
    str,
    duration(
        "50ms",
        "1m",
        "over SSH a clock is read to some ten milliseconds; certificates of joining nodes are good "
        "from five minutes ago",
        "1s",
    ),
]
StealWindow = Annotated[
    str,
    duration(
        "1s",
        "10m",
        "in less time the kernel counts too few ticks, and `pulumi up` waits for the whole of it",
        "10s",
    ),
]
Debounce = Annotated[
    str,
    duration(
        "0s",
        "10s",
        "istiod sends changes after 10 s at the latest (PILOT_DEBOUNCE_MAX); a revert must not "
        "wait that long",
        "10ms",
    ),
]
Readiness = Annotated[
    str,
    duration(
        "10s",
        "1h",
        "an install ends with an error when the control plane or a gateway is not ready by then",
        "8m",
    ),
]
