"""`nordmesh lock`: record the checksums that upstream publishes for everything in the catalogue."""

import re
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import typer

from cli import registry
from config import catalogue, image_references
from config.errors import NordmeshError

Fetch = Callable[[str], str]


def checksum_of(download: catalogue.Download, published: str) -> str:
    """Find the sha256 of a download in a published file: hex alone, or lines of hex and file name.

    Ignores other lines, which belong to a signature. Raises NordmeshError if it is missing.
    """
    file = download.url.rpartition("/")[2]
    matches: list[tuple[str, str]] = re.findall(
        r"^([0-9a-fA-F]{64})(?:[ \t]+\*?(\S+))?[ \t\r]*$", published, re.MULTILINE
    )
    if not matches:
        raise NordmeshError("the published file is not a sha256", code="no-published-checksum")
    sums = {name.rpartition("/")[2] or file: sha256.lower() for sha256, name in matches}
    if file not in sums:
        raise NordmeshError(
            f"the published sha256 is of {', '.join(sums)}, not of {file}",
            code="no-published-checksum",
        )
    return sums[file]


def fetch_from(base: str | None) -> Fetch:
    """Return a function that fetches text from an https address, or from the mirror `base`."""
    if base is not None:
        base = registry.address(base)

    def fetch(url: str) -> str:
        address = url if base is None else f"{base}/{url.partition('://')[2]}"
        # The scheme is http or https: ours, or checked above.
        with urllib.request.urlopen(address, timeout=30) as response:  # noqa: S310
            return str(response.read(4096), "ascii")

    return fetch


def add_missing(path: Path, fetch: Fetch) -> tuple[dict[str, str], dict[str, str]]:
    """Add missing checksums to the lock at path; return the added ones, and the errors by source.

    Creates the lock if it does not exist; raises NordmeshError if it cannot be read.
    """
    lock = _read_or_new(path)
    added: dict[str, str] = {}
    failed: dict[str, str] = {}
    for download in lock.missing(catalogue.all_downloads()):
        try:
            added[download.key] = checksum_of(download, fetch(download.published))
        except NordmeshError as error:
            failed[download.published] = error.what
        except (OSError, UnicodeDecodeError) as error:
            failed[download.published] = str(error)
    if added:
        binaries = {**lock.binaries, **added}
        catalogue.write_lock(path, catalogue.Lock(binaries=binaries, images=lock.images))
    return added, failed


def digests_of(reference: str, source: str | None) -> dict[str, str]:
    """The digest of an image for each architecture of nodes; raises NordmeshError without any.

    source: a registry that has it below its official host's name, None for the official one.
    """
    repository, tag = image_references.split(reference)
    where = registry.locate(repository, source)
    manifest = registry.manifest(where, tag)
    if manifest.is_index:
        digests = {name: str(entry["digest"]) for name, entry in manifest.platforms().items()}
    else:
        digests = {registry.architecture(where, manifest.digest): manifest.digest}
    usable = {name: digests[name] for name in catalogue.ARCHITECTURES if name in digests}
    if not usable:
        raise NordmeshError(
            f"the image supports neither {' nor '.join(catalogue.ARCHITECTURES)}, "
            f"but {', '.join(digests) or 'no architecture'}",
            code="no-architecture",
        )
    return usable


def add_images(
    path: Path, references: Iterable[str], source: str | None
) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Add missing digests of images to the lock; return the added ones, and the errors by image."""
    lock = _read_or_new(path)
    added: dict[str, dict[str, str]] = {}
    failed: dict[str, str] = {}
    for reference in references:
        if reference in lock.images:
            continue
        try:
            added[reference] = digests_of(reference, source)
        except NordmeshError as error:
            failed[reference] = error.what
    if added:
        images = {**lock.images, **added}
        catalogue.write_lock(path, catalogue.Lock(binaries=lock.binaries, images=images))
    return added, failed


def read_lock(path: Path) -> catalogue.Lock:
    """Read a lock file; raises NordmeshError."""
    try:
        return catalogue.read_lock(path)
    except NordmeshError as error:
        raise NordmeshError(
            error.what,
            code=error.code,
            path=str(path),
            fix="restore the last good version from git, or remove it and run `nordmesh lock`",
        ) from None


def _read_or_new(path: Path) -> catalogue.Lock:
    return read_lock(path) if path.exists() else catalogue.Lock(binaries={})


def _images(hub: str | None) -> list[str]:
    """The catalogue's images; hub replaces the registry of Istio's."""
    official = f"{catalogue.ISTIO_HUB}/"
    images = catalogue.all_images()
    if hub is None:
        return images
    own = [f"{hub}/{x.removeprefix(official)}" for x in images if x.startswith(official)]
    return [x for x in images if not x.startswith(official)] + own


def command(
    lock: Annotated[
        Path,
        typer.Option(help=f"The lock file. Default: {catalogue.LOCK}.", show_default=False),
    ] = catalogue.DEFAULT_LOCK,
    base: Annotated[
        str | None,
        typer.Option(help="A mirror of the binaries, laid out as <base>/<official host>/<path>."),
    ] = None,
    registry_address: Annotated[
        str | None,
        typer.Option(
            "--registry",
            help="A registry that has the images as <registry>/<official host>/<name>. With --base "
            "alone, images are skipped.",
        ),
    ] = None,
    hub: Annotated[
        str | None, typer.Option(help="Where Istio's images are, if nordmesh:istio.hub is set.")
    ] = None,
) -> None:
    """Record the checksums that upstream publishes for everything in the catalogue.

    For a binary this is the sha256 published beside it; for an image the digest of each
    architecture. Adds missing entries and prints them for review. Never changes an entry, so that
    you notice when upstream changes a checksum afterwards.
    """
    source = registry.address(registry_address) if registry_address else None
    added, failed = add_missing(lock, fetch_from(base))
    images, failed_images = (
        add_images(lock, _images(hub), source) if source or not base else ({}, {})
    )
    for key, sha256 in sorted(added.items()):
        print(f"added {key}\n      {sha256}")
    for reference, digests in sorted(images.items()):
        print(f"added {reference}")
        for architecture, digest in sorted(digests.items()):
            print(f"      {digest} {architecture}")
    for address, reason in sorted(failed.items()):
        print(f"FAILED {address.partition('://')[2]}: {reason}", file=sys.stderr)
    for reference, reason in sorted(failed_images.items()):
        print(f"FAILED {reference}: {reason}", file=sys.stderr)
    failures = len(failed) + len(failed_images)
    print(f"{len(added) + len(images)} added, {failures} failed; review the change of {lock.name}")
    if failures:
        raise typer.Exit(1)
