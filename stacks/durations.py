"""Lengths of time in a stack file, such as 500ms, 30s or 5m: Istio's own notation."""

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator

from stacks.fields import Refused

_DURATION = re.compile(r"(?P<number>\d+(\.\d+)?)(?P<unit>ms|s|m|h)")
_SECONDS = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600)}


def seconds(value: str) -> float:
    """A duration in seconds; `1.5s` is 1.5."""
    match = _DURATION.fullmatch(value)
    if match is None:
        raise ValueError(f"not a duration: {value!r}")
    return float(Decimal(match["number"]) * _SECONDS[match["unit"]])


def _between(least: str, most: str, why: str) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise Refused(f"{value!r} is not a length of time", why, f"write such as {least}")
        text = str(value).strip()
        if _DURATION.fullmatch(text) is None:
            proposal = f"{text}s" if re.fullmatch(r"\d+(\.\d+)?", text) else f"such as {least}"
            raise Refused(
                f"{value!r} is not a length of time",
                "a length of time is a number and its unit: ms, s, m or h",
                f"write {proposal}",
            )
        if not seconds(least) <= seconds(text) <= seconds(most):
            raise Refused(f"{text} is outside {least} to {most}", why, f"write {least} to {most}")
        return text

    return check


Window = Annotated[
    str,
    BeforeValidator(
        _between(
            "10s",
            "15m",
            "in less time next to no requests come, and `pulumi up` waits for the whole of it",
        )
    ),
]
Latency = Annotated[
    str,
    BeforeValidator(
        _between(
            "1ms", "1h", "the proxies count the times of requests in steps from 0.5 ms to an hour"
        )
    ),
]
