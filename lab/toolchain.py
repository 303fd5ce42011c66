"""The Pulumi toolchain at pinned versions: CLI, Python language host, two provider plugins.

Each part is taken from the first place that has exactly the pinned version: this
machine, the official download (only with a checksum in toolchain.lock.json),
and last a build from Go modules (lab/build.py) or a stand-in (lab/standins).
A part that was built, or that a stand-in replaces, is looked for again in every run.
Nothing outside the lab's own cache is changed.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import queue
import secrets
import shlex
import shutil
import subprocess
import sys
import tarfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from lab import paths, programs, progress, standins
from lab.errors import LabError
from lab.programs import Program

Say = Callable[[str], None]
Origin = Literal["machine", "download", "build", "stand-in"]

LANGUAGE_HOST = "pulumi-language-python"
LANGUAGE_EXEC = "pulumi-language-python-exec"
LOCK = Path(__file__).with_name("toolchain.lock.json")

# Overrides the place that official releases are downloaded from.
DOWNLOADS_VARIABLE = "NORDMESH_DOWNLOADS"
_OFFICIAL = "https://get.pulumi.com"

# How long the download host may take to answer at all, names and connections included.
_ANSWER_SECONDS = 5
_READ_SECONDS = 30
_PLUGIN_SECONDS = 10


class Unavailable(LabError):
    """An official download is not available."""

    def __init__(self, what: str) -> None:
        super().__init__(what, code="lab-download")


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of the toolchain: an official archive and the files that are wanted from it.

    `files` maps a member of the archive to a file's name in `folder`. `program`
    is what is built where the archive cannot be had; without it a stand-in is
    installed.
    """

    name: str
    version: str
    archive: str
    files: Mapping[str, str]
    program: Program | None

    @property
    def is_plugin(self) -> bool:
        """Whether it lies in the plugin cache of PULUMI_HOME."""
        return self.name != "pulumi"

    @property
    def plugin_folder(self) -> str:
        """Its directory's name in a plugin cache."""
        return f"resource-{self.name}-v{self.version}"

    def folder(self, cache: paths.Cache) -> Path:
        """The directory that its files lie in."""
        if self.is_plugin:
            return cache.pulumi_home / "plugins" / self.plugin_folder
        return cache.toolchain_bin


def _plugin(name: str, version: str, program: Program | None) -> Part:
    binary = f"pulumi-resource-{name}"
    return Part(
        name=name,
        version=version,
        archive=f"releases/plugins/{binary}-v{version}-linux-amd64.tar.gz",
        files={binary: binary},
        program=program,
    )


CLI = Part(
    name="pulumi",
    version=programs.PULUMI,
    archive=f"releases/sdk/pulumi-v{programs.PULUMI}-linux-x64.tar.gz",
    # `pulumi` last: where it is, the whole part is.
    files={f"pulumi/{name}": name for name in (LANGUAGE_EXEC, LANGUAGE_HOST, "pulumi")},
    program=programs.CLI,
)
KUBERNETES = _plugin("kubernetes", programs.PULUMI_KUBERNETES, programs.PROVIDER)
COMMAND = _plugin("command", standins.COMMAND_VERSION, None)
PARTS = (CLI, KUBERNETES, COMMAND)


class _Origins:
    """Where each installed part came from, so that a later run need not look again."""

    def __init__(self, cache: paths.Cache) -> None:
        self._file = cache.root / "toolchain" / "origins.json"

    def read(self) -> dict[str, str]:
        if not self._file.is_file():
            return {}
        found: dict[str, str] = json.loads(self._file.read_text())
        return found

    def origin(self, part: Part) -> str | None:
        version, _, origin = self.read().get(part.name, "").partition(" ")
        return origin if version == part.version else None

    def write(self, part: Part, origin: Origin) -> None:
        self._replace({**self.read(), part.name: f"{part.version} {origin}"})

    def forget(self, part: Part) -> None:
        self._replace({name: text for name, text in self.read().items() if name != part.name})

    def _replace(self, content: Mapping[str, str]) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        partial = self._file.with_name(f".{self._file.name}.partial")
        partial.write_text(json.dumps(content, indent=2) + "\n")
        partial.replace(self._file)


