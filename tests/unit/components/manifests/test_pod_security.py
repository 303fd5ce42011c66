"""The namespaces that enforce a PodSecurity level have no pods that it refuses.

tests/engine/test_pod_security.py asks a real API server; here are all stacks.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from components.manifests import mtls
from config import Namespace
from tests.support.made import made_by_the_program, pods_of, recorded
from tests.unit.stacks import test_options

Values = dict[str, Any]

_CAPABILITIES = {
    "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD",
    "NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
}  # fmt: skip
_SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_syncookies",
}
_SELINUX = {"", "container_t", "container_init_t", "container_kvm_t"}
_APPARMOR = "container.apparmor.security.beta.kubernetes.io/"


def _containers(pod: Values) -> Iterator[Values]:
    for kind in ("containers", "initContainers", "ephemeralContainers"):
        yield from pod.get(kind, [])


def _contexts(pod: Values) -> list[Values]:
    """The security contexts of the pod and of its containers."""
    return [one.get("securityContext", {}) for one in (pod, *_containers(pod))]


def _selinux(context: Values) -> bool:
    options = context.get("seLinuxOptions", {})
    return options.get("type", "") in _SELINUX and not options.keys() & {"user", "role"}


# The rules of the level baseline in Kubernetes 1.23, for the spec of a pod.
BASELINE: dict[str, Callable[[Values], bool]] = {
    "hostProcess": lambda pod: (
        not any(context.get("windowsOptions", {}).get("hostProcess") for context in _contexts(pod))
    ),
    "host namespaces": lambda pod: (
        not any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC"))
    ),
    "privileged": lambda pod: not any(context.get("privileged") for context in _contexts(pod)),
    "capabilities": lambda pod: all(
        set(context.get("capabilities", {}).get("add", [])) <= _CAPABILITIES
        for context in _contexts(pod)
    ),
    "hostPath": lambda pod: not any("hostPath" in volume for volume in pod.get("volumes", [])),
    "hostPort": lambda pod: (
        not any(port.get("hostPort") for one in _containers(pod) for port in one.get("ports", []))
    ),
    "SELinux": lambda pod: all(map(_selinux, _contexts(pod))),
    "procMount": lambda pod: all(
        context.get("procMount", "Default") == "Default" for context in _contexts(pod)
    ),
    "seccomp": lambda pod: all(
        context.get("seccompProfile", {}).get("type") != "Unconfined" for context in _contexts(pod)
    ),
    "sysctls": lambda pod: all(
        sysctl["name"] in _SYSCTLS
        for context in _contexts(pod)
        for sysctl in context.get("sysctls", [])
    ),
}


def _with(**context: Any) -> Values:
    return {"containers": [{"name": "app", "securityContext": context}]}


@pytest.mark.parametrize(
    ("rule", "pod"),
    [
        ("hostProcess", _with(windowsOptions={"hostProcess": True})),
        *(("host namespaces", {key: True}) for key in ("hostNetwork", "hostPID", "hostIPC")),
        ("privileged", _with(privileged=True)),
        ("privileged", {"initContainers": _with(privileged=True)["containers"]}),
        ("capabilities", _with(capabilities={"add": ["NET_ADMIN"]})),
        ("hostPath", {"volumes": [{"name": "logs", "hostPath": {"path": "/var/log"}}]}),
        ("hostPort", {"containers": [{"name": "app", "ports": [{"hostPort": 80}]}]}),
        ("SELinux", _with(seLinuxOptions={"type": "spc_t"})),
        ("procMount", _with(procMount="Unmasked")),
        ("seccomp", {"securityContext": {"seccompProfile": {"type": "Unconfined"}}}),
        ("sysctls", {"securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}}),
    ],
)
def test_each_rule_refuses_what_it_is_for(rule: str, pod: Values) -> None:
    assert [name for name, accepts in BASELINE.items() if not accepts(pod)] == [rule]


def test_each_namespace_enforces_a_level_that_its_pods_meet(tmp_path: Path) -> None:
    objects = made_by_the_program([*recorded(tmp_path), test_options.recorded("bought")])
    labels = {
        manifest["metadata"]["name"]: manifest["metadata"].get("labels", {})
        for _, manifest in objects
        if manifest["kind"] == "Namespace"
    }
    levels = {
        name: of_namespace.get("pod-security.kubernetes.io/enforce")
        for name, of_namespace in labels.items()
    }
    print(levels)
    injected = {name for name, one in labels.items() if one.get("istio-injection") == "enabled"}
    assert {name for name, level in levels.items() if level is None} == injected
    open_to_all = {name for name, level in levels.items() if level == "privileged"}
    assert open_to_all == {"kube-flannel", "agents"}

    broken = {
        namespace: [rule for rule, accepts in BASELINE.items() if not accepts(pod)]
        for namespace, _, pod in pods_of(objects)
        if namespace in labels and namespace not in injected
    }
    assert broken.pop("kube-flannel"), "kube-flannel could enforce baseline"
    assert broken.keys() >= {"monitoring", "outside"}
    assert not any(broken.values()), broken
    # AppArmor is in annotations, which no template of nordmesh has.
    assert _APPARMOR not in str(objects)


def test_a_level_is_that_of_the_clusters_minor() -> None:
    """A later Kubernetes may refuse more, and an upgrade must stop no pod."""
    labels = mtls.namespace("batch", Namespace(injection=False), kubernetes="1.23.17")["metadata"][
        "labels"
    ]
    assert labels == {
        "istio-injection": "disabled",
        "pod-security.kubernetes.io/enforce": "baseline",
        "pod-security.kubernetes.io/enforce-version": "v1.23",
        "pod-security.kubernetes.io/warn": "baseline",
        "pod-security.kubernetes.io/warn-version": "v1.23",
    }
