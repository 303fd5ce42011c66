"""The mesh's control plane and gateways."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import pulumi

from components.control_plane import ControlPlane
from components.gates.hooks import Gates
from components.manifests import istio_operator, kubeadm
from components.node import binaries_setting
from components.node_command import Script
from components.remote import RemoteScript
from config import Istio as IstioConfig
from config.catalogue import Binary
from config.scalars.durations import seconds

_ROLLOUT_SECONDS = 3600
_INSTALL_SECONDS = 420
"""The time limit of an installation, without the waits for readiness."""


@dataclass(frozen=True, kw_only=True)
class IstioArgs:
    """binary: istioctl of the requested version. fallback: whether to download it from the official
    place if the mirror fails. namespaces: those whose workloads an upgrade may restart. gates:
    measure before a change that could cut off calls.
    """

    control_plane: ControlPlane
    istio: IstioConfig
    binary: Binary
    mirror: str | None
    fallback: bool
    namespaces: Sequence[str]
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
        machine, existence = args.control_plane.node.machine, args.control_plane.initialised
        self.installed = RemoteScript(
            f"{name}-install",
            machine.connection,
            _install_script(args),
            delete=Script(file="istio-uninstall.sh", node=machine.name, settings={}),
            opts=pulumi.ResourceOptions(
                parent=self,
                depends_on=[args.control_plane],
                deleted_with=existence,
                hooks=args.gates.outbound,
            ),
        )
        self.rolled_out = RemoteScript(
            f"{name}-rollout",
            machine.connection,
            _rollout_script(args),
            opts=pulumi.ResourceOptions(
                parent=self, depends_on=[self.installed], deleted_with=existence
            ),
        )
        self.register_outputs({})


def _rollout_script(args: IstioArgs) -> Script:
    # The digest makes every change of the installation trigger a check of the mesh's health.
    documents = "".join(_documents(args.istio).values())
    return Script(
        file="istio-rollout.sh",
        node=args.control_plane.node.machine.name,
        settings={
            "INSTALLED": hashlib.sha256(documents.encode()).hexdigest()[:12],
            "NAMESPACES": " ".join(args.namespaces),
            "REVISION": args.istio.revision,
        },
        timeout=_ROLLOUT_SECONDS,
    )


def _install_script(args: IstioArgs) -> Script:
    istio = args.istio
    return Script(
        file="istio-install.sh",
        node=args.control_plane.node.machine.name,
        settings={
            "ALLOW_UNSUPPORTED": str(istio.allow_unsupported is not None).lower(),
            "BINARIES": binaries_setting([args.binary], args.mirror, fallback=args.fallback),
            **_documents(istio),
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
