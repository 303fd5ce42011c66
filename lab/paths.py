"""The directories of the lab at run time.

There are three: the cache (built once, shared by checkouts, safe to delete),
the state (of running labs) and `.lab` in the checkout (the files that the
stack file and a shell refer to by a relative path).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent


def _xdg(variable: str, fallback: str) -> Path:
    """The XDG base directory of a variable; XDG requires that a relative value is ignored."""
    value = os.environ.get(variable, "")
    return Path(value) if value.startswith("/") else Path.home() / fallback


@dataclass(frozen=True, kw_only=True)
class Cache:
    """Directories below the cache, which may not exist yet."""

    root: Path

    @property
    def bin(self) -> Path:
        """Built programs, by group: `bin/kubernetes/kubelet`."""
        return self.root / "bin"

    @property
    def stamps(self) -> Path:
        """One small file for each finished output, holding the hash of its inputs."""
        return self.root / "stamps"

    @property
    def logs(self) -> Path:
        """The output of the last build of each program."""
        return self.root / "logs"

    @property
    def images(self) -> Path:
        """Container images as docker-archive tars."""
        return self.root / "images"

    @property
    def base_root(self) -> Path:
        """Debian root that a node's root is copied from."""
        return self.root / "roots" / "base"

    @property
    def image_root(self) -> Path:
        """Small Debian root that becomes the base layer of some images."""
        return self.root / "roots" / "image"

    @property
    def guest_image(self) -> Path:
        """Disk image that the tests' KVM guests boot from, qcow2."""
        return self.root / "guest" / "debian.qcow2"

    @property
    def mirror(self) -> Path:
        """Tree served over HTTP: `mirror/<official host>/<official path>`."""
        return self.root / "mirror"

    @property
    def registry(self) -> Path:
        """Storage of docker-registry."""
        return self.root / "registry"

    @property
    def toolchain_bin(self) -> Path:
        """The pulumi command, its language host and stand-in plugins; goes on PATH."""
        return self.root / "toolchain" / "bin"

    @property
    def pulumi_home(self) -> Path:
        """PULUMI_HOME of the lab: plugins and workspaces."""
        return self.root / "pulumi-home"

    @property
    def build(self) -> Path:
        """Go's build and module caches; removed when all artifacts are made."""
        return self.root / "build"


@dataclass(frozen=True, kw_only=True)
class State:
    """Directories and files below the state directory."""

    root: Path

    @property
    def pulumi(self) -> Path:
        """Pulumi's file backend."""
        return self.root / "pulumi"

    @property
    def passphrase(self) -> Path:
        """File with the random passphrase of the stack's secrets; mode 0600."""
        return self.root / "passphrase"

    @property
    def labs(self) -> Path:
        """A directory for each lab."""
        return self.root / "lab"

    def lab(self, bridge: str) -> Path:
        """The directory of the lab on one bridge: node roots, keys, logs."""
        return self.labs / bridge

    def machine(self, bridge: str, name: str) -> Path:
        """The directory of one node."""
        return self.lab(bridge) / "machines" / name


@dataclass(frozen=True, kw_only=True)
class Checkout:
    """Files of the checkout that the lab reads or writes."""

    root: Path

    @property
    def artifacts(self) -> Path:
        """The Go modules that name what is built."""
        return self.root / "lab" / "artifacts"

    @property
    def demo(self) -> Path:
        """The Go module of the demo's echo program."""
        return self.root / "lab" / "demo"

    @property
    def dot_lab(self) -> Path:
        """Git-ignored directory for the output of this checkout's lab."""
        return self.root / ".lab"

    @property
    def lock(self) -> Path:
        """sha256 of the binaries that the lab built, in the artifact lock's format."""
        return self.dot_lab / "artifacts.lock.json"

    @property
    def env(self) -> Path:
        """Shell exports for running pulumi by hand."""
        return self.dot_lab / "env"

    @property
    def venv(self) -> Path:
        """The Python environment."""
        return self.root / ".venv"


def cache() -> Cache:
    """The cache: `$XDG_CACHE_HOME/nordmesh`, by default `~/.cache/nordmesh`."""
    return Cache(root=_xdg("XDG_CACHE_HOME", ".cache") / "nordmesh")


def state() -> State:
    """The state: `$XDG_STATE_HOME/nordmesh`, by default `~/.local/state/nordmesh`."""
    return State(root=_xdg("XDG_STATE_HOME", ".local/state") / "nordmesh")


def checkout() -> Checkout:
    """The checkout that contains this file."""
    return Checkout(root=PROJECT)
