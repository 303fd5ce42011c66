"""The canary of a service: the version on trial, its share, and what it must prove to get more."""

import itertools
from typing import Annotated

from pydantic import AfterValidator, Field

from config.base import Section, Unlimited
from config.scalars.durations import Latency, Window
from config.scalars.names import Label
from config.scalars.numbers import RequestCount, Weight, percent
from config.scalars.refused import Refused


def _no_fraction(rate: float) -> float:
    if rate > 1:
        return rate
    raise Refused(
        f"{rate:g} is a fraction",
        "the rate is in percent, as weights are; 1 would let 99 of 100 requests fail",
        f"write {rate * 100:g}" if rate else "write a number above 1, such as 99.5",
    )


def _rising(steps: tuple[int, ...]) -> tuple[int, ...]:
    why = "`nordmesh canary advance` writes the first step above the weight; each must give more"
    if any(later <= earlier for earlier, later in itertools.pairwise(steps)):
        proposal = ", ".join(map(str, sorted(set(steps))))
        raise Refused(f"the steps {list(steps)} do not rise", why, f"write [{proposal}]")
    if 0 in steps:
        raise Refused("0 is no step", why, "begin with the first share, such as 5")
    return steps


SuccessRate = Annotated[
    float,
    percent("of 100 requests to the canary so many must succeed", "99.5", what="a rate in percent"),
    AfterValidator(_no_fraction),
]
Steps = Annotated[tuple[Weight, ...], AfterValidator(_rising)]


class CanaryGate(Section):
    """What the canary must show before its weight is raised, measured at the callers' proxies."""

    min_success_rate: SuccessRate = Field(
        default=99.0, description="the share of requests in percent that must succeed"
    )
    max_p99: Latency | None = Field(
        default=None, description="the time within which 99 of 100 requests must be answered"
    )
    min_requests: RequestCount = Field(
        default=100, description="how many requests it takes to judge the canary"
    )
    window: Window = Field(default="1m", description="how long requests are counted")


class Canary(Section):
    """The version on trial, and its share of the requests."""

    subset: Label = Field(description="the canary's version label", examples=["v2"])
    weight: Weight = Field(description="the canary's share of requests in percent", examples=[10])
    steps: Steps = Field(
        default=(), description="the weights that `nordmesh canary advance` goes through"
    )
    gate: Annotated[
        CanaryGate | None, Unlimited("the weight is raised without a check", "{} for its defaults")
    ] = Field(default=None, description="what the canary must show before its weight is raised")

    @property
    def next_step(self) -> int | None:
        """The first step above the weight; None at the last."""
        return next((step for step in self.steps if step > self.weight), None)
