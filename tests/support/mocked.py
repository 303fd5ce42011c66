"""The platform under Pulumi's mocks: the resources of a stack, without an engine."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any
from unittest.mock import patch

import pulumi
from pulumi.runtime import Mocks, resource, set_mocks
from pulumi.runtime.mocks import MockCallArgs, MockMonitor, MockResourceArgs
from pulumi.runtime.proto.resource_pb2 import RegisterResourceRequest
from pulumi.runtime.proto.source_pb2 import StackTrace

from components.remote.script import PrivateKey
from config import StackConfig, catalogue
from stacks.platform import Platform
from tests.support.sections import checkout

SECRET_MARK = "4dabf18193072939515e22adb298388d"  # noqa: S105 (of Pulumi's wire format)
SSH_KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nnot-a-key\n-----END OPENSSH PRIVATE KEY-----\n"
HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJGkUj6CiBLpxleZG7pHU45YpGrNlagoWIz6T40ULcM2"
INIT_RESULT = json.dumps({"ca": "Y2E=", "clientCertificate": "Y2VydA==", "clientKey": "a2V5"})

NEW_CREDENTIALS = ""


class Recorder(Mocks):
    """Records every resource of a run, and responds like a healthy cluster."""

    def __init__(self) -> None:
        self.resources: dict[tuple[str, str], MockResourceArgs] = {}
        self.options: dict[str, dict[str, Any]] = {}
        """By `Kind name`, the options that are not Pulumi's defaults, with their Python names."""

    def new_resource(self, args: MockResourceArgs) -> tuple[str | None, dict[str, Any]]:
        twice = (args.typ, args.name) in self.resources
        assert not twice, f"two resources are {args.typ} {args.name}"
        self.resources[args.typ, args.name] = args
        state = dict(args.inputs)
        if args.typ == "command:remote:Command":
            printed = {"init": INIT_RESULT, "credentials": NEW_CREDENTIALS}
            state["stdout"] = printed.get(args.name.rpartition("-")[2], "")
        if args.typ == "pulumi:index:Stash":
            state["output"] = state["input"]
        if args.typ == "command:local:Command":
            key = f"key of {args.name}"
            guest = {"public": HOST_KEY, "private": key}
            state["stdout"] = json.dumps({**guest, "hostKey": HOST_KEY, "privateKey": key})
        return f"{args.name}-id", state

    def call(self, args: MockCallArgs) -> tuple[dict[str, Any], list[tuple[str, str]] | None]:
        raise AssertionError(f"no function is called, but {args.token} was")

    def names(self, kind: str) -> list[str]:
        return sorted(name for typ, name in self.resources if typ.endswith(kind))

    def inputs(self, kind: str, name: str) -> dict[str, Any]:
        (resource,) = (
            a for (typ, n), a in self.resources.items() if n == name and typ.endswith(kind)
        )
        return {key: plain(value) for key, value in resource.inputs.items()}

    def secrets(self, kind: str, name: str) -> list[str]:
        """Return the inputs that are secret as a whole."""
        (resource,) = (
            a for (typ, n), a in self.resources.items() if n == name and typ.endswith(kind)
        )
        return sorted(key for key, value in resource.inputs.items() if plain(value) is not value)


class _Monitor(MockMonitor):
    """Records the options of resources, which Pulumi does not pass to mocks."""

    mocks: Recorder

    def RegisterResource(self, request: RegisterResourceRequest) -> Any:
        self.mocks.options[_label(request.type, request.name)] = _options(request)
        return super().RegisterResource(request)  # type: ignore[no-untyped-call]


def _options(request: RegisterResourceRequest) -> dict[str, Any]:
    """Return the options of a resource. hooks: names by event. Other resources: `Kind name`."""
    options = {
        "additional_secret_outputs": sorted(request.additionalSecretOutputs),
        "delete_before_replace": request.deleteBeforeReplace,
        "deleted_with": _label_of(request.deletedWith),
        "depends_on": sorted(map(_label_of, request.dependencies)),
        "hooks": {event.name: list(names) for event, names in request.hooks.ListFields()},
        "ignore_changes": list(request.ignoreChanges),
        "parent": _label_of(request.parent),
        "protect": request.protect,
        "provider": _label_of(request.provider.rpartition("::")[0]),
        "replace_on_changes": list(request.replaceOnChanges),
        "retain_on_delete": request.retainOnDelete,
    }
    return {option: value for option, value in options.items() if value}


