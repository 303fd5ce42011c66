"""Checks and warnings of the mesh's services: routes lead to pods, and settings fit together."""

from collections.abc import Iterator

from config import ROOT_NAMESPACE, Mesh, Service, ports
from config.errors import KeyPath, Problem, nearest
from config.mesh.checks import check_injected, joining
from config.scalars.durations import seconds
from config.scalars.names import subset_name
from config.sections import Sections
from config.services import path_checks
from config.services.hosts import check_hosts


def warnings(mesh: Mesh) -> list[str]:
    """One line for each setting that is allowed but risky; previews show them."""
    lines = []
    for name, service in mesh.services.items():
        key = f"mesh.services.{name}"
        if service.mirror is not None and service.mirror.percent and service.personal_data:
            lines.append(
                f"{key}.mirror: {service.mirror.percent:g}% of the requests of {name}, which "
                "contain "
                f"personal data, are copied to {service.mirror.subset}; the same rules apply to "
                "that version"
            )
        if service.fault is not None:
            lines.append(f"{key}.fault: requests fail on purpose: {service.fault.reason}")
        lines += [
            f"{key}.testers[{index}].fault: their requests fail on purpose: {testers.fault.reason}"
            for index, testers in enumerate(service.testers)
            if testers.fault is not None
        ]
        retries = service.retries
        if service.timeout and retries and retries.per_try_timeout:
            tries, whole = retries.attempts + 1, seconds(service.timeout)
            if seconds(retries.per_try_timeout) * tries > whole:
                lines.append(
                    f"{key}.retries: {tries} tries of {retries.per_try_timeout} do not fit into "
                    f"the timeout of {service.timeout}; the last ones are cut short"
                )
    for name, gateway in mesh.gateways.items():
        key = f"mesh.gateways.{name}"
        if gateway.tls is None:
            lines.append(f"{key}: clients outside use plaintext; set tls to encrypt")
        elif gateway.tls.plain_http:
            lines.append(f"{key}: clients outside may use plaintext, because plainHttp is set")
        if gateway.any_host is not None:
            lines.append(f"{key}: it accepts requests for every host: {gateway.any_host}")
    return [*lines, *path_checks.warnings(mesh)]


def _each(sections: Sections) -> Iterator[tuple[str, Service, KeyPath]]:
    services = sections.mesh.services if sections.mesh is not None else {}
    for name, service in services.items():
        yield name, service, ("mesh", "services", name)


def _check_namespace(sections: Sections) -> Iterator[Problem]:
    for _, service, path in _each(sections):
        yield from check_injected(
            (*path, "namespace"),
            service.namespace,
            sections.mesh,
            unknown="requests are split between pods with sidecars, in a namespace of the mesh",
            bare="without sidecars nothing splits the requests, and the weight has no effect",
        )


def _check_names(sections: Sections) -> Iterator[Problem]:
    owners: dict[tuple[str, str], str] = {}
    for name, service, path in _each(sections):
        kubernetes_name = service.kubernetes_name(name)
        owner = owners.setdefault((service.namespace, kubernetes_name), name)
        if owner != name:
            yield Problem(
                code="service-listed-twice",
                path=path,
                what=f"mesh.services.{owner} is the Service {service.namespace}/{kubernetes_name} "
                "too",
                why="a Service has one set of routes; with two, one would overwrite the other",
                fix=f"set both in mesh.services.{owner}, and remove {name}",
                about=(
                    ("mesh", "services", owner, "service"),
                    ("mesh", "services", owner, "namespace"),
                ),
            )


def _check_subsets(sections: Sections) -> Iterator[Problem]:
    for _, service, path in _each(sections):
        canary = (*path, "canary")
        if service.canary is not None and service.canary.subset == service.stable:
            yield Problem(
                code="canary-equals-stable",
                path=(*canary, "subset"),
                what=f"the canary is {service.stable}, which is also the stable subset",
                why="all requests would go to one version, and setting the weight to 0 "
                "would not remove a bad version",
                fix="use the canary's version, for example v2, or remove canary",
                about=((*path, "stable"),),
            )
        about = ((*path, "stable"), canary, (*canary, "subset"), (*path, "versions"))
        for index, version in enumerate(service.versions):
            if version in service.weights or version in service.versions[:index]:
                yield Problem(
                    code="version-duplicate",
                    path=(*path, "versions", f"[{index}]"),
                    what=f"{version} is already a version of this service",
                    why="versions lists those besides the stable one and the canary",
                    fix="remove it",
                    about=about,
                )
        known = [*service.subsets.values()]
        for index, testers in enumerate(service.testers):
            if testers.subset not in known:
                yield Problem(
                    code="testers-subset-unknown",
                    path=(*path, "testers", f"[{index}]", "subset"),
                    what=f"{testers.subset} is neither the stable subset, the canary nor one of "
                    "versions",
                    why="it has no pods, so testers would get 503",
                    fix=f"use one of {', '.join(known)}, or add versions: [{testers.subset}]",
                    about=about,
                )
        mirrored = service.mirror.subset if service.mirror is not None else None
        if mirrored is not None and mirrored not in known[1:]:
            yield Problem(
                code="mirror-subset-not-canary",
                path=(*path, "mirror", "subset"),
                what=f"{mirrored} is neither the canary nor one of versions",
                why="copies are meant for a new version: another subset has no pods, and the "
                "stable version would handle every request twice",
                fix=f"use {known[1]}"
                if len(known) > 1
                else "add canary: {subset: v2, weight: 0}, and mirror to v2",
                about=about,
            )


