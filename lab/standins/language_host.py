# ruff: noqa: ARG002 (the protocol fixes the methods' arguments)
"""A stand-in for the official Python language host, where that cannot be downloaded.

It runs Pulumi programs and plugins in Python (policy packs) with the interpreter of the
virtual environment that the runtime option `virtualenv` names. Deliberately left out: it
installs nothing, generates no SDKs, attaches no debugger and knows no `toolchain` but pip.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

import grpc.aio  # type: ignore[import-untyped]
from google.protobuf import empty_pb2  # type: ignore[import-untyped]
from pulumi.runtime.proto import language_pb2, language_pb2_grpc, plugin_pb2

from lab.standins._plugin import Engine, StepFailedError, engine_address, serve

ANNOUNCEMENT = (
    "pulumi-language-python: this is a stand-in for the official Python language host, "
    "which could not be downloaded here."
)
# The exit status of pulumi-language-python-exec after it has shown the error to the user.
_ERROR_WAS_SHOWN = 32
_EXEC = "pulumi-language-python-exec"
# How long a program may take to end after SIGINT, in seconds; the official host waits as long.
_GRACE = 5.0
_LIST_PACKAGES = (
    "import importlib.metadata as m, json;"
    "print(json.dumps(sorted({(d.name, d.version) for d in m.distributions()})))"
)

_Context: TypeAlias = Any  # grpc has no types
_Output = language_pb2.RunPluginResponse
_End: TypeAlias = Callable[[Process], Awaitable[None]]


def _interpreter(info: language_pb2.ProgramInfo) -> tuple[Path, dict[str, str]]:
    """The Python that runs a program, and its changes of the environment.

    Raises StepFailedError if the runtime options name an environment that does not exist.
    """
    options = info.options.fields
    toolchain = options["toolchain"].string_value if "toolchain" in options else ""
    if toolchain not in ("", "pip"):
        raise StepFailedError(
            f"the runtime option toolchain is {toolchain!r}, but the stand-in language host "
            "supports only pip. Use `toolchain: pip`, or install the official language host."
        )
    name = options["virtualenv"].string_value if "virtualenv" in options else ""
    if not name:
        found = shutil.which("python3")
        if found is None:
            raise StepFailedError("there is no python3 on PATH, and no virtualenv is named")
        return Path(found), {}
    environment = Path(info.root_directory, name)
    python = environment / "bin" / "python"
    if not python.exists():
        raise StepFailedError(
            f"the virtual environment {environment} does not exist (no bin/python in it). The "
            f"runtime option virtualenv names it as {name!r}, relative to the directory of "
            "Pulumi.yaml or PulumiPolicy.yaml. Create it first (`make up` does), or correct the "
            "option."
        )
    path = os.pathsep.join((str(python.parent), os.environ.get("PATH", os.defpath)))
    return python, {"VIRTUAL_ENV": str(environment), "PATH": path}


def _exec_script() -> str:
    beside = str(Path(sys.argv[0]).parent)
    search = os.pathsep.join((beside, os.environ.get("PATH", os.defpath)))
    found = shutil.which(_EXEC, path=search)
    if found is None:
        raise StepFailedError(
            f"{_EXEC} is neither beside pulumi-language-python nor on PATH. It starts every "
            "Python program. It belongs to the toolchain: run `make up` again."
        )
    return found


def _arguments(request: language_pb2.RunRequest) -> list[str]:
    options = {
        "monitor": request.monitor_address,
        "project": request.project,
        "root_directory": request.info.root_directory,
        "stack": request.stack,
        "pwd": request.pwd,
        "dry_run": "true" if request.dryRun else "false",
        "parallel": str(request.parallel),
        "organization": request.organization,
    }
    pairs = [part for name, value in options.items() if value for part in (f"--{name}", value)]
    program = os.path.normpath(Path(request.info.program_directory, request.info.entry_point))
    return [*pairs, program, *request.args]


def _environment(changes: dict[str, str]) -> dict[str, str]:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", **changes}
    environment.pop("PYTHONHOME", None)
    return environment


class LanguageHost(language_pb2_grpc.LanguageRuntimeServicer):
    """The gRPC service of the language host."""

    def __init__(self, engine: str | None) -> None:
        """`engine` is the host:port of the engine that started this host."""
        self._engine = engine
        self._children: set[Process] = set()

    async def stop(self) -> None:
        """Wait for the programs and plugins that the engine has interrupted, or kill them."""
        await asyncio.gather(*map(_ended, tuple(self._children)))

    @contextlib.asynccontextmanager
    async def _child(self, process: Process, end: _End) -> AsyncIterator[Process]:
        self._children.add(process)
        try:
            yield process
        finally:
            if process.returncode is None:
                await asyncio.shield(end(process))
            self._children.discard(process)

    async def Handshake(
        self, request: language_pb2.LanguageHandshakeRequest, context: _Context
    ) -> language_pb2.LanguageHandshakeResponse:
        self._engine = request.engine_address
        return language_pb2.LanguageHandshakeResponse()

    async def GetPluginInfo(
        self, request: empty_pb2.Empty, context: _Context
    ) -> plugin_pb2.PluginInfo:
        # No version: it is not the official host of any release.
        return plugin_pb2.PluginInfo()

    async def GetRequiredPackages(
        self, request: language_pb2.GetRequiredPackagesRequest, context: _Context
    ) -> language_pb2.GetRequiredPackagesResponse:
        # None: the toolchain has put every plugin in its place already.
        return language_pb2.GetRequiredPackagesResponse()

    async def GetRequiredPlugins(
        self, request: language_pb2.GetRequiredPluginsRequest, context: _Context
    ) -> language_pb2.GetRequiredPluginsResponse:
        return language_pb2.GetRequiredPluginsResponse()

    async def RuntimeOptionsPrompts(
        self, request: language_pb2.RuntimeOptionsRequest, context: _Context
    ) -> language_pb2.RuntimeOptionsResponse:
        return language_pb2.RuntimeOptionsResponse()

    async def InstallDependencies(
        self, request: language_pb2.InstallDependenciesRequest, context: _Context
    ) -> AsyncIterator[language_pb2.InstallDependenciesResponse]:
        text = "The stand-in language host installs nothing; `make up` makes the environment.\n"
        yield language_pb2.InstallDependenciesResponse(stdout=text.encode())

    async def About(
        self, request: language_pb2.AboutRequest, context: _Context
    ) -> language_pb2.AboutResponse:
        try:
            python, _ = _interpreter(request.info)
        except StepFailedError as error:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        version = await self._ask(python, "import platform; print(platform.python_version())")
        return language_pb2.AboutResponse(
            executable=str(python), version=version.strip(), metadata={"host": "stand-in"}
        )

    async def GetProgramDependencies(
        self, request: language_pb2.GetProgramDependenciesRequest, context: _Context
    ) -> language_pb2.GetProgramDependenciesResponse:
        try:
            python, _ = _interpreter(request.info)
        except StepFailedError as error:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        packages = json.loads(await self._ask(python, _LIST_PACKAGES))
        return language_pb2.GetProgramDependenciesResponse(
            dependencies=[
                language_pb2.DependencyInfo(name=name, version=version)
                for name, version in packages
            ]
        )

    async def Run(
        self, request: language_pb2.RunRequest, context: _Context
    ) -> language_pb2.RunResponse:
        """Run the user's program; what it prints goes to the engine through our own output."""
        try:
            python, changes = _interpreter(request.info)
            command = [str(python), "-u", _exec_script(), *self._addresses(), *_arguments(request)]
        except StepFailedError as error:
            return language_pb2.RunResponse(error=str(error))
        changes["PULUMI_CONFIG"] = json.dumps(dict(request.config))
        changes["PULUMI_CONFIG_SECRET_KEYS"] = json.dumps(list(request.configSecretKeys))
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=request.pwd or request.info.program_directory,
            env=_environment(changes),
            stdin=DEVNULL,
        )
        async with self._child(process, _interrupt):
            status = await process.wait()
        if status == _ERROR_WAS_SHOWN:
            return language_pb2.RunResponse(bail=True)
        if status:
            # The official host reports every signal as -1.
            return language_pb2.RunResponse(
                error=f"program exited with non-zero exit code: {max(status, -1)}"
            )
        return language_pb2.RunResponse()

    async def RunPlugin(
        self, request: language_pb2.RunPluginRequest, context: _Context
    ) -> AsyncIterator[language_pb2.RunPluginResponse]:
        """Run a plugin written in Python, for example a policy pack, until it is not needed."""
        try:
            python, changes = _interpreter(request.info)
        except StepFailedError as error:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        given = dict(entry.split("=", 1) for entry in request.env)
        process = await asyncio.create_subprocess_exec(
            str(python),
            "-u",
            request.info.program_directory,
            *request.args,
            cwd=request.pwd,
            env=_environment({**given, **changes}),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
        )
        async with self._child(process, _kill):
            async for response in _outputs(process):
                yield response
            yield _Output(exitcode=await process.wait())

    async def Cancel(self, request: empty_pb2.Empty, context: _Context) -> empty_pb2.Empty:
        for child in self._children:
            _send_interrupt(child)
        return empty_pb2.Empty()

    def _addresses(self) -> list[str]:
        return ["--engine", self._engine] if self._engine else []

    async def _ask(self, python: Path, code: str) -> str:
        process = await asyncio.create_subprocess_exec(
            str(python), "-c", code, stdin=DEVNULL, stdout=PIPE
        )
        async with self._child(process, _kill):
            stdout, _ = await process.communicate()
        return stdout.decode()


