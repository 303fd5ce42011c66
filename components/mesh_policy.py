"""The mesh's policy: who is in it, who may talk in plaintext, which version gets the requests."""

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
    """allow_data_loss: whether a namespace may be deleted, with everything in it.

    istio: None for a cluster without a mesh, which has namespaces only.
    kubeconfig (secret): what the gates measure with.
    """

    cluster: Cluster
    istio: Istio | None
    mesh: Mesh
    allow_data_loss: bool
    kubeconfig: pulumi.Output[str]


class MeshPolicy(pulumi.ComponentResource):
    """Namespaces, mTLS modes, gateways and routes, who may call which service, and hosts outside.

    Each object is a resource of its own, so that a weight or a mode edit is one update. Gates
    measure before plaintext is refused and before a canary gets more.
    namespaces: by name, for what is deployed into them. gateways: by name.
    """

    namespaces: dict[str, pulumi.CustomResource]
    gateways: dict[str, pulumi.CustomResource]

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
        if args.istio:
            self._mtls(args)
            self.gateways = {
                gateway: self._apply(args, gateways.gateway(gateway, settings))
                for gateway, settings in args.mesh.gateways.items()
            }
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
            # A route to a subset that no DestinationRule knows is answered with 503: subsets come
            # before it and, since Pulumi deletes last, go after it.
            subsets = [self._apply(args, rule) for rule in routes.subset_rules(name, service)]
            policy = self._apply(args, routes.destination_rule(name, service), *subsets)
            gateway = args.mesh.gateways.get(service.gateway or "")
            opened = [self.gateways[service.gateway]] if service.gateway else []
            route = routes.virtual_service(name, service, gateway)
            self._apply(args, route, *subsets, policy, *opened, hooks=self._gates.canary)

    def _access(self, args: MeshPolicyArgs) -> None:
        for name, service in args.mesh.services.items():
            if service.callers is not None:
                manifest = authorization.authorization_policy(name, args.mesh.services)
                self._apply(args, manifest, hooks=self._gates.callers)
        for namespace, settings in args.mesh.namespaces.items():
            if settings.limit_view:
                self._apply(args, sidecar.sidecar(namespace, args.mesh))

    def _egress(self, args: MeshPolicyArgs) -> None:
        outside = args.mesh.egress
        shared = egress.gateway_objects(outside) if outside.by_gateway else []
        ready = [self._apply(args, manifest) for manifest in shared]
        for name, host in outside.hosts.items():
            # The host comes last: known without its way, it would be called straight.
            way = list(ready) if host.through == "gateway" else []
            way += [self._apply(args, manifest) for manifest in egress.way(name, host, outside)]
            self._apply(args, egress.service_entry(name, host), *way)

    def _apply(
        self,
        args: MeshPolicyArgs,
        manifest: Manifest,
        *after: pulumi.Resource,
        hooks: pulumi.ResourceHookBinding | None = None,
    ) -> pulumi.CustomResource:
        namespace = self.namespaces.get(manifest["metadata"]["namespace"])
        there = [resource for resource in (args.istio, namespace) if resource]
        return args.cluster.apply(manifest, parent=self, after=[*there, *after], hooks=hooks)
