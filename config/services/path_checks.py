"""Checks and warnings of the paths of services: each path of a host has one service."""

from collections.abc import Iterator

from config import Mesh, Service
from config.errors import KeyPath, Problem, nearest
from config.scalars.durations import seconds
from config.scalars.http import covers
from config.sections import Sections
from config.services.paths import PathRoute


def _each(sections: Sections) -> Iterator[tuple[str, Service, KeyPath]]:
    services = sections.mesh.services if sections.mesh is not None else {}
    for name, service in services.items():
        yield name, service, ("mesh", "services", name)


def _check_gateway(sections: Sections) -> Iterator[Problem]:
    for _, service, path in _each(sections):
        if service.gateway is not None:
            continue
        if service.paths:
            yield Problem(
                code="paths-without-gateway",
                path=(*path, "paths"),
                what="paths are set, but no gateway",
                why="paths select the service at a gateway; in the mesh, callers use its name",
                fix="set gateway to one of mesh.gateways, and hosts, or remove paths",
                about=((*path, "gateway"),),
            )
        for index, host in enumerate(service.hosts):
            if host == "*":
                yield Problem(
                    code="any-host-without-gateway",
                    path=(*path, "hosts", f"[{index}]"),
                    what="* is a host of a service without a gateway",
                    why="every request in the mesh would go to this service",
                    fix="list the host names, or set gateway to one whose hosts contain *",
                    about=((*path, "gateway"),),
                )


def _check_ports(sections: Sections) -> Iterator[Problem]:
    for _, service, path in _each(sections):
        ports = {port.name: port for port in service.named_ports if port.name is not None}
        for index, entry in enumerate(service.paths):
            if entry.port is None:
                continue
            where = (*path, "paths", f"[{index}]", "port")
            about = ((*path, "ports"), (*path, "protocols"), (*path, "protocol"))
            if entry.port not in ports:
                guess = nearest(entry.port, map(str, ports))
                yield Problem(
                    code="path-port-unknown",
                    path=where,
                    what=f"{entry.port} is not a name in ports",
                    why="the gateway would not know which port gets these requests",
                    fix=f"use {guess}" if guess else "name it in ports, or remove it",
                    about=about,
                )
            elif not ports[entry.port].has_requests:
                yield Problem(
                    code="path-port-opaque",
                    path=where,
                    what=f"the protocol of port {entry.port} is tcp",
                    why="the port gets connections, and the gateway selects requests by path",
                    fix=f"use a port that speaks HTTP, or set protocols: {{{entry.port}: http}}",
                    about=about,
                )


def _check_once(sections: Sections) -> Iterator[Problem]:
    """Each path of a host leads to one service, by one entry."""
    taken: dict[tuple[str | None, str, str], tuple[str, KeyPath]] = {}
    for name, service, path in _each(sections):
        for index, entry in enumerate(service.paths):
            where = (*path, "paths", f"[{index}]")
            for host in service.hosts or [""]:
                claim = (service.gateway, host, str(entry))
                owner, other = taken.setdefault(claim, (name, where))
                if other == where:
                    continue
                yield Problem(
                    code="path-duplicate",
                    path=where,
                    what=f"{entry} is already a path of {owner}"
                    + (f" at {host}" if owner != name else ""),
                    why="a request has one answer: the second entry would never be used",
                    fix="remove one of the two, or use a longer path",
                    about=(other, *((*other, key) for key in ("prefix", "exact"))),
                )
                break


def _check_testers(sections: Sections) -> Iterator[Problem]:
    for _, service, path in _each(sections):
        narrow = [str(entry) for entry in service.paths if entry.base or entry.rewrite is not None]
        for index, testers in enumerate(service.testers):
            if narrow and testers.uri is not None and testers.uri.regex is not None:
                yield Problem(
                    code="testers-regex-with-paths",
                    path=(*path, "testers", f"[{index}]", "uri", "regex"),
                    what=f"a pattern of paths is set together with paths ({narrow[0]})",
                    why="the gateway compares a path with one condition, so it cannot test both",
                    fix="use prefix or exact, or match a header",
                    about=((*path, "paths"),),
                )


