"""Checks of releases against the catalogue, and of the file of checksums."""

from collections.abc import Iterator, Mapping

from config import Istio, Kubernetes, catalogue
from config.errors import Problem
from config.sections import Sections


def _check_versions(sections: Sections) -> Iterator[Problem]:
    known: tuple[tuple[str, Kubernetes | Istio | None, Mapping[str, object]], ...] = (
        ("kubernetes", sections.kubernetes, catalogue.KUBERNETES),
        ("istio", sections.istio, catalogue.ISTIO),
    )
    for name, section, versions in known:
        if section is not None and section.version not in versions:
            yield Problem(
                path=(name, "version"),
                what=f"{section.version} is not in the catalogue",
                why="the catalogue holds the releases whose parts and checksums are known: "
                f"{', '.join(versions)}",
                fix=f"write {catalogue.nearest_version(section.version, versions)}",
            )


def _check_pair(sections: Sections) -> Iterator[Problem]:
    kubernetes, istio = _known_versions(sections) or (None, None)
    if kubernetes is None or istio is None or catalogue.supported(kubernetes, istio):
        return
    if sections.istio is None or sections.istio.allow_unsupported is not None:
        return
    first, last = catalogue.ISTIO[istio].kubernetes
    _, nearest = catalogue.nearest_pair(kubernetes, istio)
    yield Problem(
        path=("istio", "version"),
        what=f"Istio {istio} does not support Kubernetes {kubernetes}: it lists {first} to {last}",
        why="nobody tests this pair; istioctl may refuse it, or the mesh may break later",
        fix=f"write {nearest}, the nearest that supports Kubernetes {kubernetes}, or write why "
        "this pair is wanted in istio.allowUnsupported",
        about=(("kubernetes", "version"), ("istio", "allowUnsupported")),
    )


def _check_lock(sections: Sections) -> Iterator[Problem]:
    if sections.artifacts is None:
        return
    name = sections.artifacts.lock
    made_by_lab = name.startswith(".lab/")
    path = ("artifacts", "lock")
    why = "a download without a known checksum could be anything, and is not installed"
    try:
        lock = catalogue.read_lock(sections.project_dir / name)
    except catalogue.LockError as error:
        yield Problem(
            path=path,
            what=f"{name} cannot be used: {error}",
            why=why,
            fix="run `make up`, which builds the lab's artifacts and writes the file"
            if made_by_lab
            else "get the file back from git, or run `nordmesh lock` to fetch upstream's checksums",
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
            path=path,
            what=f"{name} has no checksum of {', '.join(item.key for item in missing)}",
            why=why,
            fix="run `make up`, which builds what is missing and records it"
            if made_by_lab
            else "run `nordmesh lock`, review what it adds, and commit the file",
            about=(("kubernetes", "version"), ("istio", "version")),
        )


def _check_fallback(sections: Sections) -> Iterator[Problem]:
    artifacts = sections.artifacts
    if artifacts is None or not artifacts.fallback or artifacts.mirror or artifacts.registry:
        return
    yield Problem(
        path=("artifacts", "fallback"),
        what="there is nothing to fall back from",
        why="without artifacts.mirror and artifacts.registry nodes ask the official places anyway",
        fix="remove it, or write artifacts.mirror and artifacts.registry",
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


CHECKS = (_check_versions, _check_pair, _check_lock, _check_fallback)
