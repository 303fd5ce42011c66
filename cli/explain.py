"""`nordmesh explain`: the settings of a stack in effect, and where each value comes from."""

from collections.abc import Iterator, Mapping

import yaml
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from cli.options import AsJson, Stack
from cli.output import print_json, print_yaml
from cli.plan import plan
from cli.pulumi_cli import project
from components.engine_values import SECRET
from components.tables import aligned
from config import (
    EXAMPLE,
    SECRETS,
    SSH_KEY,
    ContainerNode,
    Section,
    StackConfig,
)
from config.errors import NAMESPACE, ConfigError, KeyPath
from config.faults import value_at
from config.load import Loaded, read_stack
from config.machines import pools
from config.stack_file import StackFile
from config.warnings import warnings

_EXAMPLE_NOTE = f"""\
# This file is an example, which no pipeline deploys. To make it yours, name your nodes, remove
# {EXAMPLE}, and set the SSH key:
#   pulumi config set --secret {NAMESPACE}:{SSH_KEY} < ~/.ssh/id_ed25519"""
_WIDEST = 56  # columns of a setting that a comment is put beside


def explain(loaded: Loaded) -> str:
    """Explain a stack as YAML with comments; empty if the file is invalid."""
    config, file = loaded.config, loaded.file
    if config is None:
        return ""
    blocks = [
        [f"# {file.path.name}: the settings in effect, and the line that sets each"],
        *([[_EXAMPLE_NOTE]] if file.is_example else []),
        _aligned(_settings(config, file)),
        ["# nodes", *(f"#   {line}" for line in _nodes(config))],
        ["# proxies", *(f"#   {line}" for line in plan(config))],
    ]
    if lines := [] if loaded.problems else list(warnings(config)):
        blocks.append(["# warnings", *(f"#   {line}" for line in lines)])
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def _settings(config: StackConfig, file: StackFile) -> Iterator[tuple[str, str]]:
    """Lines of YAML, each with its comment."""
    for name, field in StackConfig.model_fields.items():
        yield from _entry(name, getattr(config, name), (name,), file, _default(field), indent=0)
    for key in SECRETS:
        if file.is_secret((key,)):
            yield f"{key}: '{SECRET}'", _line_of((key,), file)


def _entry(
    label: str, value: object, path: KeyPath, file: StackFile, default: object, *, indent: int
) -> Iterator[tuple[str, str]]:
    """Render a key, or the dash of a list's element, with everything below it."""
    head = " " * indent + (label if label == "-" else f"{_scalar(label)}:")
    if file.is_secret(path):
        yield f"{head} '{SECRET}'", _line_of(path, file)
        return
    below = list(_children(value))
    if label == "-":  # an element shows the keys that it has: most exclude one another
        below = [child for child in below if child[1] is not None]
    if below:
        lines = [
            line
            for key, inner, inner_default in below
            for line in _entry(
                "-" if isinstance(value, list | tuple) else key,
                inner,
                (*path, key),
                file,
                inner_default,
                indent=indent + 2,
            )
        ]
        if label == "-":  # an element's first key stands beside the dash
            text, comment = lines[0]
            lines[0] = f"{head} {text.lstrip()}", comment
        else:
            yield head, ""
        yield from lines
        return
    yield f"{head} {_scalar(value)}", _origin(value, path, file, default)


_NO_DEFAULT = object()


def _children(value: object) -> Iterator[tuple[str, object, object]]:
    """The key, value and default of each entry of a section, mapping or list."""
    if isinstance(value, Section):
        for name, field in type(value).model_fields.items():
            yield field.alias or name, getattr(value, name), _default(field)
    elif isinstance(value, Mapping):
        yield from ((str(key), inner, _NO_DEFAULT) for key, inner in value.items())
    elif isinstance(value, list | tuple):
        yield from ((f"[{index}]", inner, _NO_DEFAULT) for index, inner in enumerate(value))


def _origin(value: object, path: KeyPath, file: StackFile, default: object) -> str:
    pool = _pool_path(path, file)
    if pool in file.lines:
        return f"{_line_of(pool, file)}, pool {pool[2]}"
    if path not in file.lines:
        # The switch allowDataLoss: true stands for a list.
        for above in (path[:length] for length in range(1, len(path))):
            if above in file.lines and isinstance(value_at(file.values, above), bool):
                return _line_of(above, file)
        # Keys in a section that is JSON text have no line number.
        if isinstance(file.values.get(path[0]), str) and default != value:
            return _line_of(path[:1], file)
        return "default"
    if default is _NO_DEFAULT:
        return _line_of(path, file)
    shown = "none" if default is None else _scalar(default)
    usual = "as the default" if default == value else f"default: {shown}"
    return f"{_line_of(path, file)}; {usual}"


def _pool_path(path: KeyPath, file: StackFile) -> KeyPath:
    """The path in a pool that a node's setting comes from; () for any other setting."""
    source = pools.source(file.values.get("machines"), path[1:]) if path[0] == "machines" else None
    return () if source is None else ("machines", *source)


def _line_of(path: KeyPath, file: StackFile) -> str:
    return f"line {file.lines[path]}"


def _default(field: FieldInfo) -> object:
    return _NO_DEFAULT if field.is_required() else field.get_default(call_default_factory=True)


def _scalar(value: object) -> str:
    text: str = yaml.safe_dump(
        to_jsonable_python(value, by_alias=True),
        default_flow_style=True,
        width=1000,
        allow_unicode=True,
    )
    return text.removesuffix("\n").removesuffix("\n...")


def _aligned(lines: Iterator[tuple[str, str]]) -> list[str]:
    rows = list(lines)
    column = max(len(text) for text, comment in rows if comment and len(text) <= _WIDEST)
    return [f"{text:<{column}}  # {comment}" if comment else text for text, comment in rows]


def _nodes(config: StackConfig) -> list[str]:
    """The nodes as a table, sorted by name."""
    rows = [("name", "role", "address", "provider", "login")]
    for name, node in sorted(config.machines.nodes.items()):
        login = config.machines.login(node)
        is_container = isinstance(node, ContainerNode)
        over_ssh = "none" if is_container else f"{login.user}, port {login.port}"
        if login.bastion is not None:
            over_ssh += f", through {login.bastion.address}"
        is_private = node.cluster_address != node.address
        addresses = node.address + (f", private {node.cluster_address}" if is_private else "")
        rows.append((name, node.role, addresses, node.provider, over_ssh))
    return aligned(rows)


def command(stack: Stack = "", as_json: AsJson = False) -> None:
    """Show the settings of a stack in effect, and where each value comes from.

    Prints YAML: each setting with the line that sets it or the word `default`, then the nodes and
    the resources that the proxies request. Needs no Pulumi, no cluster and no passphrase: encrypted
    values are never read and are shown as [secret].
    """
    loaded = read_stack(project(), stack)
    if as_json:
        print_json(_as_json(stack, loaded))
    else:
        print_yaml(explain(loaded))
    if loaded.problems:
        raise ConfigError(loaded.problems)


def _as_json(stack: str, loaded: Loaded) -> dict[str, object]:
    """The settings in effect, with [secret] for encrypted ones; null if they are not known."""
    return {
        "stack": stack,
        "settings": yaml.safe_load(explain(loaded)),
        "problems": [
            {"path": problem.key, "what": problem.what, "why": problem.why, "fix": problem.fix}
            for problem in loaded.problems
        ],
        "warnings": list(warnings(loaded.config)) if loaded.config else [],
    }
