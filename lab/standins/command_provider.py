# ruff: noqa: ARG002 (the protocol fixes the methods' arguments)
"""A stand-in for the official command provider 1.2.1, where that cannot be downloaded.

It runs commands on this machine and, over SSH, on others when resources are created,
changed or deleted. It deliberately differs from the official provider: it refuses a
connection without a hostKey, and uses the user's SSH agent only if agentSocketPath names it.
Its errors have the official provider's words; that of a wrong host key has more details, and is
not retried. Deliberately left out: remote.CopyFile (deprecated), and Read, which the official
provider does not have either.
"""

import asyncio
import json
import secrets
import sys
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import grpc.aio  # type: ignore[import-untyped]
from google.protobuf import empty_pb2, struct_pb2  # type: ignore[import-untyped]
from pulumi.runtime.proto import plugin_pb2, provider_pb2, provider_pb2_grpc

from lab.standins import COMMAND_VERSION
from lab.standins._local import archive_of, find_assets, run_local
from lab.standins._plugin import (
    Engine,
    LogStream,
    StepFailedError,
    engine_address,
    failure,
    serve,
)
from lab.standins._schema import SCHEMA
from lab.standins._ssh import BAD_HOST_KEY, NO_HOST_KEY, Pool, is_host_key, read_connection
from lab.standins._values import (
    ARCHIVE,
    ASSET,
    UNKNOWN,
    Properties,
    differences,
    is_unknown,
    plain,
    signature,
)

ANNOUNCEMENT = (
    f"pulumi-resource-command: this is a stand-in for the official provider {COMMAND_VERSION}, "
    "which could not be downloaded here."
)
LOCAL, REMOTE, COPY = (
    "command:local:Command",
    "command:remote:Command",
    "command:remote:CopyToRemote",
)
_RUN = "command:local:run"
_LOGGING = {"stdout": (True, False), "stderr": (False, True), "stdoutAndStderr": (True, True)}
_LOGGING["none"] = (False, False)

_Context: TypeAlias = Any  # grpc has no types
_Result = TypeVar("_Result")


@dataclass
class _Output:
    """The output of a command, kept and, on request, shown while it runs."""

    shown: tuple[bool, bool]
    stream: LogStream
    stdout: bytearray = field(default_factory=bytearray)
    stderr: bytearray = field(default_factory=bytearray)
    both: bytearray = field(default_factory=bytearray)

    def take(self, is_stdout: bool, data: bytes) -> None:
        (self.stdout if is_stdout else self.stderr).extend(data)
        self.both.extend(data)
        if self.shown[0 if is_stdout else 1]:
            self.stream.feed(data)

    def results(self) -> dict[str, str]:
        pairs = ("stdout", self.stdout), ("stderr", self.stderr)
        return {name: data.decode(errors="replace").removesuffix("\n") for name, data in pairs}


def _previous(inputs: Properties, outputs: Mapping[str, Any]) -> dict[str, str]:
    """The output of the last run, for the environment of the next one."""
    if inputs.get("addPreviousOutputInEnv") is False:
        return {}
    names = {"PULUMI_COMMAND_STDOUT": "stdout", "PULUMI_COMMAND_STDERR": "stderr"}
    return {name: outputs[key] for name, key in names.items() if outputs.get(key)}


def _name_of(urn: str) -> str:
    return urn.rpartition("::")[2]


def _type_of(urn: str) -> str:
    return urn.split("::")[2].rpartition("$")[2]


