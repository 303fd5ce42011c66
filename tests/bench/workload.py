"""The echo application in a separate namespace, with or without sidecars."""

from collections.abc import Iterator
from contextlib import contextmanager

from components.manifests import Manifest, echo, mtls, routes
from config import Namespace, Service, catalogue
from lab.screen import Cluster
from tests.support.applied import apply

SERVICE = "checkout"
PORT = 8080


def service(namespace: str, weight: int = 10) -> Service:
    """Return the service of a namespace, with a canary."""
    return Service.model_validate(
        {
            "namespace": namespace,
            "port": PORT,
            "stable": "v1",
            "canary": {"subset": "v2", "weight": weight},
        }
    )


@contextmanager
def open_workload(cluster: Cluster, namespace: str, *, injected: bool) -> Iterator[None]:
    """Deploy a client and the service in two versions; delete everything at the end."""
    image, of = catalogue.ECHO_IMAGE, service(namespace)
    deployments = [
        *(echo.echo_deployment(SERVICE, v, namespace=namespace, image=image) for v in of.weights),
        echo.client_deployment(namespace, image=image),
    ]
    objects: list[Manifest] = [
        mtls.namespace(namespace, Namespace(injection=injected), kubernetes="1.23.17"),
        echo.echo_service(SERVICE, of),
        *map(_small, deployments),
        echo.service_account(echo.CLIENT, namespace),
        echo.client_service(namespace),
    ]
    if injected:
        objects += routes.subset_rules(SERVICE, of)
        objects += [routes.destination_rule(SERVICE, of), routes.virtual_service(SERVICE, of)]
    try:
        apply(cluster, objects)
        cluster.kubectl(
            "-n", namespace, "wait", "--for=condition=Available", "deployment", "--all",
            "--timeout=120s", seconds=130,
        )  # fmt: skip
        yield
    finally:
        cluster.kubectl("delete", "namespace", namespace, "--ignore-not-found", seconds=120)


def _small(deployment: Manifest) -> Manifest:
    """Lower the resource requests of the sidecars of a Deployment, so that they fit."""
    template = deployment["spec"]["template"]
    template["metadata"]["annotations"] = {"sidecar.istio.io/proxyCPU": "10m"}
    return deployment
