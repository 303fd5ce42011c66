"""Settings of a node that its pool may have too."""

from typing import Annotated, Literal

from pydantic import Field

from config.base import Section
from config.scalars.localities import Region, Zone
from config.scalars.names import Label, UserName
from config.scalars.networks import Ipv4
from config.scalars.node_labels import LabelValue, NodeLabel, TaintKey
from config.scalars.numbers import Port
from config.scalars.quantities import Cpu, Memory
from config.scalars.ssh import EXAMPLE_HOST_KEY, HostKey
from config.scalars.texts import reason

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


GoneReason = Annotated[
    str,
    reason(
        "gone-reason",
        "reviewers must learn what happened to the machine, and that it will not come back",
    ),
]
NodeGone = Annotated[
    GoneReason | None,
    Field(
        description="why the machine is lost for good: nordmesh takes its node out of the cluster "
        "and never logs in to it again",
        examples=["its disk broke on 2026-11-30"],
    ),
]
NodePool = Annotated[
    Label | None,
    Field(description="the entry of machines.pools that has the node's other settings"),
]
NodeLabels = Annotated[
    dict[NodeLabel, LabelValue],
    Field(description="labels of the node in Kubernetes", examples=[{"tier": "gold"}]),
]
NodeTaints = Annotated[
    list[Taint], Field(description="taints of the node in Kubernetes, which keep pods off")
]
NodeRegion = Annotated[
    Region | None,
    Field(description="the node's region, for example a city: topology.kubernetes.io/region"),
]
NodeZone = Annotated[
    Zone | None,
    Field(description="the node's zone in its region: topology.kubernetes.io/zone"),
]
NodeCapacity = Annotated[
    Capacity | None, Field(description="the node's resources for pods, to check that proxies fit")
]
NodeDatabase = Annotated[
    Database | None, Field(description="the database that the node runs beside Kubernetes, if any")
]
