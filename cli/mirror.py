"""`nordmesh mirror`: fill a directory and a registry with everything that nodes download."""

import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from cli import registry
from cli.download import Done, Say, fetch, megabytes
from cli.lock import read_lock
from cli.options import OptionalStack
from cli.pulumi_cli import project, selected_stack
from config import StackConfig, catalogue, image_references
from config.catalogue import Download, Lock
from config.errors import NordmeshError
from config.load import read_stack


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The artifacts to copy: binaries, and images for some architectures."""

    downloads: tuple[Download, ...]
    images: tuple[str, ...]
    architectures: tuple[str, ...]


# --- selection ---


def of_stack(config: StackConfig, architectures: Iterable[str] = ()) -> Selection:
    """The artifacts of a stack's nodes, for their own architectures or for given ones."""
    kinds = tuple(sorted(architectures or config.machines.architectures))
    istio, version = config.istio, config.kubernetes.version
    images = catalogue.images(
        version,
        istio.version if istio else None,
        hub=istio.hub if istio else catalogue.ISTIO_HUB,
        network_policy=config.mesh.network_policy,
        demo=config.demo.enabled,
    )
    if istio and config.observability.enabled:
        parts = config.observability.parts
        images += catalogue.monitoring_images(istio.version, parts).values()
    if config.storage.local is not None:
        images.append(catalogue.LOCAL_STORAGE_IMAGE)
    downloads = [
        download
        for kind in kinds
        for download in catalogue.downloads(version, istio.version if istio else None, kind)
    ]
    return Selection(downloads=tuple(downloads), images=tuple(images), architectures=kinds)


def of_catalogue(architectures: Iterable[str] = ()) -> Selection:
    """The artifacts of all possible stacks, without the demo's image."""
    kinds = tuple(sorted(architectures or catalogue.ARCHITECTURES))
    everything = catalogue.all_downloads()
    return Selection(
        downloads=tuple(x for x in everything if any(kind in x.key for kind in kinds)),
        images=tuple(catalogue.all_images()),
        architectures=kinds,
    )


def unknown(selection: Selection, lock: Lock, *, binaries: bool, images: bool) -> list[str]:
    """The artifacts whose checksum or digest is not in the lock."""
    missing = [download.key for download in lock.missing(selection.downloads)] if binaries else []
    if images:
        missing += [
            f"{image} ({kind})"
            for image in selection.images
            for kind in selection.architectures
            if lock.digest(image, kind) is None
        ]
    return missing


# --- images --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Images:
    """Copies images between registries. source: the origin, None for the official registries."""

    source: str | None
    target: str

    def copy(self, reference: str, digests: Mapping[str, str]) -> Done:
        """Copy an image's manifests (digests by architecture), unless they are there.

        Its tag then points to an index of them, which keeps the entries of other architectures.
        Raises NordmeshError.
        """
        repository, tag = image_references.split(reference)
        source = registry.locate(repository, self.source)
        target = registry.locate(repository, self.target)
        size, is_new, entries = 0, False, {}
        for architecture, digest in digests.items():
            manifest = registry.find(target, digest)
            if manifest is None:
                registry.copy(source, target, digest)
                manifest = registry.manifest(target, digest)
                is_new = True
            size += manifest.size
            entries[architecture] = registry.entry_of(manifest, architecture)
        was = registry.find(target, tag)
        others = was.platforms() if was is not None and was.is_index else {}
        index = registry.index_of((others | entries)[name] for name in sorted(others | entries))
        if was is None or was.digest != index.digest:
            registry.put(target, tag, index)
            is_new = True
        return Done(size=size, is_new=is_new)


# --- the command ---------------------------------------------------------------------------------


Task = tuple[str, Callable[[], Done]]


def _downloads(
    selection: Selection, lock: Lock, directory: Path, base: str | None, say: Say
) -> Iterator[Task]:
    """The binaries to copy, each with its name."""
    for download in selection.downloads:
        url = download.url if base is None else f"{base}/{download.key}"
        arguments = url, lock.binaries[download.key], directory / download.key, say
        yield download.key, partial(fetch, *arguments)


def _images(selection: Selection, lock: Lock, images: Images) -> Iterator[Task]:
    """The images to copy, each with its name."""
    for image in selection.images:
        digests = {kind: lock.images[image][kind] for kind in selection.architectures}
        yield image, partial(images.copy, image, digests)