def is_official(part: Part) -> bool:
    """Whether the installed part is an official build."""
    return _Origins(paths.cache()).origin(part) in ("machine", "download")


class _DownloadHost:
    """Where official downloads come from; once it fails to answer, it is not asked again."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self.base = os.environ.get(DOWNLOADS_VARIABLE, _OFFICIAL).rstrip("/")
        parts = urlsplit(self.base)
        if parts.scheme not in ("http", "https") or parts.hostname is None:
            raise LabError(
                f"{DOWNLOADS_VARIABLE} must begin with http:// or https://: {self.base}",
                code="lab-downloads",
                fix=f"set it to a URL such as {_OFFICIAL}, or unset it",
            )
        self._name = parts.hostname
        self._failure: Unavailable | None = None

    def get(self, url: str, target: Path) -> str:
        """Download a file and return its sha256; raises `Unavailable` when that cannot be done."""
        if self._failure is not None:
            raise self._failure
        digest = hashlib.sha256()
        reported = time.monotonic()
        try:
            with self._open(url) as response, target.open("wb") as handle:
                while chunk := response.read(2**20):
                    digest.update(chunk)
                    handle.write(chunk)
                    if time.monotonic() - reported >= progress.REPORT_SECONDS:
                        reported = time.monotonic()
                        self._say(f"downloading {url}: {handle.tell() / 2**20:.0f} MiB so far")
                if response.length:
                    raise Unavailable(f"the download of {url} broke off")
        except urllib.error.HTTPError as error:
            raise Unavailable(f"{url} answers {error.code}") from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            self._failure = Unavailable(f"{self._name} cannot be reached ({reason})")
            raise self._failure from error
        return digest.hexdigest()

    @staticmethod
    def _open(url: str) -> http.client.HTTPResponse:
        """The answer to a request; TimeoutError if it does not come soon.

        In a thread, because looking up a name has no time limit of its own.
        """
        answers: queue.Queue[http.client.HTTPResponse | Exception] = queue.Queue()

        def ask() -> None:
            try:
                answers.put(urllib.request.urlopen(url, timeout=_READ_SECONDS))  # noqa: S310
            except (OSError, http.client.HTTPException) as error:
                answers.put(error)

        threading.Thread(target=ask, daemon=True).start()
        try:
            answer = answers.get(timeout=_ANSWER_SECONDS)
        except queue.Empty:
            raise TimeoutError(f"no answer within {_ANSWER_SECONDS} s") from None
        if isinstance(answer, Exception):
            raise answer
        return answer


def fetch(say: Say, *, lock: Path = LOCK) -> list[Program]:
    """Install what this machine or the official downloads have.

    Returns the programs that must be built from source instead. Raises LabError
    when a download does not have its pinned checksum.
    """
    cache = paths.cache()
    origins = _Origins(cache)
    host = _DownloadHost(say)
    to_build: list[Program] = []
    for part in PARTS:
        is_official = origins.origin(part) in ("machine", "download")
        if is_official and _is_whole(part, cache):
            continue
        if _obtain(part, cache, host, say, lock):
            continue
        if is_official:
            origins.forget(part)
        if part.program is not None:
            to_build.append(part.program)
    return to_build


def _is_whole(part: Part, cache: paths.Cache) -> bool:
    return all((part.folder(cache) / name).exists() for name in part.files.values())


def _obtain(part: Part, cache: paths.Cache, host: _DownloadHost, say: Say, lock: Path) -> bool:
    """Take a part from this machine or from its official place; False when neither has it."""
    origins = _Origins(cache)
    found = _on_machine(part, cache)
    if found is not None:
        _link(part, found, cache)
        origins.write(part, "machine")
        say(f"{part.name} {part.version}: from {found}")
        return True
    try:
        url = _download(part, cache, host, lock)
    except Unavailable as reason:
        fix = "a stand-in is used" if part.program is None else "it is built from Go modules"
        say(f"{part.name} {part.version}: {reason.what}; {fix}")
        return False
    origins.write(part, "download")
    say(f"{part.name} {part.version}: from {url}")
    return True


def _on_machine(part: Part, cache: paths.Cache) -> Path | None:
    """The directory of this machine that has the part in exactly its pinned version."""
    candidates = _plugin_folders(part, cache) if part.is_plugin else _cli_folders(part, cache)
    for folder in candidates:
        if all(os.access(folder / name, os.X_OK) for name in part.files.values()):
            return folder
    return None


def _plugin_folders(part: Part, cache: paths.Cache) -> list[Path]:
    named = os.environ.get("PULUMI_HOME")
    homes = [*([Path(named)] if named else []), Path.home() / ".pulumi"]
    folders = [home / "plugins" / part.plugin_folder for home in homes if home != cache.pulumi_home]
    (binary,) = part.files.values()
    found = _which(binary, cache)
    if found is not None and _version_of_plugin(found) == part.version:
        folders.append(Path(found).parent)
    return folders


def _which(name: str, cache: paths.Cache) -> str | None:
    """A program on PATH that is not the lab's own."""
    folders = [Path(name) for name in os.get_exec_path() if name.startswith("/")]
    search = os.pathsep.join(str(f) for f in folders if f != cache.toolchain_bin)
    return shutil.which(name, path=search)


