"""The models of `Pulumi.<stack>.yaml`: frozen, with unknown keys refused.

A model checks what one value or one section can know of itself. What takes two sections, or a file,
is checked by stacks.checks; stacks.load is where a stack is loaded from.
"""

import ipaddress
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue
from pydantic.alias_generators import to_camel

from stacks.fields import (
    Concurrency,
    Cpu,
    DnsName,
    HostKey,
    HttpUrl,
    Hub,
    InterfaceName,
    Ipv4,
    Label,
    Memory,
    PodNetwork,
    Port,
    Reason,
    ServiceName,
    ServiceNetwork,
    Subnet,
    UserName,
    Version,
    Weight,
)

Role = Literal["control-plane", "worker"]
MtlsMode = Literal["PERMISSIVE", "STRICT"]
Profile = Literal["default", "demo", "minimal"]
OutboundTrafficPolicy = Literal["REGISTRY_ONLY", "ALLOW_ANY"]
CgroupDriver = Literal["systemd", "cgroupfs"]

SSH_KEY = "sshPrivateKey"
"""The one key of a stack file that is a secret; only the program sees it decrypted."""

EXAMPLE_HOST_KEY = (
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMzNsUV9RQZwmrc4raNm0Y4aFxMRzNjLZVZzGXBzMKhw"
)


