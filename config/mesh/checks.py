"""Checks of the mesh's namespaces, and of what the demo needs of the mesh."""

from collections.abc import Iterator

from config import DEMO_NAMESPACE, DEMO_SERVICE, OUTSIDE_NAMESPACE, Mesh
from config.errors import KeyPath, Problem, nearest
from config.scalars.names import SYSTEM_NAMESPACES
from config.sections import Sections


def _check_namespaces(sections: Sections) -> Iterator[Problem]:
    if sections.mesh is None:
        return
    for name, namespace in sections.mesh.namespaces.items():
        path = ("mesh", "namespaces", name)
        if name in SYSTEM_NAMESPACES or name.startswith("kube-"):
            yield Problem(
                path=path,
                what=f"{name} is a system namespace",
                why="sidecars or STRICT there can stop the cluster's own parts, and the program "
                "would come to own the namespace; `default` is where anything without a "
                "namespace lands",
                fix="remove it, and list the namespaces of your applications only",
            )
        elif namespace.mtls == "STRICT" and not namespace.injection:
            yield Problem(
                path=(*path, "mtls"),
                what="STRICT is asked for a namespace without sidecars",
                why="the sidecar is what refuses plaintext; without it nothing would be refused",
                fix="write injection: true, or remove mtls",
                about=((*path, "injection"),),
            )


def _check_demo(sections: Sections) -> Iterator[Problem]:
    if sections.demo is None or not sections.demo.enabled or sections.mesh is None:
        return
    why = f"the demo deploys {DEMO_SERVICE} in two versions into {DEMO_NAMESPACE}"
    off = "or set demo.enabled to false"
    home = ("mesh", "namespaces", DEMO_NAMESPACE)
    namespace = sections.mesh.namespaces.get(DEMO_NAMESPACE)
    if namespace is None or not namespace.injection:
        yield Problem(
            path=home,
            what=f"the demo needs the namespace {DEMO_NAMESPACE} with injection",
            why=why,
            fix=f"write {DEMO_NAMESPACE}: {{injection: true, mtls: STRICT}} at "
            f"mesh.namespaces, {off}",
            about=((*home, "injection"), ("demo", "enabled")),
        )
    place = ("mesh", "services", DEMO_SERVICE)
    service = sections.mesh.services.get(DEMO_SERVICE)
    if service is None or service.canary is None or service.namespace != DEMO_NAMESPACE:
        yield Problem(
            path=place,
            what=f"the demo needs the service {DEMO_SERVICE} in {DEMO_NAMESPACE} with a canary",
            why=why,
            fix=f"write {DEMO_SERVICE}: {{namespace: {DEMO_NAMESPACE}, port: 8080, stable: v1, "
            f"canary: {{subset: v2, weight: 10}}}} at mesh.services, {off}",
            about=((*place, "canary"), (*place, "namespace"), ("demo", "enabled")),
        )
    elif service.protocol != "http":
        yield Problem(
            path=(*place, "protocol"),
            what=f"the demo's {DEMO_SERVICE} speaks http, not {service.protocol}",
            why=f"{why}, on a port named http-echo",
            fix=f"remove protocol, {off}",
            about=(("demo", "enabled"),),
        )
    elif service.selector not in (None, {"app": DEMO_SERVICE}):
        yield Problem(
            path=(*place, "selector"),
            what=f"the demo's {DEMO_SERVICE} has the label app: {DEMO_SERVICE}",
            why=f"{why}, and selects them by that label",
            fix=f"remove selector, {off}",
            about=(("demo", "enabled"),),
        )
    if OUTSIDE_NAMESPACE in sections.mesh.namespaces:
        yield Problem(
            path=("mesh", "namespaces", OUTSIDE_NAMESPACE),
            what=f"the demo makes a namespace {OUTSIDE_NAMESPACE} itself",
            why="its client without a sidecar lives there, to show that plaintext is refused",
            fix=f"give your namespace another name, {off}",
            about=(("demo", "enabled"),),
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
    """The problem of a namespace that is not in the mesh, or is there without sidecars.

    unknown, bare: why either matters. written: how the right namespace is written at the path.
    otherwise: what else would mend missing sidecars.
    """
    namespaces = mesh.namespaces if mesh is not None else {}
    declared = ("mesh", "namespaces", namespace)
    if namespace not in namespaces:
        guess = nearest(namespace, namespaces)
        yield Problem(
            path=path,
            what=f"the namespace {namespace} is not in mesh.namespaces",
            why=unknown,
            fix=(f"write {written.format(guess)}, or " if guess else "")
            + f"add {namespace}: {{injection: true}} to mesh.namespaces",
            about=(declared,),
        )
    elif not namespaces[namespace].injection:
        yield Problem(
            path=path,
            what=f"the namespace {namespace} has injection: false",
            why=bare,
            fix=f"write injection: true at mesh.namespaces.{namespace}{otherwise}",
            about=((*declared, "injection"),),
        )


CHECKS = (_check_namespaces, _check_demo)
