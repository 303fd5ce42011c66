"""The mesh's control plane and gateways."""

from dataclasses import dataclass

import pulumi

from components.control_plane import ControlPlane
from components.manifests import kubeadm
from components.manifests.istio_operator import istio_operator
from components.node import binaries_setting
from components.remote import RemoteScript, Script
from stacks.catalogue import Binary
from stacks.config import Istio as IstioConfig


@dataclass(frozen=True, kw_only=True)
class IstioArgs:
    """binary: the istioctl of the wanted version."""

    control_plane: ControlPlane
    istio: IstioConfig
    binary: Binary
    mirror: str | None


class Istio(pulumi.ComponentResource):
    """Istio installed by istioctl under a named revision, with the tag `default` on it.

    The install waits for istiod and the gateways, and so for a node that they can run on; it
    begins while workers still join. Deliberately does not label namespaces: MeshPolicy does.
    """

    installed: RemoteScript

    def __init__(
        self, name: str, args: IstioArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("nordmesh:mesh:Istio", name, None, opts)
        machine = args.control_plane.node.machine
        settings = {
            "ALLOW_UNSUPPORTED": str(args.istio.allow_unsupported is not None).lower(),
            "BINARIES": binaries_setting([args.binary], args.mirror),
            "OPERATOR": kubeadm.to_yaml([istio_operator(args.istio)]),
            "REVISION": args.istio.revision,
        }
        self.installed = RemoteScript(
            f"{name}-install",
            machine.connection,
            Script(file="istio-install.sh", node=machine.name, settings=settings, timeout=900),
            delete=Script(file="istio-uninstall.sh", node=machine.name, settings={}),
            opts=pulumi.ResourceOptions(
                parent=self,
                depends_on=[args.control_plane],
                deleted_with=args.control_plane.initialised,
            ),
        )
        self.register_outputs({})