def _check_subset_names(sections: Sections) -> Iterator[Problem]:
    for _, service, path in _each(sections):
        keys = {service.stable: (*path, "stable")}
        if service.canary is not None:
            keys.setdefault(service.canary.subset, (*path, "canary", "subset"))
        for index, version in enumerate(service.versions):
            keys.setdefault(version, (*path, "versions", f"[{index}]"))
        owners: dict[str, str] = {}
        for version, key in keys.items():
            subset = subset_name(version)
            owner = owners.setdefault(subset, version)
            if owner != version:
                yield Problem(
                    code="version-subset-duplicate",
                    path=key,
                    what=f"{version} and {owner} are both the subset {subset}",
                    why="Istio accepts only lower-case letters, digits and hyphens in the name of "
                    "a subset, so the requests to one version would go to the other",
                    fix=f"give the pods of one of them another version, for example {version}-2",
                    about=(keys[owner],),
                )


def _check_mirror(sections: Sections) -> Iterator[Problem]:
    for _, service, path in _each(sections):
        canary, mirror = service.canary, service.mirror
        if canary is None or mirror is None or canary.weight < 100 or not mirror.percent:
            continue
        if mirror.subset != canary.subset:
            continue
        yield Problem(
            code="mirror-of-the-canary",
            path=(*path, "mirror"),
            what=f"{canary.subset} gets all requests, and {mirror.percent:g}% of them once more",
            why="each copied request would be handled twice by the same version, for example a "
            "payment",
            fix="remove mirror",
            about=((*path, "canary", "weight"), (*path, "mirror", "percent")),
        )


def _check_testers(sections: Sections) -> Iterator[Problem]:
    for _, service, path in _each(sections):
        conditions = [
            testers.model_dump(exclude={"subset", "fault"}) for testers in service.testers
        ]
        for index, condition in enumerate(conditions):
            first = conditions.index(condition)
            if first < index:
                yield Problem(
                    code="testers-duplicate",
                    path=(*path, "testers", f"[{index}]"),
                    what=f"this entry has the same condition as testers[{first}]",
                    why="the first match wins, so this entry would never be used",
                    fix="remove one of the two",
                    about=((*path, "testers", f"[{first}]"),),
                )


def _check_protocol(sections: Sections) -> Iterator[Problem]:
    for _, service, path in _each(sections):
        affinity, pool, canary = service.affinity, service.connection_pool, service.canary
        of_split: dict[KeyPath, object] = {
            ("canary", "gate"): canary is not None and canary.gate,
            ("mirror",): service.mirror,
            ("paths",): service.paths,
        }
        of_all: dict[KeyPath, object] = {
            ("testers",): service.testers,
            ("timeout",): service.timeout,
            ("retries",): service.retries,
            ("fault",): service.fault,
            ("affinity",): affinity is not None and not affinity.source_ip,
            ("connectionPool", "http"): pool is not None and pool.http,
        }
        has_requests = any(port.has_requests for port in service.named_ports)
        wants = {} if service.split_port.has_requests else dict(of_split)
        wants |= {} if has_requests else of_all
        port = "" if service.port is not None else f" of port {service.split_port.name}"
        for keys, value in wants.items():
            if value:
                yield Problem(
                    code="tcp-setting-without-effect",
                    path=(*path, *keys),
                    what=f"{'.'.join(keys)} is set, but the protocol{port} is tcp",
                    why="the proxy sees connections, not requests, so the setting has no "
                    "effect; only weights, connection limits and affinity by sourceIp "
                    "work",
                    fix="set protocol: http or grpc if the port speaks it, or remove "
                    + ".".join(keys),
                    about=((*path, "protocol"), (*path, "protocols"), (*path, "ports")),
                )


def _check_proxy_ports(sections: Sections) -> Iterator[Problem]:
    for _, service, path in _each(sections):
        for port in service.named_ports:
            if port.has_requests and port.number in ports.PROXY_LISTENERS:
                yield Problem(
                    code="service-port-reserved",
                    path=(*path, "port") if port.name is None else (*path, "ports", port.name),
                    what=f"{port.number} is a port of the sidecars themselves",
                    why="the caller's sidecar listens on it already, so it has no routes for it",
                    fix="use another port in the Service and here; its targetPort may stay",
                )


