"""The section `machines`: the nodes, where they come from, and how to log in to them."""

import ipaddress
from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, model_validator

from config.base import Section
from config.data_loss import AllowedLosses, Kind
from config.host_keys import HostKeyRotation
from config.kvm import Hypervisor, Image, Kvm
from config.machines import pools
from config.machines.pools import Pool
from config.machines.settings import Architecture, Bastion, NodeSettings
from config.scalars.guests import CpuCount, CpuNumber, DiskSize, EtcdDiskSize, GuestMemory
from config.scalars.names import InterfaceName, Label, NodeName, UserName
from config.scalars.networks import Ipv4, Subnet
from config.scalars.numbers import Port
from config.scalars.ssh import EXAMPLE_HOST_KEY, HostKey
from config.scalars.texts import reason

AdoptionReason = Annotated[
    str,
    reason(
        "adoption-reason",
        "reviewers must learn what happens to whatever already runs on the machine",
    ),
]
GoneReason = Annotated[
    str,
    reason(
        "gone-reason",
        "reviewers must learn what happened to the machine, and that it will not come back",
    ),
]
Role = Literal["control-plane", "worker"]
REGION_LABEL, ZONE_LABEL = "topology.kubernetes.io/region", "topology.kubernetes.io/zone"


class Ssh(Section):
    """How nordmesh logs in to a node."""

    user: UserName = Field(default="root", description="the SSH user")
    port: Port = Field(default=22, description="the SSH port")
    bastion: Bastion | None = Field(default=None, description="the jump host for SSH, if any")


class ContainerNetwork(Section):
    """The bridge of this machine for nodes with provider `container`."""

    bridge: InterfaceName = Field(
        description="the bridge that the lab creates for its nodes", examples=["nordmesh0"]
    )
    subnet: Subnet = Field(
        description="the bridge's network; its first address is the gateway",
        examples=["10.66.0.0/24"],
    )

    @property
    def gateway(self) -> str:
        """The first address of the subnet, which this machine has on the bridge."""
        return str(ipaddress.IPv4Network(self.subnet)[1])

    @property
    def prefix_length(self) -> int:
        """The subnet's prefix length in bits."""
        return ipaddress.IPv4Network(self.subnet).prefixlen


class _Node(Section):
    """What a node of any provider has, and no pool."""

    provider: str
    role: Role = Field(description="the node's role in the cluster", examples=["worker"])
    gone: GoneReason | None = Field(
        default=None,
        description="why the machine is lost for good: nordmesh takes its node out of the cluster "
        "and never logs in to it again",
        examples=["its disk broke on 2026-11-30"],
    )
    pool: Label | None = Field(
        default=None, description="the entry of machines.pools that has the node's other settings"
    )


class ContainerNode(NodeSettings, _Node):
    """A node that nordmesh creates: a systemd-nspawn machine on this host."""

    provider: Literal["container"]
    address: Ipv4 = Field(
        description="the node's address in machines.container.subnet", examples=["10.66.0.21"]
    )

    @property
    def architecture(self) -> Architecture:
        """The architecture of the lab's binaries."""
        return "amd64"

    @property
    def cluster_address(self) -> str:
        """The address for the other nodes."""
        return self.address


class ExistingNode(NodeSettings, _Node):
    """An existing machine: a bought VPS, reached over SSH with a pinned host key."""

    provider: Literal["existing"]
    address: Ipv4 = Field(
        description="the address for SSH, and for the other nodes without a privateAddress",
        examples=["192.0.2.21"],
    )
    private_address: Ipv4 | None = Field(
        default=None,
        description="the address for the other nodes in the provider's private network, if the "
        "machine has one: etcd, kubelet and the pod network use it alone",
        examples=["10.0.0.21"],
    )
    host_key: HostKey = Field(
        description="the node's SSH host key; nordmesh connects to no machine with another key",
        examples=[EXAMPLE_HOST_KEY],
    )
    host_key_rotation: HostKeyRotation | None = Field(
        default=None,
        description="confirms that the same machine has a new host key; without it, a changed "
        "key is "
        "refused once the node is in the cluster",
    )
    user: UserName | None = Field(
        default=None, description="the SSH user, if it differs from machines.ssh.user"
    )
    port: Port | None = Field(
        default=None, description="the SSH port, if it differs from machines.ssh.port"
    )
    bastion: Bastion | None = Field(
        default=None, description="the jump host, if it differs from machines.ssh.bastion"
    )
    architecture: Architecture = Field(
        default="amd64", description="the architecture of the node; arm64 is not tested"
    )
    adopt: AdoptionReason | None = Field(
        default=None,
        description="why to use a machine that already runs something; without a reason such a "
        "machine is refused",
    )
    etcd_mount: bool = Field(
        default=False,
        description="whether your team mounts a separate disk for etcd at /var/lib/etcd; preflight "
        "refuses the machine without it",
    )

    @property
    def cluster_address(self) -> str:
        """The address for the other nodes."""
        return self.private_address or self.address


