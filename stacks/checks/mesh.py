"""Checks of the mesh's namespaces and services, and of what the demo needs of them."""

from collections.abc import Iterator

from stacks.config import DEMO_NAMESPACE, DEMO_SERVICE, OUTSIDE_NAMESPACE
from stacks.errors import Problem, nearest
from stacks.fields import SYSTEM_NAMESPACES
from stacks.sections import Sections


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
                instead="remove it, and list the namespaces of your applications only",
            )
        elif namespace.mtls == "STRICT" and not namespace.injection:
            yield Problem(
                path=(*path, "mtls"),
                what="STRICT is asked for a namespace without sidecars",
                why="the sidecar is what refuses plaintext; without it nothing would be refused",
                instead="write injection: true, or remove mtls",
                about=((*path, "injection"),),
            )


def _check_services(sections: Sections) -> Iterator[Problem]:
    if sections.mesh is None:
        return
    for name, service in sections.mesh.services.items():
        path = ("mesh", "services", name)
        namespace = sections.mesh.namespaces.get(service.namespace)
        declared = ("mesh", "namespaces", service.namespace)
        if namespace is None:
            guess = nearest(service.namespace, sections.mesh.namespaces)
            yield Problem(
                path=(*path, "namespace"),
                what=f"the namespace {service.namespace} is not in mesh.namespaces",
                why="requests are split between pods with sidecars, in a namespace of the mesh",
                instead=(f"write {guess}, or " if guess else "")
                + f"add {service.namespace}: {{injection: true}} to mesh.namespaces",
                about=(declared,),
            )
        elif not namespace.injection:
            yield Problem(
                path=(*path, "namespace"),
                what=f"the namespace {service.namespace} has injection: false",
                why="without sidecars nothing splits the requests, and the weight has no effect",
                instead=f"write injection: true at mesh.namespaces.{service.namespace}",
                about=((*declared, "injection"),),
            )
        if service.canary is not None and service.canary.subset == service.stable:
            yield Problem(
                path=(*path, "canary", "subset"),
                what=f"the canary is {service.stable}, which is the stable subset too",
                why="all requests would go to one version, and setting the weight to 0 would not "
                "take a bad version out",
                instead="write the version on trial, such as v2, or remove canary",
                about=((*path, "stable"),),
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
            instead=f"write {DEMO_NAMESPACE}: {{injection: true, mtls: STRICT}} at "
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
            instead=f"write {DEMO_SERVICE}: {{namespace: {DEMO_NAMESPACE}, port: 8080, stable: v1, "
            f"canary: {{subset: v2, weight: 10}}}} at mesh.services, {off}",
            about=((*place, "canary"), (*place, "namespace"), ("demo", "enabled")),
        )
    if OUTSIDE_NAMESPACE in sections.mesh.namespaces:
        yield Problem(
            path=("mesh", "namespaces", OUTSIDE_NAMESPACE),
            what=f"the demo makes a namespace {OUTSIDE_NAMESPACE} itself",
            why="its client without a sidecar lives there, to show that plaintext is refused",
            instead=f"give your namespace another name, {off}",
            about=(("demo", "enabled"),),
        )


CHECKS = (_check_namespaces, _check_services, _check_demo)
