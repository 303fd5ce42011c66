"""Routes by path at a gateway: one VirtualService for each host, whatever services share it.

Istio merges the VirtualServices of one host in no defined order. So the routes of a host are in one
object, which delegates to one object for each service: its split. The service's route in the mesh
delegates to the same split, so that a weight is in one object only.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from components.manifests import Manifest
from components.manifests.gateways import reference
from components.manifests.handling import duration, handling
from components.manifests.routes import (
    NETWORKING,
    answer,
    split_of,
    testers_route,
    virtual_service,
)
from config import Gateway, Service
from config.services.paths import Cors, HeaderEdits, PathRoute, Redirect
from config.services.ports import ServicePort
from config.services.routes import UriMatch

_SPLIT = ".split"


def split(name: str, service: Service) -> Manifest:
    """The split of a service's requests, which other routes delegate to."""
    return {
        "apiVersion": NETWORKING,
        "kind": "VirtualService",
        "metadata": {
            "name": split_name(service.kubernetes_name(name)),
            "namespace": service.namespace,
        },
        "spec": {"http": [split_of(name, service)], **_exported(service)},
    }


def _exported(service: Service) -> Manifest:
    """The namespaces of the routes that delegate: also the service's own, with its `inside`."""
    names = service.export_to
    is_known = not names or {"*", ".", service.namespace} & set(names)
    export_to = [*names, *([] if is_known else ["."])]
    return {"exportTo": export_to} if export_to else {}


def split_name(service: str) -> str:
    """The name of the VirtualService that has the split of a service by path."""
    return f"{service}{_SPLIT}"


def service_of(virtual_service: str) -> str:
    """The service whose split is in the VirtualService of this name."""
    return virtual_service.removesuffix(_SPLIT)


def is_host(virtual_service: str) -> bool:
    """Whether the VirtualService of this name has the routes of a gateway's host."""
    return virtual_service.split(".")[1:2] in (["any"], ["below"], ["host"])


def inside(name: str, service: Service) -> Manifest:
    """The routes of a service for callers in the mesh; they delegate to its split."""
    own = service.model_copy(update={"hosts": [], "gateway": None})
    return virtual_service(name, own, delegate=_delegate(name, service))


def at_gateway(name: str, gateway: Gateway, host: str, services: Mapping[str, Service]) -> Manifest:
    """The routes of one host of a gateway, the most specific path first.

    name: the entry of mesh.gateways. services: those that the host's paths lead to.
    """
    paths = [
        (service, path) for service, settings in services.items() for path in settings.own_paths
    ]
    routes = (
        route
        for service, path in sorted(paths, key=lambda entry: entry[1].specific_first())
        for route in _path_routes(service, services[service], path)
    )
    return {
        "apiVersion": NETWORKING,
        "kind": "VirtualService",
        "metadata": {"name": _name(name, host), "namespace": gateway.namespace},
        "spec": {
            "hosts": [host],
            "gateways": [reference(name, gateway)],
            # The gateway's pods are in this namespace.
            "exportTo": ["."],
            "http": list(_reached(routes)),
        },
    }


def _name(gateway: str, host: str) -> str:
    """A name that no other host has: a label of a gateway has no dot."""
    if host == "*":
        return f"{gateway}.any"
    if host.startswith("*."):
        return f"{gateway}.below.{host[2:]}"
    return f"{gateway}.host.{host}"


def _delegate(name: str, service: Service) -> Manifest:
    return {
        "name": split_name(service.kubernetes_name(name)),
        "namespace": service.namespace,
    }


def _reached(routes: Iterable[Manifest]) -> Iterator[Manifest]:
    """Leave out the path of a prefix that is an exact path too: no request gets there."""
    taken = set[str]()
    for route in routes:
        match = [one for one in route["match"] if one["uri"].get("exact") not in taken]
        taken.update(one["uri"].get("exact", "") for one in match if one.keys() == {"uri"})
        if match:
            yield {**route, "match": match}


# --- the routes of a path ------------------------------------------------------------------------


def _path_routes(name: str, service: Service, path: PathRoute) -> Iterator[Manifest]:
    if path.redirect is not None:
        scopes = [{"uri": uri} for uri in _uris(path)]
        yield {"match": scopes, "redirect": _redirect(path.redirect)} | _headers(path)
        return
    port = _port(service, path)
    settings = handling(service, timeout=path.timeout, retries=path.retries)
    settings |= _headers(path) | ({"corsPolicy": _cors(path.cors)} if path.cors else {})
    for testers in service.testers:
        for uris in _by_rewrite(path, _narrowed(path, testers.uri)):
            everywhere = testers.model_copy(update={"uri": None})
            scopes = [{"uri": uri} for uri in uris]
            route = testers_route(name, service, port, everywhere, scopes, handled=settings)
            yield route | _rewrite(path, uris[0])
    for uris in _by_rewrite(path, _uris(path)):
        target = (
            {"delegate": _delegate(name, service)}
            if port == service.split_port
            else answer(name, service, port)
        )
        yield (
            {"match": [{"uri": uri} for uri in uris], **target} | settings | _rewrite(path, uris[0])
        )


