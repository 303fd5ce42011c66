"""Checks of sidecars with their own size."""

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
            unknown="only Deployments in a namespace of the mesh have sidecars",
            bare="its pods have no sidecar to size",
        )
        deployment = (workload.namespace, workload.deployment or name)
        owner = owners.setdefault(deployment, name)
        if owner != name:
            yield Problem(
                code="workload-deployment-duplicate",
                path=path,
                what=f"the Deployment {'/'.join(deployment)} is already configured by {owner}",
                why="two patches of the same annotations would overwrite each other",
                fix=f"move the settings to {owner}, and remove {name}",
                about=((*path, "deployment"), ("mesh", "workloads", owner, "deployment")),
            )
        if not _sets_something(workload):
            yield Problem(
                code="workload-size-missing",
                path=path,
                what=f"{name} sets no size",
                why="nothing would change: its sidecars have the size of istio.proxy",
                fix="set requests, limits, concurrency, holdApplicationUntilProxyStarts or "
                "drainDuration; or remove the entry",
            )
        if sections.istio is not None:
            yield from _check_size(name, workload, sections.istio.proxy)


def _check_size(name: str, workload: Workload, mesh: Proxy) -> Iterator[Problem]:
    path, proxy = ("mesh", "workloads", name), workload.proxy(mesh)
    for kind in KINDS:
        side = "requests" if getattr(workload.requests, kind) is not None else "limits"
        yield from check_request(
            (*path, side, kind),
            getattr(proxy.requests, kind),
            getattr(proxy.limits, kind),
            limit_path=(*path, "limits", kind),
            fix=f"set requests.{kind} to at most limits.{kind}",
            note="; keys that are not set have the values of istio.proxy",
            about=(("istio", "proxy", "requests", kind), ("istio", "proxy", "limits", kind)),
        )
        own = getattr(workload.limits, kind)
        if own is not None:
            yield from check_proxy_limit((*path, "limits", kind), kind, own)


def _sets_something(workload: Workload) -> bool:
    settings = workload.model_dump(
        include={
            "requests",
            "limits",
            "concurrency",
            "hold_application_until_proxy_starts",
            "drain_duration",
        }
    )
    amounts = [*settings.pop("requests").values(), *settings.pop("limits").values()]
    return any(value is not None for value in (*amounts, *settings.values()))


CHECKS = (_check_workloads,)