def _version_of_plugin(program: str) -> str:
    """The version that a provider plugin gives when it is asked as the engine asks; "" if none."""
    # Here, because together they take half a second to load.
    import grpc  # type: ignore[import-untyped]
    from google.protobuf import empty_pb2  # type: ignore[import-untyped]
    from pulumi.runtime.proto import provider_pb2_grpc

    with (
        suppress(OSError, ValueError, grpc.RpcError),
        subprocess.Popen(
            [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process,
    ):
        # Ends a plugin that says nothing.
        timer = threading.Timer(_PLUGIN_SECONDS, process.kill)
        timer.start()
        try:
            port = int(process.stdout.readline() if process.stdout else "")
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                stub = provider_pb2_grpc.ResourceProviderStub(channel)
                answer = stub.GetPluginInfo(empty_pb2.Empty(), timeout=_PLUGIN_SECONDS)
            return str(answer.version).removeprefix("v")
        finally:
            timer.cancel()
            process.kill()
    return ""


def _cli_folders(part: Part, cache: paths.Cache) -> list[Path]:
    found = _which("pulumi", cache)
    if found is None or _version_of(found) != f"v{part.version}":
        return []
    return [Path(found).parent, Path(found).resolve().parent]


def _version_of(pulumi: str) -> str:
    environment = {**os.environ, "PULUMI_SKIP_UPDATE_CHECK": "true"}
    with suppress(OSError, subprocess.SubprocessError):
        result = subprocess.run(
            [pulumi, "version"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
        return result.stdout.strip()
    return ""


def _link(part: Part, source: Path, cache: paths.Cache) -> None:
    folder = part.folder(cache)
    folder.mkdir(parents=True, exist_ok=True)
    for name in part.files.values():
        partial = folder / f".{name}.partial"
        partial.unlink(missing_ok=True)
        partial.symlink_to((source / name).resolve())
        partial.replace(folder / name)


def _pinned(part: Part, lock: Path) -> str:
    url = f"{_OFFICIAL}/{part.archive}"
    checksums: dict[str, str] = json.loads(lock.read_text())["downloads"]
    if url not in checksums:
        raise Unavailable(f"{lock.name} has no checksum for the official download")
    return checksums[url]


def _download(part: Part, cache: paths.Cache, host: _DownloadHost, lock: Path) -> str:
    """Download, check and install a part; returns the URL it came from."""
    expected = _pinned(part, lock)
    url = f"{host.base}/{part.archive}"
    folder = part.folder(cache)
    work = folder.parent / f".{part.name}.download"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        archive = work / "archive.tar.gz"
        got = host.get(url, archive)
        if got != expected:
            raise LabError(
                f"{url} does not have the pinned checksum; nothing was installed",
                code="lab-checksum",
                why="the file was changed on its way, for example by a proxy or a wrong mirror, "
                f"or {lock.name} is wrong",
                fix=f"check {DOWNLOADS_VARIABLE}; compare {lock.name} with the checksums that the "
                "release publishes before you change it",
                output=f"  expected sha256 {expected}\n  got      sha256 {got}",
            )
        _unpack(part, archive, url, work)
        folder.mkdir(parents=True, exist_ok=True)
        for name in part.files.values():
            (work / name).replace(folder / name)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return url


def _unpack(part: Part, archive: Path, url: str, work: Path) -> None:
    with tarfile.open(archive) as opened:
        members = {member.name.removeprefix("./"): member for member in opened.getmembers()}
        for inside, name in part.files.items():
            member = members.get(inside)
            content = opened.extractfile(member) if member is not None else None
            if content is None:
                raise LabError(
                    f"{url} has the pinned checksum but no file {inside}",
                    code="lab-archive",
                    fix=f"pin the official archive in {LOCK.name}",
                )
            with content, (work / name).open("wb") as handle:
                shutil.copyfileobj(content, handle)
            (work / name).chmod(0o755)


def install(built: Path, tools: Iterable[Program], say: Say) -> None:
    """Put built programs and stand-ins where the engine looks for them.

    `built` holds the outputs of lab/build.py; `tools` is what `fetch` returned.
    """
    cache = paths.cache()
    origins = _Origins(cache)
    chosen = list(tools)
    for part in PARTS:
        if part.program is None or part.program not in chosen:
            continue
        name = part.program.name
        _hard_link(built / part.program.group / name, part.folder(cache) / name)
        if origins.origin(part) != "build":
            origins.write(part, "build")
    if CLI.program in chosen or origins.origin(COMMAND) not in ("machine", "download"):
        _install_stand_ins(cache, origins, say, host=CLI.program in chosen)


def _install_stand_ins(cache: paths.Cache, origins: _Origins, say: Say, *, host: bool) -> None:
    """Install the stand-ins that are needed, and leave an official part as it is."""
    python = Path(sys.executable)
    if host:
        standins.install_language_host(cache.toolchain_bin, python)
    if origins.origin(COMMAND) in ("machine", "download"):
        return
    standins.install_command_provider(cache.pulumi_home, python)
    if origins.origin(COMMAND) != "stand-in":
        origins.write(COMMAND, "stand-in")
        say(f"{COMMAND.name} {COMMAND.version}: stand-in installed")


def _hard_link(source: Path, target: Path) -> None:
    if target.exists() and target.samefile(source):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    partial.unlink(missing_ok=True)
    os.link(source, partial)
    partial.replace(target)


def make_state() -> None:
    """Make Pulumi's file backend and the passphrase of the stack's secrets, if missing."""
    state = paths.state()
    state.pulumi.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not state.passphrase.exists():
        partial = state.passphrase.with_name(".passphrase.partial")
        partial.touch(mode=0o600)
        partial.write_text(secrets.token_urlsafe(32) + "\n")
        partial.replace(state.passphrase)


def settings() -> dict[str, str]:
    """What Pulumi must be told through its environment, PATH excepted."""
    cache, state = paths.cache(), paths.state()
    return {
        "PULUMI_HOME": str(cache.pulumi_home),
        "PULUMI_BACKEND_URL": f"file://{state.pulumi}",
        "PULUMI_CONFIG_PASSPHRASE_FILE": str(state.passphrase),
        "PULUMI_SKIP_UPDATE_CHECK": "true",
        # Each command of pulumi writes a log of its own, of some megabytes; all of them together.
        "PULUMI_LOG_ROTATION_MAX_TOTAL_MB": "50",
        # Plugins are installed here, at their pinned versions, and nowhere else.
        "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
    }


def environment() -> dict[str, str]:
    """The whole process environment for running pulumi with the lab's toolchain."""
    inherited = {
        name: value for name, value in os.environ.items() if name != "PULUMI_CONFIG_PASSPHRASE"
    }
    search = f"{paths.cache().toolchain_bin}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return {**inherited, **settings(), "PATH": search}


def write_env_file(target: Path) -> None:
    """Write the environment as shell exports, for running pulumi by hand: `. .lab/env`."""
    lines = [f"export {name}={shlex.quote(value)}" for name, value in settings().items()]
    # An inherited passphrase would win over the file.
    lines.append("unset PULUMI_CONFIG_PASSPHRASE")
    # nordmesh refuses other stacks while this is the backend.
    lines.append('export NORDMESH_LAB_BACKEND="$PULUMI_BACKEND_URL"')
    tools = f"{paths.cache().toolchain_bin}{os.pathsep}{Path(sys.prefix) / 'bin'}"
    lines.append(f'export PATH={shlex.quote(tools)}:"$PATH"')
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("\n".join(lines) + "\n")
