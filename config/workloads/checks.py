"""Checks of sidecars with a size of their own."""

from collections.abc import Iterator

from config import Workload
from config.errors import Problem
from config.istio import Proxy
from config.mesh.checks import check_injected
from config.resources import KINDS, check_proxy_limit, check_request
from config.sections import Sections


def _check_workloads(sections: Sections) -> Iterator[Problem]:
    mesh = sections.mesh
    if mesh is None:
        return
    owners: dict[tuple[str, str], str] = {}
    for name, workload in mesh.workloads.items():
        path = ("mesh", "workloads", name)
        yield from check_injected(
            (*path, "namespace"),
            workload.namespace,
            mesh,
            unknown="a Deployment has sidecars in a namespace of the mesh only",
            bare="its pods have no sidecar that could have a size",
        )
        deployment = (workload.namespace, workload.deployment or name)
        owner = owners.setdefault(deployment, name)
        if owner != name:
            yield Problem(
                path=path,
                what=f"the Deployment {'/'.join(deployment)} is {owner} already",
                why="two patches of the same annotations would undo each other",
                fix=f"write both at {owner}, and remove {name}",
                about=((*path, "deployment"), ("mesh", "workloads", owner, "deployment")),
            )
        if not _says_something(workload):
            yield Problem(
                path=path,
                what=f"{name} has no size of its own",
                why="nothing would be changed: its sidecars have that of istio.proxy",
                fix="write requests, limits, concurrency or holdApplicationUntilProxyStarts, "
                "or remove it",
            )
        if sections.istio is not None:
            yield from _check_size(name, workload, sections.istio.proxy)


def _check_size(name: str, workload: Workload, mesh: Proxy) -> Iterator[Problem]:
    path, proxy = ("mesh", "workloads", name), workload.proxy(mesh)
    for kind in KINDS:
        said = "requests" if getattr(workload.requests, kind) is not None else "limits"
        yield from check_request(
            (*path, said, kind),
            getattr(proxy.requests, kind),
            getattr(proxy.limits, kind),
            limit_path=(*path, "limits", kind),
            fix=f"write requests.{kind} of at most limits.{kind}",
            note="; what is not said here is as in istio.proxy",
            about=(("istio", "proxy", "requests", kind), ("istio", "proxy", "limits", kind)),
        )
        own = getattr(workload.limits, kind)
        if own is not None:
            yield from check_proxy_limit((*path, "limits", kind), kind, own)


def _says_something(workload: Workload) -> bool:
    said = workload.model_dump(
        include={"requests", "limits", "concurrency", "hold_application_until_proxy_starts"}
    )
    amounts = [*said.pop("requests").values(), *said.pop("limits").values()]
    return any(value is not None for value in (*amounts, *said.values()))


CHECKS = (_check_workloads,)
