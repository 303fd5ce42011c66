"""`python -m cli.mirror`: fill a directory and a registry with all that nodes download.

--dir gets the binaries, laid out as <dir>/<official host>/<official path>, for any web server to
serve (nordmesh:artifacts.mirror); --registry gets the images, each below its official host's name
(nordmesh:artifacts.registry). All of it must be what the lock file says. A second run does only
what is missing; a download that was cut off goes on where it was.
"""

import argparse
import contextlib
import fcntl
import hashlib
import http.client
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from cli import registry
from cli.explain import explain
from cli.registry import Client, RegistryError
from config import StackConfig, catalogue, stack_file
from config.catalogue import Download, Lock, LockError

Say = Callable[[str], None]

PROJECT = Path(__file__).resolve().parents[1]

_ATTEMPTS = 5
_BLOCK = 2**20
_SAY_SECONDS = 5.0
_TIMEOUT = 60
_BUSY = (408, 425, 429)


class MirrorError(Exception):
    """An artifact that cannot be had, or is not what the lock says; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is to be had: binaries, and images for some architectures."""

    downloads: tuple[Download, ...]
    images: tuple[str, ...]
    architectures: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Done:
    """What became of one artifact: its size in bytes, and whether anything was copied."""

    size: int
    is_new: bool
    note: str = ""


# --- what is wanted ------------------------------------------------------------------------------


def of_stack(config: StackConfig, architectures: Iterable[str] = ()) -> Wanted:
    """What the nodes of a stack need, for their own architectures or for given ones."""
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
    return Wanted(downloads=tuple(downloads), images=tuple(images), architectures=kinds)


def of_catalogue(architectures: Iterable[str] = ()) -> Wanted:
    """What the nodes of any stack need, without the demo's image."""
    kinds = tuple(sorted(architectures or catalogue.ARCHITECTURES))
    everything = catalogue.all_downloads()
    return Wanted(
        downloads=tuple(x for x in everything if any(kind in x.key for kind in kinds)),
        images=tuple(catalogue.all_images()),
        architectures=kinds,
    )


def unknown(wanted: Wanted, lock: Lock, *, binaries: bool, images: bool) -> list[str]:
    """What the lock has no checksum or digest of, of what is to be copied."""
    missing = [download.key for download in lock.missing(wanted.downloads)] if binaries else []
    if images:
        missing += [
            f"{image} ({kind})"
            for image in wanted.images
            for kind in wanted.architectures
            if lock.digest(image, kind) is None
        ]
    return missing


# --- binaries ------------------------------------------------------------------------------------


def copy_file(url: str, sha256: str, target: Path, say: Say) -> Done:
    """Download a file unless it is there; raises MirrorError.

    It is written beside its place and moved there when its checksum is right.
    """
    if target.is_file() and _sha256(target) == sha256:
        return Done(size=target.stat().st_size, is_new=False)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    with partial.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MirrorError(f"another run is writing {partial}; wait for it") from None
        had = file.seek(0, 2)
        if not had or _sha256(partial) != sha256:
            had = _download(url, sha256, file, partial, say)
        size = file.seek(0, 2)
        partial.chmod(0o644)
        partial.replace(target)
    return Done(size=size, is_new=True, note=f"went on from {_megabytes(had)}" if had else "")


def _download(url: str, sha256: str, file: IO[bytes], partial: Path, say: Say) -> int:
    """Fill a file until its checksum is right; says where the last piece of it began."""
    begun_at = _fetch(url, file, say)
    if begun_at and _sha256(partial) != sha256:
        # The beginning may have been another file's: once more, in one piece.
        file.truncate(0)
        begun_at = _fetch(url, file, say)
    got = _sha256(partial)
    if got != sha256:
        file.truncate(0)
        raise MirrorError(
            f"{url} serves another file: its sha256 is {got}, the lock file says {sha256}; "
            "nothing was kept"
        )
    return begun_at


