"""Webhooks and aggregated APIs in the mesh: the API server calls them, and has no sidecar.

It calls seldom, so a window without a call proves nothing: the gate reads where it would call.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from components.gates import readings
from components.gates.inventory import Proxy
from components.gates.scope import UNCHANGED, Change, Scope
from config.errors import NAMESPACE, NordmeshError

if TYPE_CHECKING:
    from components.gates.api import Api

_HTTPS = 443
_ADMISSION = "/apis/admissionregistration.k8s.io/v1"
_LISTS = {
    f"{_ADMISSION}/validatingwebhookconfigurations": "ValidatingWebhookConfiguration",
    f"{_ADMISSION}/mutatingwebhookconfigurations": "MutatingWebhookConfiguration",
    "/apis/apiregistration.k8s.io/v1/apiservices": "APIService",
    "/apis/apiextensions.k8s.io/v1/customresourcedefinitions": "CustomResourceDefinition",
}


@dataclass(frozen=True, kw_only=True)
class Call:
    """A Service that the API server calls. owner: the object that makes it do so."""

    owner: str
    namespace: str
    service: str
    port: int


def refuse(api: "Api", change: Change, scope: Scope, proxies: Sequence[Proxy]) -> None:
    """Fail if a pod that becomes STRICT answers calls of the API server."""
    if not proxies:
        return
    namespaces = {proxy.namespace for proxy in proxies}
    for call in calls(api):
        if call.namespace not in namespaces:
            continue
        service = api.service(call.namespace, call.service)
        if service is None:
            continue
        for proxy in proxies:
            port = _pods_port(service, call.port, proxy)
            if port is not None and _has_labels(proxy, service, call) and _cuts(scope, proxy, port):
                raise _refusal(change, scope, call, proxy, port)


def calls(api: "Api") -> Iterator[Call]:
    """The Services that the API server calls."""
    for path, kind in _LISTS.items():
        for item in api.items(path):
            for client in _clients(kind, item.get("spec") or {}, item):
                yield Call(
                    owner=f"{kind} {item['metadata']['name']}",
                    namespace=client["namespace"],
                    service=client["name"],
                    port=int(client.get("port") or _HTTPS),
                )


def _clients(
    kind: str, spec: Mapping[str, Any], item: Mapping[str, Any]
) -> Iterator[Mapping[str, Any]]:
    """The references to Services in an object; a webhook at a URL has none."""
    if kind == "APIService":
        configs = [spec]
    elif kind == "CustomResourceDefinition":
        webhook = (spec.get("conversion") or {}).get("webhook") or {}
        configs = [webhook.get("clientConfig") or {}]
    else:
        configs = [webhook["clientConfig"] for webhook in item.get("webhooks") or ()]
    yield from (config["service"] for config in configs if config.get("service"))


def _pods_port(service: Mapping[str, Any], number: int, proxy: Proxy) -> str | None:
    """The port of a pod behind a port of its Service; None if the Service has no such port."""
    for port in service.get("ports") or ():
        if port["port"] == number:
            target = str(port.get("targetPort") or number)
            return target if target.isdigit() else proxy.port_names.get(target)
    return None


def _has_labels(proxy: Proxy, service: Mapping[str, Any], call: Call) -> bool:
    selector = service.get("selector") or {}
    return (
        bool(selector)
        and proxy.namespace == call.namespace
        and selector.items() <= proxy.labels.items()
    )


def _cuts(scope: Scope, proxy: Proxy, port: str) -> bool:
    return port not in proxy.excluded_ports and scope.has_port(proxy, port)


def _refusal(change: Change, scope: Scope, call: Call, proxy: Proxy, port: str) -> NordmeshError:
    named = [
        name
        for name, service in scope.mesh.services.items()
        if service.namespace == call.namespace
        and service.mtls_labels(name).items() <= proxy.labels.items()
    ]
    service = named[0] if named else call.service
    return NordmeshError(
        f"the API server calls port {port} of {readings.workloads([proxy])} for {call.owner}",
        unchanged=UNCHANGED,
        code="gate-api-server-calls",
        path=change.path,
        why="the API server has no sidecar: STRICT would refuse it, and every request that needs "
        "this object would fail, deployments among them",
        fix=f"write ports: {{{port}: PERMISSIVE}} at {NAMESPACE}:mesh.services.{service}.mtls, or "
        f'annotate the pods traffic.sidecar.istio.io/excludeInboundPorts: "{port}"; then run '
        "`pulumi up` again",
    )
