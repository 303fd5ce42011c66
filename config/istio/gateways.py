"""The gateways of the section `istio`, where traffic enters and leaves the mesh."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from config.base import Section, Unlimited
from config.resources import ProxyLimits, ProxyRequests
from config.scalars.names import Label, NodeName
from config.scalars.networks import Ipv4
from config.scalars.numbers import NodePortNumber, Port, ReplicaCount, Utilisation

_ANY_NODE = Unlimited("its pods may run on every node")


class Replicas(Section):
    """The lowest and highest number of pods; the autoscaler chooses between them."""

    min: ReplicaCount = Field(default=1, description="the lowest number of pods")
    max: ReplicaCount = Field(default=5, description="the highest number of pods")


class GatewayPort(Section):
    """A port of a gateway."""

    name: Label = Field(description="the port's name in the Service", examples=["https"])
    port: Port = Field(description="the port that clients use", examples=[443])
    target_port: Port | None = Field(
        default=None,
        description="the port that the proxy listens on; by default port, or port + 8000 below "
        "1024",
    )
    node_port: NodePortNumber | None = Field(
        default=None, description="the port on the nodes, if the gateway is exposed by NodePort"
    )

    @property
    def target(self) -> int:
        """The port that the proxy listens on; its user may not open ports below 1024."""
        return self.target_port or (self.port if self.port >= 1024 else self.port + 8000)


class HostPortExposure(Section):
    """The gateway's ports on every address of the listed nodes, with one pod on each node."""

    type: Literal["HostPort"]
    nodes: list[NodeName] = Field(
        min_length=1, description="the nodes that clients connect to", examples=[["worker-1"]]
    )


class NodePortExposure(Section):
    """A port from 30000 to 32767 on every node; nodes with a pod answer."""

    type: Literal["NodePort"]
    nodes: Annotated[list[NodeName], _ANY_NODE] = Field(
        default=[], description="the nodes that the pods run on; none means any"
    )


class ExternalIpsExposure(Section):
    """The gateway's ports on addresses that are routed to the nodes; nodes with a pod answer."""

    type: Literal["ExternalIPs"]
    addresses: list[Ipv4] = Field(
        min_length=1, description="the addresses that clients connect to", examples=[["192.0.2.80"]]
    )
    nodes: Annotated[list[NodeName], _ANY_NODE] = Field(
        default=[], description="the nodes that the pods run on; none means any"
    )


Exposure = Annotated[
    HostPortExposure | NodePortExposure | ExternalIpsExposure, Field(discriminator="type")
]


class GatewayDeployment(Section):
    """A gateway with a Service of type ClusterIP."""

    example: ClassVar = {"replicas": {"min": 2}}

    replicas: Replicas | None = Field(
        default=None,
        description="the number of pods; 1 to 5 by default, or as the exposure requires",
    )
    target_cpu: Utilisation = Field(
        default=80, description="the CPU use above which pods are added, in percent of the request"
    )
    requests: ProxyRequests = Field(
        default=ProxyRequests(), description="the resources that each pod requests"
    )
    limits: ProxyLimits = Field(default=ProxyLimits(), description="the most that each pod may use")
    ports: list[GatewayPort] = Field(
        default=[GatewayPort(name="http2", port=80), GatewayPort(name="https", port=443)],
        min_length=1,
        description="the gateway's ports",
    )

    @property
    def scale(self) -> Replicas:
        """The number of pods."""
        return self.replicas or Replicas()

    @property
    def nodes(self) -> list[str]:
        """The nodes that pods are bound to; none means any."""
        return []


class IngressGateway(GatewayDeployment):
    """A gateway for traffic that enters the mesh."""

    expose: Exposure | None = Field(
        default=None, description="how clients outside the cluster connect to the gateway"
    )

    @property
    def scale(self) -> Replicas:
        """The number of pods; with host ports, one for each node."""
        if isinstance(self.expose, HostPortExposure):
            return Replicas(min=len(self.expose.nodes), max=len(self.expose.nodes))
        return super().scale

    @property
    def nodes(self) -> list[str]:
        """The nodes that pods are bound to; none means any."""
        return self.expose.nodes if self.expose else []


def selector(name: str) -> dict[str, str]:
    """The labels of a gateway's pods, for the selector of a Gateway resource."""
    return {"app": name, "istio": name.removeprefix("istio-")}
