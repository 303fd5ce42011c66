"""A stack as the rules get it: its planned resources, and its stack file."""

import datetime
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from components.manifests.istio_operator import specs
from components.remote.node_command import file, settings
from config.keys import POLICY_NAMESPACE, full

Values = Mapping[str, Any]

_SECURE = "secure"  # of a value that `pulumi config set --secret` wrote
_TEST = "test"


@dataclass(frozen=True, kw_only=True)
class Resource:
    """A resource with its inputs; in a preview, a placeholder stands for unknown ones."""

    type: str
    name: str
    urn: str
    props: Values
    is_protected: bool = False

    @property
    def kind(self) -> str | None:
        """The Kubernetes kind; None for other resources."""
        return self.type.rpartition(":")[2] if self.type.startswith("kubernetes:") else None

    @property
    def namespace(self) -> str | None:
        return mapping(self.props.get("metadata")).get("namespace")

    @property
    def command(self) -> str:
        """The create command; "" if it is unknown."""
        command = self.props.get("create")
        return command if isinstance(command, str) else ""

    @property
    def script(self) -> str | None:
        """The script of components/scripts that a command runs."""
        return file(self.command) if self.is_remote_command else None

    @property
    def is_remote_command(self) -> bool:
        return self.type == "command:remote:Command"

    @property
    def settings(self) -> dict[str, str]:
        """What a command exports to its script."""
        return settings(self.command) if self.is_remote_command else {}


@dataclass(frozen=True, kw_only=True)
class Stack:
    """config: the stack file's values by key, for example `nordmesh:mesh`. backend: the URL of the
    state, None if it is unknown. key_service: the URL of the service that encrypts secrets, None
    for a passphrase.
    """

    resources: tuple[Resource, ...] = ()
    config: Values = field(default_factory=dict)
    backend: str | None = None
    key_service: str | None = None
    today: datetime.date

    def section(self, name: str) -> Values:
        """A section of the program's configuration."""
        return mapping(self.config.get(f"nordmesh:{name}"))

    @property
    def accepted(self) -> dict[str, str]:
        """The reasons that waive findings, by subject: `nordmesh-policy:accept`."""
        accepted = mapping(self.config.get(f"{POLICY_NAMESPACE}:accept"))
        return {str(key): str(reason) for key, reason in accepted.items()}

    @property
    def is_production(self) -> bool:
        """Whether the stack is production; by default, if it is not a lab of containers."""
        environment = self.config.get(f"{POLICY_NAMESPACE}:environment")
        if environment is not None:
            return bool(environment != _TEST)
        nodes = mapping(self.section("machines").get("nodes")).values()
        return not nodes or any(mapping(node).get("provider") != "container" for node in nodes)

    def of_kind(self, *kinds: str) -> list[Resource]:
        """Kubernetes objects of some kinds, sorted by name."""
        objects = [resource for resource in self.resources if resource.kind in kinds]
        return sorted(objects, key=lambda resource: (resource.name, resource.urn))

    def of_type(self, prefix: str) -> list[Resource]:
        """Resources whose type has a prefix, sorted by name."""
        resources = [resource for resource in self.resources if resource.type.startswith(prefix)]
        return sorted(resources, key=lambda resource: (resource.name, resource.urn))

    @property
    def commands(self) -> list[Resource]:
        """The scripts that run on nodes, sorted by name."""
        return [resource for resource in self.of_type("command:") if resource.is_remote_command]

    @property
    def operators(self) -> list[tuple[Resource, Values]]:
        """The IstioOperator specs, with the command that installs each of them."""
        return [
            (command, spec)
            for command in self.commands
            for spec in specs(command.settings).values()
        ]


def config_of(file: Values) -> Values:
    """The values of a stack file, without secrets."""
    config = mapping(file.get("config"))
    return {full(key): value for key, value in config.items() if not is_secure(value)}


def key_service_of(file: Values, environment: Mapping[str, str]) -> str | None:
    """The URL of the service that encrypts the stack's secrets; None for a passphrase."""
    service = str(file.get("secretsprovider") or "passphrase")
    if service.startswith("hashivault:"):
        return environment.get("VAULT_SERVER_URL") or environment.get("VAULT_ADDR")
    return service if "://" in service else None


def is_secure(value: Any) -> bool:
    """Whether a value of a stack file is encrypted."""
    return isinstance(value, Mapping) and value.keys() == {_SECURE}


def mapping(value: Any) -> Values:
    """The value if it is a mapping, else an empty one: an unknown value has no keys."""
    return value if isinstance(value, Mapping) else {}


def items(value: Any) -> list[Any]:
    """The value if it is a list, else an empty one."""
    return list(value) if isinstance(value, list | tuple) else []


def texts(value: Any) -> Iterator[tuple[str, str]]:
    """All texts below a value, each with the last key of its path."""
    yield from _texts(value, "")


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping) and not is_secure(value):
        for name, item in value.items():
            yield from _texts(item, str(name))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item, key)
