"""The platform: which component gets what from which. One environment, top to bottom."""

from collections.abc import Iterator, Mapping

import pulumi
import pulumi_kubernetes as k8s

from components import immutable
from components.backup import Snapshots
from components.cluster_dns import ClusterDns, ClusterDnsArgs
from components.cni import Cni, CniArgs
from components.control_plane import ControlPlane, ControlPlaneArgs, ControlPlanes
from components.demo import Demo, DemoArgs
from components.encryption_keys import KeyRotation, Plane
from components.gates.hooks import Gates
from components.host.table import registry_hosts
from components.istio import Istio, IstioArgs
from components.join_token import JoinTokens
from components.local_storage import LocalStorage, LocalStorageArgs
from components.lost_node import LostNode, LostNodeArgs
from components.machines import Machine, make_machines
from components.manifests import network_policy
from components.manifests.network_policy import Networks
from components.membership import Membership
from components.mesh_policy import MeshPolicy, MeshPolicyArgs
from components.metrics_server import MetricsServer, MetricsServerArgs
from components.node import Node, NodeArgs
from components.objects import Cluster
from components.observability import Observability, ObservabilityArgs
from components.peers import Peer
from components.people import People, PeopleArgs
from components.pipeline import Pipeline, PipelineArgs
from components.pod_firewall import PodFirewall, PodFirewallArgs
from components.preflight.hook import Preflight
from components.protection import protect_data
from components.quorum import ControlPlaneList
from components.remote.script import PrivateKey
from components.remote.script_texts import ScriptTexts
from components.rollout import Rollout
from components.taken_objects import TakenObjects
from components.worker import Worker, WorkerArgs
from components.workloads import Workloads, WorkloadsArgs
from config import DEMO_SERVICE, ExistingNode, StackConfig, catalogue, ports
from config import Istio as IstioConfig
from config.catalogue import Lock
from config.data_loss.things import alone, held, protected
from config.scalars.durations import seconds
from config.warnings import warnings


