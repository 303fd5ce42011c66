"""`nordmesh mirror`: fill a directory and a registry with everything that nodes download."""

import fcntl
import hashlib
import http.client
import re
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Annotated

import typer

from cli import registry
from cli.lock import read_lock
from cli.options import OptionalStack
from cli.pulumi_cli import project, selected_stack
from config import StackConfig, catalogue
from config.catalogue import Download, Lock
from config.errors import NordmeshError
from config.load import read_stack

Say = Callable[[str], None]

_ATTEMPTS = 5
_BLOCK = 2**20
_SAY_SECONDS = 5.0
_TIMEOUT = 60
_BUSY = (408, 425, 429)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The artifacts to copy: binaries, and images for some architectures."""

    downloads: tuple[Download, ...]
    images: tuple[str, ...]
    architectures: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Done:
    """The result for an artifact: its size in bytes, and whether anything was copied."""

    size: int
    is_new: bool
    note: str = ""


# --- selection ---


def of_stack(config: StackConfig, architectures: Iterable[str] = ()) -> Selection:
    """The artifacts of a stack's nodes, for their own architectures or for given ones."""
    kinds = tuple(sorted(architectures or config.machines.architectures))
    istio, version = config.istio, config.kubernetes.version
    images = catalogue.images(
        version,
        istio.version if istio else None,
        hub=istio.hub if istio else catalogue.ISTIO_HUB,
        demo=config.demo.enabled,
    )
    if istio and config.observability.enabled:
        parts = config.observability.parts
        images += catalogue.monitoring_images(istio.version, parts).values()
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


# --- binaries ------------------------------------------------------------------------------------


def copy_file(url: str, sha256: str, target: Path, say: Say) -> Done:
    """Download a file unless it is there; raises NordmeshError.

    It is written to a temporary file beside the target, and renamed when its checksum matches.
    """
    if target.is_file() and _sha256(target) == sha256:
        return Done(size=target.stat().st_size, is_new=False)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    with partial.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NordmeshError(
                f"another run is writing {partial}", code="mirror-busy", fix="wait for it to end"
            ) from None
        had = file.seek(0, 2)
        if not had or _sha256(partial) != sha256:
            had = _download(url, sha256, file, partial, say)
        size = file.seek(0, 2)
        partial.chmod(0o644)
        partial.replace(target)
    return Done(size=size, is_new=True, note=f"continued after {_megabytes(had)}" if had else "")


def _download(url: str, sha256: str, file: IO[bytes], partial: Path, say: Say) -> int:
    """Fill a file until its checksum matches; return where the last piece began."""
    begun_at = _fetch(url, file, say)
    if begun_at and _sha256(partial) != sha256:
        # The first part may belong to another file: download it again, in one piece.
        file.truncate(0)
        begun_at = _fetch(url, file, say)
    got = _sha256(partial)
    if got != sha256:
        file.truncate(0)
        raise NordmeshError(
            f"{url} serves another file: its sha256 is {got}, the lock file says {sha256}",
            code="wrong-checksum",
            why="the file may have been tampered with; it was not kept",
            fix="find out which of the two is right before you change the lock file",
        )
    return begun_at


def _fetch(url: str, file: IO[bytes], say: Say) -> int:
    """Download the rest of a file, with retries; return where the last piece began."""
    failures = 0
    while True:
        end = file.seek(0, 2)
        try:
            return _append(url, file, say)
        except urllib.error.HTTPError as error:
            if error.code == 416:
                file.truncate(0)
            elif error.code < 500 and error.code not in _BUSY:
                raise NordmeshError(
                    f"{url} answers with status {error.code} {error.reason}", code="download-failed"
                ) from None
            problem = f"{error.code} {error.reason}"
        except (OSError, http.client.HTTPException) as error:
            problem = str(error) or type(error).__name__
        came = file.seek(0, 2)
        failures = 1 if came > end + _BLOCK else failures + 1
        if failures == _ATTEMPTS:
            raise NordmeshError(
                f"{url} failed {_ATTEMPTS} times, the last time with: {problem}",
                code="download-failed",
                fix=f"run the command again; it continues after the first {_megabytes(came)}",
            )
        say(f"      cut off at {_megabytes(came)} ({problem}); continuing")
        time.sleep(2.0**failures / 4)


def _append(url: str, file: IO[bytes], say: Say) -> int:
    """Request the rest of a file, or all of it; return where the response begins."""
    first = file.seek(0, 2)
    headers = {"Range": f"bytes={first}-"} if first else {}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310  http or https, as checked
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:  # noqa: S310
        placed = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        if response.status != 206 or placed is None or int(placed[1]) != first:
            file.truncate(0)
            first = 0
        length = response.headers.get("Content-Length")
        total = first + int(length) if length else None
        reported, end = time.monotonic(), first
        while block := response.read1(_BLOCK):
            _write(file, block)
            end += len(block)
            if time.monotonic() - reported > _SAY_SECONDS:
                reported = time.monotonic()
                say(f"      {_megabytes(end)}{f' of {_megabytes(total)}' if total else ''}")
        if total is not None and end < total:
            raise ConnectionError(f"the server ended after {end} of {total} bytes")
    return first


def _write(file: IO[bytes], block: bytes) -> None:
    try:
        file.write(block)
        file.flush()
    except OSError as error:
        raise NordmeshError(
            f"the file cannot be written: {error.strerror}", code="disk-full", path=str(file.name)
        ) from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
        repository, tag = registry.split(reference)
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
        yield download.key, partial(copy_file, *arguments)


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
        words = [_megabytes(done.size), "copied" if done.is_new else "up to date", done.note]
        say(f"      {', '.join(word for word in words if word)}")
    say(
        f"{len(copied)} copied ({_megabytes(sum(copied))}), {len(kept)} were up to date "
        f"({_megabytes(sum(kept))}), {len(failed)} failed"
    )
    for name, reason in failed.items():
        print(f"FAILED {name}: {reason}", file=sys.stderr)
    return not failed


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


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
    path = lock_file or default
    lock = read_lock(path)
    if missing := unknown(
        selection, lock, binaries=directory is not None, images=target is not None
    ):
        raise NordmeshError(
            f"the lock file has no checksum of {', '.join(missing)}",
            code="no-checksum",
            path=str(path),
            why="a copy could not be verified; nothing was copied",
            fix="run `nordmesh lock`, review what it adds, and run this again",
        )

    def say(line: str) -> None:
        print(line, flush=True)

    tasks: list[Task] = []
    if directory is not None:
        tasks += _downloads(selection, lock, directory, base, say)
    if target is not None:
        images = Images(source=source, target=target)
        tasks += _images(selection, lock, images)
    if not _run(tasks, say):
        raise typer.Exit(1)
