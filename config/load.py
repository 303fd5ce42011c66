"""Load a checked StackConfig from Pulumi's configuration."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import pulumi
from pulumi.runtime.config import (
    CONFIG,
    get_config_env,
    get_config_secret_keys_env,
    is_config_secret,
)

from config import StackConfig, keys
from config.checks import CHECKS
from config.errors import NAMESPACE, ConfigError, Problem
from config.sections import Sections


def read() -> dict[str, object]:
    """The decrypted configuration of the running program below `nordmesh:`, as Pulumi passes it."""
    values = _configuration()
    prefix = f"{NAMESPACE}:"
    return {key.removeprefix(prefix): values[key] for key in values if key.startswith(prefix)}


def overlooked(project_dir: Path) -> list[Problem]:
    """The problems of the running program's whole configuration, from config.keys.

    It reads the stack file as well, since Pulumi ignores parts of it. With --config-file the file
    is not in the project, and this check is skipped.
    """
    values = _configuration()
    clear = [name for name in keys.SECRETS if _is_clear(f"{NAMESPACE}:{name}", values)]
    file = project_dir / f"Pulumi.{pulumi.get_stack()}.yaml"
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError):
        text = ""
    return [*keys.unread(values), *keys.in_the_clear(clear), *keys.misplaced(text, file.name)]


def load(
    values: Mapping[str, object], *, project_dir: Path, problems: Iterable[Problem] = ()
) -> StackConfig:
    """The checked configuration of a stack.

    values: all keys below `nordmesh:`, including secrets; a section is a mapping or, as Pulumi
    passes it, JSON text. project_dir: the directory that artifacts.lock is relative to. problems:
    problems of the file as a whole. Raises ConfigError with all problems at once.
    """
    reported = list(problems)
    elsewhere = {problem.path[0] for problem in reported if problem.path}
    sections = Sections(values, project_dir, elsewhere=elsewhere)
    reported += sections.problems
    for check in CHECKS:
        reported += [problem for problem in check(sections) if not sections.is_unclear(problem)]
    if reported:
        raise ConfigError(reported)
    return StackConfig.model_validate(sections.by_name, by_name=True)


def _configuration() -> dict[str, object]:
    return {**get_config_env(), **CONFIG.get()}


def _is_clear(key: str, values: Mapping[str, object]) -> bool:
    is_secret = is_config_secret(key) or key in get_config_secret_keys_env()
    return bool(values.get(key)) and not is_secret