class CommandProvider(provider_pb2_grpc.ResourceProviderServicer):
    """The gRPC service of the command provider."""

    def __init__(self, engine: Engine) -> None:
        """`engine` receives what commands write while they run."""
        self._engine = engine
        self._pool = Pool()
        self._steps: set[asyncio.Task[Any]] = set()
        self._stopped = False

    async def stop(self) -> None:
        """End all running commands and close all connections."""
        self._stopped = True
        for step in self._steps:
            step.cancel()
        if self._steps:
            await asyncio.wait(self._steps, timeout=4)
        self._pool.abort()

    async def _do(
        self, context: _Context, timeout: float, step: Coroutine[Any, Any, _Result]
    ) -> _Result:
        """Await a step; turn its failure into the error that the user reads."""
        task = asyncio.create_task(step)
        self._steps.add(task)
        try:
            async with asyncio.timeout(timeout or None):
                return await task
        except TimeoutError:
            reason = f"stopped after {timeout:g} s, which is the custom timeout of this step"
        except StepFailedError as error:
            reason = str(error)
        except asyncio.CancelledError:
            if not self._stopped:
                raise
            reason = "stopped, since the update was cancelled"
        except Exception as error:
            reason = f"a fault in the stand-in provider: {type(error).__name__}: {error}"
        finally:
            self._steps.discard(task)
        await context.abort(grpc.StatusCode.UNKNOWN, reason)
        raise AssertionError("abort raises")

    async def _run(
        self, kind: str, urn: str, command: str, inputs: Properties, last: Mapping[str, Any]
    ) -> Properties:
        """Run a command with the resource's inputs; return the outputs."""
        shown = _LOGGING[inputs.get("logging") or "stdoutAndStderr"]
        output = _Output(shown, self._engine.stream(urn))
        environment = {**(inputs.get("environment") or {}), **_previous(inputs, last)}
        stdin = inputs.get("stdin") or ""
        try:
            if kind == REMOTE:
                reason = await self._pool.run(
                    read_connection(inputs.get("connection")),
                    command,
                    environment=environment,
                    stdin=stdin,
                    sink=output.take,
                )
            else:
                interpreter = inputs.get("interpreter") or ["/bin/sh", "-c"]
                reason = await run_local(
                    [*interpreter, command],
                    directory=inputs.get("dir"),
                    environment=environment,
                    stdin=stdin,
                    sink=output.take,
                )
        finally:
            await output.stream.close()
        if reason is not None:
            raise StepFailedError(failure(reason, command, bytes(output.both)))
        results: Properties = dict(output.results())
        if inputs.get("assetPaths") is not None:
            results["assets"] = find_assets(inputs.get("dir"), inputs["assetPaths"])
        if inputs.get("archivePaths") is not None:
            results["archive"] = archive_of(find_assets(inputs.get("dir"), inputs["archivePaths"]))
        return results

    async def _copy(self, inputs: Properties) -> None:
        source = inputs["source"]
        connection = read_connection(inputs.get("connection"))
        if "text" in source:
            await self._pool.copy(connection, source["text"], inputs["remotePath"])
            return
        path, destination = Path(source["path"]), inputs["remotePath"]
        if path.is_dir() and not source["path"].endswith("/"):
            destination = f"{destination.rstrip('/')}/{path.name}"
        await self._pool.copy(connection, path, destination)

    async def _create(self, kind: str, request: provider_pb2.CreateRequest) -> Properties:
        inputs = plain(request.properties)
        if kind == COPY:
            await self._copy(inputs)
            return {}
        if inputs.get("create") is None:
            return {"stdout": "", "stderr": ""}
        return await self._run(kind, request.urn, inputs["create"], inputs, {})

    async def _update(self, kind: str, request: provider_pb2.UpdateRequest) -> Properties:
        inputs, last = plain(request.news), plain(request.olds)
        if kind == COPY:
            changed = {path for path, _ in differences(last, inputs)}
            if any(path.startswith(("source", "remotePath")) for path in changed):
                await self._copy(inputs)
            return {}
        command = inputs.get("update")
        if command is None:
            command = inputs.get("create")
        if command is None:
            return {"stdout": last.get("stdout", ""), "stderr": last.get("stderr", "")}
        return await self._run(kind, request.urn, command, inputs, last)

    async def _delete(self, kind: str, request: provider_pb2.DeleteRequest) -> None:
        last = plain(request.properties)
        if kind != COPY and last.get("delete") is not None:
            await self._run(kind, request.urn, last["delete"], last, last)

    async def Handshake(
        self, request: provider_pb2.ProviderHandshakeRequest, context: _Context
    ) -> provider_pb2.ProviderHandshakeResponse:
        return provider_pb2.ProviderHandshakeResponse(accept_secrets=True, accept_resources=True)

    async def GetPluginInfo(
        self, request: empty_pb2.Empty, context: _Context
    ) -> plugin_pb2.PluginInfo:
        return plugin_pb2.PluginInfo(version=COMMAND_VERSION)

    async def GetSchema(
        self, request: provider_pb2.GetSchemaRequest, context: _Context
    ) -> provider_pb2.GetSchemaResponse:
        return provider_pb2.GetSchemaResponse(schema=json.dumps(SCHEMA))

    async def CheckConfig(
        self, request: provider_pb2.CheckRequest, context: _Context
    ) -> provider_pb2.CheckResponse:
        return provider_pb2.CheckResponse(inputs=request.news)

    async def DiffConfig(
        self, request: provider_pb2.DiffRequest, context: _Context
    ) -> provider_pb2.DiffResponse:
        return provider_pb2.DiffResponse(changes=provider_pb2.DiffResponse.DIFF_NONE)

    async def Configure(
        self, request: provider_pb2.ConfigureRequest, context: _Context
    ) -> provider_pb2.ConfigureResponse:
        return provider_pb2.ConfigureResponse(
            acceptSecrets=True, acceptResources=True, supportsPreview=True
        )

    async def Check(
        self, request: provider_pb2.CheckRequest, context: _Context
    ) -> provider_pb2.CheckResponse:
        """Find what is wrong with the inputs at preview, before anything runs."""
        failures = [
            provider_pb2.CheckFailure(property=name, reason=reason)
            for name, reason in _check(_type_of(request.urn), plain(request.news))
        ]
        return provider_pb2.CheckResponse(inputs=request.news, failures=failures)

    async def Diff(
        self, request: provider_pb2.DiffRequest, context: _Context
    ) -> provider_pb2.DiffResponse:
        """Any changed input is an update; changed triggers are a replacement."""
        old, new = plain(request.old_inputs), plain(request.news)
        for name in request.ignoreChanges:
            new.pop(name, None)
            old.pop(name, None)
        return _diff_response(dict(differences(old, new)))

    async def Create(
        self, request: provider_pb2.CreateRequest, context: _Context
    ) -> provider_pb2.CreateResponse:
        """Run `create`; a preview runs nothing and knows no outputs."""
        kind = _type_of(request.urn)
        if request.preview:
            outputs = _unknown_outputs(kind, plain(request.properties))
            return provider_pb2.CreateResponse(properties=_echo(request.properties, outputs))
        outputs = await self._do(context, request.timeout, self._create(kind, request))
        return provider_pb2.CreateResponse(
            id=f"{_name_of(request.urn)}{secrets.token_hex(4)}",
            properties=_echo(request.properties, outputs),
        )

    async def Update(
        self, request: provider_pb2.UpdateRequest, context: _Context
    ) -> provider_pb2.UpdateResponse:
        """Run `update`, or else `create`; a preview runs nothing and knows no outputs."""
        kind = _type_of(request.urn)
        if request.preview:
            outputs = _unknown_outputs(kind, plain(request.news))
        else:
            outputs = await self._do(context, request.timeout, self._update(kind, request))
        return provider_pb2.UpdateResponse(properties=_echo(request.news, outputs))

    async def Delete(
        self, request: provider_pb2.DeleteRequest, context: _Context
    ) -> empty_pb2.Empty:
        """Run the `delete` that was stored with the resource."""
        await self._do(context, request.timeout, self._delete(_type_of(request.urn), request))
        return empty_pb2.Empty()

    async def Read(
        self, request: provider_pb2.ReadRequest, context: _Context
    ) -> provider_pb2.ReadResponse:
        """Return the state unchanged: the effects of a command cannot be read."""
        return provider_pb2.ReadResponse(
            id=request.id, properties=request.properties, inputs=request.inputs
        )

    async def Invoke(
        self, request: provider_pb2.InvokeRequest, context: _Context
    ) -> provider_pb2.InvokeResponse:
        """Run a command at every program run, in previews too (local.run)."""
        if request.tok != _RUN:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"no function {request.tok}")
        inputs = plain(request.args)
        step = self._run(LOCAL, "", inputs.get("command", ""), inputs, {})
        outputs = await self._do(context, 0, step)
        response = provider_pb2.InvokeResponse()
        getattr(response, "return").CopyFrom(_echo(request.args, outputs))
        return response

    async def Cancel(self, request: empty_pb2.Empty, context: _Context) -> empty_pb2.Empty:
        await self.stop()
        return empty_pb2.Empty()


