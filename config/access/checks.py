"""Checks and warnings of callers, and of the view that namespaces have of the mesh."""

from collections.abc import Iterator

from config import Caller, Istio, Mesh, Service, StackConfig, account, entry_of
from config.errors import KeyPath, Problem, nearest
from config.mesh.checks import check_injected
from config.sections import Sections

_IDENTITY = "a certificate identifies a caller, and is only sent with mTLS"


def _check_callers(sections: Sections) -> Iterator[Problem]:
    mesh = sections.mesh
    if mesh is None:
        return
    for name, service in mesh.services.items():
        for index, caller in enumerate(service.callers or []):
            path = ("mesh", "services", name, "callers", f"[{index}]")
            yield from _check_port_names(path, caller, name, service)
            if caller.service is not None:
                yield from _check_service(path, caller.service, mesh)
            elif caller.service_account is not None:
                yield from _check_account(path, caller.service_account, mesh)
            elif sections.istio is not None:
                yield from _check_gateway(path, caller, sections.istio)


def _check_port_names(
    path: KeyPath, caller: Caller, name: str, service: Service
) -> Iterator[Problem]:
    for index, port in enumerate(caller.ports):
        if isinstance(port, str) and port not in service.ports:
            guess = nearest(port, service.ports)
            yield Problem(
                code="caller-port-unknown",
                path=(*path, "ports", f"[{index}]"),
                what=f"{port} is not in mesh.services.{name}.ports",
                why="without its number, the caller could not be limited to the port",
                fix=f"use {guess}"
                if guess
                else f"use the port's number, or name it in mesh.services.{name}.ports",
                about=(("mesh", "services", name, "ports"),),
            )


def _check_service(path: KeyPath, reference: str, mesh: Mesh) -> Iterator[Problem]:
    name = entry_of(reference, mesh.services)
    path = (*path, "service")
    if name is None:
        known = [other.full_name(key) for key, other in mesh.services.items()]
        guess = nearest(reference, [*mesh.services, *known])
        yield Problem(
            code="caller-service-unknown",
            path=path,
            what=f"{reference} is not in mesh.services",
            why="a caller is allowed by its service account, which is known only for the "
            "services listed in mesh.services",
            fix=(f"use {guess}, or " if guess else "")
            + "name the account itself, for example serviceAccount: shop/client",
            about=(("mesh", "services", reference.rpartition("/")[2]),),
        )
        return
    service = mesh.services[name]
    account = (service.namespace, service.service_account)
    sharing = [
        key
        for key, other in mesh.services.items()
        if key != name and (other.namespace, other.service_account) == account
    ]
    if sharing:
        yield Problem(
            code="caller-account-shared",
            path=path,
            what=f"{name} shares the service account {'/'.join(account)} with {', '.join(sharing)}",
            why="proxies identify callers by service account, so allowing one of them allows all",
            fix=f"give {name} its own serviceAccount, here and on its pods, or set "
            f"serviceAccount: {'/'.join(account)}, which names everyone who is allowed",
            about=(
                ("mesh", "services", name, "serviceAccount"),
                *(("mesh", "services", key, "serviceAccount") for key in sharing),
            ),
        )


def _check_account(path: KeyPath, reference: str, mesh: Mesh) -> Iterator[Problem]:
    yield from check_injected(
        (*path, "serviceAccount"),
        reference.split("/")[0],
        mesh,
        unknown=f"{_IDENTITY}, and pods outside the mesh do not have a certificate",
        bare=f"{_IDENTITY}, and pods without a sidecar do not have a certificate",
        written="{}/...",
    )


def _check_gateway(path: KeyPath, caller: Caller, istio: Istio) -> Iterator[Problem]:
    known = sorted(istio.gateways)
    if caller.gateway not in known:
        guess = nearest(str(caller.gateway), known)
        yield Problem(
            code="caller-gateway-unknown",
            path=(*path, "gateway"),
            what=f"there is no gateway {caller.gateway}",
            why=f"istio installs these gateways: {', '.join(known) or 'none'}",
            fix=f"use {guess}" if guess else "install it, or remove this caller",
            about=(("istio", "profile"), ("istio", "ingressGateways"), ("istio", "egressGateways")),
        )


