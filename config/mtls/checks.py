"""Checks of the services' mTLS modes against each other."""

from collections.abc import Iterator

from config import Mesh
from config.errors import Problem
from config.sections import Sections


def _check_service_mtls(sections: Sections) -> Iterator[Problem]:
    services = sections.mesh.services if sections.mesh else {}
    selected: dict[tuple[str, frozenset[tuple[str, str]]], str] = {}
    for name, service in services.items():
        if service.mtls is None:
            continue
        path = ("mesh", "services", name, "mtls")
        is_clear = not any(place[: len(path)] == path for place in sections.broken)
        if is_clear and service.mtls.mode is None and not service.mtls.ports:
            yield Problem(
                path=path,
                what="neither mode nor ports is here",
                why="such a policy would change nothing, and a reader would think that it does",
                fix="write mode: PERMISSIVE, or ports: {9090: PERMISSIVE}, or remove mtls",
            )
        if name == "default":
            yield Problem(
                path=path,
                what="a service with the name default cannot have mTLS modes of its own",
                why="the PeerAuthentication named default is the namespace's, and would be "
                "overwritten",
                fix=f"write the mode at mesh.namespaces.{service.namespace}.mtls",
            )
        labels = frozenset(service.mtls_labels(name).items())
        other = selected.setdefault((service.namespace, labels), name)
        if other != name:
            yield Problem(
                path=(*path, "selector"),
                what=f"it selects the same pods as mesh.services.{other}.mtls",
                why="of two policies for one pod Istio takes the older, whichever that is",
                fix=f"write all modes of these pods at mesh.services.{other}.mtls",
                about=(("mesh", "services", other, "mtls", "selector"),),
            )


def warnings(mesh: Mesh) -> Iterator[str]:
    """What a preview says of a gate that is passed by."""
    if mesh.mtls_gate.override is not None:
        yield (
            "mesh.mtlsGate.override: a mode becomes STRICT without looking for plaintext; the "
            f"reason given: {mesh.mtls_gate.override}"
        )


CHECKS = (_check_service_mtls,)
