"""Settings of a node that its pool may have too."""

from typing import Literal

from pydantic import Field

from config.base import Section
from config.scalars.localities import Region, Zone
from config.scalars.names import UserName
from config.scalars.networks import Ipv4
from config.scalars.node_labels import LabelValue, NodeLabel, TaintKey
from config.scalars.numbers import Port
from config.scalars.quantities import Cpu, Memory
from config.scalars.ssh import EXAMPLE_HOST_KEY, HostKey

Architecture = Literal["amd64", "arm64"]


class Bastion(Section):
    """A jump host for SSH to the nodes; it must accept the same key as the nodes."""

    address: Ipv4 = Field(description="the bastion's SSH address", examples=["192.0.2.5"])
    host_key: HostKey = Field(
        description="the bastion's SSH host key; nordmesh connects to no machine with another key",
        examples=[EXAMPLE_HOST_KEY],
    )
    user: UserName = Field(default="root", description="the SSH user on the bastion")
    port: Port = Field(default=22, description="the SSH port of the bastion")


class Capacity(Section):
    """The resources of a node for pods: its size without the system's reserve (`allocatable`)."""

    cpu: Cpu = Field(description="CPU in cores or thousandths of a core", examples=["4"])
    memory: Memory = Field(description="memory in bytes, with a unit", examples=["8Gi"])


class Database(Section):
    """A MySQL or MariaDB server that runs beside Kubernetes on a node."""

    engine: Literal["mysql", "mariadb"] = Field(
        description="the database server of the node", examples=["mariadb"]
    )
    buffer_pool: Memory | None = Field(
        default=None,
        description="the size of the InnoDB buffer pool; by default three quarters of the node's "
        "memory",
    )


class Taint(Section):
    """A taint of a node: it keeps off pods that do not tolerate it."""

    key: TaintKey = Field(description="the taint's key", examples=["dedicated"])
    value: LabelValue = Field(default="", description="the taint's value; none by default")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] = Field(
        description="what happens to pods that do not tolerate the taint; NoExecute also evicts "
        "those that run",
        examples=["NoSchedule"],
    )

    @property
    def is_hard(self) -> bool:
        """Whether no pod starts on the node without a toleration."""
        return self.effect != "PreferNoSchedule"

    def __str__(self) -> str:
        """The taint in the notation of `kubectl taint`."""
        return f"{self.key}{'=' if self.value else ''}{self.value}:{self.effect}"


class NodeSettings(Section):
    """Settings of a node of any provider that its pool may have too."""

    labels: dict[NodeLabel, LabelValue] = Field(
        default={}, description="labels of the node in Kubernetes", examples=[{"tier": "gold"}]
    )
    taints: list[Taint] = Field(
        default=[], description="taints of the node in Kubernetes, which keep pods off"
    )
    region: Region | None = Field(
        default=None,
        description="the node's region, for example a city: topology.kubernetes.io/region",
    )
    zone: Zone | None = Field(
        default=None, description="the node's zone in its region: topology.kubernetes.io/zone"
    )
    capacity: Capacity | None = Field(
        default=None, description="the node's resources for pods, to check that proxies fit"
    )
    database: Database | None = Field(
        default=None, description="the database that the node runs beside Kubernetes, if any"
    )
