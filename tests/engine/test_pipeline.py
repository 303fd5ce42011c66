"""The role of `pulumi up` at a real API server: it makes every object of the program, and no other.

The objects are those of the stacks with every key, applied as the provider of Pulumi does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.manifests import people, pipeline
from tests.engine.rbac_server import ApiServer, Authority, api_server
from tests.support.made import is_patch, made_by_the_program, recorded

Values = dict[str, Any]
# What istioctl installs: the group, the version, the kind and the plural of each.
ISTIO = [
    ("networking.istio.io", "v1beta1", "DestinationRule", "destinationrules"),
    ("networking.istio.io", "v1beta1", "Gateway", "gateways"),
    ("networking.istio.io", "v1beta1", "ServiceEntry", "serviceentries"),
    ("networking.istio.io", "v1beta1", "Sidecar", "sidecars"),
    ("networking.istio.io", "v1beta1", "VirtualService", "virtualservices"),
    ("security.istio.io", "v1beta1", "AuthorizationPolicy", "authorizationpolicies"),
    ("security.istio.io", "v1beta1", "PeerAuthentication", "peerauthentications"),
    ("security.istio.io", "v1beta1", "RequestAuthentication", "requestauthentications"),
    ("telemetry.istio.io", "v1alpha1", "Telemetry", "telemetries"),
]
ACTING = {"Impersonate-User": pipeline.USER}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """An API server with Istio's kinds and the role."""
    authority = Authority(tmp_path_factory.mktemp("certificates"))
    with api_server(tmp_path_factory.mktemp("server"), authority) as server:
        for group, version, kind, plural in ISTIO:
            assert server.apply(definition(group, version, kind, plural))[0] == 201
        server.ok("POST", "/api/v1/namespaces", {"metadata": {"name": "istio-system"}})
        for manifest in [*pipeline.objects(), *people.roles()]:
            assert server.apply(manifest)[0] == 201
        yield server


def definition(group: str, version: str, kind: str, plural: str) -> Values:
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    served = {"name": version, "served": True, "storage": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
            "versions": [{**served, "schema": {"openAPIV3Schema": schema}}],
        },
    }


def test_it_makes_changes_and_deletes_every_object_of_the_program(
    server: ApiServer, tmp_path: Path
) -> None:
    objects = made_by_the_program(recorded(tmp_path))
    refused = []
    for resource, manifest in objects:
        for attempt in ("create", "update"):
            status, answer = server.apply(manifest, headers=ACTING)
            # A patch is for an object that others make, which is not there.
            if status not in (200, 201) and not (is_patch(resource) and status == 422):
                refused.append(f"{attempt} {resource}: {answer.get('message')}")
    for resource, manifest in reversed(objects):
        if is_patch(resource):
            continue
        status, answer = server.request("DELETE", server.path_of(manifest), headers=ACTING)
        if status not in (200, 202):
            refused.append(f"delete {resource}: {answer.get('message')}")
    kinds = {manifest["kind"] for _, manifest in objects}
    print(f"{len(objects)} objects of {len(kinds)} kinds made, changed and deleted")
    assert not refused, "\n".join(refused[:20])
    assert len(objects) > 80
    assert kinds >= {kind for _, _, kind, _ in ISTIO} | {"Secret", "ClusterRole", "Deployment"}


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/api/v1/namespaces/kube-system/secrets", None),
        ("GET", "/api/v1/namespaces/istio-system/secrets/istio-ca-secret", None),
        ("POST", "/api/v1/namespaces/default/secrets", {"metadata": {"name": "x"}}),
        ("POST", "/api/v1/namespaces/default/pods", {"metadata": {"name": "x"}}),
        ("DELETE", "/api/v1/nodes/worker-1", None),
        ("GET", "/api/v1/nodes/worker-1/proxy/pods", None),
        ("POST", "/api/v1/namespaces/istio-system/pods/istiod/exec?command=sh", None),
        ("POST", "/api/v1/namespaces/default/serviceaccounts/default/token", {}),
        ("DELETE", "/apis/rbac.authorization.k8s.io/v1/clusterroles/cluster-admin", None),
        ("DELETE", f"/apis/rbac.authorization.k8s.io/v1/clusterroles/{people.VIEWER}", None),
        ("DELETE", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/x", None),
        ("POST", "/apis/certificates.k8s.io/v1/certificatesigningrequests", {}),
    ],
)
def test_it_may_do_nothing_else(server: ApiServer, method: str, path: str, body: object) -> None:
    status, answer = server.request(method, path, body, headers=ACTING)
    assert status == 403, answer
    assert f'User "{pipeline.USER}" cannot' in json.dumps(answer).replace('\\"', '"')


def test_it_cannot_give_a_person_a_role(server: ApiServer) -> None:
    subjects = [people.subject("User", "nils")]
    for manifest in (
        people.binding(people.VIEWER, subjects),
        {**people.binding("cluster-admin", subjects), "metadata": {"name": people.EMERGENCY}},
        people.role(people.VIEWER, [people.rule(["*"], "*", "*")]),
        people.role(pipeline.NAME, [people.rule(["*"], "*", "*")]),
    ):
        assert server.apply(manifest, headers=ACTING)[0] == 403, manifest
