"""The two Debian roots: one that nodes are copied from, one that images are built on."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lab import paths
from lab.run import Runner

SUITE = "bookworm"

_NODE_PACKAGES = (
    "systemd",
    "systemd-sysv",
    "dbus",
    "openssh-server",
    "nftables",
    "iptables",
    "iproute2",
    "conntrack",
    "socat",
    "ebtables",
    "ethtool",
    "haproxy",
    "kmod",
    "ca-certificates",
    "curl",
    "procps",
    "sudo",
    # Of the snapshots: a node of the lab cannot reach Debian's archive.
    "age",
    "rclone",
    "zstd",
)
_IMAGE_PACKAGES = ("iptables", "iproute2", "ipset", "conntrack", "ca-certificates")

# Raise it when the work after debootstrap changes.
_RECIPE = 1


@dataclass(frozen=True, kw_only=True)
class Root:
    """One Debian root, created by debootstrap and stripped of unnecessary files."""

    name: str
    packages: tuple[str, ...]
    place: Callable[[paths.Cache], Path]
    small: bool

    def digest(self) -> str:
        """Hash of the inputs of the root."""
        inputs = (_RECIPE, SUITE, self.name, self.packages, self.small)
        return hashlib.sha256(repr(inputs).encode()).hexdigest()

    def _stamp(self, cache: paths.Cache) -> Path:
        return cache.stamps / f"root.{self.name}"

    def is_made(self, cache: paths.Cache) -> bool:
        """Whether the root exists and was made by this recipe."""
        stamp = self._stamp(cache)
        return self.place(cache).is_dir() and stamp.is_file() and stamp.read_text() == self.digest()

    def make(self, cache: paths.Cache, runner: Runner) -> None:
        """Make the root from nothing; needs root's rights and Debian's package archive."""
        target = self.place(cache)
        partial = target.with_name(f".{target.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        # Packages that both roots have are downloaded once.
        packages = cache.build / "packages"
        packages.mkdir(parents=True, exist_ok=True)
        command = [
            # The mounts of debootstrap end with its own mount namespace,
            # even when it is killed.
            "unshare", "--mount", "--propagation", "private",
            "debootstrap", "--variant=minbase", f"--cache-dir={packages}",
            f"--include={','.join(self.packages)}", SUITE, str(partial),
        ]  # fmt: skip
        runner.run(f"root.{self.name}", command)
        if self.small:
            self._use_legacy_iptables(partial, runner)
        strip(partial, small=self.small)
        old = target.with_name(f".{target.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if target.exists():
            target.replace(old)
        partial.replace(target)
        shutil.rmtree(old, ignore_errors=True)
        cache.stamps.mkdir(parents=True, exist_ok=True)
        self._stamp(cache).write_text(self.digest())

    def _use_legacy_iptables(self, root: Path, runner: Runner) -> None:
        """Istio's and flannel's own images use legacy tables; nodes then have one kind only."""
        for program in ("iptables", "ip6tables"):
            command = ["update-alternatives", "--set", program, f"/usr/sbin/{program}-legacy"]
            runner.run(f"root.{self.name}.{program}", ["chroot", str(root), *command])


def _empty(folder: Path) -> None:
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def strip(root: Path, *, small: bool) -> None:
    """Drop downloads, logs and everything that must differ between machines."""
    for folder in ("var/cache/apt", "var/lib/apt/lists", "var/log/apt", "tmp"):
        _empty(root / folder)
    for path in (root / "etc/ssh").glob("ssh_host_*"):
        path.unlink()
    # A package enables its service; nodes use it with their own configuration.
    (root / "etc/systemd/system/multi-user.target.wants/haproxy.service").unlink(missing_ok=True)
    # Empty, not missing: systemd then makes a new one at the first boot.
    (root / "etc/machine-id").write_text("")
    for name in ("var/log/dpkg.log", "var/log/bootstrap.log", "var/log/alternatives.log"):
        (root / name).unlink(missing_ok=True)
    for folder in ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info"):
        _empty(root / folder)
    if small:
        for folder in ("var/cache/debconf", "usr/share/zoneinfo", "usr/lib/x86_64-linux-gnu/gconv"):
            _empty(root / folder)


BASE = Root(name="base", packages=_NODE_PACKAGES, place=lambda cache: cache.base_root, small=False)
IMAGE = Root(
    name="image", packages=_IMAGE_PACKAGES, place=lambda cache: cache.image_root, small=True
)
ALL = (BASE, IMAGE)
