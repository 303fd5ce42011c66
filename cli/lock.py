"""`python -m cli.lock`: record upstream's published checksums of what the catalogue lists.

Of a binary it is the sha256 that is published beside it; of an image the digest that its registry
gives, for each architecture. Adds what the lock lacks and prints it for review; never changes an
entry that is there, so that a checksum which upstream changed afterwards is found, not followed.
"""

import argparse
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path

from cli import registry
from cli.registry import Client, RegistryError
from config import catalogue

Fetch = Callable[[str], str]


def checksum_of(download: catalogue.Download, published: str) -> str:
    """The sha256 of a download in what is published: hex alone, or lines of hex and a file's name.

    Other lines are those of a signature around them. LockError if it is not there.
    """
    file = download.url.rpartition("/")[2]
    found: list[tuple[str, str]] = re.findall(
        r"^([0-9a-fA-F]{64})(?:[ \t]+\*?(\S+))?[ \t\r]*$", published, re.MULTILINE
    )
    if not found:
        raise catalogue.LockError(
            "what is published there is not a sha256", code="published-checksum-format"
        )
    sums = {name.rpartition("/")[2] or file: sha256.lower() for sha256, name in found}
    if file not in sums:
        raise catalogue.LockError(
            f"the sha256 published there is of {', '.join(sums)}, not of {file}",
            code="published-checksum-of-another-file",
        )
    return sums[file]


def fetch_from(base: str | None) -> Fetch:
    """A function that gets text from an https address, or from the same layout below `base`."""
    if base is not None and not re.match(r"https?://", base):
        raise catalogue.LockError(
            f"--base {base} is not an http or https address", code="base-not-a-url"
        )

    def fetch(url: str) -> str:
        address = url if base is None else f"{base.rstrip('/')}/{url.partition('://')[2]}"
        # The scheme is http or https: ours, or checked above.
        with urllib.request.urlopen(address, timeout=30) as response:  # noqa: S310
            return str(response.read(4096), "ascii")

    return fetch


def add_missing(path: Path, fetch: Fetch) -> tuple[dict[str, str], dict[str, str]]:
    """Write the checksums that the lock at path lacks; return what was added, what failed and why.

    What failed is named by the place that a checksum was to come from.
    An absent lock is made; one that cannot be read is a LockError.
    """
    lock = _read(path)
    added: dict[str, str] = {}
    failed: dict[str, str] = {}
    for download in lock.missing(catalogue.all_downloads()):
        try:
            added[download.key] = checksum_of(download, fetch(download.published))
        except (OSError, UnicodeDecodeError, catalogue.LockError) as error:
            failed[download.published] = str(error)
    if added:
        binaries = {**lock.binaries, **added}
        catalogue.write_lock(path, catalogue.Lock(binaries=binaries, images=lock.images))
    return added, failed


def digests_of(client: Client, reference: str, source: str | None) -> dict[str, str]:
    """The digest of an image for each architecture that nodes may have; RegistryError if none.

    source: a registry that holds it below its official host's name, None for its own.
    """
    repository, tag = registry.split(reference)
    where = registry.place(repository, source)
    found = client.manifest(where, tag)
    if found.is_index:
        digests = {name: str(entry["digest"]) for name, entry in found.platforms().items()}
    else:
        digests = {client.architecture(where, found): found.digest}
    wanted = {name: digests[name] for name in catalogue.ARCHITECTURES if name in digests}
    if not wanted:
        raise RegistryError(f"it is for {', '.join(digests) or 'nothing'} alone")
    return wanted


def add_images(
    path: Path, references: Iterable[str], source: str | None, client: Client
) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Write the digests of images that the lock lacks; return what was added, what failed, why."""
    lock = _read(path)
    added: dict[str, dict[str, str]] = {}
    failed: dict[str, str] = {}
    for reference in references:
        if reference in lock.images:
            continue
        try:
            added[reference] = digests_of(client, reference, source)
        except RegistryError as error:
            failed[reference] = str(error)
    if added:
        images = {**lock.images, **added}
        catalogue.write_lock(path, catalogue.Lock(binaries=lock.binaries, images=images))
    return added, failed


def _read(path: Path) -> catalogue.Lock:
    return catalogue.read_lock(path) if path.exists() else catalogue.Lock(binaries={})


def _images(hub: str | None) -> list[str]:
    """The catalogue's images, with those of Istio from another hub if that is asked for."""
    official = f"{catalogue.ISTIO_HUB}/"
    images = catalogue.all_images()
    if hub is None:
        return images
    own = [f"{hub}/{x.removeprefix(official)}" for x in images if x.startswith(official)]
    return [x for x in images if not x.startswith(official)] + own


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code: 1 if a checksum could not be had."""
    parser = argparse.ArgumentParser(prog="python -m cli.lock", description=__doc__)
    parser.add_argument("--lock", type=Path, default=catalogue.DEFAULT_LOCK, help="the lock file")
    parser.add_argument(
        "--base",
        help="a mirror of the binaries, laid out as <base>/<host>/<path of the official place>",
    )
    parser.add_argument(
        "--registry",
        help="a registry that holds the images as <registry>/<official host>/<name>; with --base "
        "alone, images are left out",
    )
    parser.add_argument("--hub", help="where Istio's images are, if nordmesh:istio.hub says so")
    options = parser.parse_args(arguments)
    try:
        source = registry.address(options.registry) if options.registry else None
        added, failed = add_missing(options.lock, fetch_from(options.base))
        images, failed_images = (
            add_images(options.lock, _images(options.hub), source, Client.with_logins())
            if source or not options.base
            else ({}, {})
        )
    except (catalogue.LockError, RegistryError) as error:
        print(f"{options.lock}: {error}", file=sys.stderr)
        return 1
    for key, sha256 in sorted(added.items()):
        print(f"added {key}\n      {sha256}")
    for reference, digests in sorted(images.items()):
        print(f"added {reference}")
        for architecture, digest in sorted(digests.items()):
            print(f"      {digest} {architecture}")
    for place, reason in sorted(failed.items()):
        print(f"FAILED {place.partition('://')[2]}: {reason}", file=sys.stderr)
    for reference, reason in sorted(failed_images.items()):
        print(f"FAILED {reference}: {reason}", file=sys.stderr)
    failures = len(failed) + len(failed_images)
    print(
        f"{len(added) + len(images)} added, {failures} failed; "
        f"review the change of {options.lock.name}"
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