def _echo(inputs: struct_pb2.Struct, outputs: Properties) -> struct_pb2.Struct:
    """The inputs as they came, secrets wrapped, and the outputs with them."""
    properties = struct_pb2.Struct()
    properties.CopyFrom(inputs)
    properties.update(outputs)
    return properties


def _unknown_outputs(kind: str, inputs: Properties) -> Properties:
    outputs: Properties = {} if kind == COPY else {"stdout": UNKNOWN, "stderr": UNKNOWN}
    for name, paths in (("assets", "assetPaths"), ("archive", "archivePaths")):
        if kind == LOCAL and inputs.get(paths) is not None:
            outputs[name] = UNKNOWN
    return outputs


def _check(kind: str, inputs: Properties) -> list[tuple[str, str]]:
    """The errors in known inputs, as property and reason."""
    if kind not in (LOCAL, REMOTE, COPY):
        return [("", f"the stand-in provider has no resource {kind}")]
    wrong: list[tuple[str, str]] = []
    if kind != LOCAL:
        wrong += _check_connection("connection", inputs.get("connection"))
    logging = inputs.get("logging")
    if logging is not None and not is_unknown(logging) and logging not in _LOGGING:
        wrong.append(("logging", f"{logging!r} is none of {', '.join(_LOGGING)}"))
    if kind == COPY:
        wrong += _check_source(inputs.get("source"))
        if not inputs.get("remotePath"):
            wrong.append(("remotePath", "is not set"))
    return wrong


