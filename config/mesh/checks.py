"""Checks of the mesh's namespaces, and of what the demo needs of the mesh."""

import re
from collections.abc import Collection, Iterator

from config import DEMO_NAMESPACE, DEMO_SERVICE, OUTSIDE_NAMESPACE, Mesh, Service
from config.errors import KeyPath, Problem, nearest, one_of
from config.scalars.names import DEFAULT_NAMESPACE, DNS_LABEL, SYSTEM_NAMESPACES
from config.sections import Sections


def _check_namespaces(sections: Sections) -> Iterator[Problem]:
    if sections.mesh is None:
        return
    for name, namespace in sections.mesh.namespaces.items():
        path = ("mesh", "namespaces", name)
        if name == DEFAULT_NAMESPACE and namespace.use_default is None:
            yield Problem(
                code="default-namespace-reason-missing",
                path=path,
                what="the namespace default has no reason",
                why="every object that names no namespace goes there, and would join the mesh",
                fix="rename it to a namespace of your own; if you mean default, add useDefault: "
                "<a reason>",
                about=((*path, "useDefault"),),
            )
        elif name != DEFAULT_NAMESPACE and namespace.use_default is not None:
            yield Problem(
                code="default-namespace-reason-unneeded",
                path=(*path, "useDefault"),
                what=f"useDefault is set for the namespace {name}",
                why="a reason for something that is not done misleads reviewers",
                fix="remove useDefault",
            )
        elif _is_system(name):
            yield Problem(
                code="namespace-system",
                path=path,
                what=f"{name} is a system namespace",
                why="sidecars or STRICT in it can stop the cluster's own components, and "
                "nordmesh would take over the namespace",
                fix="remove it, and list only the namespaces of your applications",
            )
        elif namespace.mtls == "STRICT" and not namespace.injection:
            yield Problem(
                code="namespace-strict-without-sidecars",
                path=(*path, "mtls"),
                what="STRICT is set for a namespace without sidecars",
                why="the sidecar refuses plaintext; without sidecars nothing is refused",
                fix="set injection: true, or remove mtls",
                about=((*path, "injection"),),
            )


def _is_system(namespace: str) -> bool:
    is_named = namespace in SYSTEM_NAMESPACES or namespace.startswith("kube-")
    return is_named and namespace != DEFAULT_NAMESPACE


def joining(namespace: str, others: Collection[str], keys: str = "") -> str:
    """The fix of a namespace that is not in the mesh.

    others: those that may be used instead. keys: what the namespace needs in the mesh.
    """
    if _is_system(namespace) or not re.fullmatch(DNS_LABEL, namespace):
        return one_of(others) if others else "use a namespace of your applications"
    if namespace == DEFAULT_NAMESPACE:
        return "use a namespace of your own, or add default with useDefault to mesh.namespaces"
    return f"add {namespace}{keys} to mesh.namespaces"


def _check_pod_security(sections: Sections) -> Iterator[Problem]:
    if sections.mesh is None:
        return
    for name, namespace in sections.mesh.namespaces.items():
        settings, path = namespace.pod_security, ("mesh", "namespaces", name, "podSecurity")
        if settings is None:
            continue
        if namespace.injection:
            yield Problem(
                code="pod-security-with-sidecars",
                path=path,
                what=f"podSecurity is set for {name}, whose pods get a sidecar",
                why="the sidecar's init container needs NET_ADMIN and NET_RAW, which baseline and "
                "restricted refuse: no pod would start",
                fix="remove podSecurity; if the pods need no sidecar, set injection: false",
                about=((*path[:-1], "injection"),),
            )
        elif settings.level == "privileged" and settings.reason is None:
            yield Problem(
                code="privileged-reason-missing",
                path=path,
                what="the level privileged has no reason",
                why="a pod of the namespace could take over its node, and with it every Secret and "
                "volume there",
                fix="set level to baseline, or add reason: <why these pods need more>",
                about=((*path, "level"), (*path, "reason")),
            )
        elif settings.level != "privileged" and settings.reason is not None:
            yield Problem(
                code="privileged-reason-unneeded",
                path=(*path, "reason"),
                what=f"a reason for privileged pods is set, but the level is {settings.level}",
                why="a reason for something that is not done misleads reviewers",
                fix="remove reason",
                about=((*path, "level"),),
            )


_DEMO_WHY = f"the demo deploys {DEMO_SERVICE} in two versions into {DEMO_NAMESPACE}"
_NO_DEMO = "or set demo.enabled to false"
_DEMO_SWITCH = ("demo", "enabled")


