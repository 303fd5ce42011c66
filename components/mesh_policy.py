"""The mesh's policy: who is in it, who may talk in plaintext, which version gets the requests."""

from dataclasses import dataclass

import pulumi

from components.gates.hooks import Gates
from components.istio import Istio
from components.manifests import Manifest, mtls, routes
from components.objects import Cluster
from stacks.config import Mesh


@dataclass(frozen=True, kw_only=True)
class MeshPolicyArgs:
    """allow_data_loss: whether a namespace may be deleted, with everything in it.

    kubeconfig (secret): what the gates measure with.
    """

    cluster: Cluster
    istio: Istio
    mesh: Mesh
    allow_data_loss: bool
    kubeconfig: pulumi.Output[str]


class MeshPolicy(pulumi.ComponentResource):
    """Namespaces with their injection label, mTLS modes, subsets and weights.

    Each object is a resource of its own, so that a weight or a mode edit is one update. Gates
    measure before plaintext is refused and before a canary gets more.
    namespaces: by name, for what is deployed into them.
    """

    namespaces: dict[str, pulumi.CustomResource]

    def __init__(
        self, name: str, args: MeshPolicyArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("nordmesh:mesh:MeshPolicy", name, None, opts)
        self._gates = Gates(args.mesh, args.kubeconfig)
        self.namespaces = {
            namespace: args.cluster.apply(
                mtls.namespace(namespace, settings),
                parent=self,
                protect=not args.allow_data_loss,
                hooks=self._gates.made_here,
            )
            for namespace, settings in args.mesh.namespaces.items()
        }
        self._mtls(args)
        self._services(args)
        self.register_outputs({})

    def _mtls(self, args: MeshPolicyArgs) -> None:
        modes: dict[str, str] = {mtls.ROOT_NAMESPACE: args.mesh.mtls}
        modes |= {
            name: settings.mtls
            for name, settings in args.mesh.namespaces.items()
            if settings.mtls is not None
        }
        for namespace, mode in modes.items():
            manifest = mtls.peer_authentication(namespace, mode)
            self._apply(args, manifest, hooks=self._gates.strict)
        for name, service in args.mesh.services.items():
            if service.mtls is not None:
                manifest = mtls.service_peer_authentication(name, service, service.mtls)
                self._apply(args, manifest, hooks=self._gates.strict)

    def _services(self, args: MeshPolicyArgs) -> None:
        for name, service in args.mesh.services.items():
            subsets = self._apply(args, routes.destination_rule(name, service))
            # A route to a subset that no DestinationRule knows yet is answered with 503.
            self._apply(
                args, routes.virtual_service(name, service), subsets, hooks=self._gates.canary
            )

    def _apply(
        self,
        args: MeshPolicyArgs,
        manifest: Manifest,
        *after: pulumi.Resource,
        hooks: pulumi.ResourceHookBinding | None = None,
    ) -> pulumi.CustomResource:
        namespace = self.namespaces.get(manifest["metadata"]["namespace"])
        inside = [namespace] if namespace else []
        return args.cluster.apply(
            manifest, parent=self, after=[args.istio, *inside, *after], hooks=hooks
        )
