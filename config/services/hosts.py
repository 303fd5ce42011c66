"""Checks of the hosts of the mesh's services: each leads to one service, and to none inside."""

from collections.abc import Iterator, Mapping

from config import Mesh, Service
from config.errors import KeyPath, Problem
from config.scalars.http import covers
from config.scalars.names import SYSTEM_NAMESPACES
from config.sections import Sections

CLUSTER = "svc.cluster.local"
"""The domain of all Services."""

_INSIDE = ("cluster.local", "svc", "local", *SYSTEM_NAMESPACES)


def cluster_names(name: str, service: Service) -> tuple[str, ...]:
    """The names that pods can call a service by, the longest first."""
    short = f"{service.kubernetes_name(name)}.{service.namespace}"
    return f"{short}.{CLUSTER}", f"{short}.svc", short


def is_inside(host: str) -> bool:
    """Whether a host, maybe with a wildcard, is in a domain of the cluster."""
    bare = host.removeprefix("*.")
    return any(f".{bare}".endswith(f".{domain}") for domain in _INSIDE)


def check_hosts(sections: Sections) -> Iterator[Problem]:
    """Yield the problems of hosts that lead to several services, or that are not outside."""
    mesh = sections.mesh
    if mesh is None:
        return
    inside: dict[str, str] = {}
    for name, service in mesh.services.items():
        inside |= dict.fromkeys(cluster_names(name, service), name)
    owners, every_path = dict(inside), dict[str, str]()
    for name, service in mesh.services.items():
        path = ("mesh", "services", name, "hosts")
        for index, host in enumerate(service.hosts):
            at = (*path, f"[{index}]")
            known = [name for name in inside if host.startswith("*.") and covers(host, name)]
            owner = owners[known[0]] if known else _owner(name, host, mesh, owners, every_path)
            if owner != name or known or host in service.hosts[:index] or _is_own(host, name, mesh):
                wrong = f"covers {known[0]}, a name" if known else "is already a host"
                yield Problem(
                    code="service-host-duplicate",
                    path=at,
                    what=f"{host} {wrong} of {owner}",
                    why="a request goes to one service; with two, proxies would pick one at random",
                    fix="remove it from one of them, or give one of them paths of the host, at the "
                    "same gateway",
                    about=(
                        ("mesh", "services", owner, "hosts"),
                        ("mesh", "services", owner, "paths"),
                        ("mesh", "services", name, "paths"),
                    ),
                )
            elif host == "*":
                continue
            elif is_inside(host) or "." not in host:
                yield Problem(
                    code="service-host-inside",
                    path=at,
                    what=f"{host} is a name inside the cluster",
                    why="it would take requests away from the Services that have such a name",
                    fix=f"use a name that clients outside request, for example {name}.example.com, "
                    "or remove it: the service's own name needs no entry",
                )
            else:
                if name not in mesh.by_path:  # by path, each host has its own object
                    yield from _check_covered(at, host, service.hosts[:index])
                yield from _check_outside(at, host, mesh)


def _owner(
    name: str, host: str, mesh: Mesh, owners: dict[str, str], every_path: dict[str, str]
) -> str:
    """The service that has a host, or the rest of its paths, before this one; else this one."""
    service = mesh.services[name]
    owner = owners.setdefault(host, name)
    sharing = mesh.shared_hosts.get((service.gateway or "", host), [])
    is_shared = owner != name and {owner, name} <= set(sharing)
    if not service.paths and (owner == name or is_shared):
        return every_path.setdefault(host, name)
    return name if is_shared else owner


def _is_own(host: str, name: str, mesh: Mesh) -> bool:
    return host in cluster_names(name, mesh.services[name])


def _check_covered(path: KeyPath, host: str, others: list[str]) -> Iterator[Problem]:
    """The problem of a host that another host of the same service covers, or is covered by."""
    for other in others:
        if _overlap(host, other):
            yield Problem(
                code="service-host-covered",
                path=path,
                what=f"{host} and {other} cover the same host",
                why="Istio refuses a route with two hosts for the same request",
                fix="remove the narrower one",
            )


def _check_outside(path: KeyPath, host: str, mesh: Mesh) -> Iterator[Problem]:
    entries: Mapping[str, str] = {entry.host: key for key, entry in mesh.egress.hosts.items()}
    for other, key in entries.items():
        if _overlap(host, other):
            yield Problem(
                code="service-host-outside",
                path=path,
                what=f"{other} is the host outside that mesh.egress.hosts.{key} allows",
                why="requests to it would stay in the mesh, or those to the service would leave it",
                fix="remove it here or there",
                about=(("mesh", "egress", "hosts", key, "host"),),
            )
            return


def _overlap(one: str, other: str) -> bool:
    return covers(one, other) or covers(other, one)
