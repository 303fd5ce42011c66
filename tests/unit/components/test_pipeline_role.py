"""The role of `pulumi up` beside what the program makes: no right is missing or left over.

The objects are those of the stacks that have every key. tests/engine/test_pipeline.py applies them
to a real API server; this one tells at once which right a new object needs.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from components.manifests import pipeline
from components.manifests.people import RBAC
from tests.support.made import is_patch, made_by_the_program, recorded

Values = dict[str, Any]
_WRITES = ("create", "patch", "delete")
# The rules that only read are for everything that a preview, or a wait, may look at.
_READS = {"get", "list", "watch"}


class Right(NamedTuple):
    """A verb that a request needs. name: of the object."""

    verb: str
    group: str
    resource: str
    name: str


@pytest.fixture(scope="module")
def rights(tmp_path_factory: pytest.TempPathFactory) -> dict[Right, str]:
    """What the program needs, and a resource that needs it."""
    objects = made_by_the_program(recorded(tmp_path_factory.mktemp("stacks")))
    return {
        right: resource
        for resource, manifest in objects
        for right in needed(manifest, is_whole=not is_patch(resource))
    }


def needed(manifest: Values, *, is_whole: bool = True) -> Iterator[Right]:
    """The rights for a manifest. is_whole: whether its object is made and deleted too."""
    group = group_of(manifest["apiVersion"])
    kind, name = manifest["kind"], manifest["metadata"]["name"]
    for verb in _WRITES if is_whole else ("patch",):
        yield Right(verb, group, plural(kind), name)
    if kind == "Secret":
        yield Right("get", group, plural(kind), name)
    if kind in ("ClusterRole", "Role"):
        yield Right("escalate", RBAC, plural(kind), name)
    if "roleRef" in manifest:
        bound = manifest["roleRef"]
        yield Right("bind", RBAC, plural(bound["kind"]), bound["name"])


def group_of(version: str) -> str:
    return version.partition("/")[0] if "/" in version else ""


def plural(kind: str) -> str:
    word = kind.lower()
    if word.endswith("y") and word[-2] not in "aeiou":
        return f"{word[:-1]}ies"
    return f"{word}es" if word.endswith(("s", "x")) else f"{word}s"


def allows(rule: Values, right: Right) -> bool:
    return (
        right.verb in rule["verbs"]
        and right.group in rule["apiGroups"]
        and (right.resource in rule["resources"] or "*" in rule["resources"])
        and right.name in rule.get("resourceNames", [right.name])
    )


def rules() -> list[Values]:
    role, _ = pipeline.objects()
    return list(role["rules"])


def test_the_program_has_every_right_that_it_needs(rights: dict[Right, str]) -> None:
    missing = sorted(
        f"{resource}: {right.verb} {right.resource}.{right.group} {right.name}"
        for right, resource in rights.items()
        if not any(allows(rule, right) for rule in rules())
    )
    assert not missing, "add to components/manifests/pipeline.py:\n" + "\n".join(missing)
    assert len({right.resource for right in rights}) > 15


def test_every_right_to_write_is_one_that_the_program_needs(rights: dict[Right, str]) -> None:
    unused = []
    for rule in rules():
        if set(rule["verbs"]) <= _READS:
            continue
        for resource in rule["resources"]:
            for name in rule.get("resourceNames", [None]):
                alone = {**rule, "resources": [resource]}
                if name is not None:
                    alone["resourceNames"] = [name]
                if not any(allows(alone, right) for right in rights):
                    unused.append(f"{resource} {name or ''}".rstrip())
    assert not unused, "remove from components/manifests/pipeline.py: " + ", ".join(unused)


@pytest.mark.parametrize(
    ("kind", "resource"),
    [
        ("Gateway", "gateways"),
        ("AuthorizationPolicy", "authorizationpolicies"),
        ("ServiceEntry", "serviceentries"),
        ("StorageClass", "storageclasses"),
        ("VirtualService", "virtualservices"),
    ],
)
def test_the_plural_of_a_kind(kind: str, resource: str) -> None:
    assert plural(kind) == resource


def test_a_new_kind_and_a_new_role_are_noticed() -> None:
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "x"}}
    other = {"apiVersion": f"{RBAC}/v1", "kind": "ClusterRole", "metadata": {"name": "other"}}
    for manifest in (quota, other):
        for right in needed(manifest):
            assert not any(allows(rule, right) for rule in rules()), right