def _check_port_names(sections: Sections) -> Iterator[Problem]:
    for _, service, path in _each(sections):
        for name in service.protocols:
            if name not in service.ports:
                guess = nearest(name, service.ports)
                yield Problem(
                    code="port-protocol-unknown",
                    path=(*path, "protocols", name),
                    what=f"{name} is not a name in ports",
                    why="the protocol would apply to no port"
                    if service.ports
                    else "the protocol of the only port is the key protocol",
                    fix=(f"use {guess}, or remove it" if guess else "remove it")
                    if service.ports
                    else "use protocol instead",
                    about=((*path, "ports"),),
                )


def _check_timeouts(sections: Sections) -> Iterator[Problem]:
    for _, service, path in _each(sections):
        retries = service.retries
        if service.timeout is None or retries is None or retries.per_try_timeout is None:
            continue
        share = max(1, int(seconds(service.timeout) * 1000 / (retries.attempts + 1)))
        if seconds(retries.per_try_timeout) >= seconds(service.timeout):
            yield Problem(
                code="try-timeout-above-timeout",
                path=(*path, "retries", "perTryTimeout"),
                what=f"one try may take {retries.per_try_timeout}, but all tries together "
                f"may take {service.timeout}",
                why="timeout covers all tries: after a slow one no time is left for another",
                fix=f"use less, for example {share}ms for each of {retries.attempts + 1} tries, or "
                "raise timeout",
                about=((*path, "timeout"),),
            )


def _check_choice_of_pods(sections: Sections) -> Iterator[Problem]:
    for _, service, path in _each(sections):
        if service.affinity is not None and service.load_balancer is not None:
            yield Problem(
                code="load-balancer-with-affinity",
                path=(*path, "loadBalancer"),
                what=f"loadBalancer: {service.load_balancer} is set together with affinity",
                why="affinity chooses the pod from the request itself; Istio accepts only "
                "one of the two",
                fix="remove loadBalancer or affinity",
                about=((*path, "affinity"),),
            )
        locality = service.locality
        if locality is None or service.outlier_detection is not None:
            continue
        for key, value in (
            ("failover", locality.failover),
            ("failoverPriority", locality.failover_priority),
        ):
            if value:
                yield Problem(
                    code="locality-without-outlier-detection",
                    path=(*path, "locality", key),
                    what=f"{key} is set without outlierDetection",
                    why=f"Istio detects failing pods only with outlierDetection, so {key} "
                    "has no effect without it",
                    fix="add outlierDetection: {} for its defaults, or remove " + key,
                    about=((*path, "outlierDetection"),),
                )


def _check_routes(sections: Sections) -> Iterator[Problem]:
    for _, service, path in _each(sections):
        if service.in_mesh or service.gateway is not None:
            continue
        yield Problem(
            code="service-without-routes",
            path=(*path, "inMesh"),
            what="the routes apply neither inside the mesh nor at a gateway",
            why="no request would use them, whatever the weight",
            fix="remove inMesh, or set gateway to one of mesh.gateways",
            about=((*path, "gateway"),),
        )


def _check_export(sections: Sections) -> Iterator[Problem]:
    namespaces = sections.mesh.namespaces if sections.mesh is not None else {}
    for _, service, path in _each(sections):
        for index, target in enumerate(service.export_to):
            if target not in (".", "*", ROOT_NAMESPACE) and target not in namespaces:
                guess = nearest(target, namespaces)
                yield Problem(
                    code="export-namespace-unknown",
                    path=(*path, "exportTo", f"[{index}]"),
                    what=f"{target} is not in mesh.namespaces",
                    why="callers in that namespace have no sidecars to apply the routes",
                    fix=(f"use {guess}, or " if guess else "")
                    + f"use . (its own namespace) or * (all), or {joining(target, namespaces)}",
                    about=(("mesh", "namespaces"), ("mesh", "namespaces", target)),
                )
        if "*" in service.export_to and len(service.export_to) > 1:
            yield Problem(
                code="export-all-and-others",
                path=(*path, "exportTo"),
                what="* is listed together with other namespaces",
                why="* means all namespaces, and Istio refuses it together with others",
                fix="remove exportTo, which means all, or remove *",
            )
        elif service.export_to and service.gateway is not None:
            gateway = sections.mesh.gateways.get(service.gateway) if sections.mesh else None
            home = gateway.namespace if gateway is not None else ROOT_NAMESPACE
            if not {"*", home} & set(service.export_to):
                yield Problem(
                    code="export-without-gateway",
                    path=(*path, "exportTo"),
                    what=f"the gateway's namespace {home} is not listed",
                    why="the gateway's pods would not know the routes and would answer 404",
                    fix=f"add {home}, or remove exportTo, which means all",
                    about=((*path, "gateway"), ("mesh", "gateways", service.gateway)),
                )


CHECKS = (
    _check_namespace,
    _check_names,
    _check_subsets,
    _check_subset_names,
    _check_mirror,
    _check_testers,
    _check_protocol,
    _check_port_names,
    _check_proxy_ports,
    _check_timeouts,
    _check_choice_of_pods,
    _check_routes,
    check_hosts,
    _check_export,
    *path_checks.CHECKS,
)