def _check_timeouts(sections: Sections) -> Iterator[Problem]:
    for _, service, path in _each(sections):
        for index, entry in enumerate(service.paths):
            timeout = entry.timeout or service.timeout
            retries = entry.retries or service.retries
            is_own = entry.timeout is not None or entry.retries is not None
            tries = retries.per_try_timeout if retries is not None else None
            if is_own and timeout and tries and seconds(tries) >= seconds(timeout):
                yield Problem(
                    code="path-try-timeout-above-timeout",
                    path=(*path, "paths", f"[{index}]"),
                    what=f"one try may take {tries}, but all tries together may take {timeout}",
                    why="timeout covers all tries: after a slow one no time is left for another",
                    fix="set a longer timeout, or a shorter retries.perTryTimeout, at this path",
                    about=((*path, "timeout"), (*path, "retries")),
                )


def _check_redirects(sections: Sections) -> Iterator[Problem]:
    mesh = sections.mesh
    for name, service, path in _each(sections):
        gateway = mesh.gateways.get(service.gateway or "") if mesh is not None else None
        for index, entry in enumerate(service.paths):
            redirect = entry.redirect
            if mesh is None or gateway is None or redirect is None:
                continue
            if (
                redirect.scheme in (None, *gateway.schemes)
                and _has_host(mesh, name, redirect.host)
                and _answers(mesh, service, entry, redirect.path)
            ):
                yield Problem(
                    code="redirect-to-itself",
                    path=(*path, "paths", f"[{index}]", "redirect"),
                    what=f"the new URL is at {entry} again, which redirects",
                    why="clients give up after some redirects, and show an error",
                    fix="set a host, or a path that another entry answers; from plain HTTP to "
                    "https, the gateway's tls.httpsRedirect redirects",
                    about=((*path, "hosts"), ("mesh", "gateways", str(service.gateway))),
                )


def _has_host(mesh: Mesh, name: str, host: str | None) -> bool:
    """Whether requests for a host, None for that of the request, have the routes of a service."""
    own = mesh.services[name].hosts
    is_another = any(
        host in service.hosts for other, service in mesh.services.items() if other != name
    )
    return host is None or host in own or (not is_another and any(covers(x, host) for x in own))


def _answers(mesh: Mesh, service: Service, entry: PathRoute, path: str | None) -> bool:
    """Whether requests for a path, None for that of the request, get the answer of an entry."""
    if path is None:
        return True
    hosts = set(service.hosts)
    entries = [
        other
        for neighbour in mesh.services.values()
        if neighbour.gateway == service.gateway and hosts & set(neighbour.hosts)
        for other in neighbour.own_paths
        if other.includes(path)
    ]
    return bool(entries) and min(entries, key=PathRoute.specific_first) is entry


def warnings(mesh: Mesh) -> Iterator[str]:
    """One line for each path of a wildcard that another service's host hides."""
    for name, service in mesh.services.items():
        wildcards = [host for host in service.hosts if host.startswith("*")]
        for other, hiding in mesh.services.items():
            if other == name or hiding.gateway != service.gateway:
                continue
            own = {str(entry) for entry in hiding.paths}
            for entry in service.paths:
                hidden = [
                    host
                    for host in hiding.hosts
                    if host not in service.hosts and any(covers(card, host) for card in wildcards)
                ]
                if hidden and str(entry) not in own:
                    yield (
                        f"mesh.services.{name}.paths: {entry} does not apply to {hidden[0]}, "
                        f"which is a host of {other}; to apply it, add the host to {name}"
                    )


CHECKS = (
    _check_gateway,
    _check_ports,
    _check_once,
    _check_testers,
    _check_timeouts,
    _check_redirects,
)
