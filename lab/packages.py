"""Programs that the lab takes out of Debian packages instead of building them."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from lab import paths
from lab.run import Failed, Runner

# What images need of a package; the rest is for a whole Debian.
_KEPT = ("usr/bin", "usr/share")
_DROPPED = (
    "usr/share/doc",
    "usr/share/man",
    "usr/share/lintian",
    "usr/share/javascript/moment-timezone/data",  # 200 MB that its scripts hold packed
)


@dataclass(frozen=True, kw_only=True)
class Unpacked:
    """A program from the first of its packages, unpacked below the cache's `bin`.

    The machine's apt downloads and verifies them, so they are of its release, Debian 12.
    """

    name: str
    packages: tuple[str, ...]

    def _digest(self) -> str:
        return hashlib.sha256(repr((self, _KEPT, _DROPPED)).encode()).hexdigest()

    def _stamp(self, cache: paths.Cache) -> Path:
        return cache.stamps / f"packages.{self.name}"

    def is_made(self, cache: paths.Cache) -> bool:
        """Whether the program is there and was made from these packages."""
        stamp = self._stamp(cache)
        return (
            (cache.bin / self.name).is_dir()
            and stamp.is_file()
            and stamp.read_text() == self._digest()
        )

    def make(self, cache: paths.Cache, runner: Runner) -> None:
        """Download and unpack; needs an apt that can reach its archive."""
        work = cache.build / "packages" / self.name
        shutil.rmtree(work, ignore_errors=True)
        tree = work / "tree"
        tree.mkdir(parents=True)
        self._download(work, runner)
        for archive in sorted(work.glob("*.deb")):
            runner.run(f"packages.{self.name}", ["dpkg-deb", "--extract", str(archive), str(tree)])
        for folder in _DROPPED:
            shutil.rmtree(tree / folder, ignore_errors=True)
        unfinished = cache.bin / f".{self.name}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        for folder in _KEPT:
            shutil.copytree(tree / folder, unfinished / folder, symlinks=True)
        target = cache.bin / self.name
        shutil.rmtree(target, ignore_errors=True)
        unfinished.replace(target)
        cache.stamps.mkdir(parents=True, exist_ok=True)
        self._stamp(cache).write_text(self._digest())

    def _download(self, work: Path, runner: Runner) -> None:
        # apt would drop to a user who may not write here.
        apt = ["apt-get", "-q", "-o", "APT::Sandbox::User=root"]
        label, command = f"packages.{self.name}", [*apt, "download", *self.packages]
        try:
            runner.run(label, command, cwd=work)
        except Failed:  # no index, or one that is older than the archive
            runner.check()
            runner.run(label, [*apt, "update"])
            runner.run(label, command, cwd=work)


PROMETHEUS = Unpacked(
    name="prometheus",
    packages=(
        "prometheus",
        # What the pages of its own web interface load.
        "fonts-glyphicons-halflings",
        "libjs-bootstrap4",
        "libjs-d3",
        "libjs-eonasdan-bootstrap-datetimepicker",
        "libjs-jquery",
        "libjs-jquery-hotkeys",
        "libjs-moment",
        "libjs-moment-timezone",
        "libjs-mustache",
        "libjs-popper.js",
        "libjs-rickshaw",
    ),
)
ALL = (PROMETHEUS,)
