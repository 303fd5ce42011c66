"""The canary of a service: its version, its share of the requests, and its gate."""

import itertools
from typing import Annotated

from pydantic import AfterValidator, Field

from config.base import Section, Unlimited
from config.scalars.durations import Latency, Window
from config.scalars.names import Version
from config.scalars.numbers import RequestCount, Weight, percent
from config.scalars.refused import Refused


def _no_fraction(rate: float) -> float:
    if rate > 1:
        return rate
    raise Refused(
        "success-rate-fraction",
        f"{rate:g} is a fraction",
        "the rate is in percent, as weights are; a rate of 1 would allow 99 of 100 "
        "requests to fail",
        f"use {rate * 100:g}" if rate else "use a number above 1, for example 99.5",
    )


def _rising(steps: tuple[int, ...]) -> tuple[int, ...]:
    why = "`nordmesh canary advance` sets the first step above the weight, so each step must be "
    "higher"
    if any(later <= earlier for earlier, later in itertools.pairwise(steps)):
        proposal = ", ".join(map(str, sorted(set(steps))))
        raise Refused(
            "canary-steps-order",
            f"the steps {list(steps)} do not increase",
            why,
            f"use [{proposal}]",
        )
    if 0 in steps:
        raise Refused(
            "canary-steps-zero", "0 is not a step", why, "start with the first share, for example 5"
        )
    return steps


SuccessRate = Annotated[
    float,
    percent(
        "success-rate-range",
        "it is how many of 100 requests to the canary must succeed",
        "99.5",
        what="a rate in percent",
    ),
    AfterValidator(_no_fraction),
]
Steps = Annotated[tuple[Weight, ...], AfterValidator(_rising)]


class CanaryGate(Section):
    """The conditions for a higher weight, measured at the callers' proxies."""

    min_success_rate: SuccessRate = Field(
        default=99.0, description="the percentage of requests that must succeed"
    )
    max_p99: Latency | None = Field(
        default=None, description="the limit for the 99th percentile of the latency"
    )
    min_requests: RequestCount = Field(
        default=100, description="the number of requests needed to judge the canary"
    )
    window: Window = Field(default="1m", description="how long requests are counted")


class Canary(Section):
    """The new version of a service, and its share of the requests."""

    subset: Version = Field(
        description="the canary's version, as its pods have it in their label", examples=["v2"]
    )
    weight: Weight = Field(
        description="the percentage of requests that the canary gets", examples=[10]
    )
    steps: Steps = Field(
        default=(), description="the weights that `nordmesh canary advance` uses, in order"
    )
    gate: Annotated[
        CanaryGate | None, Unlimited("the weight is raised without a check", "{} for its defaults")
    ] = Field(
        default=None,
        description="the conditions that the canary must meet before its weight is raised",
    )

    @property
    def next_step(self) -> int | None:
        """The first step above the weight; None after the last step."""
        return next((step for step in self.steps if step > self.weight), None)
