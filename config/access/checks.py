"""Checks of who may call whom, and of what namespaces know of the mesh."""

from collections.abc import Iterator

from config import Caller, Istio, Mesh, Service, StackConfig
from config.errors import KeyPath, Problem, nearest
from config.mesh.checks import check_injected
from config.sections import Sections

_IDENTITY = "a caller is known by its certificate, which it shows in mTLS alone"


def _check_callers(sections: Sections) -> Iterator[Problem]:
    mesh = sections.mesh
    if mesh is None:
        return
    for name, service in mesh.services.items():
        for index, caller in enumerate(service.callers or []):
            path = ("mesh", "services", name, "callers", f"[{index}]")
            if caller.service is not None:
                yield from _check_service(path, caller.service, mesh)
            elif caller.service_account is not None:
                yield from _check_account(path, caller.service_account, mesh)
            elif sections.istio is not None:
                yield from _check_gateway(path, caller, sections.istio)


def _check_service(path: KeyPath, reference: str, mesh: Mesh) -> Iterator[Problem]:
    namespace, _, name = reference.rpartition("/")
    service = mesh.services.get(name)
    path = (*path, "service")
    if service is None or namespace not in ("", service.namespace):
        known = [f"{other.namespace}/{key}" for key, other in mesh.services.items()]
        guess = nearest(reference, [*mesh.services, *known])
        yield Problem(
            path=path,
            what=f"{reference} is not in mesh.services",
            why="the program must know which service account it runs as, to let it through",
            fix=(f"write {guess}, or " if guess else "")
            + "name the account itself, such as serviceAccount: shop/client",
            about=(("mesh", "services", name),),
        )
        return
    account = (service.namespace, service.service_account)
    sharing = [
        key
        for key, other in mesh.services.items()
        if key != name and (other.namespace, other.service_account) == account
    ]
    if sharing:
        yield Problem(
            path=path,
            what=f"{name} runs as {'/'.join(account)}, and so does {', '.join(sharing)}",
            why="proxies know callers by their service account: whoever lets one in lets in all",
            fix=f"give {name} a serviceAccount of its own, here and on its pods, or write "
            f"serviceAccount: {'/'.join(account)}, which says what is let in",
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
        unknown=f"{_IDENTITY}, and pods outside the mesh have none",
        bare=f"{_IDENTITY}, and pods without a sidecar have none",
        written="{}/...",
    )


def _check_gateway(path: KeyPath, caller: Caller, istio: Istio) -> Iterator[Problem]:
    known = sorted(istio.gateways)
    if caller.gateway not in known:
        guess = nearest(str(caller.gateway), known)
        yield Problem(
            path=(*path, "gateway"),
            what=f"there is no gateway {caller.gateway}",
            why=f"the gateways that istio installs here: {', '.join(known) or 'none'}",
            fix=f"write {guess}" if guess else "install it, or remove this caller",
            about=(("istio", "profile"), ("istio", "ingressGateways"), ("istio", "egressGateways")),
        )


def _check_selectors(sections: Sections) -> Iterator[Problem]:
    if sections.mesh is None:
        return
    selected: dict[tuple[str, frozenset[tuple[str, str]]], str] = {}
    for name, service in _declared(sections.mesh):
        labels = frozenset(service.pod_labels(name).items())
        other = selected.setdefault((service.namespace, labels), name)
        if other != name:
            yield Problem(
                path=("mesh", "services", name, "callers"),
                what=f"these are the pods of {other}, whose callers are declared too",
                why="a pod answers whoever one of its rules allows: the callers of each could call "
                "the other as well",
                fix=f"write all callers at mesh.services.{other}.callers, or the labels that "
                f"tell the pods apart at mesh.services.{name}.selector",
                about=(
                    ("mesh", "services", name, "selector"),
                    ("mesh", "services", other, "callers"),
                    ("mesh", "services", other, "selector"),
                ),
            )


def _check_mtls(sections: Sections) -> Iterator[Problem]:
    if sections.mesh is None:
        return
    for name, service in _declared(sections.mesh):
        place, mode = _mode(sections.mesh, name, service)
        if mode not in ("PERMISSIVE", "STRICT"):
            yield Problem(
                path=("mesh", "services", name, "callers"),
                what=f"callers are declared, and {'.'.join(place)} is {mode}",
                why=f"{_IDENTITY}; with {mode} there is none, and all callers would be refused",
                fix=f"write PERMISSIVE or STRICT at {'.'.join(place)}, or remove callers",
                about=(place,),
            )


def _check_views(sections: Sections) -> Iterator[Problem]:
    if sections.mesh is None:
        return
    for name, namespace in sections.mesh.namespaces.items():
        path = ("mesh", "namespaces", name)
        if namespace.limit_view and not namespace.injection:
            yield Problem(
                path=(*path, "limitView"),
                what="limitView is asked for a namespace without sidecars",
                why="it limits what the sidecars know, and there are none",
                fix="write injection: true, or remove limitView",
                about=((*path, "injection"),),
            )
        elif namespace.calls and not namespace.limit_view:
            yield Problem(
                path=(*path, "calls"),
                what="calls is written without limitView: true",
                why="without a limit the namespace's proxies know every service anyway, and the "
                "list would be without effect",
                fix="write limitView: true, or remove calls",
                about=((*path, "limitView"),),
            )


def warnings(config: StackConfig) -> Iterator[str]:
    """What the author should know of a stack that is right."""
    mesh = config.mesh
    declared = dict(_declared(mesh))
    open_to_plaintext = [
        name for name, service in declared.items() if _mode(mesh, name, service)[1] == "PERMISSIVE"
    ]
    if open_to_plaintext:
        yield (
            f"{', '.join(open_to_plaintext)}: callers are declared, so callers in plaintext are "
            "refused, though mTLS is PERMISSIVE there: they show no certificate"
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
            f"callers run as {', '.join(shared)}, which every pod of that namespace has that names "
            "no service account: those pods are let in as well. Give the callers a serviceAccount "
            "of their own"
        )


def _allowed_services(mesh: Mesh, declared: dict[str, Service]) -> Iterator[Service]:
    for service in declared.values():
        for caller in service.callers or []:
            if caller.service is not None:
                yield mesh.services[caller.service.split("/")[-1]]


def _declared(mesh: Mesh) -> Iterator[tuple[str, Service]]:
    """The services whose callers are declared."""
    for name, service in mesh.services.items():
        if service.callers is not None:
            yield name, service


def _mode(mesh: Mesh, name: str, service: Service) -> tuple[KeyPath, str]:
    """The mTLS mode that a service is called with, and where it is written."""
    if service.mtls is not None and service.mtls.mode is not None:
        return ("mesh", "services", name, "mtls", "mode"), service.mtls.mode
    namespace = mesh.namespaces.get(service.namespace)
    if namespace is not None and namespace.mtls is not None:
        return ("mesh", "namespaces", service.namespace, "mtls"), namespace.mtls
    return ("mesh", "mtls"), mesh.mtls


CHECKS = (_check_callers, _check_selectors, _check_mtls, _check_views)
