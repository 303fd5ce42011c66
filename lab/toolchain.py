"""The Pulumi toolchain at pinned versions: CLI, Python language host, two provider plugins.

A tool comes from the first source that has exactly the pinned version: this machine, the official
download (only with a checksum in toolchain.lock.json), and last a build from Go modules
(lab/build.py) or a stand-in (lab/standins). Each run looks again for the official build of a tool
that was built or replaced. Nothing outside the lab's cache is changed.
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

# Overrides the URL that official releases are downloaded from.
DOWNLOADS_VARIABLE = "NORDMESH_DOWNLOADS"
_OFFICIAL = "https://get.pulumi.com"

# The time for the download host to answer, including name lookups and connections.
_ANSWER_SECONDS = 5
_READ_SECONDS = 30
_PLUGIN_SECONDS = 60


class Unavailable(LabError):
    """An official download is not available."""

    def __init__(self, what: str) -> None:
        super().__init__(what, code="lab-download")


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A tool of the toolchain: its official archive and the files that are needed from it.

    `files` maps a member of the archive to a file name in `folder`. `program` is built if the
    archive is not available; a tool without one is replaced by a stand-in.
    """

    name: str
    version: str
    archive: str
    files: Mapping[str, str]
    program: Program | None

    @property
    def is_plugin(self) -> bool:
        """Whether it is in the plugin cache of PULUMI_HOME."""
        return self.name != "pulumi"

    @property
    def plugin_folder(self) -> str:
        """Its directory's name in a plugin cache."""
        return f"resource-{self.name}-v{self.version}"

    def folder(self, cache: paths.Cache) -> Path:
        """The directory of its files."""
        if self.is_plugin:
            return cache.pulumi_home / "plugins" / self.plugin_folder
        return cache.toolchain_bin


def _plugin(name: str, version: str, program: Program | None) -> Tool:
    binary = f"pulumi-resource-{name}"
    return Tool(
        name=name,
        version=version,
        archive=f"releases/plugins/{binary}-v{version}-linux-amd64.tar.gz",
        files={binary: binary},
        program=program,
    )


CLI = Tool(
    name="pulumi",
    version=programs.PULUMI,
    archive=f"releases/sdk/pulumi-v{programs.PULUMI}-linux-x64.tar.gz",
    # `pulumi` last: if it exists, the whole tool does.
    files={f"pulumi/{name}": name for name in (LANGUAGE_EXEC, LANGUAGE_HOST, "pulumi")},
    program=programs.CLI,
)
KUBERNETES = _plugin("kubernetes", programs.PULUMI_KUBERNETES, programs.PROVIDER)
COMMAND = _plugin("command", standins.COMMAND_VERSION, None)
TOOLS = (CLI, KUBERNETES, COMMAND)


class _Origins:
    """The source of each installed tool, so that a later run does not search again."""

    def __init__(self, cache: paths.Cache) -> None:
        self._file = cache.root / "toolchain" / "origins.json"

    def read(self) -> dict[str, str]:
        if not self._file.is_file():
            return {}
        existing: dict[str, str] = json.loads(self._file.read_text())
        return existing

    def origin(self, tool: Tool) -> str | None:
        version, _, origin = self.read().get(tool.name, "").partition(" ")
        return origin if version == tool.version else None

    def write(self, tool: Tool, origin: Origin) -> None:
        self._replace({**self.read(), tool.name: f"{tool.version} {origin}"})

    def forget(self, tool: Tool) -> None:
        self._replace({name: text for name, text in self.read().items() if name != tool.name})

    def _replace(self, content: Mapping[str, str]) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        partial = self._file.with_name(f".{self._file.name}.partial")
        partial.write_text(json.dumps(content, indent=2) + "\n")
        partial.replace(self._file)


def is_official(tool: Tool) -> bool:
    """Whether the installed tool is an official build."""
    return _Origins(paths.cache()).origin(tool) in ("machine", "download")


class _DownloadHost:
    """The server of official downloads; once it fails to answer, it is not asked again."""

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
        """Download a file and return its sha256; raises Unavailable when it fails."""
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
        """Return the answer to a request; raises TimeoutError if it takes too long.

        In a thread, because a name lookup has no time limit.
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
    """Install the tools that this machine or the official downloads have.

    Return the programs that must be built from source instead. Raises LabError
    if a download does not have its pinned checksum.
    """
    cache = paths.cache()
    origins = _Origins(cache)
    host = _DownloadHost(say)
    to_build: list[Program] = []
    for tool in TOOLS:
        is_official = origins.origin(tool) in ("machine", "download")
        if is_official and _is_whole(tool, cache):
            continue
        if _obtain(tool, cache, host, say, lock):
            continue
        if is_official:
            origins.forget(tool)
        if tool.program is not None:
            to_build.append(tool.program)
    return to_build


def _is_whole(tool: Tool, cache: paths.Cache) -> bool:
    return all((tool.folder(cache) / name).exists() for name in tool.files.values())


def _obtain(tool: Tool, cache: paths.Cache, host: _DownloadHost, say: Say, lock: Path) -> bool:
    """Install a tool from this machine or the official download; False when neither has it."""
    origins = _Origins(cache)
    existing = _on_machine(tool, cache)
    if existing is not None:
        _link(tool, existing, cache)
        origins.write(tool, "machine")
        say(f"{tool.name} {tool.version}: from {existing}")
        return True
    try:
        url = _download(tool, cache, host, lock)
    except Unavailable as reason:
        fallback = "using a stand-in" if tool.program is None else "building it from Go modules"
        say(f"{tool.name} {tool.version}: {reason.what}; {fallback}")
        return False
    origins.write(tool, "download")
    say(f"{tool.name} {tool.version}: from {url}")
    return True


def _on_machine(tool: Tool, cache: paths.Cache) -> Path | None:
    """The directory on this machine with exactly the pinned version of the tool."""
    candidates = _plugin_folders(tool, cache) if tool.is_plugin else _cli_folders(tool, cache)
    for folder in candidates:
        if all(os.access(folder / name, os.X_OK) for name in tool.files.values()):
            return folder
    return None


def _plugin_folders(tool: Tool, cache: paths.Cache) -> list[Path]:
    named = os.environ.get("PULUMI_HOME")
    homes = [*([Path(named)] if named else []), Path.home() / ".pulumi"]
    folders = [home / "plugins" / tool.plugin_folder for home in homes if home != cache.pulumi_home]
    (binary,) = tool.files.values()
    existing = _which(binary, cache)
    if existing is not None and _version_of_plugin(existing) == tool.version:
        folders.append(Path(existing).parent)
    return folders


def _which(name: str, cache: paths.Cache) -> str | None:
    """A program on PATH that is not the lab's own."""
    folders = [Path(name) for name in os.get_exec_path() if name.startswith("/")]
    search = os.pathsep.join(str(f) for f in folders if f != cache.toolchain_bin)
    return shutil.which(name, path=search)


