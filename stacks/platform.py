"""The platform: which component gets what from which. One environment, top to bottom."""

import datetime

import pulumi
import pulumi_kubernetes as k8s

from components.cni import Cni, CniArgs
from components.control_plane import ControlPlane, ControlPlaneArgs
from components.demo import Demo, DemoArgs
from components.istio import Istio, IstioArgs
from components.machines import Machine, make_machines
from components.manifests import kubeadm
from components.manifests.containerd import registry_hosts
from components.mesh_policy import MeshPolicy, MeshPolicyArgs
from components.node import Node, NodeArgs
from components.objects import Cluster
from components.worker import Worker, WorkerArgs
from stacks import catalogue
from stacks.catalogue import Lock
from stacks.config import DEMO_SERVICE, StackConfig


class Platform:
    """A cluster with its mesh, as a stack file describes it."""

    def __init__(
        self,
        config: StackConfig,
        lock: Lock,
        *,
        ssh_private_key: pulumi.Output[str] | None,
    ) -> None:
        for line in catalogue.warnings(config, datetime.datetime.now(datetime.UTC).date()):
            pulumi.log.warn(line)
        self._config = config
        versions = config.kubernetes.version, config.istio.version
        self._binaries = catalogue.binaries(*versions, lock)
        self._release = catalogue.KUBERNETES[config.kubernetes.version]
        self._machines = make_machines(config.machines, ssh_private_key=ssh_private_key)
        self._nodes = {machine.name: self._node(machine) for machine in self._machines}
        self._control_plane = self._make_control_plane()
        self._workers = self._make_workers()
        self._cluster = self._make_cluster()
        self._make_cni()
        self._istio = self._make_istio()
        self._policy = self._make_policy()
        if config.demo.enabled:
            self._make_demo()

    def exports(self) -> dict[str, pulumi.Input[object]]:
        """The stack's outputs by name; kubeconfig is a secret."""
        kubernetes = self._config.kubernetes
        return {
            "apiEndpoint": f"https://{kubernetes.endpoint}:{kubeadm.API_PORT}",
            "istioVersion": self._config.istio.version,
            "kubernetesVersion": kubernetes.version,
            "kubeconfig": self._control_plane.kubeconfig,
            "nodes": {
                machine.name: {"address": machine.address, "role": machine.role}
                for machine in self._machines
            },
        }

    @property
    def _images(self) -> list[str]:
        config = self._config
        return catalogue.images(
            config.kubernetes.version,
            config.istio.version,
            hub=config.istio.hub,
            demo=config.demo.enabled,
        )

    def _node(self, machine: Machine) -> Node:
        artifacts, everything = self._config.artifacts, self._images
        control_plane = next(m for m in self._machines if m.role == "control-plane")
        mesh = [image for image in everything if image.startswith(self._config.istio.hub)]
        own = {
            "control-plane": [image for image in everything if image not in mesh],
            "worker": [image for image in everything if not _control_plane_only(image)],
        }
        return Node(
            machine.name,
            NodeArgs(
                machine=machine,
                kubernetes=self._config.kubernetes,
                api_address=control_plane.address,
                binaries=[self._binaries.kubeadm, self._binaries.kubelet, self._binaries.kubectl],
                mirror=artifacts.mirror,
                images=own[machine.role],
                pause_image=self._release.pause_image,
                registry_hosts=registry_hosts(registry=artifacts.registry, images=everything),
            ),
        )

    def _make_control_plane(self) -> ControlPlane:
        ((name, _),) = self._config.machines.control_planes
        return ControlPlane(
            name,
            ControlPlaneArgs(
                node=self._nodes[name],
                kubernetes=self._config.kubernetes,
                release=self._release,
                schedulable=not self._config.machines.workers,
                allow_data_loss=self._config.machines.allow_data_loss,
            ),
        )

    def _make_workers(self) -> list[Worker]:
        return [
            Worker(
                name,
                WorkerArgs(
                    node=self._nodes[name],
                    control_plane=self._control_plane,
                    allow_data_loss=self._config.machines.allow_data_loss,
                ),
            )
            for name, _ in self._config.machines.workers
        ]

    def _make_cluster(self) -> Cluster:
        # The identifier keeps a kubeconfig that is unknown at preview from replacing everything.
        provider = k8s.Provider(
            "cluster",
            kubeconfig=self._control_plane.kubeconfig,
            cluster_identifier=self._config.kubernetes.cluster_name,
        )
        return Cluster(provider=provider, existence=self._control_plane.initialised)

    def _make_cni(self) -> Cni:
        return Cni(
            "flannel",
            CniArgs(
                cluster=self._cluster,
                pod_cidr=self._config.kubernetes.pod_cidr,
                image=catalogue.FLANNEL_IMAGE,
                plugin_image=catalogue.FLANNEL_CNI_IMAGE,
            ),
        )

    def _make_istio(self) -> Istio:
        return Istio(
            "istio",
            IstioArgs(
                control_plane=self._control_plane,
                istio=self._config.istio,
                binary=self._binaries.istioctl,
                mirror=self._config.artifacts.mirror,
            ),
        )

    def _make_policy(self) -> MeshPolicy:
        return MeshPolicy(
            "mesh",
            MeshPolicyArgs(
                cluster=self._cluster,
                istio=self._istio,
                mesh=self._config.mesh,
                allow_data_loss=self._config.machines.allow_data_loss,
                kubeconfig=self._control_plane.kubeconfig,
            ),
        )

    def _make_demo(self) -> Demo:
        return Demo(
            "demo",
            DemoArgs(
                cluster=self._cluster,
                istio=self._istio,
                policy=self._policy,
                service_name=DEMO_SERVICE,
                service=self._config.mesh.services[DEMO_SERVICE],
                image=catalogue.ECHO_IMAGE,
            ),
        )


def _control_plane_only(image: str) -> bool:
    parts = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "etcd")
    return any(f"/{part}:" in image for part in parts)
