"""The section `demo`: the echo application that shows the canary split."""

from pydantic import Field

from config.base import Section

DEMO_NAMESPACE = "shop"
DEMO_SERVICE = "checkout"
OUTSIDE_NAMESPACE = "outside"  # of the demo's client without a sidecar


class Demo(Section):
    """The echo application that shows the canary split."""

    enabled: bool = Field(default=False, description="whether the demo is deployed")
