"""The Pulumi toolchain against a local server with the official layout."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import paths, programs, toolchain
from lab.errors import LabError
from lab.toolchain import CLI, COMMAND, KUBERNETES, Tool


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def _archive(tool: Tool, names: list[str] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name in names if names is not None else list(tool.files):
            content = f"#!/bin/sh\necho official {name}\n".encode()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


class Place:
    """A directory served as the official download place, and a lock that fits it."""

    def __init__(self, root: Path, lock: Path) -> None:
        self.root = root
        self.lock = lock
        self.pins: dict[str, str] = {}

    def publish(self, tool: Tool, data: bytes | None = None, *, pin: str | None = None) -> None:
        content = _archive(tool) if data is None else data
        target = self.root / tool.archive
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        self.pin(tool, pin or hashlib.sha256(content).hexdigest())

    def pin(self, tool: Tool, checksum: str) -> None:
        self.pins[f"https://get.pulumi.com/{tool.archive}"] = checksum
        self.lock.write_text(json.dumps({"downloads": self.pins}))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> paths.Cache:
    """An empty cache on a machine that has no Pulumi."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    for name in ("PULUMI_HOME", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return paths.cache()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    root, lock = tmp_path / "place", tmp_path / "toolchain.lock.json"
    root.mkdir()
    lock.write_text('{"downloads": {}}')
    handler = functools.partial(_Quiet, directory=str(root))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("NORDMESH_DOWNLOADS", f"http://127.0.0.1:{server.server_port}")
        yield Place(root, lock)
        server.shutdown()


def _run(path: Path) -> str:
    return subprocess.run([path], check=True, capture_output=True, text=True).stdout.strip()


def test_official_downloads_are_installed_where_the_engine_looks(
    cache: paths.Cache, place: Place
) -> None:
    for tool in toolchain.TOOLS:
        place.publish(tool)
    said: list[str] = []
    assert toolchain.fetch(said.append, lock=place.lock) == []
    toolchain.install(cache.bin, [], said.append)
    assert _run(cache.toolchain_bin / "pulumi") == "official pulumi/pulumi"
    host = cache.toolchain_bin / "pulumi-language-python"
    assert _run(host) == "official pulumi/pulumi-language-python"
    plugins = cache.pulumi_home / "plugins"
    for name, version in (("kubernetes", "4.25.0"), ("command", "1.2.1")):
        plugin = plugins / f"resource-{name}-v{version}" / f"pulumi-resource-{name}"
        assert _run(plugin) == f"official pulumi-resource-{name}"
    assert len(said) == 3


def test_a_second_run_does_not_ask_the_network(cache: paths.Cache, place: Place) -> None:
    for tool in toolchain.TOOLS:
        place.publish(tool)
    toolchain.fetch(lambda _: None, lock=place.lock)
    for tool in toolchain.TOOLS:
        (place.root / tool.archive).unlink()
    said: list[str] = []
    assert toolchain.fetch(said.append, lock=place.lock) == []
    toolchain.install(cache.bin, [], said.append)
    assert said == []


def test_a_wrong_checksum_stops_and_leaves_nothing(cache: paths.Cache, place: Place) -> None:
    place.publish(CLI, pin="0" * 64)
    with pytest.raises(LabError) as failure:
        toolchain.fetch(lambda _: None, lock=place.lock)
    message = str(failure.value)
    got = hashlib.sha256((place.root / CLI.archive).read_bytes()).hexdigest()
    for text in (CLI.archive, "0" * 64, got, "NORDMESH_DOWNLOADS", "toolchain.lock.json"):
        assert text in message
    assert [path for path in cache.root.rglob("*") if path.is_file()] == []


def test_an_archive_without_the_program_is_refused(cache: paths.Cache, place: Place) -> None:
    place.publish(CLI, _archive(CLI, ["pulumi/pulumi"]))
    with pytest.raises(LabError, match="no file pulumi/pulumi-language-python"):
        toolchain.fetch(lambda _: None, lock=place.lock)
    assert not (cache.toolchain_bin / "pulumi").exists()


def test_without_a_pinned_checksum_nothing_is_downloaded(cache: paths.Cache, place: Place) -> None:
    for tool in toolchain.TOOLS:
        place.publish(tool)
    place.lock.write_text('{"downloads": {}}')
    said: list[str] = []
    found = toolchain.fetch(said.append, lock=place.lock)
    assert found == [programs.CLI, programs.PROVIDER]
    assert all("no checksum" in line for line in said)
    assert not cache.root.exists()


