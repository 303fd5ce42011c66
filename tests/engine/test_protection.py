"""In which order a real engine deletes what data depends on: nothing goes before a refusal."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab import paths
from tests.engine.conftest import Project

Projects = Callable[..., Project]
Stack = dict[str, bool]

# Two namespaces, each with something inside, and something outside. Deletions write a journal.
PROGRAM = """
import sys
sys.path.insert(0, settings["checkout"])
from components.protection import protect_data

def make(name, **options):
    return local.Command(
        name,
        create="true",
        delete=f"echo {name} >>{settings['journal']}",
        opts=pulumi.ResourceOptions(**options),
    )

class Group(pulumi.ComponentResource):
    def __init__(self, name):
        super().__init__("test:index:Group", name, None)

apart = Group("apart")
everything = [make("outside")] if settings["outside"] else []
for name, protect in settings["things"].items():
    owner = make(name, protect=protect)
    inside = make(f"{name}-inside", depends_on=[owner])
    group = Group(f"{name}-group")
    deep_inside = make(f"{name}-deep-inside", parent=group, depends_on=[inside])
    everything += [owner, inside, deep_inside]
protect_data(
    everything,
    things=[f"namespace-{name}" for name in settings["things"]],
    protected={f"namespace-{name}" for name, protect in settings["things"].items() if protect},
    whole=settings["whole"] or any(settings["things"].values()),
    records=[apart],
)
"""


def urns(stack: Project) -> set[str]:
    state: dict[str, Any] = json.loads(stack.state())
    return {str(resource["urn"]) for resource in state["deployment"]["resources"]}


@pytest.fixture
def write(project: Projects, tmp_path: Path) -> Callable[..., Project]:
    """Write the program with these namespaces, each protected or not."""
    made: list[Project] = []
    settings = {"checkout": str(paths.PROJECT), "journal": str(tmp_path / "journal")}

    def write(things: Stack, *, outside: bool = True, whole: bool = False) -> Project:
        values = {**settings, "things": things, "outside": outside, "whole": whole}
        if made:
            made[0].write(PROGRAM, **values)
        else:
            made.append(project(PROGRAM, **values))
        return made[0]

    return write


def journal(tmp_path: Path) -> list[str]:
    file = tmp_path / "journal"
    return file.read_text().split() if file.exists() else []


@pytest.mark.parametrize("outside", [True, False], ids=["alone", "with-another-deletion"])
def test_a_removal_of_something_protected_deletes_nothing(
    write: Callable[..., Project], tmp_path: Path, outside: bool
) -> None:
    stack = write({"shop": True, "spare": False})
    stack.up().ok()
    before = urns(stack)
    # One of the removed namespaces may be lost, and the other may not.
    write({}, outside=outside)
    refused = stack.up().failed().output
    lost = before - urns(stack)
    print(f"\n{len(lost)} of {len(before)} resources were lost, {journal(tmp_path)} deleted")
    assert "namespace-shop" in refused
    assert "because it is protected" in refused
    assert lost == set()
    assert journal(tmp_path) == []


def test_an_entry_allows_the_removal_of_its_thing(
    write: Callable[..., Project], tmp_path: Path
) -> None:
    stack = write({"shop": True, "spare": True})
    stack.up().ok()
    # The entry changes nothing but the protection.
    write({"shop": True, "spare": False})
    assert " unchanged" in stack.up("--expect-no-changes").ok().output
    write({"shop": True})
    stack.up().ok()
    assert set(journal(tmp_path)) == {"spare", "spare-inside", "spare-deep-inside"}
    # Protection can come back.
    write({"shop": False})
    stack.up().ok()
    write({"shop": True})
    stack.up().ok()
    before = urns(stack)
    write({})
    stack.up().failed()
    assert urns(stack) == before


def assert_nothing_is_deleted(stack: Project, folder: Path, arguments: tuple[str, ...]) -> None:
    """Create the stack, and destroy it with these arguments."""
    stack.up().ok()
    before = urns(stack)
    output = stack.pulumi("destroy", "--yes", "--skip-preview", *arguments).output
    lost = before - urns(stack)
    print(f"\n{len(lost)} of {len(before)} resources were lost, {journal(folder)} deleted")
    assert lost == set(), output
    assert journal(folder) == []


@pytest.mark.parametrize(
    "arguments",
    [(), ("--exclude-protected",), ("--target", "**::spare", "--target-dependents")],
    ids=["all", "exclude-protected", "one"],
)
def test_a_destroy_of_a_stack_with_something_protected_deletes_nothing(
    write: Callable[..., Project], tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    stack = write({"shop": True, "spare": False})
    assert_nothing_is_deleted(stack, tmp_path, arguments)


@pytest.mark.parametrize("arguments", [(), ("--exclude-protected",)])
def test_a_destroy_that_loses_data_that_no_removal_loses_deletes_nothing(
    write: Callable[..., Project], tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """Several control planes have the same data: each may go, and not all of them."""
    stack = write({"shop": False, "spare": False}, whole=True)
    assert_nothing_is_deleted(stack, tmp_path, arguments)
    write({"shop": False}, whole=True)
    stack.up().ok()
    assert set(journal(tmp_path)) == {"spare", "spare-inside", "spare-deep-inside"}