def _check_protocol(sections: Sections) -> Iterator[Problem]:
    """The problems of limits by request where the proxy sees only connections."""
    for name, service in _declared(sections.mesh) if sections.mesh else ():
        is_opaque = not any(port.has_requests for port in service.named_ports)
        for index, caller in enumerate(service.callers or []):
            for key in ("methods", "paths"):
                if is_opaque and getattr(caller, key):
                    yield Problem(
                        code="caller-limits-with-tcp",
                        path=("mesh", "services", name, "callers", f"[{index}]", key),
                        what=f"{key} is set, but the protocol is tcp",
                        why="the proxy sees connections, not requests, so a rule with a method or "
                        "a path matches none, and this caller is always refused",
                        fix=f"remove {key}, or set protocol: http if the port speaks it",
                        about=(("mesh", "services", name, "protocol"),),
                    )


def _check_gateways(sections: Sections) -> Iterator[Problem]:
    """The problems of services at a gateway that is not among their callers."""
    mesh = sections.mesh
    for name, service in _declared(mesh) if mesh else ():
        gateway = mesh.gateways.get(service.gateway or "") if mesh else None
        if gateway is None or mesh is None:
            continue
        callers = {account(caller, mesh.services) for _, caller in _known(service, mesh)}
        if account(Caller(gateway=gateway.ingress_gateway), mesh.services) not in callers:
            yield Problem(
                code="gateway-not-a-caller",
                path=("mesh", "services", name, "callers"),
                what=f"{gateway.ingress_gateway}, which serves the gateway {service.gateway}, "
                "is not listed",
                why="the service would answer 403 to every client outside",
                fix=f"add an entry {{gateway: {gateway.ingress_gateway}}}, or remove gateway",
                about=(
                    ("mesh", "services", name, "gateway"),
                    ("mesh", "gateways", str(service.gateway), "ingressGateway"),
                ),
            )


def _check_export(sections: Sections) -> Iterator[Problem]:
    """The problems of callers in a namespace that the routes are not exported to."""
    mesh = sections.mesh
    for name, service in _declared(mesh) if mesh else ():
        if mesh is None or not service.export_to or "*" in service.export_to:
            continue
        known = {service.namespace if entry == "." else entry for entry in service.export_to}
        for index, caller in _known(service, mesh):
            home = account(caller, mesh.services)[0]
            if caller.gateway is None and home not in known:
                yield Problem(
                    code="export-without-caller",
                    path=("mesh", "services", name, "exportTo"),
                    what=f"{home}, where callers[{index}] runs, is not listed",
                    why="its proxy would not know the routes: it would call every version, "
                    "whatever the weight",
                    fix=f"add {home}, or remove exportTo, which means all",
                    about=(("mesh", "services", name, "callers", f"[{index}]"),),
                )


def _known(service: Service, mesh: Mesh) -> Iterator[tuple[int, Caller]]:
    """The declared callers of a service whose account is known, with their positions."""
    for index, caller in enumerate(service.callers or []):
        if caller.service is None or entry_of(caller.service, mesh.services) is not None:
            yield index, caller


def _check_selectors(sections: Sections) -> Iterator[Problem]:
    if sections.mesh is None:
        return
    selected: dict[tuple[str, frozenset[tuple[str, str]]], str] = {}
    for name, service in _declared(sections.mesh):
        labels = frozenset(service.pod_labels(name).items())
        other = selected.setdefault((service.namespace, labels), name)
        if other != name:
            yield Problem(
                code="callers-pods-overlap",
                path=("mesh", "services", name, "callers"),
                what=f"this service selects the same pods as {other}, which declares callers too",
                why="a pod accepts every caller that any of its rules allows, so the "
                "callers of each service could call the other",
                fix=f"list all callers at mesh.services.{other}.callers, or set "
                f"mesh.services.{name}.selector to labels that distinguish the pods",
                about=(
                    ("mesh", "services", name, "selector"),
                    ("mesh", "services", other, "callers"),
                    ("mesh", "services", other, "selector"),
                ),
            )


