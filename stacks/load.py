"""The way from Pulumi's configuration to a checked StackConfig."""

from collections.abc import Mapping
from pathlib import Path

from pulumi.runtime.config import CONFIG, get_config_env

from stacks.checks import CHECKS
from stacks.config import StackConfig
from stacks.errors import NAMESPACE, ConfigError
from stacks.sections import Sections


def read() -> dict[str, object]:
    """The configuration of the running program below `nordmesh:`, decrypted, as Pulumi gives it."""
    values = {**get_config_env(), **CONFIG.get()}
    prefix = f"{NAMESPACE}:"
    return {key.removeprefix(prefix): values[key] for key in values if key.startswith(prefix)}


def load(values: Mapping[str, object], *, project_dir: Path) -> StackConfig:
    """The checked configuration of a stack.

    values: all keys below `nordmesh:`, the secret one among them; a section is a mapping or, as
    Pulumi gives it, its JSON text. project_dir: what artifacts.lock is relative to.
    Raises ConfigError with every problem that there is.
    """
    sections = Sections(values, project_dir)
    found = [*sections.problems]
    for check in CHECKS:
        found += [problem for problem in check(sections) if not sections.is_unclear(problem)]
    if found:
        raise ConfigError(found)
    return StackConfig.model_validate(sections.by_name, by_name=True)
