"""Select the artifacts that a stack runs, so that `make up` builds no others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from config import catalogue
from config.sections import Sections
from lab import images
from lab.images import Image
from lab.programs import CLUSTER, ISTIO, IstioRelease, Program


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Images, and downloads of nodes by their official URL without the scheme."""

    images: tuple[Image, ...]
    downloads: tuple[str, ...]

    @property
    def programs(self) -> tuple[Program, ...]:
        """The programs that these are made of."""
        files = {name for image in self.images for name in image.files.values()}
        files.update(name for url in self.downloads for name in images.built_files(url))
        return tuple(p for p in CLUSTER if f"{p.group}/{p.name}" in files)

    @property
    def istio_releases(self) -> tuple[IstioRelease, ...]:
        """The releases of Istio among them."""
        groups = {program.group for program in self.programs}
        return tuple(release for release in ISTIO if release.group in groups)


EVERYTHING = Selection(images=images.ALL, downloads=tuple(images.MIRRORED))


def of_stack(values: Mapping[str, object], project: Path) -> Selection:
    """Select the artifacts for a stack's settings; all of them if the settings are invalid."""
    sections = Sections(values, project)
    kubernetes, istio = sections.kubernetes, sections.istio
    mesh, demo, observability = sections.mesh, sections.demo, sections.observability
    storage = sections.storage
    if sections.problems or kubernetes is None or mesh is None:
        return EVERYTHING
    if demo is None or observability is None or storage is None:
        return EVERYTHING
    known = kubernetes.version in catalogue.KUBERNETES
    known = known and (istio is None or istio.version in catalogue.ISTIO)
    if not known:
        return EVERYTHING
    istio_version = istio.version if istio else None
    references = catalogue.images(
        kubernetes.version,
        istio_version,
        network_policy=mesh.network_policy,
        demo=demo.enabled,
    )
    if istio_version is not None:
        references += catalogue.monitoring_images(istio_version, observability.parts).values()
    if storage.local is not None:
        references.append(catalogue.LOCAL_STORAGE_IMAGE)
    return _selected(references, catalogue.downloads(kubernetes.version, istio_version))


def _selected(references: Iterable[str], downloads: Iterable[catalogue.Download]) -> Selection:
    wanted = set(references)
    keys = {download.key for download in downloads}
    return Selection(
        images=tuple(image for image in images.ALL if image.reference in wanted),
        downloads=tuple(url for url in images.MIRRORED if url in keys),
    )
