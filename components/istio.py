"""The mesh's control plane and gateways."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi

from components import identities
from components.control_plane import ControlPlanes
from components.gates.hooks import Gates
from components.manifests import istio_operator, kubeadm
from components.node import binaries_setting, proxy_settings
from components.objects import Cluster
from components.remote.node_command import Script
from components.remote.script import RemoteScript
from config import ROOT_NAMESPACE, Artifacts, Machines
from config import Istio as IstioConfig
from config.catalogue import Binary
from config.scalars.durations import seconds

_ROLLOUT_SECONDS = 3600
_INSTALL_SECONDS = 420
"""The time limit of an installation, without the waits for readiness."""


@dataclass(frozen=True, kw_only=True)
class IstioArgs:
    """binary: istioctl of the requested version. artifacts: the sources of downloads. namespaces:
    those whose workloads an upgrade may restart. machines: whose allowDataLoss may name the mesh
    and its identities. gates: measure before a change that could cut off calls.
    """

    control_planes: ControlPlanes
    cluster: Cluster
    istio: IstioConfig
    binary: Binary
    artifacts: Artifacts
    namespaces: Sequence[str]
    machines: Machines
    gates: Gates


class Istio(pulumi.ComponentResource):
    """Istio installed by istioctl under a named revision, with the tag `default` on it.

    The installation starts while workers still join, and waits until istiod and the gateways run.
    A new version is installed beside the running one; the rollout moves the tag and the workloads
    to it, then removes the old one. Deliberately does not label namespaces: MeshPolicy does.
    """

    installed: RemoteScript
    rolled_out: RemoteScript

    def __init__(
        self, name: str, args: IstioArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("nordmesh:mesh:Istio", name, None, opts)
        planes, existence = args.control_planes, args.control_planes.existence
        runner = planes.runners.of(name, pulumi.ResourceOptions(parent=self))
        documents = _documents(args.istio)
        self.installed = RemoteScript(
            f"{name}-install",
            runner,
            _install_script(name, args, documents),
            delete=Script(file="istio-uninstall.sh", node=name, settings={}),
            opts=pulumi.ResourceOptions(
                parent=self,
                # The provider deletes the mesh's own objects before the mesh is replaced.
                depends_on=[planes.members[0], args.cluster.provider],
                deleted_with=existence,
                protect=not args.machines.may_lose("namespace", ROOT_NAMESPACE),
                hooks=pulumi.ResourceHookBinding.merge(
                    identities.hooks(args.machines), args.gates.outbound
                ),
            ),
        )
        self.rolled_out = RemoteScript(
            f"{name}-rollout",
            runner,
            _rollout_script(name, args, documents),
            opts=pulumi.ResourceOptions(
                parent=self, depends_on=[self.installed], deleted_with=existence
            ),
        )
        self.register_outputs({})


def _rollout_script(name: str, args: IstioArgs, documents: Mapping[str, str]) -> Script:
    # The digest makes every change of the installation trigger a check of the mesh's health.
    installed = hashlib.sha256("".join(documents.values()).encode())
    return Script(
        file="istio-rollout.sh",
        node=name,
        settings={
            "INSTALLED": installed.hexdigest()[:12],
            "NAMESPACES": " ".join(args.namespaces),
            "REVISION": args.istio.revision,
        },
        timeout=_ROLLOUT_SECONDS,
    )


def _install_script(name: str, args: IstioArgs, documents: Mapping[str, str]) -> Script:
    istio = args.istio
    return Script(
        file="istio-install.sh",
        node=name,
        settings={
            "ALLOW_UNSUPPORTED": str(istio.allow_unsupported is not None).lower(),
            "BINARIES": binaries_setting([args.binary], args.artifacts),
            **proxy_settings(args.artifacts),
            **documents,
            "READINESS_TIMEOUT": istio.readiness_timeout,
            "REVISION": istio.revision,
        },
        timeout=_INSTALL_SECONDS + 2 * math.ceil(seconds(istio.readiness_timeout)),
    )


def _documents(istio: IstioConfig) -> dict[str, str]:
    return {
        "CONTROL_PLANE": kubeadm.to_yaml([istio_operator.control_plane(istio)]),
        "GATEWAYS": kubeadm.to_yaml([istio_operator.gateways(istio)]),
    }