# Programs and plugins stay in the host's process group, as with the official host: the SIGINT with
# which the engine ends that group reaches them too.


async def _interrupt(process: Process) -> None:
    """End a program as the official host does: SIGINT, and SIGKILL if that takes too long."""
    _send_interrupt(process)
    await _ended(process)


def _send_interrupt(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGINT)


async def _ended(process: Process) -> None:
    try:
        await asyncio.wait_for(process.wait(), _GRACE)
    except TimeoutError:
        await _kill(process)


async def _kill(process: Process) -> None:
    """End a plugin as the official host does."""
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()


async def _outputs(process: Process) -> AsyncIterator[language_pb2.RunPluginResponse]:
    """Yield pieces of both outputs of a child as they arrive."""
    queue: asyncio.Queue[language_pb2.RunPluginResponse | None] = asyncio.Queue(maxsize=64)

    async def pump(stream: asyncio.StreamReader | None, name: str) -> None:
        while stream is not None and (data := await stream.read(65536)):
            await queue.put(_Output(stdout=data) if name == "stdout" else _Output(stderr=data))
        await queue.put(None)

    streams = (process.stdout, "stdout"), (process.stderr, "stderr")
    pumps = [asyncio.create_task(pump(*stream)) for stream in streams]
    try:
        for _ in pumps:
            while (response := await queue.get()) is not None:
                yield response
    finally:
        for task in pumps:
            task.cancel()


async def _serve(arguments: list[str]) -> None:
    address = engine_address(arguments)
    host = LanguageHost(address)
    if address is None:
        print(ANNOUNCEMENT, file=sys.stderr, flush=True)
    # The engine shows a language host's standard error to the user in every run.
    announcement = asyncio.create_task(Engine(address).debug(ANNOUNCEMENT))

    def register(server: grpc.aio.Server) -> None:
        language_pb2_grpc.add_LanguageRuntimeServicer_to_server(host, server)

    async def stop() -> None:
        announcement.cancel()
        await host.stop()

    await serve(register, stop)


def main(arguments: list[str]) -> None:
    """Serve until the engine ends the process; `arguments` are the engine's."""
    asyncio.run(_serve(arguments))
