"""The section `machines`: where the nodes come from, and how they are logged in to."""

import ipaddress
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from config.base import Section
from config.host_keys import HostKeyRotation
from config.kvm import Hypervisor, Image, Kvm
from config.scalars.guests import CpuCount, CpuNumber, DiskSize, EtcdDiskSize, GuestMemory
from config.scalars.names import InterfaceName, Label, UserName
from config.scalars.networks import Ipv4, Subnet
from config.scalars.numbers import Port
from config.scalars.quantities import Cpu, Memory
from config.scalars.ssh import EXAMPLE_HOST_KEY, HostKey
from config.scalars.texts import reason

AdoptionReason = Annotated[
    str, reason("whoever reviews this must learn what becomes of what the machine runs already")
]
Architecture = Literal["amd64", "arm64"]
Role = Literal["control-plane", "worker"]


class Bastion(Section):
    """A machine that SSH goes through to the nodes; it must know the same key as they do."""

    address: Ipv4 = Field(
        description="the address at which SSH reaches the bastion", examples=["192.0.2.5"]
    )
    host_key: HostKey = Field(
        description="the bastion's SSH host key; nothing is sent through a machine with another",
        examples=[EXAMPLE_HOST_KEY],
    )
    user: UserName = Field(default="root", description="the user that SSH logs in as there")
    port: Port = Field(default=22, description="the port that its sshd listens on")


class Ssh(Section):
    """How a node is logged in to."""

    user: UserName = Field(default="root", description="the user that SSH logs in as")
    port: Port = Field(default=22, description="the port that sshd listens on")
    bastion: Bastion | None = Field(
        default=None, description="the machine that SSH goes through, where there is one"
    )


class Capacity(Section):
    """What a node has for pods: its size less what the system keeps (`allocatable`)."""

    cpu: Cpu = Field(description="CPU in cores or thousandths of a core", examples=["4"])
    memory: Memory = Field(description="memory in bytes, with a unit", examples=["8Gi"])


class Database(Section):
    """A MySQL or MariaDB beside Kubernetes on a node: the guides' settings for it."""

    engine: Literal["mysql", "mariadb"] = Field(
        description="which of the two the node runs", examples=["mariadb"]
    )
    buffer_pool: Memory | None = Field(
        default=None,
        description="the InnoDB buffer pool; by default three quarters of the node's memory",
    )


class ContainerNetwork(Section):
    """The bridge of this machine that nodes of the provider `container` are on."""

    bridge: InterfaceName = Field(
        description="the bridge that the lab makes for its nodes", examples=["nordmesh0"]
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


# What a node has whatever its provider.
NodeRole = Annotated[
    Role, Field(description="what the node is in the cluster", examples=["worker"])
]
NodeCapacity = Annotated[
    Capacity | None, Field(description="what the node has for pods, to check that proxies fit")
]
NodeDatabase = Annotated[
    Database | None, Field(description="the database that the node runs beside Kubernetes, if any")
]


class ContainerNode(Section):
    """A node that this program makes: a systemd-nspawn machine on this host."""

    provider: Literal["container"]
    role: NodeRole
    address: Ipv4 = Field(
        description="the node's address in machines.container.subnet", examples=["10.66.0.21"]
    )
    capacity: NodeCapacity = None
    database: NodeDatabase = None

    @property
    def architecture(self) -> Architecture:
        """What the lab's binaries are built for."""
        return "amd64"


class ExistingNode(Section):
    """A node that there is already: a bought VPS, reached over SSH with a pinned host key."""

    provider: Literal["existing"]
    role: NodeRole
    address: Ipv4 = Field(
        description="the address at which SSH and the other nodes reach the node",
        examples=["192.0.2.21"],
    )
    host_key: HostKey = Field(
        description="the node's SSH host key; no connection is opened to a machine with another",
        examples=[EXAMPLE_HOST_KEY],
    )
    host_key_rotation: HostKeyRotation | None = Field(
        default=None,
        description="states that the same machine has a new host key; without it, a changed one is "
        "refused once the node is in the cluster",
    )
    user: UserName | None = Field(
        default=None, description="the user, where machines.ssh.user does not fit"
    )
    port: Port | None = Field(
        default=None, description="the port, where machines.ssh.port does not fit"
    )
    bastion: Bastion | None = Field(
        default=None, description="the bastion, where machines.ssh.bastion does not fit"
    )
    architecture: Architecture = Field(
        default="amd64", description="what binaries the node runs; arm64 is not tested"
    )
    adopt: AdoptionReason | None = Field(
        default=None,
        description="why the machine is taken although it runs something already; without a "
        "reason such a machine is refused",
    )
    capacity: NodeCapacity = None
    database: NodeDatabase = None


class KvmNode(Section):
    """A node that this program makes: a guest on a hypervisor, reached over SSH.

    Growing it is a restart. Its image and network are those of the day that it was made.
    """

    provider: Literal["kvm"]
    role: NodeRole
    hypervisor: Label = Field(
        description="the entry of machines.hypervisors that the guest is on", examples=["hv-1"]
    )
    address: Ipv4 = Field(
        description="the guest's address, in the subnet of its hypervisor's network",
        examples=["192.0.2.31"],
    )
    cpus: CpuCount = Field(description="the number of the guest's virtual processors", examples=[4])
    pinned_cpus: list[CpuNumber] | None = Field(
        default=None,
        description="the hypervisor's processors that are the guest's alone, one for each of its "
        "own; by default it shares all of them",
    )
    memory: GuestMemory = Field(
        description="the guest's memory, which it has for itself", examples=["8Gi"]
    )
    disk: DiskSize = Field(description="the size of the guest's disk", examples=["40Gi"])
    etcd_disk: EtcdDiskSize | None = Field(
        default=None, description="the size of a disk for etcd alone; by default there is none"
    )
    image: Image | None = Field(
        default=None, description="the image, where machines.kvm.image does not fit"
    )
    capacity: NodeCapacity = None
    database: NodeDatabase = None

    @property
    def architecture(self) -> Architecture:
        """What the guest's processor is."""
        return "amd64"


AnyNode: TypeAlias = ContainerNode | ExistingNode | KvmNode
Node = Annotated[AnyNode, Field(discriminator="provider")]


class Machines(Section):
    """The nodes, by name; none is special by its place in the list."""

    allow_data_loss: bool = Field(
        default=False,
        description="whether nodes, etcd and namespaces may be destroyed with their data",
    )
    container: ContainerNetwork | None = Field(
        default=None, description="the network of nodes with provider container"
    )
    kvm: Kvm = Field(default=Kvm(), description="what nodes with provider kvm have in common")
    hypervisors: dict[Label, Hypervisor] = Field(
        default={}, description="the machines that nodes with provider kvm are guests of, by name"
    )
    ssh: Ssh = Field(default=Ssh(), description="SSH defaults of nodes with provider existing")
    nodes: dict[Label, Node] = Field(description="the cluster's machines, by name", examples=[{}])

    @property
    def control_planes(self) -> list[tuple[str, AnyNode]]:
        """The control-plane nodes with their names, sorted by name."""
        return self._with_role("control-plane")

    @property
    def workers(self) -> list[tuple[str, AnyNode]]:
        """The worker nodes with their names, sorted by name."""
        return self._with_role("worker")

    @property
    def architectures(self) -> list[Architecture]:
        """What the nodes' binaries are for, sorted."""
        return sorted({node.architecture for node in self.nodes.values()})

    def login(self, node: AnyNode) -> Ssh:
        """User, port and bastion of a node, defaults filled in; a container has root and 22."""
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
        return sorted((name, node) for name, node in self.nodes.items() if node.role == role)
