"""The canary of a service: the version on trial, its share, and what it must prove to get more."""

import itertools
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from stacks.config.base import Section
from stacks.durations import Latency, Window
from stacks.fields import Label, Refused, Weight


def _percent(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _no_percent(value)
    try:
        number = float(value)
    except ValueError:
        raise _no_percent(value) from None
    if 0 < number <= 1:
        raise Refused(
            f"{value} is a fraction",
            "the rate is in percent, as weights are; 1 would let 99 of 100 requests fail",
            f"write {number * 100:g}",
        )
    if not 1 < number <= 100:
        raise _no_percent(value)
    return number


def _no_percent(value: object) -> Refused:
    return Refused(
        f"{value!r} is not a rate in percent",
        "of 100 requests to the canary so many must succeed",
        "write a number above 1 and up to 100, such as 99.5",
    )


def _at_least_one(value: Any) -> Any:
    if isinstance(value, str) and value.strip().isdigit():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    raise Refused(
        f"{value!r} is not a number of requests",
        "with no requests there is nothing that the canary could be judged by",
        "write a whole number from 1, such as 100",
    )


def _rising(steps: tuple[int, ...]) -> tuple[int, ...]:
    why = "`make canary-advance` writes the first step above the weight; each must give more"
    if any(later <= earlier for earlier, later in itertools.pairwise(steps)):
        proposal = ", ".join(map(str, sorted(set(steps))))
        raise Refused(f"the steps {list(steps)} do not rise", why, f"write [{proposal}]")
    if 0 in steps:
        raise Refused("0 is no step", why, "begin with the first share, such as 5")
    return steps


Percent = Annotated[float, BeforeValidator(_percent)]
RequestCount = Annotated[int, BeforeValidator(_at_least_one)]
Steps = Annotated[tuple[Weight, ...], AfterValidator(_rising)]


class CanaryGate(Section):
    """What the canary must show before its weight is raised, measured at the callers' proxies."""

    min_success_rate: Percent = Field(
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
        default=(), description="the weights that `make canary-advance` goes through"
    )
    gate: CanaryGate | None = Field(
        default=None, description="what the canary must show before its weight is raised"
    )

    @property
    def next_step(self) -> int | None:
        """The first step above the weight; None at the last."""
        return next((step for step in self.steps if step > self.weight), None)