def _fetch(url: str, file: IO[bytes], say: Say) -> int:
    """Download what a file lacks, however often it is cut off; says where the last piece began."""
    failures = 0
    while True:
        end = file.seek(0, 2)
        try:
            return _append(url, file, say)
        except urllib.error.HTTPError as error:
            if error.code == 416:
                file.truncate(0)
            elif error.code < 500 and error.code not in _BUSY:
                raise MirrorError(f"{url} answers {error.code} {error.reason}") from None
            problem = f"{error.code} {error.reason}"
        except (OSError, http.client.HTTPException) as error:
            problem = str(error) or type(error).__name__
        came = file.seek(0, 2)
        failures = 1 if came > end + _BLOCK else failures + 1
        if failures == _ATTEMPTS:
            raise MirrorError(
                f"{url} failed {_ATTEMPTS} times, the last by: {problem}; {_megabytes(came)} are "
                "kept, and the next run goes on from there"
            )
        say(f"      cut off at {_megabytes(came)} ({problem}); goes on")
        time.sleep(2.0**failures / 4)


def _append(url: str, file: IO[bytes], say: Say) -> int:
    """One request for what a file lacks, or for all of it; says where the answer begins."""
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
        said, end = time.monotonic(), first
        while block := response.read1(_BLOCK):
            _write(file, block)
            end += len(block)
            if time.monotonic() - said > _SAY_SECONDS:
                said = time.monotonic()
                say(f"      {_megabytes(end)}{f' of {_megabytes(total)}' if total else ''}")
        if total is not None and end < total:
            raise ConnectionError(f"the server ended after {end} of {total} bytes")
    return first


def _write(file: IO[bytes], block: bytes) -> None:
    try:
        file.write(block)
        file.flush()
    except OSError as error:
        raise MirrorError(f"{file.name} cannot be written: {error.strerror}") from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- images --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Images:
    """Copies images between registries. source: where from, None for their own registries."""

    client: Client
    source: str | None
    target: str

    def copy(self, reference: str, digests: Mapping[str, str]) -> Done:
        """Copy an image's manifests (digests by architecture), unless they are there.

        Its tag then stands for an index of them, and of those of other architectures that it stood
        for. Raises MirrorError.
        """
        repository, tag = registry.split(reference)
        source = registry.place(repository, self.source)
        target = registry.place(repository, self.target)
        size, is_new, entries = 0, False, {}
        for architecture, digest in digests.items():
            found = self.client.find(target, digest)
            if found is None:
                self._copy_one(source, target, digest)
                found = self.client.manifest(target, digest)
                is_new = True
            size += found.size
            entries[architecture] = registry.entry_of(found, architecture)
        was = self.client.find(target, tag)
        others = was.platforms() if was is not None and was.is_index else {}
        index = registry.index_of((others | entries)[name] for name in sorted(others | entries))
        if was is None or was.digest != index.digest:
            self.client.put(target, tag, index)
            is_new = True
        return Done(size=size, is_new=is_new)

    @staticmethod
    def _copy_one(source: registry.Place, target: registry.Place, digest: str) -> None:
        command = [
            "skopeo", "copy", "--quiet", "--insecure-policy", "--preserve-digests",
            "--retry-times=3",
            f"--src-tls-verify={str(source.is_encrypted).lower()}",
            f"--dest-tls-verify={str(target.is_encrypted).lower()}",
            f"docker://{source}@{digest}", f"docker://{target}@{digest}",
        ]  # fmt: skip
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            words = result.stderr.strip().splitlines()[-1:] or ["it gives no reason"]
            raise MirrorError(f"skopeo cannot copy {source}@{digest}: {words[0]}")


# --- the command ---------------------------------------------------------------------------------


def _tasks(
    options: argparse.Namespace, wanted: Wanted, lock: Lock, say: Say
) -> Iterator[tuple[str, Callable[[], Done]]]:
    """What is to be done, each with its name."""
    if options.dir is not None:
        for download in wanted.downloads:
            url = download.url if options.base is None else f"{options.base}/{download.key}"
            target = options.dir / download.key
            sha256 = lock.binaries[download.key]
            yield download.key, lambda u=url, s=sha256, t=target: copy_file(u, s, t, say)  # type: ignore[misc]
    if options.registry is not None:
        images = Images(
            client=Client.with_logins(), source=options.from_registry, target=options.registry
        )
        for image in wanted.images:
            digests = {kind: lock.images[image][kind] for kind in wanted.architectures}
            yield image, lambda i=image, d=digests: images.copy(i, d)  # type: ignore[misc]


