"""The selection gate: a rule that does not select all of a service's pods leaves some open."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import yaml

from components.gates.inventory import Pod
from config import Service, ServiceMtls
from config.errors import NAMESPACE, NordmeshError

if TYPE_CHECKING:
    from components.gates.api import Api

_SHOWN_AT_MOST = 3
_UNCHANGED = "the rule was not applied"
_AGAIN = "then run `pulumi up` again"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """An object that selects the pods of a service by their labels.

    key: its key in the stack file. labels_key: the key of the labels. is_default: whether the
    labels are the default. effect: the consequence for pods that it does not select.
    """

    name: str
    namespace: str
    labels: Mapping[str, str]
    key: str
    labels_key: str
    is_default: bool
    effect: str

    @property
    def service(self) -> str:
        return f"{self.namespace}/{self.name}"


def callers(name: str, service: Service) -> Rule:
    """The rule of a service's callers."""
    return Rule(
        name=service.kubernetes_name(name),
        namespace=service.namespace,
        labels=service.pod_labels(name),
        key=f"{NAMESPACE}:mesh.services.{name}.callers",
        labels_key=f"{NAMESPACE}:mesh.services.{name}.selector",
        is_default=service.selector is None,
        effect="anyone could call it",
    )


def modes(name: str, service: Service, mtls: ServiceMtls) -> Rule:
    """The rule of a service's mTLS modes."""
    has_own = mtls.selector is not None
    return Rule(
        name=service.kubernetes_name(name),
        namespace=service.namespace,
        labels=service.mtls_labels(name),
        key=f"{NAMESPACE}:mesh.services.{name}.mtls",
        labels_key=f"{NAMESPACE}:mesh.services.{name}{'.mtls' if has_own else ''}.selector",
        is_default=service.selector is None and not has_own,
        effect="it would still accept plaintext",
    )


def check_modes(api: "Api", name: str, service: Service, mtls: ServiceMtls) -> None:
    """Fail if modes miss pods of the service; with their own selector, only if they select none.

    Such a selector may be meant for some of the service's pods.
    """
    rule = modes(name, service, mtls)
    judge = judge_all if mtls.selector is None else _judge_some
    judge(rule, api.selector(rule.namespace, rule.name), api.pods(rule.namespace))


def check_all(api: "Api", rule: Rule) -> str:
    """Report how many pods a rule selects; fail if it does not select all of the service's."""
    selector, pods = api.selector(rule.namespace, rule.name), api.pods(rule.namespace)
    count = judge_all(rule, selector, pods)
    return f"{rule.key}: {count} pods have {in_words(rule.labels)} and are protected"


def judge_all(rule: Rule, selector: Mapping[str, str] | None, pods: Sequence[Pod]) -> int:
    """Count the pods that a rule selects; fail if it misses one of the service's.

    selector: the labels that the Service selects, {} without a selector, None without a Service.
    pods: the namespace's.
    """
    _judge_some(rule, selector, pods)
    if selector == {} and rule.is_default:
        raise NordmeshError(
            f"the Service {rule.service} has no selector, so its pods are unknown",
            unchanged=_UNCHANGED,
            code="gate-service-without-selector",
            path=rule.key,
            why=f"{rule.effect} at pods without the labels {in_words(rule.labels)}",
            fix=f"write the labels of its pods at {rule.labels_key}, {_AGAIN}",
        )
    own = [pod for pod in pods if pod.has(selector or rule.labels)]
    if missed := [pod.name for pod in own if not pod.has(rule.labels)]:
        raise NordmeshError(
            f"pods of the Service {rule.service} do not have the labels {in_words(rule.labels)}: "
            f"{_first_few(missed, own)}",
            unchanged=_UNCHANGED,
            code="gate-pods-missed",
            path=rule.key,
            why=f"{rule.effect} at these pods",
            fix=_proposal(rule, selector or {}),
        )
    if bare := [pod.name for pod in own if not pod.has_proxy]:
        raise NordmeshError(
            f"pods of the Service {rule.service} have no sidecar: {_first_few(bare, own)}",
            unchanged=_UNCHANGED,
            code="gate-pods-without-sidecar",
            path=rule.key,
            why=f"only a sidecar refuses requests: {rule.effect} at these pods",
            fix="restart the workload in a namespace with injection (kubectl rollout restart), "
            f"{_AGAIN}. A pod with hostNetwork or sidecar.istio.io/inject: false never gets a "
            "sidecar",
        )
    return len(own)


def _judge_some(rule: Rule, selector: Mapping[str, str] | None, pods: Sequence[Pod]) -> None:
    # With the Service's labels, or fewer, the rule selects the Service's pods once there are any.
    will_select = selector is not None and rule.labels.items() <= selector.items()
    if will_select or any(pod.has(rule.labels) for pod in pods):
        return
    if selector is None:
        reason = f"the Service {rule.service} does not exist"
        fix = (
            f"deploy the Service and its pods, {_AGAIN}. If its pods have other labels, write them "
            f"at {rule.labels_key}"
        )
    elif selector:
        reason = f"the Service selects {in_words(selector)}"
        fix = _proposal(rule, selector)
    else:
        reason = "the Service has no selector"
        fix = (
            f"write the labels of its pods at {rule.labels_key}, {_AGAIN}. If it stands for "
            f"something outside the cluster, remove {rule.key}"
        )
    raise NordmeshError(
        f"no pod in {rule.namespace} has the labels {in_words(rule.labels)}, and {reason}",
        unchanged=_UNCHANGED,
        code="gate-no-pod-selected",
        path=rule.key,
        why=f"a rule that selects no pod refuses nobody: {rule.effect}",
        fix=fix,
    )


def in_words(labels: Mapping[str, str]) -> str:
    """Labels in the form that kubectl accepts."""
    return ",".join(f"{key}={value}" for key, value in labels.items())


def _proposal(rule: Rule, selector: Mapping[str, str]) -> str:
    labels = yaml.safe_dump(dict(selector), default_flow_style=True, width=1000).strip()
    return f"write {labels} at {rule.labels_key}, {_AGAIN}"


def _first_few(names: Sequence[str], pods: Sequence[Pod]) -> str:
    more = len(names) - _SHOWN_AT_MOST
    shown = ", ".join(names[:_SHOWN_AT_MOST]) + (f" and {more} more" if more > 0 else "")
    return f"{shown} ({len(names)} of {len(pods)})"
