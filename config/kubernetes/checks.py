"""Checks and warnings of releases, and checks of the lock file."""

import datetime
from collections.abc import Iterator, Mapping

from config import Istio, Kubernetes, StackConfig, catalogue
from config.errors import NordmeshError, Problem
from config.sections import Sections


def _check_versions(sections: Sections) -> Iterator[Problem]:
    known: tuple[tuple[str, Kubernetes | Istio | None, Mapping[str, object]], ...] = (
        ("kubernetes", sections.kubernetes, catalogue.KUBERNETES),
        ("istio", sections.istio, catalogue.ISTIO),
    )
    for name, section, versions in known:
        if section is not None and section.version not in versions:
            fitting = _fitting(name, sections, versions)
            yield Problem(
                code="version-not-in-catalogue",
                path=(name, "version"),
                what=f"{section.version} is not in the catalogue",
                why="the catalogue lists the releases whose components and checksums are "
                f"known: {', '.join(versions)}",
                fix=f"use {catalogue.nearest_version(section.version, fitting)}",
            )


def _fitting(name: str, sections: Sections, versions: Mapping[str, object]) -> Mapping[str, object]:
    """The versions that fit the other section's, so that a proposal is not refused again."""
    kubernetes, istio = sections.kubernetes, sections.istio
    if istio is None or kubernetes is None or istio.allow_unsupported is not None:
        return versions
    if name == "istio" and kubernetes.version in catalogue.KUBERNETES:
        other = kubernetes.version
        fitting = {x: y for x, y in versions.items() if catalogue.supported(other, x)}
    elif name == "kubernetes" and istio.version in catalogue.ISTIO:
        other = istio.version
        fitting = {x: y for x, y in versions.items() if catalogue.supported(x, other)}
    else:
        return versions
    return fitting or versions


def _check_pair(sections: Sections) -> Iterator[Problem]:
    kubernetes, istio = _known_versions(sections) or (None, None)
    if kubernetes is None or istio is None or catalogue.supported(kubernetes, istio):
        return
    if sections.istio is None or sections.istio.allow_unsupported is not None:
        return
    first, last = catalogue.ISTIO[istio].kubernetes
    _, nearest = catalogue.nearest_pair(kubernetes, istio)
    yield Problem(
        code="version-pair-unsupported",
        path=("istio", "version"),
        what=f"Istio {istio} does not support Kubernetes {kubernetes}, only {first} to {last}",
        why="nobody tests this pair; istioctl may refuse it, or the mesh may break later",
        fix=f"use {nearest}, the nearest version that supports Kubernetes {kubernetes}, or "
        "set istio.allowUnsupported to the reason why you need this pair",
        about=(("kubernetes", "version"), ("istio", "allowUnsupported")),
    )


def _check_lock(sections: Sections) -> Iterator[Problem]:
    if sections.artifacts is None:
        return
    name = sections.artifacts.lock
    made_by_lab = name.startswith(".lab/")
    path = ("artifacts", "lock")
    why = "nodes do not install a download without a known checksum, since it could be anything"
    try:
        lock = catalogue.read_lock(sections.project_dir / name)
    except NordmeshError as error:
        yield Problem(
            code="lock-unusable",
            path=path,
            what=f"{name} cannot be used: {error.what}",
            why=why,
            fix="run `make up`, which builds the lab's artifacts and writes the file"
            if made_by_lab
            else "restore the file from git, or run `nordmesh lock` to fetch the checksums that "
            "upstream publishes",
        )
        return
    versions = _known_versions(sections)
    wanted = (
        tuple(
            download
            for architecture in sections.machines.architectures
            for download in catalogue.downloads(*versions, architecture)
        )
        if versions and sections.machines
        else ()
    )
    missing = lock.missing(wanted)
    if missing:
        yield Problem(
            code="lock-checksum-missing",
            path=path,
            what=f"{name} has no checksum of {', '.join(item.key for item in missing)}",
            why=why,
            fix="run `make up`, which builds and records what is missing"
            if made_by_lab
            else "run `nordmesh lock`, review what it adds, and commit the file",
            about=(("kubernetes", "version"), ("istio", "version")),
        )


def _check_fallback(sections: Sections) -> Iterator[Problem]:
    artifacts = sections.artifacts
    if artifacts is None or not artifacts.fallback or artifacts.mirror or artifacts.registry:
        return
    yield Problem(
        code="artifacts-fallback-unneeded",
        path=("artifacts", "fallback"),
        what="fallback is set without a mirror or a registry",
        why="without them, nodes download from the official sources anyway",
        fix="remove fallback, or set artifacts.mirror and artifacts.registry",
        about=(("artifacts", "mirror"), ("artifacts", "registry")),
    )


def _known_versions(sections: Sections) -> tuple[str, str | None] | None:
    """The versions of Kubernetes and Istio (None without a mesh), if the catalogue has both."""
    if sections.kubernetes is None or sections.kubernetes.version not in catalogue.KUBERNETES:
        return None
    if sections.istio is None:
        return (sections.kubernetes.version, None) if sections.has_no_mesh else None
    if sections.istio.version not in catalogue.ISTIO:
        return None
    return sections.kubernetes.version, sections.istio.version


def warnings(config: StackConfig, today: datetime.date) -> list[str]:
    """One line for each release and setting that is allowed but risky; previews show them."""
    kubernetes = catalogue.KUBERNETES[config.kubernetes.version]
    lines = []
    if kubernetes.end_of_life < today:
        lines.append(_unpatched("Kubernetes", kubernetes.version, kubernetes.end_of_life))
    if config.istio is not None:
        lines += _istio_warnings(config.istio, kubernetes.version, today)
    return lines


def _istio_warnings(istio: Istio, kubernetes_version: str, today: datetime.date) -> list[str]:
    release, reason = catalogue.ISTIO[istio.version], istio.allow_unsupported
    lines = []
    if release.end_of_life < today:
        lines.append(_unpatched("Istio", release.version, release.end_of_life))
    if not catalogue.supported(kubernetes_version, release.version):
        lines.append(
            f"Istio {release.version} does not support Kubernetes {kubernetes_version}; "
            f"waived by istio.allowUnsupported: {reason}"
        )
    elif reason is not None:
        lines.append("istio.allowUnsupported is not needed: the pair is supported")
    if istio.outbound_traffic_policy == "ALLOW_ANY":
        lines.append("ALLOW_ANY: pods may send data to any host, including hosts outside the EEA")
    lines += [
        f"{name} uses host ports of one node: it is unavailable for a few seconds during every "
        "update"
        for name, gateway in istio.ingress.items()
        if gateway.expose and gateway.expose.type == "HostPort" and len(gateway.nodes) == 1
    ]
    if istio.tracing.enabled:
        lines.append(
            "istio.tracing: traces contain addresses and paths; keep their collector in the EEA"
        )
    return lines


def _unpatched(name: str, version: str, end_of_life: datetime.date) -> str:
    return f"{name} {version} has had no security fixes since {end_of_life}"


CHECKS = (_check_versions, _check_pair, _check_lock, _check_fallback)
