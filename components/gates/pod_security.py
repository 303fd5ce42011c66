"""Whether a new PodSecurity level would refuse the pods that run in its namespace.

The API server answers, by a dry run of the labels. A level refuses only new pods: without this
check, a running pod would be missing after its next restart. Pods that do not exist at that moment
are not in the answer, for example those of a CronJob without a history.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from components.manifests.mtls import injector_of
from components.manifests.pod_security import LEVELS, enforced
from config.errors import NAMESPACE, NordmeshError

if TYPE_CHECKING:
    from components.gates.api import Api

Inputs = Mapping[str, Any]

_OF_PODS = re.compile(r"\S+( \(and \d+ other pods?\))?: (?P<reasons>.+)")
_OF_ISTIO_INIT = "non-default capabilities"


def check(api: "Api", old: Inputs | None, new: Inputs) -> None:
    """Raise NordmeshError if pods would be refused, or if someone has set a stricter level by hand.

    old, new: the inputs of the Namespace, old None if it is not in the state.
    """
    name, level = new["metadata"]["name"], str(enforced(new))
    (current,) = api.existing([new])
    if current is None:
        return
    by_hand = enforced({"metadata": current})
    if by_hand not in (None, enforced(old)) and _strictness(by_hand) > _strictness(level):
        raise _weaker(name, level, by_hand)
    labels = {"metadata": {"labels": new["metadata"]["labels"]}}
    warnings = api.dry_run(f"/api/v1/namespaces/{name}", labels)
    leaves_mesh = bool(injector_of(old or {})) and not injector_of(new)
    if refused := list(_refused(warnings, leaves_mesh=leaves_mesh)):
        raise _refusal(name, level, refused)


def _strictness(level: str | None) -> int:
    return LEVELS.index(level) if level in LEVELS else 0


def _refused(warnings: Sequence[str], *, leaves_mesh: bool) -> Iterator[str]:
    """The lines of the answer that name pods: `web-1 (and 2 other pods): host namespaces`.

    leaves_mesh: pods that run still have an init container with NET_ADMIN; new ones will not.
    """
    for line in warnings:
        match = _OF_PODS.fullmatch(line)
        if match and not (leaves_mesh and match["reasons"] == _OF_ISTIO_INIT):
            yield line


def _refusal(name: str, level: str, refused: Sequence[str]) -> NordmeshError:
    return NordmeshError(
        f"the level {level} would refuse pods that run in {name}",
        code="pod-security-refuses-pods",
        path=f"{NAMESPACE}:mesh.namespaces.{name}.podSecurity",
        why="they keep running, but once deleted they are not created again",
        fix="change the pods, or set podSecurity to {level: privileged, reason: WHY}; then run "
        "`pulumi up` again",
        details="\n".join(refused),
    )


def _weaker(name: str, level: str, current: str) -> NordmeshError:
    return NordmeshError(
        f"the label of the namespace says {current}, and the stack file {level}",
        code="pod-security-weaker",
        path=f"{NAMESPACE}:mesh.namespaces.{name}.podSecurity",
        why="someone has set the label by hand, and nordmesh would allow more than they do",
        fix=f"set podSecurity to {{level: {current}}}; to allow more, first set the label with "
        f"`kubectl label --overwrite namespace {name} "
        f"pod-security.kubernetes.io/enforce={level}`",
    )
