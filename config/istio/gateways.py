"""Gateways of the section `istio`: where traffic enters and leaves the mesh."""

from typing import Annotated, Literal

from pydantic import Field

from config.base import Section, Unlimited
from config.resources import ProxyLimits, ProxyRequests
from config.scalars.names import Label
from config.scalars.networks import Ipv4
from config.scalars.numbers import NodePortNumber, Port, ReplicaCount, Utilisation

_ANY_NODE = Unlimited("its pods may be on every node")


class Replicas(Section):
    """How many pods there are at least and at most; the autoscaler chooses between them."""

    min: ReplicaCount = Field(default=1, description="the least number of pods")
    max: ReplicaCount = Field(default=5, description="the greatest number of pods")


class GatewayPort(Section):
    """A port that a gateway is reached at."""

    name: Label = Field(description="the port's name in the Service", examples=["https"])
    port: Port = Field(description="the port that clients use", examples=[443])
    target_port: Port | None = Field(
        default=None, description="the proxy's own port; below 1024 the default is 8000 more"
    )
    node_port: NodePortNumber | None = Field(
        default=None, description="the port on the nodes, where the exposure is NodePort"
    )

    @property
    def target(self) -> int:
        """The port that the proxy listens on; its user may not have one below 1024."""
        return self.target_port or (self.port if self.port >= 1024 else self.port + 8000)


class HostPortExposure(Section):
    """The gateway's ports on every address of named nodes, one pod on each."""

    type: Literal["HostPort"]
    nodes: list[Label] = Field(
        min_length=1, description="the nodes that clients reach", examples=[["worker-1"]]
    )


class NodePortExposure(Section):
    """A port from 30000 to 32767 on every node; those with a pod answer."""

    type: Literal["NodePort"]
    nodes: Annotated[list[Label], _ANY_NODE] = Field(
        default=[], description="the nodes that pods are on; none means any"
    )


class ExternalIpsExposure(Section):
    """The gateway's ports on given addresses that arrive at the nodes; nodes with a pod answer."""

    type: Literal["ExternalIPs"]
    addresses: list[Ipv4] = Field(
        min_length=1, description="the addresses that clients reach", examples=[["192.0.2.80"]]
    )
    nodes: Annotated[list[Label], _ANY_NODE] = Field(
        default=[], description="the nodes that pods are on; none means any"
    )


Exposure = Annotated[
    HostPortExposure | NodePortExposure | ExternalIpsExposure, Field(discriminator="type")
]


class GatewayDeployment(Section):
    """A gateway inside the mesh, reached through a Service of type ClusterIP."""

    replicas: Replicas | None = Field(
        default=None, description="how many pods there are; 1 to 5 unless an exposure says it"
    )
    target_cpu: Utilisation = Field(
        default=80, description="the share of the CPU request at which pods are added, in percent"
    )
    requests: ProxyRequests = Field(
        default=ProxyRequests(), description="what each pod is sure to get"
    )
    limits: ProxyLimits = Field(default=ProxyLimits(), description="what each pod may take at most")
    ports: list[GatewayPort] = Field(
        default=[GatewayPort(name="http2", port=80), GatewayPort(name="https", port=443)],
        min_length=1,
        description="the ports that the gateway is reached at",
    )

    @property
    def scale(self) -> Replicas:
        """How many pods there are."""
        return self.replicas or Replicas()

    @property
    def nodes(self) -> list[str]:
        """The nodes that pods are bound to; none means any."""
        return []


class IngressGateway(GatewayDeployment):
    """A gateway for traffic that enters the mesh."""

    expose: Exposure | None = Field(
        default=None, description="how clients outside the cluster reach the gateway"
    )

    @property
    def scale(self) -> Replicas:
        """How many pods there are; behind host ports, one for each node."""
        if isinstance(self.expose, HostPortExposure):
            return Replicas(min=len(self.expose.nodes), max=len(self.expose.nodes))
        return super().scale

    @property
    def nodes(self) -> list[str]:
        """The nodes that pods are bound to; none means any."""
        return self.expose.nodes if self.expose else []


def selector(name: str) -> dict[str, str]:
    """The labels of a gateway's pods, by which a Gateway resource chooses them."""
    return {"app": name, "istio": name.removeprefix("istio-")}