class Platform:
    """A cluster with its mesh, as a stack file describes it."""

    def __init__(
        self,
        config: StackConfig,
        lock: Lock,
        *,
        private_key: PrivateKey | None,
        alert_secrets: Mapping[str, pulumi.Output[str]],
        backup_secret_key: pulumi.Output[str] | None,
    ) -> None:
        self._config = config
        self._lock = lock
        self._alert_secrets = alert_secrets
        for line in (*warnings(config), *self._unpinned()):
            pulumi.log.warn(line)
        self._binaries = self._find_binaries()
        self._release = catalogue.KUBERNETES[config.kubernetes.version]
        texts = ScriptTexts("scripts")
        self._immutable = immutable.Immutable(config)
        section = config.machines
        in_turn = (*section.workers, *section.control_planes, *section.gone)
        self._rollout = Rollout(name for name, _ in in_turn)
        machines = make_machines(
            section,
            private_key=private_key,
            immutable=self._immutable.hooks,
            rollout=self._rollout,
        )
        self._machines = [machine for machine in machines if machine.name in section.present]
        self._preflight = Preflight(config, self._machines, self._rollout.is_known)
        self._listed = self._make_list()
        self._nodes = {machine.name: self._node(machine) for machine in self._machines}
        self._control_planes = self._make_control_planes(
            [machine for machine in machines if machine.name not in section.present]
        )
        self._make_snapshots(backup_secret_key)
        self._workers = self._make_workers()
        planes = self._control_planes
        self._taken = TakenObjects(planes.kubeconfig, first=planes.first_kubeconfig)
        self._administrator = self._make_administrator()
        self._cluster = self._make_cluster()
        addons = [self._make_cni(), self._make_metrics_server(), *self._make_dns()]
        addons += self._make_storage()
        self._pod_firewall = self._make_pod_firewall() if config.mesh.network_policy else None
        addons += [self._pod_firewall] if self._pod_firewall else []
        self._gates = Gates(config.mesh, self._control_planes.kubeconfig)
        self._istio = self._make_istio()
        self._policy = self._make_policy()
        nodes = [*self._nodes.values(), *self._workers, *self._control_planes.members]
        protect_data(
            [*nodes, *addons, self._policy, *self._make_people(), *self._make_programs()],
            things=["-".join(thing) for thing in held(config)],
            protected={"-".join(thing) for thing in alone(config)},
            whole=any(protected(config)),
            records=[texts, self._listed],
        )
        self._taken.refuse_at_preview()

    def exports(self) -> dict[str, pulumi.Input[object]]:
        """The stack's outputs by name; kubeconfig is a secret."""
        kubernetes, istio = self._config.kubernetes, self._config.istio
        return {
            "apiEndpoint": f"https://{kubernetes.endpoint}:{ports.API}",
            **({"istioVersion": istio.version} if istio else {}),
            "kubernetesVersion": kubernetes.version,
            "kubeconfig": self._control_planes.kubeconfig,
            "nodes": {
                machine.name: {
                    "address": machine.address,
                    **({"privateAddress": private} if (private := machine.private_address) else {}),
                    "role": machine.role,
                }
                for machine in self._machines
            },
        }

    def _find_binaries(self) -> dict[str, catalogue.Binaries]:
        """The binaries of the nodes by architecture."""
        kubernetes, istio = self._config.kubernetes, self._config.istio
        versions = kubernetes.version, istio.version if istio else None
        return {
            architecture: catalogue.binaries(*versions, self._lock, architecture)
            for architecture in self._config.machines.architectures
        }

    @property
    def _planes(self) -> list[Machine]:
        """The machines of the control planes, sorted by name."""
        return [machine for machine in self._machines if machine.role == "control-plane"]

    @property
    def _images(self) -> list[str]:
        config = self._config
        return catalogue.images(
            config.kubernetes.version,
            config.istio.version if config.istio else None,
            hub=config.istio.hub if config.istio else catalogue.ISTIO_HUB,
            network_policy=config.mesh.network_policy,
            demo=config.demo.enabled,
        )

    @property
    def _monitoring_images(self) -> dict[str, str]:
        """The image of each part of observability that is on, by the part's name."""
        istio, parts = self._config.istio, self._config.observability.parts
        return catalogue.monitoring_images(istio.version, parts) if istio else {}

    @property
    def _later_images(self) -> list[str]:
        """The images that a node pulls only when it runs a pod of them: nothing waits for them."""
        storage = [catalogue.LOCAL_STORAGE_IMAGE] if self._config.storage.local else []
        return [*self._monitoring_images.values(), *storage]

    def _unpinned(self) -> Iterator[str]:
        everything = [*self._images, *self._later_images]
        unknown = [
            image
            for image in everything
            for architecture in sorted(self._config.machines.architectures)
            if self._lock.digest(image, architecture) is None
        ]
        if unknown:
            names = ", ".join(dict.fromkeys(unknown))
            yield (
                f"{self._config.artifacts.lock} has no digest of {names}: who may write to the "
                "registry decides what runs; `nordmesh lock` adds them"
            )

    def _pinned(self, image: str) -> str:
        return self._lock.pinned(image, self._config.machines.architectures)

    def _images_of(self, machine: Machine) -> list[str]:
        """The images that a node is known to need."""
        everything, istio = self._images, self._config.istio
        if machine.role == "worker":
            return [image for image in everything if not _control_plane_only(image)]
        runs_mesh = not self._config.machines.workers or (
            istio is not None and any(machine.name in one.nodes for one in istio.ingress.values())
        )
        mesh = f"{istio.hub}/" if istio and not runs_mesh else None
        return [image for image in everything if mesh is None or not image.startswith(mesh)]

    def _make_list(self) -> ControlPlaneList:
        machines = self._config.machines
        return ControlPlaneList(
            "control-planes",
            {machine.name: machine.address for machine in self._planes},
            self._immutable.refuse,
            gone=[name for name, _ in machines.gone],
            present=machines.present,
            key=self._config.kubernetes.encryption_key,
        )

    def _node(self, machine: Machine) -> Node:
        artifacts, everything = self._config.artifacts, self._images
        architecture = self._config.machines.nodes[machine.name].architecture
        binaries = self._binaries[architecture]
        return Node(
            machine.name,
            NodeArgs(
                machine=machine,
                host=self._config.host,
                kubernetes=self._config.kubernetes,
                runtime=binaries.runtime,
                binaries=binaries.kubernetes,
                artifacts=artifacts,
                images={
                    image: self._lock.digest(image, architecture)
                    for image in self._images_of(machine)
                },
                pause_image=self._release.pause_image,
                registry_hosts=registry_hosts(
                    registry=artifacts.registry,
                    images=[*everything, *self._later_images],
                    fallback=artifacts.fallback,
                ),
                database=self._config.machines.nodes[machine.name].database,
                network_policy=self._config.mesh.network_policy,
                preflight=pulumi.ResourceOptions.merge(
                    self._preflight.before_first_change, self._immutable.before_first_change
                ),
                made_with=immutable.facts(self._config, machine.name),
                rollout=self._rollout,
            ),
            pulumi.ResourceOptions.merge(
                self._preflight.before_node,
                pulumi.ResourceOptions(hooks=self._immutable.hooks, depends_on=[self._listed]),
            ),
        )

    def _make_control_planes(self, lost: list[Machine]) -> ControlPlanes:
        peers = {
            machine.name: Peer(address=machine.cluster_address, connection=machine.connection)
            for machine in self._planes
        }
        membership = Membership(
            peers,
            endpoint=self._config.kubernetes.endpoint,
            is_running=self._rollout.is_running,
        )
        members: list[ControlPlane] = []
        for name in peers:
            args = ControlPlaneArgs(
                node=self._nodes[name],
                kubernetes=self._config.kubernetes,
                release=self._release,
                schedulable=not self._config.machines.workers,
                etcd_metrics=self._config.host.firewall.enabled,
                immutable=self._immutable.hooks,
                protect=("etcd", name) in alone(self._config),
                membership=membership,
                earlier=tuple(members),
                oidc=self._config.access.oidc if self._config.access else None,
                existence=self._listed,
                only=len(peers) == 1,
                labels=self._config.machines.labels(name),
                taints=self._config.machines.nodes[name].taints,
            )
            members.append(ControlPlane(name, args))
        self._listed.register_members({one.node.machine.name: one.initialised for one in members})
        planes = ControlPlanes(
            members,
            self._config.kubernetes,
            self._rollout,
            # With several, the cluster outlives each of them.
            existence=members[0].initialised if len(members) == 1 else self._listed,
        )
        left = [self._make_lost(machine, planes).left for machine in lost]
        for script in left:
            membership.add_before(script)
        KeyRotation(
            {
                one.node.machine.name: Plane(
                    connection=one.node.machine.connection, made=one.initialised, parent=one
                )
                for one in members
            },
            number=self._config.kubernetes.encryption_key,
            endpoint=self._config.kubernetes.endpoint,
            after=left,
        )
        return planes

    def _make_lost(self, machine: Machine, planes: ControlPlanes) -> LostNode:
        name, machines = machine.name, self._config.machines
        is_plane = machine.role == "control-plane"
        args = LostNodeArgs(
            machine=machine,
            control_planes=planes,
            endpoint=self._config.kubernetes.endpoint,
            made_with=immutable.facts(self._config, name),
            rollout=self._rollout,
            labelled=bool(machines.labels(name) or machines.nodes[name].taints),
            backed_up=is_plane and self._config.backup is not None,
        )
        return LostNode(name, args)

    def _make_snapshots(self, secret_key: pulumi.Output[str] | None) -> None:
        if self._config.backup is None:
            return
        for plane in self._control_planes.members:
            machine = plane.node.machine
            node = self._config.machines.nodes[machine.name]
            Snapshots(
                machine.name,
                connection=machine.connection,
                backup=self._config.backup,
                cluster=self._config.kubernetes.cluster_name,
                host_key=node.host_key if isinstance(node, ExistingNode) else None,
                secret_key=secret_key,
                member=plane.initialised,
                parent=plane,
            )

    def _make_workers(self) -> list[Worker]:
        tokens = JoinTokens({machine.name: machine.connection for machine in self._planes})
        return [
            Worker(
                name,
                WorkerArgs(
                    node=self._nodes[name],
                    control_planes=self._control_planes,
                    join_tokens=tokens,
                    endpoint=self._config.kubernetes.endpoint,
                    immutable=self._immutable.hooks,
                    rollout=self._rollout,
                    allow_data_loss=self._config.machines.may_lose("volumes", name),
                    labels=self._config.machines.labels(name),
                    taints=self._config.machines.nodes[name].taints,
                ),
            )
            for name, _ in self._config.machines.workers
        ]

    def _make_administrator(self) -> Cluster | None:
        """The cluster for what only the administrator may give: the roles of people."""
        if self._config.access is None:
            return None
        return self._connected("administrator", self._control_planes.kubeconfig)

    def _make_cluster(self) -> Cluster:
        kubeconfig = self._control_planes.kubeconfig
        if self._administrator is not None:
            args = PipelineArgs(administrator=self._administrator, kubeconfig=kubeconfig)
            kubeconfig = Pipeline("pipeline", args).kubeconfig
        return self._connected("cluster", kubeconfig)

    def _connected(self, name: str, kubeconfig: pulumi.Output[str]) -> Cluster:
        # The identifier keeps a kubeconfig that is unknown at preview from replacing everything.
        provider = k8s.Provider(
            name,
            kubeconfig=kubeconfig,
            cluster_identifier=self._config.kubernetes.cluster_name,
        )
        return Cluster(
            provider=provider,
            existence=self._control_planes.existence,
            taken=self._taken,
        )

    def _make_cni(self) -> Cni:
        return Cni(
            "flannel",
            CniArgs(
                cluster=self._cluster,
                pod_cidr=self._config.kubernetes.pod_cidr,
                endpoint=self._config.kubernetes.endpoint,
                image=self._pinned(catalogue.FLANNEL_IMAGE),
                plugin_image=self._pinned(catalogue.FLANNEL_CNI_IMAGE),
            ),
        )

    def _make_metrics_server(self) -> MetricsServer:
        return MetricsServer(
            "metrics-server",
            MetricsServerArgs(
                cluster=self._cluster, image=self._pinned(catalogue.METRICS_SERVER_IMAGE)
            ),
        )

    def _make_dns(self) -> Iterator[ClusterDns]:
        planes = {one.node.machine.name: one.initialised for one in self._control_planes.members}
        workers = [name for name, _ in self._config.machines.workers]
        ready = {**planes, **dict(zip(workers, (one.ready for one in self._workers), strict=True))}
        nodes = [ready[name] for name in self._config.machines.open_nodes]
        if len(nodes) > 1:
            yield ClusterDns("dns", ClusterDnsArgs(cluster=self._cluster, nodes=nodes))

    def _make_storage(self) -> Iterator[LocalStorage]:
        if settings := self._config.storage.local:
            yield LocalStorage(
                "local-storage",
                LocalStorageArgs(
                    cluster=self._cluster,
                    settings=settings,
                    image=self._pinned(catalogue.LOCAL_STORAGE_IMAGE),
                ),
            )

    def _make_pod_firewall(self) -> PodFirewall:
        return PodFirewall(
            "pod-firewall",
            PodFirewallArgs(
                cluster=self._cluster,
                service_cidr=self._config.kubernetes.service_cidr,
                endpoint=self._config.kubernetes.endpoint,
                image=self._pinned(catalogue.KUBE_ROUTER_IMAGE),
            ),
        )

    @property
    def _networks(self) -> Networks:
        return Networks(
            pod_cidr=self._config.kubernetes.pod_cidr,
            service_cidr=self._config.kubernetes.service_cidr,
            api_servers=[node.cluster_address for _, node in self._config.machines.control_planes],
        )

    @property
    def _limits_egress(self) -> bool:
        istio = self._config.istio
        return istio is not None and istio.outbound_traffic_policy == "REGISTRY_ONLY"

    def _make_istio(self) -> Istio | None:
        _, control_plane = self._config.machines.control_planes[0]
        istio, binary = self._config.istio, self._binaries[control_plane.architecture].istioctl
        if istio is None or binary is None:
            return None
        return Istio(
            "istio",
            IstioArgs(
                control_planes=self._control_planes,
                cluster=self._cluster,
                istio=istio,
                binary=binary,
                artifacts=self._config.artifacts,
                namespaces=self._config.mesh.injected,
                machines=self._config.machines,
                gates=self._gates,
            ),
        )

    def _make_policy(self) -> MeshPolicy:
        return MeshPolicy(
            "mesh",
            MeshPolicyArgs(
                cluster=self._cluster,
                istio=self._istio,
                mesh=self._config.mesh,
                machines=self._config.machines,
                kubernetes=self._config.kubernetes.version,
                gates=self._gates,
                pod_firewall=self._pod_firewall,
                networks=self._networks,
                limits_egress=self._limits_egress,
            ),
        )

    def _make_programs(self) -> list[pulumi.Resource]:
        """Make what runs in the mesh or beside it; nothing without Istio."""
        config, istio = self._config, self._istio
        if istio is None or config.istio is None:
            return []
        programs: list[pulumi.Resource] = []
        if config.observability.enabled:
            programs.append(self._make_observability(config.istio))
        demo = [self._make_demo(istio)] if config.demo.enabled else []
        if config.mesh.workloads:
            programs.append(self._make_workloads(istio, config.istio, demo))
        return [*programs, istio, *demo]

    def _make_people(self) -> list[pulumi.Resource]:
        if self._config.access is None or self._administrator is None:
            return []
        args = PeopleArgs(
            cluster=self._administrator,
            access=self._config.access,
            namespaces=self._policy.namespaces,
        )
        return [People("people", args)]

    def _make_observability(self, settings: IstioConfig) -> Observability:
        backup = self._config.backup
        return Observability(
            "observability",
            ObservabilityArgs(
                cluster=self._cluster,
                settings=self._config.observability,
                images={
                    part: self._pinned(image) for part, image in self._monitoring_images.items()
                },
                revision=settings.revision,
                machines=self._config.machines,
                alert_secrets=self._alert_secrets,
                snapshots=int(seconds(backup.every)) if backup else None,
                pod_firewall=self._pod_firewall if self._limits_egress else None,
                policy=network_policy.monitoring(self._config.mesh, self._networks),
            ),
        )

    def _make_workloads(self, istio: Istio, settings: IstioConfig, after: list[Demo]) -> Workloads:
        return Workloads(
            "workloads",
            WorkloadsArgs(
                cluster=self._cluster,
                istio=istio,
                workloads=self._config.mesh.workloads,
                proxy=settings.proxy,
                after=after,
            ),
        )

    def _make_demo(self, istio: Istio) -> Demo:
        return Demo(
            "demo",
            DemoArgs(
                cluster=self._cluster,
                istio=istio,
                policy=self._policy,
                service_name=DEMO_SERVICE,
                service=self._config.mesh.services[DEMO_SERVICE],
                image=self._pinned(catalogue.ECHO_IMAGE),
            ),
        )


def _control_plane_only(image: str) -> bool:
    parts = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "etcd")
    return any(f"/{part}:" in image for part in parts)
