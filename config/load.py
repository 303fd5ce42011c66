"""Load a checked StackConfig from Pulumi's configuration."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pulumi
from pulumi.runtime.config import (
    CONFIG,
    get_config_env,
    get_config_secret_keys_env,
    is_config_secret,
)

from config import SECRETS, SSH_KEY, StackConfig, keys, stack_file
from config.checks import CHECKS
from config.errors import NAMESPACE, ConfigError, Problem
from config.sections import Sections
from config.stack_file import StackFile

_LATER_STEPS = ((SSH_KEY,), ("artifacts", "lock"))


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
    clear = [name for name in SECRETS if _is_clear(f"{NAMESPACE}:{name}", values)]
    file = stack_file.path_of(project_dir, pulumi.get_stack())
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError):
        text = ""
    return [
        *keys.unread(values),
        *keys.in_the_clear(clear),
        *keys.misplaced(text, file.name),
        *keys.repeated(stack_file.written_keys(text)),
    ]


def load(
    values: Mapping[str, object], *, project_dir: Path, problems: Iterable[Problem] = ()
) -> StackConfig:
    """The checked configuration of a stack.

    values: all keys below `nordmesh:`, including secrets; a section is a mapping or, as Pulumi
    passes it, JSON text. project_dir: the directory that artifacts.lock is relative to. problems:
    problems of the file as a whole. Raises ConfigError with all problems at once.
    """
    sections, errors = _check(values, project_dir, problems)
    if errors:
        raise ConfigError(errors)
    return _config(sections)


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A stack file as the tools see it, without its encrypted values.

    config: None if the file has errors in single values. problems: those of a preview, without
    those of encrypted values, and without the SSH key of an example.
    """

    file: StackFile
    config: StackConfig | None
    problems: tuple[Problem, ...]

    def usable(self, *sections: str) -> StackConfig:
        """The configuration; raises ConfigError with every problem that no later step solves.

        A later step is `pulumi config set --secret` for the SSH key, and `nordmesh lock`. sections:
        those that the caller uses, if not all; problems of others are ignored if possible.
        """
        problems = [
            problem
            for problem in self.problems
            if problem in self.file.problems
            or (
                problem.path[:2] not in _LATER_STEPS
                and problem.path[0] in (sections or problem.path)
            )
        ]
        if problems or self.config is None:
            raise ConfigError(problems or self.problems)
        return self.config


def read_stack(project: Path, stack: str) -> Loaded:
    """Read the file of a stack, as every tool does; raises NordmeshError if it cannot be read."""
    return load_file(stack_file.read(project, stack), project)


def load_file(file: StackFile, project_dir: Path) -> Loaded:
    """Check a stack file."""
    sections, errors = _check(file.values, project_dir, file.problems)
    is_understood = sections.are_usable and all(
        file.is_secret(problem.path) for problem in sections.problems
    )
    problems = tuple(
        problem
        for problem in errors
        if problem in file.problems
        or not (file.is_secret(problem.path) or (file.is_example and problem.path == (SSH_KEY,)))
    )
    config = _config(sections) if is_understood else None
    return Loaded(file=file, config=config, problems=problems)


def _check(
    values: Mapping[str, object], project_dir: Path, problems: Iterable[Problem]
) -> tuple[Sections, list[Problem]]:
    """The sections of a stack, and every problem."""
    errors = list(problems)
    elsewhere = {problem.path[0] for problem in errors if problem.path}
    sections = Sections(values, project_dir, elsewhere=elsewhere)
    errors += sections.problems
    for check in CHECKS:
        errors += [problem for problem in check(sections) if not sections.is_unclear(problem)]
    return sections, errors


def _config(sections: Sections) -> StackConfig:
    return StackConfig.model_validate(sections.by_name, by_name=True)


def _configuration() -> dict[str, object]:
    return {**get_config_env(), **CONFIG.get()}


def _is_clear(key: str, values: Mapping[str, object]) -> bool:
    is_secret = is_config_secret(key) or key in get_config_secret_keys_env()
    return bool(values.get(key)) and not is_secret