def _check_demo(sections: Sections) -> Iterator[Problem]:
    if sections.demo is None or not sections.demo.enabled or sections.mesh is None:
        return
    home = ("mesh", "namespaces", DEMO_NAMESPACE)
    namespace = sections.mesh.namespaces.get(DEMO_NAMESPACE)
    if namespace is None or not namespace.injection:
        yield Problem(
            code="demo-namespace",
            path=home,
            what=f"the demo needs the namespace {DEMO_NAMESPACE} with injection",
            why=_DEMO_WHY,
            fix=f"add {DEMO_NAMESPACE}: {{injection: true, mtls: STRICT}} to "
            f"mesh.namespaces, {_NO_DEMO}",
            about=((*home, "injection"), _DEMO_SWITCH),
        )
    yield from _check_demo_service(sections.mesh.services.get(DEMO_SERVICE))
    if OUTSIDE_NAMESPACE in sections.mesh.namespaces:
        yield Problem(
            code="demo-outside-namespace",
            path=("mesh", "namespaces", OUTSIDE_NAMESPACE),
            what=f"the demo creates the namespace {OUTSIDE_NAMESPACE} itself",
            why="its client without a sidecar runs there, to show that plaintext is refused",
            fix=f"rename your namespace, {_NO_DEMO}",
            about=(_DEMO_SWITCH,),
        )


def _check_demo_service(service: Service | None) -> Iterator[Problem]:
    service_path = ("mesh", "services", DEMO_SERVICE)
    if (
        service is None
        or service.canary is None
        or service.namespace != DEMO_NAMESPACE
        or service.kubernetes_name(DEMO_SERVICE) != DEMO_SERVICE
    ):
        yield Problem(
            code="demo-service",
            path=service_path,
            what=f"the demo needs the service {DEMO_SERVICE} in {DEMO_NAMESPACE} with a canary",
            why=_DEMO_WHY,
            fix=f"add {DEMO_SERVICE}: {{namespace: {DEMO_NAMESPACE}, port: 8080, stable: "
            f"v1, canary: {{subset: v2, weight: 10}}}} to mesh.services, {_NO_DEMO}",
            about=(
                (*service_path, "canary"),
                (*service_path, "namespace"),
                (*service_path, "service"),
                _DEMO_SWITCH,
            ),
        )
    elif service.port is None:
        yield Problem(
            code="demo-ports",
            path=(*service_path, "ports"),
            what=f"the demo's {DEMO_SERVICE} must have one port, not several",
            why=f"{_DEMO_WHY}, and calls them on that port",
            fix=f"set port: 8080 instead, {_NO_DEMO}",
            about=(_DEMO_SWITCH,),
        )
    elif service.protocol != "http":
        yield Problem(
            code="demo-protocol",
            path=(*service_path, "protocol"),
            what=f"the demo's {DEMO_SERVICE} must speak http, not {service.protocol}",
            why=f"{_DEMO_WHY}, on a port named http-echo",
            fix=f"remove protocol, {_NO_DEMO}",
            about=(_DEMO_SWITCH,),
        )
    elif service.selector not in (None, {"app": DEMO_SERVICE}):
        yield Problem(
            code="demo-selector",
            path=(*service_path, "selector"),
            what="the selector does not select the demo's pods, which have the label "
            f"app: {DEMO_SERVICE}",
            why=f"{_DEMO_WHY}, and gives their pods that label",
            fix=f"remove selector, {_NO_DEMO}",
            about=(_DEMO_SWITCH,),
        )


def check_injected(
    path: KeyPath,
    namespace: str,
    mesh: Mesh | None,
    *,
    unknown: str,
    bare: str,
    written: str = "{}",
    otherwise: str = "",
) -> Iterator[Problem]:
    """Yield the problem of a namespace that is not in the mesh, or has no sidecars.

    unknown, bare: why each matters. written: the value at the path, with {} for the namespace.
    otherwise: another fix for missing sidecars.
    """
    namespaces = mesh.namespaces if mesh is not None else {}
    declared = ("mesh", "namespaces", namespace)
    if namespace not in namespaces:
        others = [name for name, settings in namespaces.items() if settings.injection]
        guess = nearest(namespace, others)
        yield Problem(
            code="namespace-not-in-mesh",
            path=path,
            what=f"the namespace {namespace} is not in mesh.namespaces",
            why=unknown,
            fix=(f"use {written.format(guess)}, or " if guess else "")
            + joining(namespace, others, ": {injection: true}"),
            about=(declared,),
        )
    elif not namespaces[namespace].injection:
        yield Problem(
            code="namespace-without-sidecars",
            path=path,
            what=f"the namespace {namespace} has injection: false",
            why=bare,
            fix=f"set mesh.namespaces.{namespace}.injection to true{otherwise}",
            about=((*declared, "injection"),),
        )


def warnings(mesh: Mesh) -> Iterator[str]:
    """The warnings of what a namespace allows with a reason."""
    for name, namespace in mesh.namespaces.items():
        if namespace.use_default is not None:
            yield (
                f"mesh.namespaces.{name}: objects that name no namespace join the mesh: "
                f"{namespace.use_default}"
            )
        if namespace.pod_security is not None and namespace.pod_security.reason is not None:
            yield (
                f"mesh.namespaces.{name}: its pods may be privileged, and take over their node: "
                f"{namespace.pod_security.reason}"
            )


CHECKS = (_check_namespaces, _check_pod_security, _check_demo)
