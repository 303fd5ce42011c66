"""The services of the section `mesh`: who gets which requests."""

from pydantic import Field

from stacks.config.access import Caller
from stacks.config.base import Section
from stacks.fields import Label, Port, Weight


class Canary(Section):
    """The version on trial, and its share of the requests."""

    subset: Label = Field(description="the canary's version label", examples=["v2"])
    weight: Weight = Field(description="the canary's share of requests in percent", examples=[10])


class Service(Section):
    """A service whose requests are split between a stable subset and a canary."""

    namespace: Label = Field(description="the namespace of the service", examples=["shop"])
    port: Port = Field(description="the service's port", examples=[8080])
    stable: Label = Field(description="the stable version's label", examples=["v1"])
    canary: Canary | None = Field(default=None, description="the version on trial")
    service_account: Label = Field(
        default="default", description="the service account that the service's pods run as"
    )
    callers: list[Caller] | None = Field(
        default=None, description="who may call it; [] means nobody, and no list means anybody"
    )

    @property
    def weights(self) -> dict[str, int]:
        """Each subset's share of the requests in percent; they sum to 100."""
        if self.canary is None:
            return {self.stable: 100}
        return {
            self.stable: 100 - self.canary.weight,
            self.canary.subset: self.canary.weight,
        }
