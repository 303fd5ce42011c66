"""Checks of what decides where pods run: node pools, taints, regions and zones."""

from collections import Counter
from collections.abc import Iterator, Mapping

from config import StackConfig
from config.errors import KeyPath, Problem, nearest, step
from config.machines import AnyNode, pools
from config.machines.settings import Taint
from config.model_types import aliases
from config.sections import Sections


def _check_pools(sections: Sections) -> Iterator[Problem]:
    machines = sections.machines
    if machines is None:
        return
    used = {node.pool for node in machines.nodes.values()}
    for name in machines.pools:
        if name not in used:
            yield Problem(
                code="pool-unused",
                path=("machines", "pools", name),
                what=f"no node has pool: {name}",
                why="an edit of the pool would change nothing, and nobody would notice",
                fix=f"set pool: {name} on its nodes, or remove the pool",
                about=(("machines", "nodes"),),
            )
    for name, node in machines.nodes.items():
        path = ("machines", "nodes", name, "pool")
        if node.pool is not None and node.pool not in machines.pools:
            guess = nearest(node.pool, machines.pools)
            known = f"use one of {', '.join(machines.pools)}" if machines.pools else ""
            yield Problem(
                code="pool-unknown",
                path=path,
                what=f"there is no pool {node.pool} in machines.pools",
                why=f"{name} would have none of the settings that its pool is meant to give it",
                fix=f"use {guess}" if guess else known or f"add machines.pools.{node.pool}",
                about=(("machines", "pools"), ("machines", "pools", node.pool)),
            )


def _check_pool_keys(sections: Sections) -> Iterator[Problem]:
    """Refuse a key of a pool that a node of the pool cannot have."""
    machines = sections.machines
    if machines is None:
        return
    for name, pool in machines.pools.items():
        members = {key: node for key, node in machines.nodes.items() if node.pool == name}
        for field in pool.model_fields_set:
            key = type(pool).model_fields[field].alias or field
            others = [node for node, of in members.items() if key not in aliases(type(of))]
            if others:
                provider = members[others[0]].provider
                yield Problem(
                    code="pool-key-without-effect",
                    path=("machines", "pools", name, key),
                    what=f"{', '.join(others)} cannot have {key}, because of provider: {provider}",
                    why="the key would have no effect on this node, and nobody would notice",
                    fix=f"remove {key}, or use separate pools for nodes of different providers",
                    about=tuple(("machines", "nodes", node) for node in others),
                )


def _check_taints(sections: Sections) -> Iterator[Problem]:
    machines = sections.machines
    if machines is None:
        return
    owners: list[tuple[KeyPath, list[Taint]]] = [
        *((("pools", name), pool.taints) for name, pool in machines.pools.items()),
        *(
            (("nodes", name), node.taints)
            for name, node in machines.nodes.items()
            if _path(sections, name, "taints")[1] == "nodes"
        ),
    ]
    for owner, taints in owners:
        count = Counter((taint.key, taint.effect) for taint in taints)
        for (key, effect), number in count.items():
            if number > 1:
                yield Problem(
                    code="taint-duplicate",
                    path=("machines", *owner, "taints"),
                    what=f"{number} taints have the key {key} and the effect {effect}",
                    why="a node has one taint for each key and effect, so the API server refuses "
                    "the list",
                    fix="keep one of them",
                )


def _hard(sections: Sections, name: str, node: AnyNode) -> list[Taint]:
    """The taints that keep pods off a node; none if a wrong value among them was replaced."""
    path = _path(sections, name, "taints")
    if any(broken[: len(path)] == path for broken in sections.broken):
        return []
    return [taint for taint in node.taints if taint.is_hard]


def _path(sections: Sections, name: str, key: str) -> KeyPath:
    """The path of a node's setting: in the node, or in its pool."""
    own = ("nodes", name, key)
    return ("machines", *(pools.source(sections.raw.get("machines"), own) or own))


