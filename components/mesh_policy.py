"""The mesh's policy: namespaces, mTLS modes, routes, callers and external hosts."""

from collections.abc import Mapping
from dataclasses import dataclass

import pulumi

from components.gates.hooks import Gates
from components.istio import Istio
from components.manifests import (
    Manifest,
    authorization,
    egress,
    gateways,
    hosts,
    jwt,
    mtls,
    network_policy,
    routes,
    sidecar,
)
from components.manifests.network_policy import Networks
from components.objects import Cluster
from components.pod_firewall import PodFirewall
from config import ROOT_NAMESPACE, Machines, Mesh
from config.scalars.names import DEFAULT_NAMESPACE


@dataclass(frozen=True, kw_only=True)
class MeshPolicyArgs:
    """machines: whose allowDataLoss names the namespaces that may be deleted with their content.

    istio: None for a cluster without a mesh, which has namespaces only.
    kubernetes: the cluster's version. gates: the hooks that measure before an edit. pod_firewall:
    None if nothing enforces NetworkPolicies. limits_egress: whether hosts that are not listed are
    refused.
    """

    cluster: Cluster
    istio: Istio | None
    mesh: Mesh
    machines: Machines
    kubernetes: str
    gates: Gates
    pod_firewall: PodFirewall | None
    networks: Networks
    limits_egress: bool


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
            namespace: self._namespace(
                args, namespace, mtls.namespace(namespace, settings, kubernetes=args.kubernetes)
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
            self._tokens(args)
            self._services(args)
            self._access(args)
            self._egress(args)
            self._network_policies(args)
        self.register_outputs({})

    def _namespace(
        self, args: MeshPolicyArgs, name: str, manifest: Manifest
    ) -> pulumi.CustomResource:
        if name == DEFAULT_NAMESPACE:  # it exists, and cannot be deleted
            return args.cluster.patch(manifest, parent=self, hooks=self._gates.pod_security)
        return args.cluster.apply(
            manifest,
            parent=self,
            protect=not args.machines.may_lose("namespace", name),
            hooks=self._gates.namespaces,
        )

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

    def _tokens(self, args: MeshPolicyArgs) -> None:
        services = args.mesh.services.values()
        for name in args.mesh.gateways:
            preflights = any(
                path.cors is not None
                for service in services
                if service.gateway == name
                for path in service.paths
            )
            before: list[pulumi.Resource] = []
            # The issuers first: without them, the requirement refuses every request.
            for manifest in jwt.objects(name, args.mesh.gateways, preflights=preflights):
                before = [self._apply(args, manifest, *before)]

    def _services(self, args: MeshPolicyArgs) -> None:
        splits: dict[str, pulumi.Resource] = {}
        for name, service in args.mesh.services.items():
            # A route to a subset without a DestinationRule returns 503, so subsets are created
            # before the route and, because Pulumi deletes last, deleted after it.
            subsets = [
                self._apply(args, rule, hooks=self._gates.pods)
                for rule in routes.subset_rules(name, service)
            ]
            policy = self._apply(args, routes.destination_rule(name, service), *subsets)
            needed = [*subsets, policy]
            if name in args.mesh.by_path:
                split = hosts.split(name, service)
                splits[name] = self._apply(args, split, *needed, hooks=self._gates.canary)
                continue
            gateway = args.mesh.gateways.get(service.gateway or "")
            needed += [self.gateways[service.gateway]] if service.gateway else []
            route = routes.virtual_service(name, service, gateway)
            self._apply(args, route, *needed, hooks=self._gates.canary)
        self._by_path(args, splits)

    def _by_path(self, args: MeshPolicyArgs, splits: Mapping[str, pulumi.Resource]) -> None:
        """The routes that delegate to splits: those of the gateways' hosts, and in the mesh."""
        mesh = args.mesh
        by_host = []
        for (gateway, host), names in mesh.shared_hosts.items():
            sharing = {name: mesh.services[name] for name in names}
            route = hosts.at_gateway(gateway, mesh.gateways[gateway], host, sharing)
            needed = [splits[name] for name in names]
            by_host.append(self._apply(args, route, *needed, self.gateways[gateway]))
        for name, split in splits.items():
            if mesh.services[name].in_mesh:
                # After the hosts: until then, this object may have the only route of a host.
                route = hosts.inside(name, mesh.services[name])
                self._apply(args, route, split, *by_host, hooks=self._gates.canary)

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

    def _network_policies(self, args: MeshPolicyArgs) -> None:
        if args.pod_firewall is None:
            return
        policies = [
            network_policy.callers(name, args.mesh.services)
            for name, service in args.mesh.services.items()
            if service.callers is not None
        ]
        if args.limits_egress:
            policies += network_policy.egress(args.mesh, args.networks)
        for manifest in policies:
            self._apply(args, manifest, args.pod_firewall)

    def _apply(
        self,
        args: MeshPolicyArgs,
        manifest: Manifest,
        *after: pulumi.Resource,
        hooks: pulumi.ResourceHookBinding | None = None,
    ) -> pulumi.CustomResource:
        namespace = self.namespaces.get(manifest["metadata"]["namespace"])
        needed = [resource for resource in (args.istio, namespace) if resource]
        # The mesh's own namespace goes when the mesh is replaced.
        is_inside = manifest["metadata"]["namespace"] == ROOT_NAMESPACE
        return args.cluster.apply(
            manifest,
            parent=self,
            after=[*needed, *after],
            replace_with=[args.istio.installed] if args.istio and is_inside else [],
            hooks=hooks,
        )