def _port(service: Service, path: PathRoute) -> ServicePort:
    ports = {port.name: port for port in service.named_ports}
    return ports[path.port] if path.port is not None else service.split_port


def _uris(path: PathRoute) -> list[Manifest]:
    """The conditions of a path. A prefix is the path itself and what is below it: /api, /api/*."""
    if path.is_exact:
        return [{"exact": path.base}]
    own = [{"exact": path.base}] if path.base else []
    return [*own, {"prefix": f"{path.base}/"}]


def _narrowed(path: PathRoute, testers: UriMatch | None) -> list[Manifest]:
    """The conditions of a path for testers, who may have their own condition."""
    if testers is None:
        return _uris(path)
    both = (_both(uri, testers) for uri in _uris(path))
    return [uri for uri in both if uri]


def _both(uri: Manifest, testers: UriMatch) -> Manifest | None:
    """The condition that a path meets if it meets both; None if no path does."""
    exact, prefix = uri.get("exact"), uri.get("prefix", "")
    if exact is not None:
        is_met = (
            testers.exact == exact
            or (testers.prefix is not None and exact.startswith(testers.prefix))
            or (testers.regex is not None and re.fullmatch(testers.regex, exact))
        )
        return uri if is_met else None
    if testers.exact is not None:
        return {"exact": testers.exact} if testers.exact.startswith(prefix) else None
    if testers.prefix is not None:
        longer = max(prefix, testers.prefix, key=len)
        is_met = longer.startswith(prefix) and longer.startswith(testers.prefix)
        return {"prefix": longer} if is_met else None
    return {"regex": testers.regex}  # checks allow it only where the path is /


def _by_rewrite(path: PathRoute, uris: Sequence[Manifest]) -> Iterator[list[Manifest]]:
    """The conditions that have the same rewrite: each its own, if the path has one."""
    if path.rewrite is None:
        if uris:
            yield list(uris)
        return
    for uri in uris:
        yield [uri]


def _rewrite(path: PathRoute, uri: Manifest) -> Manifest:
    """Replace the path's prefix; Envoy replaces all that the condition matched."""
    if path.rewrite is None:
        return {}
    if path.is_exact:
        return {"rewrite": {"uri": path.rewrite}}
    rest = str(uri.get("exact", uri.get("prefix"))).removeprefix(path.base)
    return {"rewrite": {"uri": f"{path.rewrite.rstrip('/')}{rest}" or "/"}}


def _redirect(redirect: Redirect) -> Manifest:
    settings = {"authority": redirect.host, "scheme": redirect.scheme, "uri": redirect.path}
    return {
        **{key: value for key, value in settings.items() if value is not None},
        "redirectCode": redirect.status,
    }


def _headers(path: PathRoute) -> Manifest:
    if path.headers is None:
        return {}
    edits = {
        "request": _header_edits(path.headers.request),
        "response": _header_edits(path.headers.response),
    }
    settings = {name: values for name, values in edits.items() if values}
    return {"headers": settings} if settings else {}


def _header_edits(edits: HeaderEdits) -> Manifest:
    settings = {
        # Envoy substitutes %NAME%; %% is a percent sign.
        "set": {name: text.replace("%", "%%") for name, text in edits.set.items()},
        "add": {name: text.replace("%", "%%") for name, text in edits.add.items()},
        "remove": list(edits.remove),
    }
    return {name: values for name, values in settings.items() if values}


def _cors(cors: Cors) -> Manifest:
    settings: Manifest = {
        "allowOrigins": [_origin(origin) for origin in cors.origins],
        "allowMethods": list(cors.methods),
        "allowCredentials": cors.credentials,
    }
    if cors.headers:
        settings["allowHeaders"] = list(cors.headers)
    if cors.expose_headers:
        settings["exposeHeaders"] = list(cors.expose_headers)
    if cors.max_age is not None:
        settings["maxAge"] = duration(cors.max_age)
    return settings


def _origin(origin: str) -> Manifest:
    if origin == "*":
        return {"regex": ".*"}
    scheme, _, host = origin.partition("://*.")
    if host:
        return {"regex": f"{re.escape(scheme)}://[^/]+{re.escape(f'.{host}')}"}
    return {"exact": origin}
