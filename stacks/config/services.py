"""The services of the section `mesh`: who gets which requests."""

from pydantic import Field

from stacks.config.base import Section
from stacks.config.canary import Canary
from stacks.config.mtls import ServiceMtls
from stacks.fields import Label, Port


class Service(Section):
    """A service whose requests are split between a stable subset and a canary."""

    namespace: Label = Field(description="the namespace of the service", examples=["shop"])
    port: Port = Field(description="the service's port", examples=[8080])
    stable: Label = Field(description="the stable version's label", examples=["v1"])
    canary: Canary | None = Field(default=None, description="the version on trial")
    mtls: ServiceMtls | None = Field(
        default=None, description="the mTLS modes of the service's pods and their ports"
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