def _check_connection(name: str, settings: Any) -> list[tuple[str, str]]:
    if is_unknown(settings):
        return []
    if not isinstance(settings, dict) or not settings.get("host"):
        return [(f"{name}.host", "is not set")]
    wrong = []
    host_key = settings.get("hostKey")
    if not host_key:
        wrong.append((f"{name}.hostKey", f"is not set. {NO_HOST_KEY}"))
    elif not is_unknown(host_key) and not is_host_key(host_key):
        wrong.append((f"{name}.hostKey", BAD_HOST_KEY))
    if settings.get("proxy") is not None:
        wrong += _check_connection(f"{name}.proxy", settings["proxy"])
    return wrong


def _check_source(source: Any) -> list[tuple[str, str]]:
    if is_unknown(source):
        return []
    kind = signature(source)
    if kind == ASSET and (source.get("path") or "text" in source):
        return []
    if kind == ARCHIVE and source.get("path"):
        return []
    return [("source", "must be a FileAsset, a StringAsset, or a FileArchive of a path")]


def _diff_response(found: dict[str, str]) -> provider_pb2.DiffResponse:
    if not found:
        return provider_pb2.DiffResponse(changes=provider_pb2.DiffResponse.DIFF_NONE)
    top = {path: path.partition(".")[0].partition("[")[0] for path in found}
    detailed = {}
    for path, what in found.items():
        kind = f"{what}_replace" if top[path] == "triggers" else what
        detailed[path] = provider_pb2.PropertyDiff(
            kind=provider_pb2.PropertyDiff.Kind.Value(kind.upper()), inputDiff=True
        )
    return provider_pb2.DiffResponse(
        changes=provider_pb2.DiffResponse.DIFF_SOME,
        diffs=sorted(set(top.values())),
        replaces=["triggers"] if "triggers" in top.values() else [],
        detailedDiff=detailed,
        hasDetailedDiff=True,
    )


async def _serve(arguments: list[str]) -> None:
    engine = Engine(engine_address(arguments))
    provider = CommandProvider(engine)
    # The engine keeps a resource provider's standard error for `pulumi up --debug`.
    print(ANNOUNCEMENT, file=sys.stderr, flush=True)

    def register(server: grpc.aio.Server) -> None:
        provider_pb2_grpc.add_ResourceProviderServicer_to_server(provider, server)

    await serve(register, provider.stop)


def main(arguments: list[str]) -> None:
    """Serve until the engine ends the process; `arguments` are the engine's."""
    asyncio.run(_serve(arguments))