def _run(tasks: list[tuple[str, Callable[[], Done]]], say: Say) -> int:
    """Do all, whatever fails; returns the exit code."""
    copied: list[int] = []
    kept: list[int] = []
    failed: dict[str, str] = {}
    for number, (name, task) in enumerate(tasks, 1):
        say(f"[{number}/{len(tasks)}] {name}")
        try:
            done = task()
        except (MirrorError, RegistryError, OSError) as error:
            failed[name] = str(error)
            say(f"      FAILED: {error}")
            continue
        (copied if done.is_new else kept).append(done.size)
        words = [_megabytes(done.size), "copied" if done.is_new else "is there", done.note]
        say(f"      {', '.join(word for word in words if word)}")
    say(
        f"{len(copied)} copied ({_megabytes(sum(copied))}), {len(kept)} were there "
        f"({_megabytes(sum(kept))}), {len(failed)} failed"
    )
    for name, reason in failed.items():
        print(f"FAILED {name}: {reason}", file=sys.stderr)
    return 1 if failed else 0


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _address(value: str) -> str:
    try:
        return registry.address(value)
    except RegistryError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cli.mirror",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--stack", help="what the nodes of this stack need")
    what.add_argument("--all", action="store_true", help="what any stack needs, every version")
    parser.add_argument("--dir", type=Path, help="the directory that gets the binaries")
    parser.add_argument("--registry", type=_address, help="the registry that gets the images")
    parser.add_argument(
        "--platform",
        action="append",
        default=[],
        choices=catalogue.ARCHITECTURES,
        help="an architecture; may be given twice (default: those of the stack's nodes)",
    )
    parser.add_argument("--lock", type=Path, help="the lock file (default: the stack's)")
    parser.add_argument(
        "--base", type=_address, help="a mirror to take the binaries from (default: upstream)"
    )
    parser.add_argument(
        "--from-registry", type=_address, help="a registry to take the images from, laid out so too"
    )
    return parser


def main(arguments: list[str] | None = None, project: Path = PROJECT) -> int:
    """The command; returns its exit code: 1 if something could not be had."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.dir is None and options.registry is None:
        parser.error("say where to: --dir for the binaries, --registry for the images, or both")
    if options.registry is not None and shutil.which("skopeo") is None:
        parser.error("skopeo is missing, which copies images: apt-get install skopeo")
    try:
        wanted, path = _wanted(options, project)
        lock = catalogue.read_lock(path)
    except stack_file.Unreadable as error:
        print(error, file=sys.stderr)
        return 1
    except LockError as error:
        print(f"{path}: {error}", file=sys.stderr)
        return 1
    binaries, images = options.dir is not None, options.registry is not None
    if missing := unknown(wanted, lock, binaries=binaries, images=images):
        print(
            f"{path} has no checksum of:\n  " + "\n  ".join(missing) + "\n"
            "Nothing was copied, since it could not be held against anything. Run `make lock`, "
            "review what it adds, and run this again.",
            file=sys.stderr,
        )
        return 1

    def say(line: str) -> None:
        print(line, flush=True)

    with contextlib.suppress(KeyboardInterrupt):
        return _run(list(_tasks(options, wanted, lock, say)), say)
    print("stopped; run it again and it goes on from here", file=sys.stderr)
    return 130


def _wanted(options: argparse.Namespace, project: Path) -> tuple[Wanted, Path]:
    """What is to be copied, and the lock that it is held against."""
    if options.all:
        return of_catalogue(options.platform), options.lock or catalogue.DEFAULT_LOCK
    explained = explain(options.stack, project)
    if explained.config is None:
        problems = "\n\n".join(map(str, explained.problems))
        raise stack_file.Unreadable(
            "the stack file has errors; fix them first",
            code="mirror-stack-invalid",
            path=f"Pulumi.{options.stack}.yaml",
            details=problems,
        )
    config = explained.config
    return of_stack(config, options.platform), options.lock or project / config.artifacts.lock


if __name__ == "__main__":
    sys.exit(main())