@pytest.mark.parametrize("base", ["http://127.0.0.1:1", None])
def test_an_unreachable_or_missing_download_falls_to_the_build(
    cache: paths.Cache, place: Place, monkeypatch: pytest.MonkeyPatch, base: str | None
) -> None:
    if base is not None:
        monkeypatch.setenv("NORDMESH_DOWNLOADS", base)
    for tool in toolchain.TOOLS:
        place.pin(tool, "0" * 64)
    said: list[str] = []
    assert toolchain.fetch(said.append, lock=place.lock) == [programs.CLI, programs.PROVIDER]
    assert len(said) == 3
    assert "from Go modules" in said[0]
    assert "stand-in" in said[2]
    assert not (cache.toolchain_bin / "pulumi").exists()


def test_one_official_part_goes_with_built_ones(cache: paths.Cache, place: Place) -> None:
    place.publish(COMMAND)
    tools = toolchain.fetch(lambda _: None, lock=place.lock)
    for program in tools:
        path = cache.bin / program.group / program.name
        path.parent.mkdir(parents=True)
        path.write_text(f"#!/bin/sh\necho built {program.name}\n")
        path.chmod(0o755)
    toolchain.install(cache.bin, tools, lambda _: None)
    assert _run(cache.toolchain_bin / "pulumi") == "built pulumi"
    assert "standins" in (cache.toolchain_bin / "pulumi-language-python").read_text()
    command = COMMAND.folder(cache) / "pulumi-resource-command"
    assert _run(command) == "official pulumi-resource-command"
    # Built parts stay in the hands of the builder, which knows whether they are out of date.
    assert toolchain.fetch(lambda _: None, lock=place.lock) == [programs.CLI, programs.PROVIDER]


def _put_on_machine(folder: Path, names: list[str], version: str) -> None:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text(f"#!/bin/sh\necho {version}\n")
        (folder / name).chmod(0o755)