class KvmNode(NodeSettings, _Node):
    """A node that nordmesh creates: a guest on a hypervisor, reached over SSH.

    A larger size needs a restart. Image and network are fixed when the guest is created.
    """

    provider: Literal["kvm"]
    hypervisor: Label = Field(
        description="the entry of machines.hypervisors that runs the guest", examples=["hv-1"]
    )
    address: Ipv4 = Field(
        description="the guest's address, in the subnet of its hypervisor's network",
        examples=["192.0.2.31"],
    )
    cpus: CpuCount = Field(description="the number of the guest's virtual processors", examples=[4])
    pinned_cpus: list[CpuNumber] | None = Field(
        default=None,
        description="the hypervisor's processors that are reserved for the guest, one for each "
        "of its "
        "own; by default it shares all of them",
    )
    memory: GuestMemory = Field(
        description="the guest's memory, which is reserved for it", examples=["8Gi"]
    )
    disk: DiskSize = Field(description="the size of the guest's disk", examples=["40Gi"])
    etcd_disk: EtcdDiskSize | None = Field(
        default=None, description="the size of a separate disk for etcd; by default etcd has none"
    )
    image: Image | None = Field(
        default=None, description="the image, if it differs from machines.kvm.image"
    )

    @property
    def architecture(self) -> Architecture:
        """The architecture of the guest."""
        return "amd64"

    @property
    def cluster_address(self) -> str:
        """The address for the other nodes."""
        return self.address


AnyNode: TypeAlias = ContainerNode | ExistingNode | KvmNode
Node = Annotated[AnyNode, Field(discriminator="provider")]
_MODELS: Mapping[str, type[Section]] = {
    "container": ContainerNode,
    "existing": ExistingNode,
    "kvm": KvmNode,
}


class Machines(Section):
    """The nodes, by name; their order has no meaning."""

    allow_data_loss: AllowedLosses = Field(
        default=[],
        description="what may be lost with its data, thing by thing, each with a reason",
    )
    container: ContainerNetwork | None = Field(
        default=None, description="the network of nodes with provider container"
    )
    kvm: Kvm = Field(default=Kvm(), description="settings of nodes with provider kvm")
    hypervisors: dict[Label, Hypervisor] = Field(
        default={}, description="the machines that run the nodes with provider kvm, by name"
    )
    ssh: Ssh = Field(default=Ssh(), description="SSH defaults of nodes with provider existing")
    pools: dict[Label, Pool] = Field(
        default={}, description="settings that several nodes share, by the name of the node pool"
    )
    nodes: dict[NodeName, Node] = Field(
        description="the cluster's machines, by name", examples=[{}]
    )

    @model_validator(mode="before")
    @classmethod
    def _with_pools(cls, values: object) -> object:
        """Give each node the settings of its pool."""
        return pools.applied(values, _MODELS)

    @property
    def control_planes(self) -> list[tuple[str, AnyNode]]:
        """The control planes that are not gone, with their names, sorted by name."""
        return self._with_role("control-plane")

    @property
    def workers(self) -> list[tuple[str, AnyNode]]:
        """The workers that are not gone, with their names, sorted by name."""
        return self._with_role("worker")

    @property
    def gone(self) -> list[tuple[str, AnyNode]]:
        """The nodes whose machine is lost, of both roles, sorted by name."""
        return sorted((name, node) for name, node in self.nodes.items() if node.gone)

    @property
    def present(self) -> dict[str, AnyNode]:
        """The nodes whose machine is not lost."""
        return {name: node for name, node in self.nodes.items() if not node.gone}

    @property
    def open_nodes(self) -> list[str]:
        """The nodes that are not gone, without a taint of the stack file that keeps pods off,
        sorted.
        """
        nodes = self.present
        hard = {name for name, node in nodes.items() if any(t.is_hard for t in node.taints)}
        return sorted(nodes.keys() - hard)

    @property
    def architectures(self) -> list[Architecture]:
        """The architectures of the nodes, sorted."""
        return sorted({node.architecture for node in self.nodes.values()})

    def labels(self, name: str) -> dict[str, str]:
        """The labels of a node in Kubernetes that the file decides, with its region and zone."""
        node = self.nodes[name]
        topology = {REGION_LABEL: node.region, ZONE_LABEL: node.zone}
        return {**node.labels, **{key: value for key, value in topology.items() if value}}

    def may_lose(self, kind: Kind, name: str) -> bool:
        """Whether an entry of allowDataLoss names this thing."""
        return any(entry.thing == (kind, name) for entry in self.allow_data_loss)

    def login(self, node: AnyNode) -> Ssh:
        """The SSH user, port and bastion of a node, with defaults; root and 22 for a container."""
        if isinstance(node, ContainerNode):
            return Ssh()
        if isinstance(node, KvmNode):
            return Ssh(user=self.ssh.user, bastion=self.ssh.bastion)
        return Ssh(
            user=node.user or self.ssh.user,
            port=node.port or self.ssh.port,
            bastion=node.bastion or self.ssh.bastion,
        )

    def _with_role(self, role: Role) -> list[tuple[str, AnyNode]]:
        return sorted((name, node) for name, node in self.present.items() if node.role == role)
