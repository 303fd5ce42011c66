"""The Pulumi toolchain, with a local server in the layout of get.pulumi.com."""

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
        """Keep the test output clean."""


def _archive(tool: Tool, names: list[str] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name in names if names is not None else list(tool.files):
            content = f"#!/bin/sh\necho official {name}\n".encode()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


class DownloadServer:
    """A directory served like get.pulumi.com, and a lock with its checksums."""

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
    """An empty cache on a machine without Pulumi."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    for name in ("PULUMI_HOME", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return paths.cache()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DownloadServer]:
    root, lock = tmp_path / "place", tmp_path / "toolchain.lock.json"
    root.mkdir()
    lock.write_text('{"downloads": {}}')
    handler = functools.partial(_Quiet, directory=str(root))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as http_server:
        threading.Thread(target=http_server.serve_forever, daemon=True).start()
        # A busy machine may take longer than a user waits for an unreachable host.
        monkeypatch.setattr(toolchain, "_ANSWER_SECONDS", 120)
        monkeypatch.setenv("NORDMESH_DOWNLOADS", f"http://127.0.0.1:{http_server.server_port}")
        yield DownloadServer(root, lock)
        http_server.shutdown()


def _run(path: Path) -> str:
    return subprocess.run([path], check=True, capture_output=True, text=True).stdout.strip()


def test_official_downloads_are_installed_for_the_engine(
    cache: paths.Cache, server: DownloadServer
) -> None:
    for tool in toolchain.TOOLS:
        server.publish(tool)
    messages: list[str] = []
    assert toolchain.fetch(messages.append, lock=server.lock) == []
    toolchain.install(cache.bin, [], messages.append)
    assert _run(cache.toolchain_bin / "pulumi") == "official pulumi/pulumi"
    host = cache.toolchain_bin / "pulumi-language-python"
    assert _run(host) == "official pulumi/pulumi-language-python"
    plugins = cache.pulumi_home / "plugins"
    for name, version in (("kubernetes", "4.25.0"), ("command", "1.2.1")):
        plugin = plugins / f"resource-{name}-v{version}" / f"pulumi-resource-{name}"
        assert _run(plugin) == f"official pulumi-resource-{name}"
    assert len(messages) == 3


def test_a_second_run_downloads_nothing(cache: paths.Cache, server: DownloadServer) -> None:
    for tool in toolchain.TOOLS:
        server.publish(tool)
    toolchain.fetch(lambda _: None, lock=server.lock)
    for tool in toolchain.TOOLS:
        (server.root / tool.archive).unlink()
    messages: list[str] = []
    assert toolchain.fetch(messages.append, lock=server.lock) == []
    toolchain.install(cache.bin, [], messages.append)
    assert messages == []


def test_a_wrong_checksum_is_an_error_and_installs_nothing(
    cache: paths.Cache, server: DownloadServer
) -> None:
    server.publish(CLI, pin="0" * 64)
    with pytest.raises(LabError) as failure:
        toolchain.fetch(lambda _: None, lock=server.lock)
    message = str(failure.value)
    actual = hashlib.sha256((server.root / CLI.archive).read_bytes()).hexdigest()
    for text in (CLI.archive, "0" * 64, actual, "NORDMESH_DOWNLOADS", "toolchain.lock.json"):
        assert text in message
    assert [path for path in cache.root.rglob("*") if path.is_file()] == []


def test_an_archive_without_the_program_is_refused(
    cache: paths.Cache, server: DownloadServer
) -> None:
    server.publish(CLI, _archive(CLI, ["pulumi/pulumi"]))
    with pytest.raises(LabError, match="no file pulumi/pulumi-language-python"):
        toolchain.fetch(lambda _: None, lock=server.lock)
    assert not (cache.toolchain_bin / "pulumi").exists()


def test_a_tool_without_a_pinned_checksum_is_not_downloaded(
    cache: paths.Cache, server: DownloadServer
) -> None:
    for tool in toolchain.TOOLS:
        server.publish(tool)
    server.lock.write_text('{"downloads": {}}')
    messages: list[str] = []
    built_programs = toolchain.fetch(messages.append, lock=server.lock)
    assert built_programs == [programs.CLI, programs.PROVIDER]
    assert all("no checksum" in line for line in messages)
    assert not cache.root.exists()


@pytest.mark.parametrize("base", ["http://127.0.0.1:1", None])
def test_a_failed_download_falls_back_to_the_build(
    cache: paths.Cache, server: DownloadServer, monkeypatch: pytest.MonkeyPatch, base: str | None
) -> None:
    if base is not None:
        monkeypatch.setenv("NORDMESH_DOWNLOADS", base)
    for tool in toolchain.TOOLS:
        server.pin(tool, "0" * 64)
    messages: list[str] = []
    assert toolchain.fetch(messages.append, lock=server.lock) == [programs.CLI, programs.PROVIDER]
    assert len(messages) == 3
    assert "from Go modules" in messages[0]
    assert "stand-in" in messages[2]
    assert not (cache.toolchain_bin / "pulumi").exists()


def test_official_and_built_tools_are_combined(cache: paths.Cache, server: DownloadServer) -> None:
    server.publish(COMMAND)
    tools = toolchain.fetch(lambda _: None, lock=server.lock)
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
    # Built tools are requested from the builder again, because it checks their stamps.
    assert toolchain.fetch(lambda _: None, lock=server.lock) == [programs.CLI, programs.PROVIDER]


def _put_on_machine(folder: Path, names: list[str], version: str) -> None:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text(f"#!/bin/sh\necho {version}\n")
        (folder / name).chmod(0o755)


def test_tools_on_the_machine_with_the_pinned_version_are_used(
    cache: paths.Cache, server: DownloadServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _put_on_machine(tmp_path / "pulumi/bin", list(CLI.files.values()), f"v{CLI.version}")
    monkeypatch.setenv("PATH", f"{tmp_path}/pulumi/bin:/usr/bin:/bin")
    plugins = tmp_path / "home/.pulumi/plugins"
    _put_on_machine(plugins / KUBERNETES.plugin_folder, list(KUBERNETES.files.values()), "own")
    messages: list[str] = []
    assert toolchain.fetch(messages.append, lock=server.lock) == []
    assert _run(cache.toolchain_bin / "pulumi") == f"v{CLI.version}"
    assert _run(KUBERNETES.folder(cache) / "pulumi-resource-kubernetes") == "own"


def _install(cache: paths.Cache, server: DownloadServer) -> list[str]:
    """Fetch the tools, fake the build of the others, install all. Return the messages."""
    messages: list[str] = []
    tools = toolchain.fetch(messages.append, lock=server.lock)
    for program in tools:
        path = cache.bin / program.group / program.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\necho built {program.name}\n")
        path.chmod(0o755)
    toolchain.install(cache.bin, tools, messages.append)
    return messages


def _is_stand_in(cache: paths.Cache) -> bool:
    return "standins" in (COMMAND.folder(cache) / "pulumi-resource-command").read_text()


def test_official_downloads_replace_stand_ins_and_builds(
    cache: paths.Cache, server: DownloadServer
) -> None:
    _install(cache, server)
    assert _is_stand_in(cache)
    assert _run(cache.toolchain_bin / "pulumi") == "built pulumi"
    for tool in toolchain.TOOLS:
        server.publish(tool)
    messages = _install(cache, server)
    assert len(messages) == 3
    assert _run(cache.toolchain_bin / "pulumi") == "official pulumi/pulumi"
    host = cache.toolchain_bin / "pulumi-language-python"
    assert _run(host) == "official pulumi/pulumi-language-python"
    for tool in (KUBERNETES, COMMAND):
        (name,) = tool.files
        assert _run(tool.folder(cache) / name) == f"official {name}"
    assert _install(cache, server) == []


def test_a_stand_in_is_kept_when_the_download_has_a_wrong_checksum(
    cache: paths.Cache, server: DownloadServer
) -> None:
    _install(cache, server)
    server.publish(COMMAND, pin="0" * 64)
    with pytest.raises(LabError, match="pinned checksum"):
        toolchain.fetch(lambda _: None, lock=server.lock)
    assert _is_stand_in(cache)


def test_an_unreachable_host_gets_one_request(
    cache: paths.Cache, server: DownloadServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[str] = []
    ended = threading.Event()

    def hang(url: str, **_: object) -> None:
        requests.append(url)
        ended.wait(600)

    monkeypatch.setattr("urllib.request.urlopen", hang)
    monkeypatch.setattr(toolchain, "_ANSWER_SECONDS", 0.2)
    for tool in toolchain.TOOLS:
        server.pin(tool, "0" * 64)
    started = time.monotonic()
    messages = _install(cache, server)
    took = time.monotonic() - started
    ended.set()
    assert len(requests) == 1
    assert took < 300
    assert all("127.0.0.1 cannot be reached" in line for line in messages[:3])
    assert _is_stand_in(cache)


def test_a_plugin_on_the_machine_replaces_a_stand_in(
    cache: paths.Cache, server: DownloadServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _install(cache, server)
    own = tmp_path / "own"
    monkeypatch.setenv("PULUMI_HOME", str(own))
    folder = own / "plugins" / COMMAND.plugin_folder
    _put_on_machine(folder, list(COMMAND.files.values()), "own")
    _install(cache, server)
    program = COMMAND.folder(cache) / "pulumi-resource-command"
    assert _run(program) == "own"
    # A plugin removed from the machine is replaced by the stand-in.
    shutil.rmtree(own)
    _install(cache, server)
    assert _is_stand_in(cache)


# A provider that only reports its version.
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
time.sleep(600)
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
def test_a_plugin_on_path_is_used_if_it_has_the_pinned_version(
    cache: paths.Cache,
    server: DownloadServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    is_used: bool,
) -> None:
    _install(cache, server)
    program = tmp_path / "bin/pulumi-resource-command"
    program.parent.mkdir()
    program.write_text(text)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    _install(cache, server)
    assert _is_stand_in(cache) is not is_used
    installed = COMMAND.folder(cache) / "pulumi-resource-command"
    assert (installed.resolve() == program) is is_used


@pytest.mark.parametrize(
    ("version", "names"), [("v3.258.0", list(CLI.files.values())), (f"v{CLI.version}", ["pulumi"])]
)
def test_an_unpinned_or_incomplete_cli_is_not_used(
    cache: paths.Cache,
    server: DownloadServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    version: str,
    names: list[str],
) -> None:
    _put_on_machine(tmp_path / "pulumi/bin", names, version)
    monkeypatch.setenv("PATH", f"{tmp_path}/pulumi/bin:/usr/bin:/bin")
    assert programs.CLI in toolchain.fetch(lambda _: None, lock=server.lock)
    assert not cache.toolchain_bin.exists()


def test_the_environment_matches_its_file(
    cache: paths.Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PULUMI_CONFIG_PASSPHRASE", "would win over the file")
    environment = toolchain.environment()
    assert environment["PULUMI_HOME"] == str(cache.pulumi_home)
    assert environment["PULUMI_BACKEND_URL"] == f"file://{paths.state().pulumi}"
    assert environment["PATH"].startswith(f"{cache.toolchain_bin}:")
    assert "PULUMI_CONFIG_PASSPHRASE" not in environment
    env = tmp_path / "checkout/.lab/env"
    toolchain.write_env_file(env)
    script = f". {env} && env"
    shell = subprocess.run(["sh", "-ec", script], check=True, capture_output=True, text=True).stdout
    lines = shell.splitlines()
    for name in ("PULUMI_HOME", "PULUMI_BACKEND_URL", "PULUMI_CONFIG_PASSPHRASE_FILE"):
        assert f"{name}={environment[name]}" in lines
    # A shell also has the nordmesh command.
    nordmesh = Path(sys.prefix) / "bin"
    assert f"PATH={cache.toolchain_bin}:{nordmesh}:{os.environ['PATH']}" in lines
    assert not any(line.startswith("PULUMI_CONFIG_PASSPHRASE=") for line in lines)


@pytest.mark.usefixtures("cache")
def test_the_passphrase_is_created_once_and_private() -> None:
    toolchain.make_state()
    passphrase = paths.state().passphrase
    content = passphrase.read_text()
    assert len(content) > 30
    assert passphrase.stat().st_mode & 0o777 == 0o600
    toolchain.make_state()
    assert passphrase.read_text() == content
