"""PodSecurity at a real API server: which pods a namespace refuses, and what a new level would."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

import pytest

from components.gates import pod_security
from components.gates.api import connect
from components.manifests import mtls
from config import Namespace
from config.errors import NordmeshError
from tests.engine.rbac_server import ApiServer, Authority, api_server
from tests.support.made import made_by_the_program, pods_of
from tests.unit.stacks import test_options

Values = dict[str, Any]
_names = (f"team-{number}" for number in count(1))

PLAIN: Values = {"containers": [{"name": "app", "image": "app"}]}
PRIVILEGED: Values = {
    "containers": [{"name": "app", "image": "app", "securityContext": {"privileged": True}}]
}
HOST_NETWORK: Values = {**PLAIN, "hostNetwork": True}
WITH_SIDECAR: Values = {
    **PLAIN,
    "initContainers": [
        {
            "name": "istio-init",
            "image": "proxyv2",
            "securityContext": {"capabilities": {"add": ["NET_ADMIN", "NET_RAW"]}},
        }
    ],
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    authority = Authority(tmp_path_factory.mktemp("certificates"))
    flags = ("--allow-privileged=true", "--disable-admission-plugins=ServiceAccount,Priority")
    with api_server(tmp_path_factory.mktemp("server"), authority, *flags) as server:
        yield server


def labelled(name: str, **settings: Any) -> Values:
    return mtls.namespace(name, Namespace.model_validate(settings), kubernetes="1.23.17")


def start(server: ApiServer, namespace: str, name: str, spec: Values) -> tuple[int, Values]:
    metadata = {"name": name, "namespace": namespace}
    return server.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})


def filled(server: ApiServer, **pods: Values) -> str:
    """The name of a new namespace with pods in it, which has no level."""
    name = next(_names)
    server.ok("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    for pod, spec in pods.items():
        assert start(server, name, pod, spec)[0] == 201
    return name


def check(server: ApiServer, old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> None:
    with connect(server.administrator) as api:
        pod_security.check(api, old, new)


def test_a_namespace_without_sidecars_refuses_privileged_pods(server: ApiServer) -> None:
    name = next(_names)
    assert server.apply(labelled(name, injection=False))[0] == 201
    assert start(server, name, "plain", PLAIN)[0] == 201
    for pod, spec in (("privileged", PRIVILEGED), ("on-host", HOST_NETWORK)):
        status, answer = start(server, name, pod, spec)
        assert status == 403
        assert 'violates PodSecurity "baseline:v1.23"' in answer["message"]


def test_a_level_of_the_stack_file_is_enforced(server: ApiServer) -> None:
    strict, open_to_all = next(_names), next(_names)
    reason = "its agents read the logs of the nodes"
    levels = {
        strict: {"level": "restricted"},
        open_to_all: {"level": "privileged", "reason": reason},
    }
    for name, level in levels.items():
        assert server.apply(labelled(name, injection=False, podSecurity=level))[0] == 201
    assert start(server, strict, "plain", PLAIN)[0] == 403
    assert start(server, open_to_all, "privileged", PRIVILEGED)[0] == 201


def test_a_namespace_with_sidecars_accepts_them(server: ApiServer) -> None:
    name = next(_names)
    assert server.apply(labelled(name))[0] == 201
    assert start(server, name, "with-sidecar", WITH_SIDECAR)[0] == 201


def test_a_level_that_would_refuse_running_pods_is_refused(server: ApiServer) -> None:
    pods = {"web-1": HOST_NETWORK, "web-2": HOST_NETWORK, "agent": PRIVILEGED, "plain": PLAIN}
    name = filled(server, **pods)
    for old in (None, labelled(name, injection=False) | {"metadata": {"labels": {}}}):
        with pytest.raises(NordmeshError) as caught:
            check(server, old, labelled(name, injection=False))
        assert caught.value.code == "pod-security-refuses-pods"
        assert "agent: privileged" in str(caught.value)
        assert "web-1 (and 1 other pod): host namespaces" in str(caught.value)
        assert "plain" not in str(caught.value)
    labels = server.ok("GET", f"/api/v1/namespaces/{name}")["metadata"]["labels"]
    assert set(labels) == {"kubernetes.io/metadata.name"}
    for pod in ("web-1", "web-2", "agent"):
        path = f"/api/v1/namespaces/{name}/pods/{pod}?gracePeriodSeconds=0"
        server.ok("DELETE", path)
    check(server, None, labelled(name, injection=False))


def test_sidecars_that_still_run_keep_no_namespace_in_the_mesh(server: ApiServer) -> None:
    """Once they restart, its pods have none."""
    name = filled(server, web=WITH_SIDECAR)
    check(server, labelled(name), labelled(name, injection=False))
    start(server, name, "api", {**WITH_SIDECAR, "hostNetwork": True})
    with pytest.raises(NordmeshError, match="api: non-default capabilities, host namespaces"):
        check(server, labelled(name), labelled(name, injection=False))


def test_a_stricter_level_that_was_set_by_hand_is_not_weakened(server: ApiServer) -> None:
    name = filled(server)
    by_hand = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    patch = "application/merge-patch+json"
    server.ok("PATCH", f"/api/v1/namespaces/{name}", by_hand, content_type=patch)
    without = {"metadata": {"name": name, "labels": {"istio-injection": "disabled"}}}
    with pytest.raises(NordmeshError, match="pod-security-weaker"):
        check(server, without, labelled(name, injection=False))
    restricted = labelled(name, injection=False, podSecurity={"level": "restricted"})
    check(server, without, restricted)
    check(server, restricted, labelled(name, injection=False))  # the stack file may weaken its own


def test_a_new_namespace_has_no_pods_to_refuse(server: ApiServer) -> None:
    check(server, None, labelled(next(_names), injection=False))


def test_the_pods_of_nordmesh_start_in_their_namespaces(server: ApiServer) -> None:
    objects = made_by_the_program([test_options.recorded("bought")])
    levels = {}
    for _, manifest in objects:
        labels = manifest["metadata"].get("labels") or {}
        level = labels.get("pod-security.kubernetes.io/enforce")
        if manifest["kind"] == "Namespace" and level:
            levels[manifest["metadata"]["name"]] = level
            assert server.apply(manifest)[0] == 201
    started: dict[str, list[str]] = {name: [] for name in levels}
    for namespace, name, spec in pods_of(objects):
        if namespace in levels:
            status, answer = start(server, namespace, name, spec)
            assert status in (200, 201), answer["message"]
            started[namespace].append(name)
    print({name: (levels[name], sorted(pods)) for name, pods in started.items()})
    assert {"monitoring", "outside", "kube-flannel"} <= {name for name in started if started[name]}
    assert levels["outside"] == "baseline"
    assert levels["monitoring"] == "restricted"
