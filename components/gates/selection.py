"""The selection gate: a rule for pods that selects none of them leaves a service open."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import yaml

from components.gates.errors import GateError
from components.gates.inventory import Pod
from config import Service, ServiceMtls

if TYPE_CHECKING:
    from components.gates.api import Api

_SHOWN_AT_MOST = 3


@dataclass(frozen=True, kw_only=True)
class Rule:
    """An object that is to hold for the pods of a service, which it selects by their labels.

    place: what asks for it in the stack file. key: where the labels belong. is_guess: whether
    the labels are the default. effect: what follows where it does not hold.
    """

    name: str
    namespace: str
    labels: Mapping[str, str]
    place: str
    key: str
    is_guess: bool
    effect: str

    @property
    def service(self) -> str:
        return f"{self.namespace}/{self.name}"


def callers(name: str, service: Service) -> Rule:
    """The rule that a service's callers are."""
    return Rule(
        name=name,
        namespace=service.namespace,
        labels=service.pod_labels(name),
        place=f"mesh.services.{name}.callers",
        key=f"mesh.services.{name}.selector",
        is_guess=service.selector is None,
        effect="anyone could call it",
    )


def modes(name: str, service: Service, own_mtls: ServiceMtls) -> Rule:
    """The rule that a service's mTLS modes are."""
    own = own_mtls.selector is not None
    return Rule(
        name=name,
        namespace=service.namespace,
        labels=service.mtls_labels(name),
        place=f"mesh.services.{name}.mtls",
        key=f"mesh.services.{name}{'.mtls' if own else ''}.selector",
        is_guess=service.selector is None and not own,
        effect="it would still accept plaintext",
    )


def check_some(api: "Api", rule: Rule) -> None:
    """Raise GateError if a rule selects no pod, unless the Service's pods will be selected."""
    _judge_some(rule, api.selector(rule.namespace, rule.name), api.pods(rule.namespace))


def check_all(api: "Api", rule: Rule) -> str:
    """How many pods a rule holds for; GateError if it does not hold for all of the service's."""
    service, found = api.selector(rule.namespace, rule.name), api.pods(rule.namespace)
    count = judge_all(rule, service, found)
    return f"{rule.place}: it holds for {count} pods, those with {in_words(rule.labels)}"


def judge_all(rule: Rule, service: Mapping[str, str] | None, found: Sequence[Pod]) -> int:
    """How many pods a rule holds for.

    service: what the Service selects, {} without a selector, None without a Service. found: the
    namespace's pods. Raises GateError if there is none, or one of the service for which it does
    not hold.
    """
    _judge_some(rule, service, found)
    if service == {} and rule.is_guess:
        raise GateError(
            f"the Service {rule.service} has no selector, so its pods are not known; {rule.place} "
            "is not applied",
            why=f"{rule.effect} at pods that do not have {in_words(rule.labels)}",
            fix=f"write the labels of its pods at {rule.key}, then run `pulumi up` again",
        )
    behind = [pod for pod in found if pod.has(service or rule.labels)]
    if missed := [pod.name for pod in behind if not pod.has(rule.labels)]:
        raise GateError(
            f"pods of the Service {rule.service} do not have {in_words(rule.labels)}; "
            f"{rule.place} is not applied: {_listed(missed, behind)}",
            why=f"{rule.effect} at these pods",
            fix=_proposal(rule, service or {}),
        )
    if bare := [pod.name for pod in behind if not pod.has_proxy]:
        raise GateError(
            f"pods of the Service {rule.service} have no sidecar; {rule.place} is not applied: "
            f"{_listed(bare, behind)}",
            why=f"sidecars are what refuses requests: {rule.effect} at these pods",
            fix="restart the workload in its namespace with injection (kubectl rollout "
            "restart); a pod with hostNetwork or sidecar.istio.io/inject: false never gets one. "
            "Then run `pulumi up` again",
        )
    return len(behind)


def _judge_some(rule: Rule, service: Mapping[str, str] | None, found: Sequence[Pod]) -> None:
    # With the Service's labels, or fewer, pods are selected as soon as there are any.
    will_select = service is not None and rule.labels.items() <= service.items()
    if will_select or any(pod.has(rule.labels) for pod in found):
        return
    again = "then run `pulumi up` again"
    if service is None:
        there = f"there is no Service {rule.service}"
        fix = f"deploy the Service and its pods, {again}. If its pods have other labels, write "
        fix += f"them at {rule.key}"
    elif service:
        there = f"the Service selects {in_words(service)}"
        fix = _proposal(rule, service)
    else:
        there = "the Service has no selector"
        fix = f"write the labels of its pods at {rule.key}, {again}. If it stands for "
        fix += f"something outside the cluster, remove {rule.place}"
    raise GateError(
        f"no pod is selected by {in_words(rule.labels)} in {rule.namespace}, and {there}; "
        f"{rule.place} is not applied",
        why=f"a rule that selects no pod refuses nobody: {rule.effect}",
        fix=fix,
    )


def in_words(labels: Mapping[str, str]) -> str:
    """Labels as kubectl takes them."""
    return ",".join(f"{key}={value}" for key, value in labels.items())


def _proposal(rule: Rule, service: Mapping[str, str]) -> str:
    written = yaml.safe_dump(dict(service), default_flow_style=True, width=1000).strip()
    return f"write {written} at {rule.key}, then run `pulumi up` again"


def _listed(names: Sequence[str], of: Sequence[Pod]) -> str:
    more = len(names) - _SHOWN_AT_MOST
    shown = ", ".join(names[:_SHOWN_AT_MOST]) + (f" and {more} more" if more > 0 else "")
    return f"{shown} ({len(names)} of {len(of)})"