def _check_mtls(sections: Sections) -> Iterator[Problem]:
    if sections.mesh is None:
        return
    for name, _ in _declared(sections.mesh):
        key, mode = sections.mesh.mtls_mode(name)
        if mode not in ("PERMISSIVE", "STRICT"):
            yield Problem(
                code="callers-need-mtls",
                path=("mesh", "services", name, "callers"),
                what=f"callers are declared, but {'.'.join(key)} is {mode}",
                why=f"{_IDENTITY}; with {mode} there is no mTLS, so every caller would be refused",
                fix=f"set {'.'.join(key)} to PERMISSIVE or STRICT, or remove callers",
                about=(key,),
            )


def _check_views(sections: Sections) -> Iterator[Problem]:
    if sections.mesh is None:
        return
    for name, namespace in sections.mesh.namespaces.items():
        path = ("mesh", "namespaces", name)
        if namespace.limit_view and not namespace.injection:
            yield Problem(
                code="limit-view-without-sidecars",
                path=(*path, "limitView"),
                what="limitView is set for a namespace without sidecars",
                why="it limits what sidecars know, and this namespace has none",
                fix="set injection: true, or remove limitView",
                about=((*path, "injection"),),
            )
        elif namespace.calls and not namespace.limit_view:
            yield Problem(
                code="calls-without-limit-view",
                path=(*path, "calls"),
                what="calls is set without limitView: true",
                why="without the limit, proxies know every service anyway, so the list "
                "has no effect",
                fix="set limitView: true, or remove calls",
                about=((*path, "limitView"),),
            )


def warnings(config: StackConfig) -> Iterator[str]:
    """Warnings about callers in a valid stack."""
    mesh = config.mesh
    declared = dict(_declared(mesh))
    open_to_plaintext = [name for name in declared if mesh.mtls_mode(name)[1] == "PERMISSIVE"]
    if open_to_plaintext:
        yield (
            f"{', '.join(open_to_plaintext)}: callers are declared, so plaintext callers are "
            "refused "
            "although mTLS is PERMISSIVE: they have no certificate"
        )
    if config.istio and config.istio.path_normalization != "DECODE_AND_MERGE_SLASHES":
        limited = [name for name, x in declared.items() if any(c.paths for c in x.callers or ())]
        if limited:
            yield (
                f"istio.pathNormalization: with {config.istio.path_normalization}, a caller of "
                f"{', '.join(limited)} gets past its paths with requests such as "
                "/allowed/..%2fadmin or //admin, if the service decodes them"
            )
    shared = sorted(
        {
            f"{service.namespace}/{service.service_account}"
            for service in _allowed_services(mesh, declared)
            if service.service_account == "default"
        }
    )
    if shared:
        yield (
            f"callers run as {', '.join(shared)}, the service account of every pod in that "
            "namespace "
            "that does not set one: those pods may call as well. Give the callers their own "
            "serviceAccount"
        )


def _allowed_services(mesh: Mesh, declared: dict[str, Service]) -> Iterator[Service]:
    for service in declared.values():
        for caller in service.callers or []:
            if caller.service is not None:
                yield mesh.services[str(entry_of(caller.service, mesh.services))]


def _declared(mesh: Mesh) -> Iterator[tuple[str, Service]]:
    """The services whose callers are declared."""
    for name, service in mesh.services.items():
        if service.callers is not None:
            yield name, service


CHECKS = (
    _check_callers,
    _check_protocol,
    _check_gateways,
    _check_export,
    _check_selectors,
    _check_mtls,
    _check_views,
)
