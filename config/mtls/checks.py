"""Checks and warnings of the services' mTLS modes."""

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
        is_clear = not any(broken[: len(path)] == path for broken in sections.broken)
        if is_clear and service.mtls.mode is None and not service.mtls.ports:
            yield Problem(
                code="service-mtls-empty",
                path=path,
                what="neither mode nor ports is set",
                why="such a policy would change nothing, although a reader would think it does",
                fix="set mode: PERMISSIVE or ports: {9090: PERMISSIVE}, or remove mtls",
            )
        if "default" in (name, service.kubernetes_name(name)):
            yield Problem(
                code="service-mtls-default",
                path=path,
                what="a service named default cannot have its own mTLS modes",
                why="it would overwrite the namespace's PeerAuthentication, which is also "
                "named default",
                fix=f"set mesh.namespaces.{service.namespace}.mtls instead",
            )
        labels = frozenset(service.mtls_labels(name).items())
        other = selected.setdefault((service.namespace, labels), name)
        if other != name:
            yield Problem(
                code="service-mtls-overlap",
                path=(*path, "selector"),
                what=f"this selects the same pods as mesh.services.{other}.mtls",
                why="if two policies select the same pod, Istio applies the older one, "
                "whichever that is",
                fix=f"set all modes of these pods at mesh.services.{other}.mtls",
                about=(("mesh", "services", other, "mtls", "selector"),),
            )


def warnings(mesh: Mesh) -> Iterator[str]:
    """The warning about a waived gate."""
    if mesh.mtls_gate.override is not None:
        yield (
            "mesh.mtlsGate.override: modes become STRICT without looking for plaintext; waived: "
            f"{mesh.mtls_gate.override}"
        )


CHECKS = (_check_service_mtls,)
