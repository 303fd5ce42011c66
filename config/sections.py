"""The sections of a stack file, loaded one by one so that one error does not hide others."""

import json
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from copy import deepcopy
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args

from pydantic import ValidationError

from config import (
    SECRETS,
    Access,
    Artifacts,
    Backup,
    Demo,
    Host,
    Istio,
    Kubernetes,
    Machines,
    Mesh,
    Observability,
    Preflight,
    Section,
    StackConfig,
    Storage,
)
from config.base import STACK_FILE
from config.errors import NAMESPACE, KeyPath, Problem, nearest, unknown_key
from config.faults import Fault, replace
from config.machines import pools
from config.misspelt import misspelt_names


def _model(annotation: Any) -> type[Section]:
    """The model of a section, which may be None: `Istio` of `Istio | None`."""
    models = (kind for kind in get_args(annotation) or (annotation,) if kind is not NoneType)
    model: type[Section] = next(models)
    return model


SECTIONS: Mapping[str, type[Section]] = {
    name: _model(field.annotation) for name, field in StackConfig.model_fields.items()
}
_SectionT = TypeVar("_SectionT", bound=Section)


class Sections:
    """The sections of a stack file, with the problems of single values.

    broken: the paths whose values were replaced or removed, so that no further problem is reported
    about a replacement.
    """

    def __init__(
        self,
        values: Mapping[str, object],
        project_dir: Path,
        *,
        elsewhere: AbstractSet[str] = frozenset(),
    ) -> None:
        """elsewhere: keys that are in the wrong part of the file, so that they are not missing."""
        self.project_dir = project_dir
        self._secrets = {key: values.get(key) for key in SECRETS}
        self.problems: list[Problem] = []
        self.broken: set[KeyPath] = set()
        self.raw: dict[str, object] = {}
        self.by_name: dict[str, Section | None] = {}
        guesses = self._refuse_unknown(values) | (elsewhere - values.keys())
        self.broken |= {(name,) for name in guesses}
        for name, model in SECTIONS.items():
            self.by_name[name] = self._section(name, model, values, misspelt=name in guesses)

    @property
    def machines(self) -> Machines | None:
        return self._get("machines", Machines)

    @property
    def host(self) -> Host | None:
        return self._get("host", Host)

    @property
    def preflight(self) -> Preflight | None:
        return self._get("preflight", Preflight)

    @property
    def artifacts(self) -> Artifacts | None:
        return self._get("artifacts", Artifacts)

    @property
    def kubernetes(self) -> Kubernetes | None:
        return self._get("kubernetes", Kubernetes)

    @property
    def access(self) -> Access | None:
        return self._get("access", Access)

    @property
    def backup(self) -> Backup | None:
        return self._get("backup", Backup)

    @property
    def storage(self) -> Storage | None:
        return self._get("storage", Storage)

    @property
    def istio(self) -> Istio | None:
        return self._get("istio", Istio)

    @property
    def are_usable(self) -> bool:
        """Whether each section is usable, or left out where the model allows that."""
        return all(
            section is not None
            or (name not in self.raw and not StackConfig.model_fields[name].is_required())
            for name, section in self.by_name.items()
        )

    @property
    def has_no_mesh(self) -> bool:
        """Whether the stack has no section istio; false if it has an unusable one."""
        return "istio" not in self.raw and ("istio",) not in self.broken

    @property
    def mesh(self) -> Mesh | None:
        return self._get("mesh", Mesh)

    @property
    def observability(self) -> Observability | None:
        return self._get("observability", Observability)

    @property
    def demo(self) -> Demo | None:
        return self._get("demo", Demo)

    @property
    def raw_nodes(self) -> dict[str, dict[str, object]]:
        """The nodes as in the file, including wrong ones; {} for a value that is not a node."""
        machines = self.raw.get("machines")
        nodes = machines.get("nodes") if isinstance(machines, dict) else None
        if not isinstance(nodes, dict):
            return {}
        return {str(name): node if isinstance(node, dict) else {} for name, node in nodes.items()}

    def secret(self, key: str) -> str | None:
        """A secret, or what stands for it where it cannot be decrypted; None without one."""
        value = self._secrets[key]
        return value if isinstance(value, str) else None

    def is_unclear(self, problem: Problem) -> bool:
        """Whether the problem depends on a value that is wrong itself."""
        paths = (problem.path, *problem.about)
        return any(path[:length] in self.broken for path in paths for length in range(1, 9))

    def _get(self, name: str, model: type[_SectionT]) -> _SectionT | None:
        section = self.by_name[name]
        return section if isinstance(section, model) else None

    def _refuse_unknown(self, values: Mapping[str, object]) -> set[str]:
        """Report keys that are not sections; return the sections that they probably mean."""
        known = [*SECTIONS, *SECRETS]
        guesses = set()
        for key in values:
            if key in known:
                continue
            absent = [name for name in known if name not in values]
            guess = nearest(key, absent) or nearest(key, known)
            self.problems.append(unknown_key((key,), guess, known))
            if guess in absent and guess is not None:
                guesses.add(guess)
        return guesses

    def _section(
        self, name: str, model: type[Section], values: Mapping[str, object], *, misspelt: bool
    ) -> Section | None:
        if name not in values:
            field = StackConfig.model_fields[name]
            if not field.is_required():
                return None if field.default is None else model()
            if not misspelt:
                self.problems.append(_missing_section(name, model))
            return None
        raw = _parsed(values[name])
        self.raw[name] = raw
        return self._understood(name, model, raw)

    def _understood(self, name: str, model: type[Section], raw: object) -> Section | None:
        """The section with wrong values replaced; None if too little is left of it."""
        data = deepcopy(raw)
        # Replacing a value can uncover another error: a node's provider decides its fields.
        for attempt in range(5):
            try:
                return model.model_validate(data, by_alias=True, by_name=False, context=STACK_FILE)
            except ValidationError as error:
                faults = [Fault.of(name, model, detail) for detail in error.errors()]
            if attempt == 0:
                self._report([fault for fault in faults if not _is_of_pool(raw, fault)], raw)
            self.broken |= {fault.path for fault in faults}
            for fault in faults:
                depth = replace(data, fault)
                if depth is None:
                    return None
                self.broken.add(fault.path[: depth + 1])
        return None

    def _report(self, faults: list[Fault], raw: object) -> None:
        guesses = {fault.meant for fault in faults if fault.meant}
        self.broken |= guesses
        misspelt = misspelt_names(faults, raw)
        self.problems += misspelt
        names = {problem.path for problem in misspelt}
        # A misspelt key is one mistake, although other keys are missing because of it.
        self.problems += [
            fault.problem()
            for fault in faults
            if not (
                fault.kind == "missing"
                and (fault.path in guesses or any(fault.path[: len(x)] == x for x in names))
            )
        ]


def _is_of_pool(raw: object, fault: Fault) -> bool:
    """Whether a node has a fault because of its pool, or its wrong name: it is reported once."""
    if fault.path[0] != "machines":
        return False
    path = fault.path[1:]
    return pools.source(raw, path) is not None or (
        fault.kind == "missing" and pools.is_expected(raw, path)
    )


def _missing_section(name: str, model: type[Section]) -> Problem:
    wanted = [
        field.alias or key for key, field in model.model_fields.items() if field.is_required()
    ]
    return Problem(
        code="section-missing",
        path=(name,),
        what=f"the section {name} is missing",
        why=f"it describes this: {(model.__doc__ or '').strip().splitlines()[0].rstrip('.')}",
        fix=f"add {NAMESPACE}:{name} with at least {', '.join(wanted)}; see Pulumi.prod.yaml",
    )


def _parsed(value: object) -> object:
    """A section as a mapping: Pulumi passes objects as JSON text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value
