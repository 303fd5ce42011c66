"""A stack file as it is written: its values, the line of each, and which of them are secrets."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from config import EXAMPLE, SSH_KEY, SSH_KEY_PASSWORD, keys
from config.errors import NAMESPACE, KeyPath, Problem

# In place of the SSH key, which only the program sees decrypted: shaped as a key, and of no use.
_STAND_IN_KEY = "-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----"
_STAND_IN_LOCKED_KEY = (
    "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n-----END RSA PRIVATE KEY-----"
)
_STAND_IN_PASSWORD = "passphrase"  # noqa: S105


class Unreadable(Exception):
    """A stack file that cannot be read; the text says what is wrong and what to do."""


@dataclass(frozen=True, kw_only=True)
class StackFile:
    """What Pulumi.<stack>.yaml says below `nordmesh:`.

    values: the settings, without those that are encrypted. lines: the line of each key, from 1.
    secrets: where encrypted values stand. problems: those of the file as a whole. is_example:
    whether it is marked as an example.
    """

    path: Path
    values: Mapping[str, object]
    lines: Mapping[KeyPath, int]
    secrets: frozenset[KeyPath]
    problems: tuple[Problem, ...] = ()
    is_example: bool = False

    def is_secret(self, path: KeyPath) -> bool:
        """Whether a value is encrypted, or lies in one that is."""
        return any(path[:length] in self.secrets for length in range(1, len(path) + 1))


def read(project: Path, stack: str) -> StackFile:
    """The file of a stack of a project; raises Unreadable."""
    path = project / f"Pulumi.{stack}.yaml"
    try:
        return _parsed(path, path.read_text())
    except FileNotFoundError:
        names = sorted(name.name.split(".")[1] for name in project.glob("Pulumi.*.yaml"))
        raise Unreadable(
            f"there is no {path.name}; the stacks here are {', '.join(names)}, and "
            "`make new-stack` writes another"
        ) from None
    except RecursionError:
        raise Unreadable(f"{path.name} cannot be read: an alias in it contains itself") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise Unreadable(f"{path.name} cannot be read: {error}") from None


def _parsed(path: Path, text: str) -> StackFile:
    document: Any = next(iter(yaml.safe_load_all(text)), None)
    config = document.get("config") if isinstance(document, dict) else None
    if not isinstance(config, dict):
        raise Unreadable(f"{path.name} has no `config:` with keys such as {NAMESPACE}:machines")
    config = {keys.full(str(key)): value for key, value in config.items()}
    prefix = f"{NAMESPACE}:"
    secrets: set[KeyPath] = set()
    values = {
        key.removeprefix(prefix): without_secrets(value, (key.removeprefix(prefix),), secrets)
        for key, value in config.items()
        if key.startswith(prefix)
    }
    values = {key: value for key, value in values.items() if (key,) not in secrets}
    clear = [key for key in keys.SECRETS if values.get(key)]
    problems = (*keys.unread(config), *keys.in_the_clear(clear), *keys.misplaced(text, path.name))
    if (SSH_KEY,) in secrets:
        is_locked = (SSH_KEY_PASSWORD,) in secrets
        values[SSH_KEY] = _STAND_IN_LOCKED_KEY if is_locked else _STAND_IN_KEY
    if (SSH_KEY_PASSWORD,) in secrets:
        values[SSH_KEY_PASSWORD] = _STAND_IN_PASSWORD
    lines = {
        (keys.full(below[1]).removeprefix(prefix), *below[2:]): line
        for below, line in _lines(next(yaml.compose_all(text, Loader=yaml.SafeLoader)), ())
        if len(below) > 1 and below[0] == "config"
    }
    return StackFile(
        path=path,
        values=values,
        lines=lines,
        secrets=frozenset(secrets),
        problems=problems,
        is_example=is_example(document),
    )


def is_example(document: object) -> bool:
    """Whether the content of a stack file is marked as an example, which no pipeline deploys."""
    return str(_config(document).get(EXAMPLE)).lower() == "true"  # pulumi writes it as text


def is_lab(document: object) -> bool:
    """Whether the content of a stack file has nodes that the program makes on its own machine."""
    machines = _config(document).get(f"{NAMESPACE}:machines")
    nodes = machines.get("nodes") if isinstance(machines, dict) else None
    return isinstance(nodes, dict) and any(
        isinstance(node, dict) and node.get("provider") == "container" for node in nodes.values()
    )


def _config(document: object) -> Mapping[str, Any]:
    config = document.get("config") if isinstance(document, dict) else None
    return config if isinstance(config, dict) else {}


def without_secrets(value: object, path: KeyPath, found: set[KeyPath]) -> object:
    """A value of a stack file without what is encrypted in it; adds its places to `found`."""
    if isinstance(value, dict):
        if set(value) == {"secure"}:
            found.add(path)
            return None
        inner = {
            str(key): without_secrets(below, (*path, str(key)), found)
            for key, below in value.items()
        }
        return {key: below for key, below in inner.items() if (*path, key) not in found}
    if isinstance(value, list):
        return [
            without_secrets(below, (*path, f"[{index}]"), found)
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
