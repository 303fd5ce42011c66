"""Settings that are passed on unchanged, and the rules for what they may contain."""

import re
from collections.abc import Iterator, Mapping

from config.errors import KeyPath, Problem
from config.faults import value_at

Rules = Mapping[str, tuple[str, str]]
"""Why a setting is refused and how to fix it, by its path with dots."""


def forbidden(path: KeyPath, settings: Mapping[str, object], rules: Rules) -> Iterator[Problem]:
    """The problems of settings that a rule refuses, and of values that would replace them."""
    problems: dict[KeyPath, Problem] = {}
    for keys in written(settings, ()):
        name = canonical(keys)
        above = [rule for rule in rules if f"{name}.".startswith(f"{rule}.")]
        below = [rule for rule in rules if rule.startswith(f"{name}.")]
        if above:
            rule = max(above, key=len)
            reserved = next(keys[:n] for n in range(1, len(keys) + 1) if _reaches(keys[:n], rule))
            why, fix = rules[rule]
            code, what = "setting-reserved", f"{rule} may not be set here"
        elif below and value_at(settings, keys) != {}:
            reserved, fix = keys, "remove it, or set only the keys that you need"
            code, what = "setting-replaces-reserved", f"{'.'.join(keys)} may not be set as a whole"
            why = f"it would remove settings that nordmesh needs, for example {below[0]}"
        else:
            continue
        problem = Problem(code=code, path=(*path, *reserved), what=what, why=why, fix=fix)
        problems.setdefault(problem.path, problem)
    yield from problems.values()


def written(settings: object, path: KeyPath) -> Iterator[KeyPath]:
    """The paths of all values; a mapping that is not empty is not a value."""
    if isinstance(settings, Mapping) and (settings or not path):
        for key, below in settings.items():
            yield from written(below, (*path, str(key)))
    else:
        yield path


def canonical(keys: KeyPath) -> str:
    """A path with dots, spelt as in the rules: Istio also accepts outbound_traffic_policy."""
    return re.sub(r"_([a-z])", lambda match: match[1].upper(), ".".join(keys))


def _reaches(keys: KeyPath, rule: str) -> bool:
    return f"{canonical(keys)}.".startswith(f"{rule}.")
