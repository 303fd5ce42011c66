"""The demo application."""

from dataclasses import dataclass

import pulumi

from components.istio import Istio
from components.manifests import echo
from components.mesh_policy import MeshPolicy
from components.objects import Cluster
from config import OUTSIDE_NAMESPACE, Service


@dataclass(frozen=True, kw_only=True)
class DemoArgs:
    """service_name, service: the service of the mesh whose pods the echo pods are."""

    cluster: Cluster
    istio: Istio
    policy: MeshPolicy
    service_name: str
    service: Service
    image: str


class Demo(pulumi.ComponentResource):
    """An echo service, a Deployment for each version, a client in the mesh and one outside it."""

    def __init__(
        self, name: str, args: DemoArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("nordmesh:demo:Demo", name, None, opts)
        namespace, apply = args.service.namespace, args.cluster.apply
        inside = args.policy.namespaces[namespace]
        # Pods that are created before the injection webhook answers never get a sidecar.
        injected = [inside, args.istio]
        account = args.service.service_account
        for own in sorted({account, echo.CLIENT} - {"default"}):
            injected.append(
                apply(echo.service_account(own, namespace), parent=self, after=[inside])
            )
        apply(echo.echo_service(args.service_name, args.service), parent=self, after=[inside])
        for version in args.service.weights:
            deployment = echo.echo_deployment(
                args.service_name,
                version,
                namespace=namespace,
                image=args.image,
                account=account,
                version_label=args.service.version_label,
            )
            apply(deployment, parent=self, after=injected)
        apply(echo.client_deployment(namespace, image=args.image), parent=self, after=injected)
        apply(echo.client_service(namespace), parent=self, after=[inside])
        outside = apply(echo.outside_namespace(), parent=self)
        apply(
            echo.client_deployment(OUTSIDE_NAMESPACE, image=args.image),
            parent=self,
            after=[outside],
        )
        self.register_outputs({})