def _label(kind: str, name: str) -> str:
    return f"{kind.rpartition(':')[2]} {name}"


def _label_of(urn: str) -> str:
    return _label(*urn.split("::")[2:4]) if urn else ""


def plain(value: Any) -> Any:
    """Return a value without its secret wrapper, if it has one."""
    return value["value"] if isinstance(value, dict) and SECRET_MARK in value else value


def base_sections() -> dict[str, object]:
    """Return the sections of a small valid stack of bought machines, as in its file."""
    return {
        "machines": {
            "nodes": {
                "cp-1": node("control-plane", "192.0.2.11"),
                "worker-1": node("worker", "192.0.2.21"),
            }
        },
        "kubernetes": {
            "clusterName": "oslo",
            "version": "1.23.17",
            "endpoint": "api.oslo.example.internal",
        },
        "istio": {"version": "1.16.5"},
        "mesh": {
            "namespaces": {"shop": {"mtls": "STRICT"}},
            "services": {"checkout": checkout()},
        },
    }


def config(**sections: object) -> StackConfig:
    """Load the small valid stack with these sections replaced."""
    return StackConfig.model_validate(base_sections() | sections)


def node(role: str, address: str) -> dict[str, object]:
    return {"role": role, "provider": "existing", "address": address, "hostKey": HOST_KEY}


def run(
    config: StackConfig,
    images: Mapping[str, Mapping[str, str]] | None = None,
    *,
    ssh_key: str = SSH_KEY,
    ssh_key_password: str | None = None,
    alert_secrets: Mapping[str, str] | None = None,
    backup_secret_key: str | None = None,
    lock: catalogue.Lock | None = None,
) -> tuple[Recorder, dict[str, Any]]:
    """Run the program. images: digests in the lock. lock: replaces the complete lock file."""
    recorder = Recorder()
    _have_an_event_loop()
    set_mocks(recorder, project="nordmesh", stack="test", monitor=_Monitor(recorder))
    istio = config.istio.version if config.istio else None
    versions = config.kubernetes.version, istio
    keys = [
        download.key
        for architecture in config.machines.architectures
        for download in catalogue.downloads(*versions, architecture)
    ]
    checksums = lock or catalogue.Lock(binaries=dict.fromkeys(keys, "0" * 64), images=images or {})
    exports: dict[str, Any] = {}

    @pulumi.runtime.test  # type: ignore[untyped-decorator]
    def program() -> None:
        password = pulumi.Output.secret(ssh_key_password) if ssh_key_password else None
        key = PrivateKey(text=pulumi.Output.secret(ssh_key), password=password)
        alerts = {key: pulumi.Output.secret(text) for key, text in (alert_secrets or {}).items()}
        secret_key = pulumi.Output.secret(backup_secret_key) if backup_secret_key else None
        platform = Platform(
            config,
            checksums,
            private_key=key,
            alert_secrets=alerts,
            backup_secret_key=secret_key,
        )
        exports.update(platform.exports())

    # Pulumi sends each resource's stack trace, which takes an eighth of the time and tests nothing.
    with patch.object(resource, "_get_stack_trace", StackTrace):
        program()
    return recorder, exports


def _have_an_event_loop() -> None:
    """Pulumi's mocks need the event loop of the thread, which asyncio.run removes."""
    try:
        asyncio.get_event_loop()
    except RuntimeError:
        asyncio.set_event_loop(asyncio.new_event_loop())


def changed(before: Recorder, after: Recorder) -> list[str]:
    both = before.resources.keys() & after.resources.keys()
    return sorted(
        name
        for typ, name in both
        if before.resources[typ, name].inputs != after.resources[typ, name].inputs
    )


def kubernetes_objects(recorded: Recorder) -> list[dict[str, Any]]:
    """Return the objects of a run, as sent to the API server."""
    return [args.inputs for (typ, _), args in recorded.resources.items() if "kind" in args.inputs]
