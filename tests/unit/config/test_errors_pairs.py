"""Each pair of keys that a check joins: either removed or set to null, never a traceback."""

from copy import deepcopy
from itertools import combinations

import pytest

from config.errors import KeyPath
from config.faults import value_at
from tests.unit.config.test_errors import Load, Values, Wrong
from tests.unit.config.test_errors_access import access_stack as access_stack
from tests.unit.config.test_errors_observability import observed as observed
from tests.unit.config.test_errors_remedies import problems_of, refused, with_each_table

_GONE = object()


def _without(values: Values, *changes: tuple[KeyPath, object]) -> Values:
    """The stack with keys removed or set to null; keys that it does not have are left."""
    changed = deepcopy(values)
    for path, value in changes:
        parent = value_at(changed, path[:-1])
        if isinstance(parent, dict) and path[-1] in parent:
            if value is _GONE:
                del parent[path[-1]]
            else:
                parent[path[-1]] = value
    return changed


@with_each_table
def test_keys_that_a_check_joins_may_be_missing(
    load: Load, request: pytest.FixtureRequest, base: str, table: list[Wrong]
) -> None:
    """Any exception but ConfigError fails the test."""
    count = 0
    for _, values, problem in refused(load, request.getfixturevalue(base), table):
        paths = [path for path in (problem.path, *problem.about) if path]
        single = [((path, value),) for path in paths for value in (_GONE, None)]
        pairs = [
            ((one, value), (other, value))
            for one, other in combinations(paths, 2)
            for value in (_GONE, None)
        ]
        for changes in (*single, *pairs):
            count += 1
            for each in problems_of(load, _without(values, *changes)):
                assert all((each.what, each.why, each.fix))
    print(f"{count} stacks without the keys that {len(table)} checks join")
    assert count > len(table)