class Section(BaseModel):
    """Base of all models: camelCase in the file, snake_case in Python, unknown keys refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True
    )


# --- machines ------------------------------------------------------------------------------------


class Ssh(Section):
    """How a node is logged in to."""

    user: UserName = Field(default="root", description="the user that SSH logs in as")
    port: Port = Field(default=22, description="the port that sshd listens on")


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


class ContainerNode(Section):
    """A node that this program makes: a systemd-nspawn machine on this host."""

    provider: Literal["container"]
    role: Role = Field(description="what the node is in the cluster", examples=["worker"])
    address: Ipv4 = Field(
        description="the node's address in machines.container.subnet", examples=["10.66.0.21"]
    )


class ExistingNode(Section):
    """A node that there is already: a bought VPS, reached over SSH with a pinned host key."""

    provider: Literal["existing"]
    role: Role = Field(description="what the node is in the cluster", examples=["worker"])
    address: Ipv4 = Field(
        description="the address at which SSH and the other nodes reach the node",
        examples=["192.0.2.21"],
    )
    host_key: HostKey = Field(
        description="the node's SSH host key; no connection is opened to a machine with another",
        examples=[EXAMPLE_HOST_KEY],
    )
    user: UserName | None = Field(
        default=None, description="the user, where machines.ssh.user does not fit"
    )
    port: Port | None = Field(
        default=None, description="the port, where machines.ssh.port does not fit"
    )


Node = Annotated[ContainerNode | ExistingNode, Field(discriminator="provider")]


class Machines(Section):
    """The nodes, by name; none is special by its place in the list."""

    allow_data_loss: bool = Field(
        default=False,
        description="whether nodes, etcd and namespaces may be destroyed with their data",
    )
    container: ContainerNetwork | None = Field(
        default=None, description="the network of nodes with provider container"
    )
    ssh: Ssh = Field(default=Ssh(), description="SSH defaults of nodes with provider existing")
    nodes: dict[Label, Node] = Field(description="the cluster's machines, by name", examples=[{}])

    @property
    def control_planes(self) -> list[tuple[str, ContainerNode | ExistingNode]]:
        """The control-plane nodes with their names, sorted by name."""
        return self._with_role("control-plane")

    @property
    def workers(self) -> list[tuple[str, ContainerNode | ExistingNode]]:
        """The worker nodes with their names, sorted by name."""
        return self._with_role("worker")

    def login(self, node: ContainerNode | ExistingNode) -> Ssh:
        """User and port of a node, defaults filled in; a container node has root and 22."""
        if isinstance(node, ContainerNode):
            return Ssh()
        return Ssh(user=node.user or self.ssh.user, port=node.port or self.ssh.port)

    def _with_role(self, role: Role) -> list[tuple[str, ContainerNode | ExistingNode]]:
        return sorted((name, node) for name, node in self.nodes.items() if node.role == role)


# --- artifacts -----------------------------------------------------------------------------------


class Artifacts(Section):
    """Where nodes download from, and the file of checksums that they hold downloads against."""

    mirror: HttpUrl | None = Field(
        default=None, description="where binaries come from instead of the official places"
    )
    registry: HttpUrl | None = Field(
        default=None,
        description="the registry that images come through instead of the official ones",
    )
    lock: str = Field(
        default="stacks/artifacts.lock.json",
        min_length=1,
        description="the file of checksums, relative to the project",
    )


# --- kubernetes ----------------------------------------------------------------------------------


class Kubernetes(Section):
    """The cluster that kubeadm makes."""

    cluster_name: Label = Field(description="the cluster's name", examples=["prod"])
    version: Version = Field(description="the Kubernetes release", examples=["1.23.17"])
    endpoint: DnsName = Field(
        description="the stable name of the API server", examples=["api.prod.example.internal"]
    )
    pod_cidr: PodNetwork = Field(default="10.244.0.0/16", description="the network of all pods")
    service_cidr: ServiceNetwork = Field(
        default="10.96.0.0/12", description="the network of service addresses"
    )
    cgroup_driver: CgroupDriver = Field(
        default="systemd", description="how kubelet and containerd make control groups"
    )
    kubelet: dict[str, JsonValue] = Field(
        default={}, description="what KubeletConfiguration has besides; merged last"
    )
    kube_proxy: dict[str, JsonValue] = Field(
        default={}, description="what KubeProxyConfiguration has besides; merged last"
    )
    restrict_oom_score_adj: bool = Field(
        default=False, description="whether nodes are containers that may not lower OOM scores"
    )


# --- istio ---------------------------------------------------------------------------------------


class Resources(Section):
    """An amount of CPU and one of memory."""

    cpu: Cpu
    memory: Memory


class ProxyRequests(Resources):
    """What a proxy is sure to get."""

    cpu: Cpu = Field(default="100m", description="CPU in cores or thousandths of a core")
    memory: Memory = Field(default="128Mi", description="memory in bytes, with a unit")


class ProxyLimits(Resources):
    """What a proxy may take at most."""

    cpu: Cpu = Field(default="2000m", description="CPU in cores or thousandths of a core")
    memory: Memory = Field(default="1024Mi", description="memory in bytes, with a unit")


class Proxy(Section):
    """The sidecars' resources and start; the defaults are Istio's own, but for the hold."""

    requests: ProxyRequests = Field(
        default=ProxyRequests(), description="what a proxy is sure to get"
    )
    limits: ProxyLimits = Field(default=ProxyLimits(), description="what a proxy may take at most")
    concurrency: Concurrency = Field(
        default=2, description="Envoy's worker threads; 0 means one for each core of the CPU limit"
    )
    hold_application_until_proxy_starts: bool = Field(
        default=True,
        description="whether an application waits for its proxy, against the start-up race",
    )


class Istio(Section):
    """The mesh that istioctl installs."""

    version: Version = Field(description="the Istio release", examples=["1.16.5"])
    hub: Hub = Field(
        default="docker.io/istio",
        description="where Istio's images are named to come from",
    )
    allow_unsupported: Reason | None = Field(
        default=None,
        description="why an unsupported pair of Kubernetes and Istio is wanted all the same",
    )
    profile: Profile = Field(default="default", description="Istio's installation profile")
    egress_gateway: bool = Field(
        default=True, description="whether traffic that leaves the mesh has a gateway of its own"
    )
    outbound_traffic_policy: OutboundTrafficPolicy = Field(
        default="REGISTRY_ONLY",
        description="what proxies do with hosts that the mesh does not know",
    )
    proxy: Proxy = Field(default=Proxy(), description="the sidecars' resources and start")
    values: dict[str, JsonValue] = Field(
        default={}, description="what is merged into IstioOperator spec.values, as a last resort"
    )

    @property
    def revision(self) -> str:
        """The version as a DNS label, the name that the control plane is installed under."""
        return self.version.replace(".", "-")


# --- mesh ----------------------------------------------------------------------------------------


class Namespace(Section):
    """A namespace of the mesh."""

    injection: bool = Field(default=True, description="whether pods of the namespace get a sidecar")
    mtls: MtlsMode | None = Field(
        default=None, description="the namespace's mTLS mode, where mesh.mtls does not fit"
    )


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

    @property
    def weights(self) -> dict[str, int]:
        """Each subset's share of the requests in percent; they sum to 100."""
        if self.canary is None:
            return {self.stable: 100}
        return {
            self.stable: 100 - self.canary.weight,
            self.canary.subset: self.canary.weight,
        }


class Mesh(Section):
    """The mesh's policy: which namespaces are in it, who may talk how, who gets requests."""

    mtls: MtlsMode = Field(default="PERMISSIVE", description="the mesh-wide mTLS mode")
    namespaces: dict[Label, Namespace] = Field(
        default={}, description="the mesh's namespaces, by name"
    )
    services: dict[ServiceName, Service] = Field(
        default={}, description="the services with split traffic, by name"
    )


DEMO_NAMESPACE = "shop"
DEMO_SERVICE = "checkout"
OUTSIDE_NAMESPACE = "outside"  # the demo's client without a sidecar


class Demo(Section):
    """The echo application that shows the canary split."""

    enabled: bool = Field(default=False, description="whether the demo is deployed")


class StackConfig(Section):
    """One environment: all that its stack file says."""

    machines: Machines
    artifacts: Artifacts = Artifacts()
    kubernetes: Kubernetes
    istio: Istio
    mesh: Mesh = Mesh()
    demo: Demo = Demo()
