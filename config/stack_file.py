"""A stack file: its values, the line of each, and which of them are secrets."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from config import EXAMPLE, SECRETS, SSH_KEY, SSH_KEY_PASSWORD, keys, yaml_reader
from config.errors import NAMESPACE, KeyPath, NordmeshError, Problem

# Replace secrets, which only a Pulumi program can decrypt: key formats without a key.
_STAND_IN_KEY = "-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----"
_STAND_IN_LOCKED_KEY = (
    "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n-----END RSA PRIVATE KEY-----"
)
_STAND_IN_PASSWORD = "passphrase"  # noqa: S105


@dataclass(frozen=True, kw_only=True)
class StackFile:
    """The settings of Pulumi.<stack>.yaml below `nordmesh:`.

    values: the settings, without encrypted ones. lines: the line of each key, from 1. secrets: the
    paths of encrypted values. problems: problems of the file as a whole. is_example: whether the
    file is marked as an example. is_lab: whether nordmesh creates its nodes on this machine.
    """

    path: Path
    values: Mapping[str, object]
    lines: Mapping[KeyPath, int]
    secrets: frozenset[KeyPath]
    problems: tuple[Problem, ...] = ()
    is_example: bool = False
    is_lab: bool = False

    @property
    def kind(self) -> str:
        """How pipelines treat the stack: "lab", "example" or "deployed"."""
        return "lab" if self.is_lab else "example" if self.is_example else "deployed"

    def is_secret(self, path: KeyPath) -> bool:
        """Whether a value is encrypted, or is inside an encrypted value."""
        return any(path[:length] in self.secrets for length in range(1, len(path) + 1))


def read(project: Path, stack: str) -> StackFile:
    """Read the file of a stack; raises NordmeshError."""
    path = path_of(project, stack)
    try:
        return parse(path, path.read_text())
    except FileNotFoundError:
        stacks = ", ".join(names(project)) or "none"
        raise NordmeshError(
            "there is no such file",
            code="no-stack-file",
            path=path.name,
            why="nordmesh reads the settings of a stack from its file",
            fix=f"pass one of the stacks here with --stack ({stacks}), or write a new file with "
            "`nordmesh new`",
        ) from None
    except RecursionError:
        raise _unreadable(path, "an alias in it contains itself") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise _unreadable(path, str(error)) from None


def path_of(project: Path, stack: str) -> Path:
    """The path of a stack's file."""
    return project / f"Pulumi.{stack}.yaml"


def document(project: Path, stack: str) -> Mapping[str, Any]:
    """The whole content of a stack file, unchecked; {} if it does not exist or is no mapping."""
    path = path_of(project, stack)
    content = yaml_reader.load(path.read_text()) if path.exists() else None
    return content if isinstance(content, dict) else {}


def names(project: Path) -> list[str]:
    """The stacks that have a file in a project, sorted."""
    return sorted(path.name.split(".")[1] for path in project.glob("Pulumi.*.yaml"))


def _unreadable(path: Path, reason: str) -> NordmeshError:
    return NordmeshError(
        f"the stack file cannot be read: {reason}",
        code="stack-file-unreadable",
        path=path.name,
        fix="correct the file, or restore the last good version from git",
    )


def parse(path: Path, text: str) -> StackFile:
    """Parse the text of a stack file; raises NordmeshError and yaml.YAMLError."""
    document: Any = yaml_reader.load(text)
    config = document.get("config") if isinstance(document, dict) else None
    if not isinstance(config, dict):
        raise NordmeshError(
            f"the file has no `config:` with keys such as {NAMESPACE}:machines",
            code="not-a-stack-file",
            path=path.name,
            fix="write a stack file with `nordmesh new`",
        )
    repeated = list(keys.repeated(config))
    config = {keys.full(key): value for key, value in config.items()}
    prefix = f"{NAMESPACE}:"
    secrets: set[KeyPath] = set()
    values = {
        key.removeprefix(prefix): without_secrets(value, (key.removeprefix(prefix),), secrets)
        for key, value in config.items()
        if key.startswith(prefix)
    }
    values = {
        key: yaml_reader.as_text(value) for key, value in values.items() if (key,) not in secrets
    }
    clear = [key for key in SECRETS if values.get(key)]
    problems = (
        *keys.unread(config),
        *keys.in_the_clear(clear),
        *keys.misplaced(text, path.name),
        *repeated,
    )
    values |= {key: _STAND_IN_PASSWORD for key in SECRETS if (key,) in secrets}
    if (SSH_KEY,) in secrets:
        is_locked = (SSH_KEY_PASSWORD,) in secrets
        values[SSH_KEY] = _STAND_IN_LOCKED_KEY if is_locked else _STAND_IN_KEY
    lines = {
        (keys.full(below[1]).removeprefix(prefix), *below[2:]): line
        for below, line in _lines(yaml_reader.compose(text), ())
        if len(below) > 1 and below[0] == "config"
    }
    return StackFile(
        path=path,
        values=values,
        lines=lines,
        secrets=frozenset(secrets),
        problems=problems,
        is_example=_is_example(document),
        is_lab=_is_lab(document),
    )


def written_keys(text: str) -> list[str]:
    """The keys below `config:` as a stack file has them; [] if the text cannot be read."""
    try:
        document = yaml_reader.load(text)
    except (yaml.YAMLError, RecursionError):
        return []
    config = document.get("config") if isinstance(document, dict) else None
    return list(config) if isinstance(config, dict) else []


def _is_example(document: object) -> bool:
    """Whether the content of a stack file is marked as an example, which no pipeline deploys."""
    return str(_config(document).get(EXAMPLE)).lower() == "true"  # Pulumi writes it as text


def _is_lab(document: object) -> bool:
    """Whether the content of a stack file has nodes that the program makes on its own machine."""
    machines = _config(document).get(f"{NAMESPACE}:machines")
    nodes = machines.get("nodes") if isinstance(machines, dict) else None
    return isinstance(nodes, dict) and any(
        isinstance(node, dict) and node.get("provider") == "container" for node in nodes.values()
    )


def _config(document: object) -> Mapping[str, Any]:
    config = document.get("config") if isinstance(document, dict) else None
    if not isinstance(config, dict):
        return {}
    return {keys.full(key): value for key, value in config.items()}


def without_secrets(value: object, path: KeyPath, secrets: set[KeyPath]) -> object:
    """A value of a stack file without its encrypted parts; adds their paths to `secrets`."""
    if isinstance(value, dict):
        if set(value) == {"secure"}:
            secrets.add(path)
            return None
        inner = {
            str(key): without_secrets(below, (*path, str(key)), secrets)
            for key, below in value.items()
        }
        return {key: below for key, below in inner.items() if (*path, key) not in secrets}
    if isinstance(value, list):
        return [
            without_secrets(below, (*path, f"[{index}]"), secrets)
            for index, below in enumerate(value)
        ]
    return value


def _lines(node: yaml.Node | None, path: KeyPath) -> Iterator[tuple[KeyPath, int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            below = (*path, str(key.value))
            yield below, key.start_mark.line + 1
            yield from _lines(value, below)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            below = (*path, f"[{index}]")
            yield below, value.start_mark.line + 1
            yield from _lines(value, below)
