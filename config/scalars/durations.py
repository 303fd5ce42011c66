"""Durations such as 500ms, 30s or 1h30m, in the format of Go and Istio."""

import re
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator

from config.scalars.refused import Refused
from config.scalars.shapes import shaped
from config.scalars.shapes import text as text_of

_PART = r"(\d+(?:\.\d+)?)(ms|s|m|h)"
_SECONDS = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600)}
_NAMES = {"ms": "millisecond", "s": "second"}


def seconds(duration: str) -> Decimal:
    """The length of a duration in seconds; that of `1m1.5s` is 61.5."""
    if re.fullmatch(rf"({_PART})+", duration) is None:
        raise ValueError(f"not a duration: {duration!r}")
    parts = re.findall(_PART, duration)
    return sum((Decimal(number) * _SECONDS[unit] for number, unit in parts), Decimal(0))


def duration(
    code: str,
    least: str,
    most: str | None,
    why: str,
    example: str,
    *,
    unit: str | None = None,
) -> BeforeValidator:
    """Accept durations from least to most (None: any). why: the reason for these bounds.

    unit: the unit whose fractions are refused.
    """
    span = f"{least} to {most}" if most else f"{least} or more"

    def fits(length: Decimal) -> bool:
        is_whole = unit is None or length % _SECONDS[unit] == 0
        return is_whole and length >= seconds(least) and (not most or length <= seconds(most))

    def check(value: Any) -> str:
        is_scalar = isinstance(value, str | int | float) and not isinstance(value, bool)
        text = str(value).strip() if is_scalar else ""
        if re.fullmatch(r"\d+(\.\d+)?", text):
            units = [f"{text}{unit}" for unit in ("s", "ms") if fits(seconds(f"{text}{unit}"))]
            raise Refused(
                "duration-unit",
                f"{value!r} has no unit",
                "a time without a unit could mean seconds or milliseconds",
                f"use {' or '.join(units)}" if units else f"use a value such as {example}",
            )
        try:
            length = seconds(text)
        except ValueError:
            raise Refused(
                "duration-format",
                f"{value!r} is not a duration",
                "a duration is a number and its unit: ms, s, m or h",
                f"use a value such as {example}",
            ) from None
        if length < seconds(least) or (most is not None and length > seconds(most)):
            wrong = f"is outside {span}" if most else f"is shorter than {least}"
            raise Refused(code, f"{text} {wrong}", why, f"use {span}, for example {example}")
        if unit is not None and length % _SECONDS[unit]:
            name = _NAMES[unit]
            raise Refused(
                "duration-fraction",
                f"{text} is not a whole number of {name}s",
                f"Istio refuses a fraction of a {name} here",
                f"use {int(length / _SECONDS[unit])}{unit}",
            )
        return text

    return BeforeValidator(shaped(text_of(rf"({_PART})+"))(check))


# Istio refuses less, and Envoy counts in milliseconds.
Duration = Annotated[
    str,
    duration(
        "duration-range",
        "1ms",
        "8760h",
        "Istio counts in milliseconds and refuses shorter durations; a year limits nothing",
        "500ms",
        unit="ms",
    ),
]
MaxAge = Annotated[
    str,
    duration(
        "max-age-range",
        "1s",
        "8760h",
        "browsers count in seconds, and remember the answer for a day at most",
        "1h",
        unit="s",
    ),
]
CookieTtl = Annotated[
    str,
    duration(
        "cookie-ttl-range",
        "0s",
        "9600h",
        "0s keeps the cookie until the client is closed; browsers keep none for more than 400 days",
        "1h",
        unit="ms",
    ),
]
Window = Annotated[
    str,
    duration(
        "window-range",
        "10s",
        "15m",
        "a shorter window sees too few requests, and `pulumi up` waits for the whole window",
        "1m",
    ),
]
Drain = Annotated[
    str,
    duration(
        "drain-duration-range",
        "1s",
        "1h",
        "requests in progress need some time, and the kubelet kills a pod after its "
        "terminationGracePeriodSeconds",
        "20s, which fits into the default of 30 s",
    ),
]
Latency = Annotated[
    str,
    duration(
        "latency-range",
        "1ms",
        "1h",
        "proxies measure request times in buckets from 0.5 ms to an hour",
        "500ms",
    ),
]
CertificateLifetime = Annotated[
    str,
    duration(
        "certificate-lifetime-range",
        "10m",
        "2160h",  # istiod signs nothing for longer (MAX_WORKLOAD_CERT_TTL)
        "proxies renew after half of the lifetime: if it is much shorter, certificates expire "
        "while istiod restarts; istiod signs none for more than 90 days",
        "24h, which is Istio's default",
    ),
]
LatencyLimit = Annotated[
    str,
    duration(
        "latency-limit-range",
        "0.1ms",
        "10s",
        "disks and networks of a cluster are within this range",
        "10ms",
    ),
]
SkewLimit = Annotated[
    str,
    duration(
        "clock-skew-range",
        "50ms",
        "1m",
        "over SSH a clock can be read to within a few tens of milliseconds, and certificates of "
        "joining nodes are backdated by five minutes",
        "1s",
    ),
]
StealWindow = Annotated[
    str,
    duration(
        "steal-window-range",
        "1s",
        "10m",
        "a shorter window sees too few ticks of the kernel's clock, and `pulumi up` waits for "
        "the whole window",
        "10s",
    ),
]
Debounce = Annotated[
    str,
    duration(
        "debounce-range",
        "0s",
        "10s",
        "istiod sends changes after 10 s at the latest (PILOT_DEBOUNCE_MAX); a rollback must "
        "not wait that long",
        "10ms",
    ),
]
Readiness = Annotated[
    str,
    duration(
        "readiness-timeout-range",
        "10s",
        "1h",
        "an install fails when the control plane or a gateway is not ready by then",
        "8m",
    ),
]