def test_what_the_machine_has_in_the_pinned_version_is_used(
    cache: paths.Cache, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _put_on_machine(tmp_path / "pulumi/bin", list(CLI.files.values()), f"v{CLI.version}")
    monkeypatch.setenv("PATH", f"{tmp_path}/pulumi/bin:/usr/bin:/bin")
    plugins = tmp_path / "home/.pulumi/plugins"
    _put_on_machine(plugins / KUBERNETES.plugin_folder, list(KUBERNETES.files.values()), "own")
    said: list[str] = []
    assert toolchain.fetch(said.append, lock=place.lock) == []
    assert _run(cache.toolchain_bin / "pulumi") == f"v{CLI.version}"
    assert _run(KUBERNETES.folder(cache) / "pulumi-resource-kubernetes") == "own"


def _install(cache: paths.Cache, place: Place) -> list[str]:
    """One run: fetch, pretend to build what must be built, install; returns what was said."""
    said: list[str] = []
    tools = toolchain.fetch(said.append, lock=place.lock)
    for program in tools:
        path = cache.bin / program.group / program.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\necho built {program.name}\n")
        path.chmod(0o755)
    toolchain.install(cache.bin, tools, said.append)
    return said


def _is_stand_in(cache: paths.Cache) -> bool:
    return "standins" in (COMMAND.folder(cache) / "pulumi-resource-command").read_text()


def test_stand_ins_and_builds_give_way_to_the_official_download(
    cache: paths.Cache, place: Place
) -> None:
    _install(cache, place)
    assert _is_stand_in(cache)
    assert _run(cache.toolchain_bin / "pulumi") == "built pulumi"
    for tool in toolchain.TOOLS:
        place.publish(tool)
    said = _install(cache, place)
    assert len(said) == 3
    assert _run(cache.toolchain_bin / "pulumi") == "official pulumi/pulumi"
    host = cache.toolchain_bin / "pulumi-language-python"
    assert _run(host) == "official pulumi/pulumi-language-python"
    for tool in (KUBERNETES, COMMAND):
        (name,) = tool.files
        assert _run(tool.folder(cache) / name) == f"official {name}"
    assert _install(cache, place) == []


def test_a_stand_in_stays_when_the_download_is_another_file(
    cache: paths.Cache, place: Place
) -> None:
    _install(cache, place)
    place.publish(COMMAND, pin="0" * 64)
    with pytest.raises(LabError, match="pinned checksum"):
        toolchain.fetch(lambda _: None, lock=place.lock)
    assert _is_stand_in(cache)


def test_a_host_that_never_answers_is_asked_once(
    cache: paths.Cache, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    ended = threading.Event()

    def hang(url: str, **_: object) -> None:
        asked.append(url)
        ended.wait(60)

    monkeypatch.setattr("urllib.request.urlopen", hang)
    monkeypatch.setattr(toolchain, "_ANSWER_SECONDS", 0.2)
    for tool in toolchain.TOOLS:
        place.pin(tool, "0" * 64)
    started = time.monotonic()
    said = _install(cache, place)
    took = time.monotonic() - started
    ended.set()
    assert len(asked) == 1
    assert took < 10
    assert all("127.0.0.1 cannot be reached" in line for line in said[:3])
    assert _is_stand_in(cache)


def test_a_plugin_of_the_machine_replaces_a_stand_in(
    cache: paths.Cache, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _install(cache, place)
    own = tmp_path / "own"
    monkeypatch.setenv("PULUMI_HOME", str(own))
    folder = own / "plugins" / COMMAND.plugin_folder
    _put_on_machine(folder, list(COMMAND.files.values()), "own")
    _install(cache, place)
    program = COMMAND.folder(cache) / "pulumi-resource-command"
    assert _run(program) == "own"
    # A tool that the machine has no more is not left broken.
    shutil.rmtree(own)
    _install(cache, place)
    assert _is_stand_in(cache)


# A provider that says its version, which is all that is asked of it.
_PROVIDER = """\
#!{python}
import sys, time
from concurrent.futures import ThreadPoolExecutor
import grpc
from pulumi.runtime.proto import plugin_pb2, provider_pb2_grpc
class Provider(provider_pb2_grpc.ResourceProviderServicer):
    def GetPluginInfo(self, request, context):
        return plugin_pb2.PluginInfo(version="{version}")
server = grpc.server(ThreadPoolExecutor(1))
provider_pb2_grpc.add_ResourceProviderServicer_to_server(Provider(), server)
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("text", "is_used"),
    [
        (_PROVIDER.format(python=sys.executable, version=COMMAND.version), True),
        (_PROVIDER.format(python=sys.executable, version="1.1.0"), False),
        ("#!/bin/sh\necho usage >&2; exit 1\n", False),
    ],
    ids=["pinned", "other version", "no plugin"],
)
def test_a_plugin_on_path_is_used_in_the_pinned_version_alone(
    cache: paths.Cache,
    place: Place,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    is_used: bool,
) -> None:
    _install(cache, place)
    program = tmp_path / "bin/pulumi-resource-command"
    program.parent.mkdir()
    program.write_text(text)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    _install(cache, place)
    assert _is_stand_in(cache) is not is_used
    installed = COMMAND.folder(cache) / "pulumi-resource-command"
    assert (installed.resolve() == program) is is_used


@pytest.mark.parametrize(
    ("version", "names"), [("v3.258.0", list(CLI.files.values())), (f"v{CLI.version}", ["pulumi"])]
)
def test_another_version_or_a_lone_cli_is_not_used(
    cache: paths.Cache,
    place: Place,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    version: str,
    names: list[str],
) -> None:
    _put_on_machine(tmp_path / "pulumi/bin", names, version)
    monkeypatch.setenv("PATH", f"{tmp_path}/pulumi/bin:/usr/bin:/bin")
    assert programs.CLI in toolchain.fetch(lambda _: None, lock=place.lock)
    assert not cache.toolchain_bin.exists()


def test_the_environment_and_its_file_agree(
    cache: paths.Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PULUMI_CONFIG_PASSPHRASE", "would win over the file")
    found = toolchain.environment()
    assert found["PULUMI_HOME"] == str(cache.pulumi_home)
    assert found["PULUMI_BACKEND_URL"] == f"file://{paths.state().pulumi}"
    assert found["PATH"].startswith(f"{cache.toolchain_bin}:")
    assert "PULUMI_CONFIG_PASSPHRASE" not in found
    env = tmp_path / "checkout/.lab/env"
    toolchain.write_env_file(env)
    script = f". {env} && env"
    shell = subprocess.run(["sh", "-ec", script], check=True, capture_output=True, text=True).stdout
    lines = shell.splitlines()
    for name in ("PULUMI_HOME", "PULUMI_BACKEND_URL", "PULUMI_CONFIG_PASSPHRASE_FILE"):
        assert f"{name}={found[name]}" in lines
    # A shell has nordmesh too.
    nordmesh = Path(sys.prefix) / "bin"
    assert f"PATH={cache.toolchain_bin}:{nordmesh}:{os.environ['PATH']}" in lines
    assert not any(line.startswith("PULUMI_CONFIG_PASSPHRASE=") for line in lines)


@pytest.mark.usefixtures("cache")
def test_the_passphrase_is_made_once_and_only_for_its_owner() -> None:
    toolchain.make_state()
    passphrase = paths.state().passphrase
    first = passphrase.read_text()
    assert len(first) > 30
    assert passphrase.stat().st_mode & 0o777 == 0o600
    toolchain.make_state()
    assert passphrase.read_text() == first
