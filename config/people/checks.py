"""Checks and warnings of the section `access`: known namespaces, and names that tokens can have."""

from collections.abc import Iterator

from config import Access, StackConfig
from config.errors import KeyPath, Problem, nearest
from config.mesh.checks import joining
from config.people import Entry
from config.sections import Sections

_ROLES = ("access", "roles")
_OIDC = ("access", "oidc")
_OF_TOKENS = {
    "oidcUsers": ("oidc_users", "usernamePrefix", "username_prefix"),
    "oidcGroups": ("oidc_groups", "groupsPrefix", "groups_prefix"),
}


def _check_namespaces(sections: Sections) -> Iterator[Problem]:
    if sections.access is None or sections.mesh is None:
        return
    known = sections.mesh.namespaces
    for role, index, entry in sections.access.roles.all():
        for position, name in enumerate(entry.namespaces):
            if name in known:
                continue
            guess = nearest(name, known)
            yield Problem(
                code="access-namespace-unknown",
                path=(*_ROLES, role, f"[{index}]", "namespaces", f"[{position}]"),
                what=f"the namespace {name} is not in mesh.namespaces",
                why="nordmesh gives roles only in namespaces that it makes; in a system namespace "
                "such a role leads to administrator rights",
                fix=(f"use {guess}, or " if guess else "") + joining(name, known),
                about=(("mesh", "namespaces", name),),
            )


def _check_tokens(sections: Sections) -> Iterator[Problem]:
    access = sections.access
    if access is None:
        return
    for role, index, entry in access.roles.all():
        for key, (field, prefix_key, prefix_field) in _OF_TOKENS.items():
            names: list[str] = getattr(entry, field)
            path = (*_ROLES, role, f"[{index}]", key)
            if names and access.oidc is None:
                yield _without_provider(path, key)
                continue
            for position, name in enumerate(names):
                prefix = getattr(access.oidc, prefix_field)
                if name.startswith(prefix):
                    yield Problem(
                        code="access-oidc-name-prefixed",
                        path=(*path, f"[{position}]"),
                        what=f"{name!r} begins with {prefix_key}",
                        why="nordmesh adds the prefix itself, so this would not be the name in the "
                        "tokens",
                        fix=f"use {name.removeprefix(prefix) or 'the name as in the token'}",
                        about=((*_OIDC, prefix_key),),
                    )


def _without_provider(path: KeyPath, key: str) -> Problem:
    return Problem(
        code="access-oidc-missing",
        path=path,
        what=f"{key} is set, but access.oidc is not",
        why="without an identity provider the API server accepts no tokens, so the entry has no "
        "effect",
        fix="add access.oidc, or use users and groups, which are names in certificates",
        about=(_OIDC,),
    )


def warnings(config: StackConfig) -> Iterator[str]:
    """The warnings about what a role allows beyond its name."""
    if config.access is None:
        return
    writers = sorted(_written(config.access, config))
    if writers:
        yield (
            f"access.roles: deployers and operators can start privileged pods in "
            f"{', '.join(writers)}, and so become root on a node: PodSecurity refuses none there "
            "(docs/hardening.md). Give these roles to people whom you trust with the nodes"
        )


def _written(access: Access, config: StackConfig) -> set[str]:
    """The namespaces with privileged pods in which someone may change workloads."""
    entries: list[Entry] = [*access.roles.deployer, *access.roles.operator]
    namespaces = config.mesh.namespaces
    return {
        name
        for entry in entries
        for name in entry.namespaces or namespaces
        if name not in namespaces or namespaces[name].enforced in (None, "privileged")
    }


CHECKS = (_check_namespaces, _check_tokens)
