"""The mesh's policy: namespaces, mTLS modes, routes, callers and external hosts."""

from dataclasses import dataclass

import pulumi

from components.gates.hooks import Gates
from components.istio import Istio
from components.manifests import (
    Manifest,
    authorization,
    egress,
    gateways,
    mtls,
    routes,
    sidecar,
)
from components.objects import Cluster
from config import ROOT_NAMESPACE, Mesh


@dataclass(frozen=True, kw_only=True)
class MeshPolicyArgs:
    """allow_data_loss: whether a namespace with everything in it may be deleted.

    istio: None for a cluster without a mesh, which has namespaces only.
    gates: the hooks that measure before an edit.
    """

    cluster: Cluster
    istio: Istio | None
    mesh: Mesh
    allow_data_loss: bool
    gates: Gates


class MeshPolicy(pulumi.ComponentResource):
    """Namespaces, mTLS modes, gateways, routes, callers of services, and external hosts.

    Each object is its own resource, so an edit of a weight or a mode is one update. Gates measure
    before a mode becomes STRICT and before a canary gets more requests.
    namespaces, gateways: the objects by name.
    """

    namespaces: dict[str, pulumi.CustomResource]
    gateways: dict[str, pulumi.CustomResource]

    def __init__(
        self, name: str, args: MeshPolicyArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("nordmesh:mesh:MeshPolicy", name, None, opts)
        self._gates = args.gates
        self.namespaces = {
            namespace: args.cluster.apply(
                mtls.namespace(namespace, settings),
                parent=self,
                protect=not args.allow_data_loss,
                hooks=self._gates.namespaces,
            )
            for namespace, settings in args.mesh.namespaces.items()
        }
        if args.istio:
            self._mtls(args)
            self.gateways = {
                gateway: self._apply(
                    args, gateways.gateway(gateway, settings), hooks=self._gates.secrets
                )
                for gateway, settings in args.mesh.gateways.items()
            }
            for gateway, settings in args.mesh.gateways.items():
                # The Gateway first: its VirtualService refers to it.
                plain: list[pulumi.CustomResource] = []
                for manifest in gateways.challenges(gateway, settings):
                    plain.append(self._apply(args, manifest, *plain))
            self._services(args)
            self._access(args)
            self._egress(args)
        self.register_outputs({})

    def _mtls(self, args: MeshPolicyArgs) -> None:
        modes: dict[str, str] = {ROOT_NAMESPACE: args.mesh.mtls}
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
            # A route to a subset without a DestinationRule returns 503, so subsets are created
            # before the route and, because Pulumi deletes last, deleted after it.
            subsets = [self._apply(args, rule) for rule in routes.subset_rules(name, service)]
            policy = self._apply(args, routes.destination_rule(name, service), *subsets)
            gateway = args.mesh.gateways.get(service.gateway or "")
            needed = [self.gateways[service.gateway]] if service.gateway else []
            route = routes.virtual_service(name, service, gateway)
            self._apply(args, route, *subsets, policy, *needed, hooks=self._gates.canary)

    def _access(self, args: MeshPolicyArgs) -> None:
        for name, service in args.mesh.services.items():
            if service.callers is not None:
                manifest = authorization.authorization_policy(name, args.mesh.services)
                self._apply(args, manifest, hooks=self._gates.callers)
        for namespace, settings in args.mesh.namespaces.items():
            if settings.limit_view:
                self._apply(args, sidecar.sidecar(namespace, args.mesh))

    def _egress(self, args: MeshPolicyArgs) -> None:
        settings = args.mesh.egress
        shared = egress.gateway_objects(settings) if settings.by_gateway else []
        gateway = [self._apply(args, manifest) for manifest in shared]
        for name, host in settings.hosts.items():
            # The ServiceEntry comes last: until its route exists, calls would bypass the gateway.
            route = list(gateway) if host.through == "gateway" else []
            hooks = self._gates.secrets if host.ca_secret is not None else None
            route += [
                self._apply(args, manifest, hooks=hooks)
                for manifest in egress.way(name, host, settings)
            ]
            self._apply(args, egress.service_entry(name, host), *route)

    def _apply(
        self,
        args: MeshPolicyArgs,
        manifest: Manifest,
        *after: pulumi.Resource,
        hooks: pulumi.ResourceHookBinding | None = None,
    ) -> pulumi.CustomResource:
        namespace = self.namespaces.get(manifest["metadata"]["namespace"])
        needed = [resource for resource in (args.istio, namespace) if resource]
        return args.cluster.apply(manifest, parent=self, after=[*needed, *after], hooks=hooks)
