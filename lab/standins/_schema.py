"""The package schema that the stand-in command provider returns.

It has the names and types that an engine or a policy pack may ask for, not the texts.
"""

from typing import Any

from lab.standins import COMMAND_VERSION

_STRING = {"type": "string"}
_STRINGS = {"type": "array", "items": _STRING}
_ANY = {"$ref": "pulumi.json#/Any"}
_ASSET = {"$ref": "pulumi.json#/Asset"}
_LOGGING = ("stdout", "stderr", "stdoutAndStderr", "none")
_FILES = {
    "assets": {"type": "object", "additionalProperties": _ASSET},
    "archive": {"$ref": "pulumi.json#/Archive"},
}
_PROCESS: dict[str, Any] = {
    "addPreviousOutputInEnv": {"type": "boolean"},
    "environment": {"type": "object", "additionalProperties": _STRING},
    "stdin": _STRING,
}
_STEPS: dict[str, Any] = {"create": _STRING, "update": _STRING, "delete": _STRING}
_TRIGGERS: dict[str, Any] = {
    "triggers": {"type": "array", "items": _ANY, "replaceOnChanges": True},
}
_LOCAL: dict[str, Any] = {
    "archivePaths": _STRINGS,
    "assetPaths": _STRINGS,
    "dir": _STRING,
    "interpreter": _STRINGS,
    "logging": {"$ref": "#/types/command:local:Logging"},
}
_ENDPOINT: dict[str, Any] = {
    "host": _STRING,
    "port": {"type": "number", "default": 22},
    "user": {**_STRING, "default": "root"},
    "password": _STRING,
    "privateKey": _STRING,
    "privateKeyPassword": _STRING,
    "hostKey": _STRING,
    "agentSocketPath": _STRING,
    "dialErrorLimit": {"type": "integer", "default": 10},
    "perDialTimeout": {"type": "integer", "default": 15},
}
_CONNECTION: dict[str, Any] = {
    "connection": {"$ref": "#/types/command:remote:Connection", "secret": True},
}
_OUTPUTS: dict[str, Any] = {"stdout": _STRING, "stderr": _STRING}


def _object(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required}


def _enum() -> dict[str, Any]:
    return {"type": "string", "enum": [{"value": value} for value in _LOGGING]}


def _resource(
    inputs: dict[str, Any], outputs: dict[str, Any], required: list[str]
) -> dict[str, Any]:
    return {
        "inputProperties": inputs,
        "requiredInputs": required,
        "properties": {**inputs, **outputs},
        "required": [*required, *(name for name in outputs if name in _OUTPUTS)],
    }


SCHEMA: dict[str, Any] = {
    "name": "command",
    "version": COMMAND_VERSION,
    "types": {
        "command:local:Logging": _enum(),
        "command:remote:Logging": _enum(),
        "command:remote:ProxyConnection": _object(_ENDPOINT, ["host"]),
        "command:remote:Connection": _object(
            {**_ENDPOINT, "proxy": {"$ref": "#/types/command:remote:ProxyConnection"}}, ["host"]
        ),
    },
    "provider": {},
    "resources": {
        "command:local:Command": _resource(
            {**_PROCESS, **_STEPS, **_TRIGGERS, **_LOCAL}, {**_OUTPUTS, **_FILES}, []
        ),
        "command:remote:Command": _resource(
            {
                **_PROCESS,
                **_STEPS,
                **_TRIGGERS,
                **_CONNECTION,
                "logging": {"$ref": "#/types/command:remote:Logging"},
            },
            _OUTPUTS,
            ["connection"],
        ),
        "command:remote:CopyToRemote": _resource(
            {
                **_TRIGGERS,
                **_CONNECTION,
                "remotePath": _STRING,
                "source": {"oneOf": [_ASSET, {"$ref": "pulumi.json#/Archive"}]},
            },
            {},
            ["connection", "remotePath", "source"],
        ),
    },
    "functions": {
        "command:local:run": {
            "inputs": _object({**_PROCESS, **_LOCAL, "command": _STRING}, ["command"]),
            "outputs": _object(
                {**_PROCESS, **_LOCAL, **_OUTPUTS, **_FILES, "command": _STRING},
                ["command", "stdout", "stderr"],
            ),
        },
    },
}