def _check_free_node(sections: Sections) -> Iterator[Problem]:
    """Refuse taints on every node that could run the cluster's own pods."""
    machines = sections.machines
    if machines is None:
        return
    nodes = dict(machines.workers or machines.control_planes)
    hard = {name: _hard(sections, name, node) for name, node in nodes.items()}
    if not nodes or not all(hard.values()):
        return
    tainted = list(nodes)
    kind = "worker" if machines.workers else "node"
    what = f"every {kind} has a taint: " if len(nodes) > 1 else f"the only {kind} has a taint: "
    yield Problem(
        code="taint-on-every-node",
        path=_path(sections, tainted[-1], "taints"),
        what=what + "; ".join(f"{name} {taints[0]}" for name, taints in hard.items()),
        why="istiod, gateways, Prometheus and pods without tolerations would start nowhere",
        fix=f"leave one {kind} without NoSchedule and NoExecute, or use PreferNoSchedule",
        about=tuple(_path(sections, name, "taints") for name in tainted),
    )


def _check_gateways(sections: Sections) -> Iterator[Problem]:
    """Refuse a taint on a node that a gateway is bound to: its pods do not tolerate it."""
    machines, istio = sections.machines, sections.istio
    if machines is None or istio is None:
        return
    for gateway, settings in istio.ingress.items():
        for index, name in enumerate(settings.nodes):
            node = machines.nodes.get(name)
            taints = [] if node is None else _hard(sections, name, node)
            if taints:
                expose = ("istio", "ingressGateways", gateway, "expose", "nodes")
                yield Problem(
                    code="taint-on-gateway-node",
                    path=_path(sections, name, "taints"),
                    what=f"{taints[0]} keeps the gateway {gateway} off {name}",
                    why=f"{'.'.join(expose)} binds a pod of the gateway to {name}; it would not "
                    "start there, and clients would get no answer",
                    fix=f"remove the taint, or remove {name} from {'.'.join(expose)}",
                    about=((*expose, f"[{index}]"),),
                )


def _check_zones(sections: Sections) -> Iterator[Problem]:
    machines = sections.machines
    if machines is None:
        return
    seen: set[KeyPath] = set()
    for name, node in machines.nodes.items():
        path = _path(sections, name, "zone")
        if node.zone is not None and node.region is None and path not in seen:
            seen.add(path)
            yield Problem(
                code="zone-without-region",
                path=path,
                what=f"{name} has the zone {node.zone} and no region",
                why="a locality is region/zone: without its region, Istio ignores the zone",
                fix="set region next to it, for example region: oslo",
                about=((*path[:-1], "region"),),
            )


def _check_localities(sections: Sections) -> Iterator[Problem]:
    """Refuse a region that no node has, if the file names the region of every node."""
    machines, mesh = sections.machines, sections.mesh
    if machines is None or mesh is None:
        return
    regions = {node.region for node in machines.nodes.values()}
    if not regions or None in regions:
        return
    known = sorted(region for region in regions if region)
    for name, service in mesh.services.items():
        if service.locality is None:
            continue
        path = ("mesh", "services", name, "locality")
        named: dict[KeyPath, str] = {}
        for index, share in enumerate(service.locality.distribute):
            named[*path, "distribute", f"[{index}]", "from"] = share.source
            for target in share.to:
                named[*path, "distribute", f"[{index}]", "to", target] = target
        for index, failover in enumerate(service.locality.failover):
            named[*path, "failover", f"[{index}]", "from"] = failover.source
            named[*path, "failover", f"[{index}]", "to"] = failover.to
        for where, locality in named.items():
            region = locality.partition("/")[0]
            if region not in (*known, "*"):
                guess = nearest(region, known)
                yield Problem(
                    code="region-unknown",
                    path=where,
                    what=f"no node is in the region {region}",
                    why="the rule would match no pod, so Istio would ignore it or send requests "
                    "nowhere",
                    fix=f"use {locality.replace(region, guess, 1)}"
                    if guess
                    else f"use one of {', '.join(known)}, or set region: {region} on a node",
                    about=(("machines", "nodes"),),
                )


def warnings(config: StackConfig) -> Iterator[str]:
    """The warning about nodes whose pods have no locality."""
    nodes: Mapping[str, AnyNode] = config.machines.nodes
    without = [name for name, node in sorted(nodes.items()) if node.region is None]
    if without and len(without) < len(nodes):
        keys = ", ".join(f"machines.nodes{step(name)}.region" for name in without)
        yield (
            f"Istio knows no locality of pods on {', '.join(without)}, and treats them as remote: "
            f"set {keys}, or a pool's region"
        )


CHECKS = (
    _check_pools,
    _check_pool_keys,
    _check_taints,
    _check_free_node,
    _check_gateways,
    _check_zones,
    _check_localities,
)