def _run(tasks: list[Task], say: Say) -> bool:
    """Do all tasks, whatever fails; returns whether all succeeded."""
    copied: list[int] = []
    kept: list[int] = []
    failed: dict[str, str] = {}
    for number, (name, task) in enumerate(tasks, 1):
        say(f"[{number}/{len(tasks)}] {name}")
        try:
            done = task()
        except (NordmeshError, OSError) as error:
            failed[name] = error.what if isinstance(error, NordmeshError) else str(error)
            say(f"      FAILED: {error}")
            continue
        (copied if done.is_new else kept).append(done.size)
        words = [megabytes(done.size), "copied" if done.is_new else "up to date", done.note]
        say(f"      {', '.join(word for word in words if word)}")
    say(
        f"{len(copied)} copied ({megabytes(sum(copied))}), {len(kept)} were up to date "
        f"({megabytes(sum(kept))}), {len(failed)} failed"
    )
    for name, reason in failed.items():
        print(f"FAILED {name}: {reason}", file=sys.stderr)
    return not failed


def _address(value: str) -> str:
    try:
        return registry.address(value)
    except NordmeshError as error:
        raise typer.BadParameter(error.what) from None


def _architecture(value: str) -> str:
    if value not in catalogue.ARCHITECTURES:
        raise typer.BadParameter(f"{value!r} is not one of {', '.join(catalogue.ARCHITECTURES)}")
    return value


def command(
    stack: OptionalStack = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Copy what any stack needs, in every version.")
    ] = False,
    directory: Annotated[
        Path | None, typer.Option("--dir", help="The directory that gets the binaries.")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option("--registry", parser=_address, help="The registry that gets the images."),
    ] = None,
    platform: Annotated[
        list[str] | None,
        typer.Option(
            parser=_architecture,
            metavar="|".join(catalogue.ARCHITECTURES),
            show_default=False,
            help="An architecture; repeat it for both. Default: those of the stack's nodes.",
        ),
    ] = None,
    lock_file: Annotated[
        Path | None,
        typer.Option("--lock", show_default=False, help="The lock file. Default: the stack's."),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(parser=_address, help="A mirror to copy the binaries from."),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from-registry",
            parser=_address,
            help="A registry to copy the images from, with the same layout as --registry.",
        ),
    ] = None,
) -> None:
    """Fill a directory and a registry with everything that nodes download.

    --dir gets the binaries as <dir>/<official host>/<path>, for any web server to serve
    (nordmesh:artifacts.mirror). --registry gets the images, each below its official host's name
    (nordmesh:artifacts.registry). All of it must match the lock file. A second run copies only what
    is missing, and continues a download that was cut off.
    """
    if directory is None and target is None:
        raise typer.BadParameter("pass --dir for the binaries, --registry for the images, or both")
    if everything and stack:
        raise typer.BadParameter("pass either --stack or --all")
    if target is not None and shutil.which("skopeo") is None:
        raise registry.no_skopeo()
    if everything:
        selection, default = of_catalogue(platform or ()), catalogue.DEFAULT_LOCK
    else:
        config = read_stack(project(), stack or selected_stack()).usable()
        selection, default = of_stack(config, platform or ()), project() / config.artifacts.lock
    images = None if target is None else Images(source=source, target=target)
    _copy(selection, lock_file or default, directory=directory, base=base, images=images)


def _copy(
    selection: Selection,
    lock_file: Path,
    *,
    directory: Path | None,
    base: str | None,
    images: Images | None,
) -> None:
    """Copy the binaries, with a directory for them, and the images, with a registry for them."""
    lock = read_lock(lock_file)
    if missing := unknown(
        selection, lock, binaries=directory is not None, images=images is not None
    ):
        raise NordmeshError(
            f"the lock file has no checksum of {', '.join(missing)}",
            code="no-checksum",
            path=str(lock_file),
            why="a copy could not be verified; nothing was copied",
            fix="run `nordmesh lock`, review what it adds, and run this again",
        )

    def say(line: str) -> None:
        print(line, flush=True)

    tasks: list[Task] = []
    if directory is not None:
        tasks += _downloads(selection, lock, directory, base, say)
    if images is not None:
        tasks += _images(selection, lock, images)
    if not _run(tasks, say):
        raise typer.Exit(1)