def _version_of_plugin(program: str) -> str:
    """The version that a provider plugin reports over gRPC; "" if it reports none."""
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


def _cli_folders(tool: Tool, cache: paths.Cache) -> list[Path]:
    existing = _which("pulumi", cache)
    if existing is None or _version_of(existing) != f"v{tool.version}":
        return []
    return [Path(existing).parent, Path(existing).resolve().parent]


def _version_of(pulumi: str) -> str:
    environment = {**os.environ, "PULUMI_SKIP_UPDATE_CHECK": "true"}
    with suppress(OSError, subprocess.SubprocessError):
        result = subprocess.run(
            [pulumi, "version"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=_PLUGIN_SECONDS,
            check=True,
        )
        return result.stdout.strip()
    return ""


def _link(tool: Tool, source: Path, cache: paths.Cache) -> None:
    folder = tool.folder(cache)
    folder.mkdir(parents=True, exist_ok=True)
    for name in tool.files.values():
        partial = folder / f".{name}.partial"
        partial.unlink(missing_ok=True)
        partial.symlink_to((source / name).resolve())
        partial.replace(folder / name)


def _pinned(tool: Tool, lock: Path) -> str:
    url = f"{_OFFICIAL}/{tool.archive}"
    checksums: dict[str, str] = json.loads(lock.read_text())["downloads"]
    if url not in checksums:
        raise Unavailable(f"{lock.name} has no checksum for the official download")
    return checksums[url]


def _download(tool: Tool, cache: paths.Cache, host: _DownloadHost, lock: Path) -> str:
    """Download, check and install a tool; returns the URL it came from."""
    expected = _pinned(tool, lock)
    url = f"{host.base}/{tool.archive}"
    folder = tool.folder(cache)
    work = folder.parent / f".{tool.name}.download"
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
                details=f"  expected sha256 {expected}\n  got      sha256 {got}",
            )
        _unpack(tool, archive, url, work)
        folder.mkdir(parents=True, exist_ok=True)
        for name in tool.files.values():
            (work / name).replace(folder / name)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return url


def _unpack(tool: Tool, archive: Path, url: str, work: Path) -> None:
    with tarfile.open(archive) as opened:
        members = {member.name.removeprefix("./"): member for member in opened.getmembers()}
        for inside, name in tool.files.items():
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


def install(built: Path, programs_to_build: Iterable[Program], say: Say) -> None:
    """Install built programs and stand-ins where the engine looks for them.

    `built` holds the outputs of lab/build.py; `programs_to_build` is what `fetch` returned.
    """
    cache = paths.cache()
    origins = _Origins(cache)
    chosen = list(programs_to_build)
    for tool in TOOLS:
        if tool.program is None or tool.program not in chosen:
            continue
        name = tool.program.name
        _hard_link(built / tool.program.group / name, tool.folder(cache) / name)
        if origins.origin(tool) != "build":
            origins.write(tool, "build")
    if CLI.program in chosen or origins.origin(COMMAND) not in ("machine", "download"):
        _install_stand_ins(cache, origins, say, host=CLI.program in chosen)


def _install_stand_ins(cache: paths.Cache, origins: _Origins, say: Say, *, host: bool) -> None:
    """Install the stand-ins that are needed; official tools stay."""
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
    """The environment variables of Pulumi, without PATH."""
    cache, state = paths.cache(), paths.state()
    return {
        "PULUMI_HOME": str(cache.pulumi_home),
        "PULUMI_BACKEND_URL": f"file://{state.pulumi}",
        "PULUMI_CONFIG_PASSPHRASE_FILE": str(state.passphrase),
        "PULUMI_SKIP_UPDATE_CHECK": "true",
        # Each pulumi command writes a log of some megabytes; this limits all of them together.
        "PULUMI_LOG_ROTATION_MAX_TOTAL_MB": "50",
        # Plugins are installed here, at their pinned versions, and nowhere else.
        "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
    }


def environment() -> dict[str, str]:
    """The process environment for pulumi with the lab's toolchain."""
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
    folders = f"{paths.cache().toolchain_bin}{os.pathsep}{Path(sys.prefix) / 'bin'}"
    lines.append(f'export PATH={shlex.quote(folders)}:"$PATH"')
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("\n".join(lines) + "\n")
