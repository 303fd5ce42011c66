"""Manifests against golden files; `make golden` rewrites them, for review in the diff."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from components.manifests import (
    Manifest,
    echo,
    flannel,
    istio_operator,
    kubeadm,
    mtls,
    routes,
)
from config import OUTSIDE_NAMESPACE, Istio, Kubernetes, Namespace, Service, catalogue
from config.errors import NordmeshError
from tests.support.golden import check

KUBERNETES = Kubernetes(
    cluster_name="oslo",
    version="1.23.17",
    endpoint="api.oslo.example.internal",
    kubelet={"failSwapOn": False},
    kube_proxy={"conntrack": {"maxPerCore": 0}},
)
RELEASE = catalogue.KUBERNETES["1.23.17"]
ISTIO = Istio(version="1.16.5", values={"pilot": {"env": {"PILOT_ENABLE_ALPN_FILTER": "false"}}})
CHECKOUT = Service.model_validate(
    {
        "namespace": "shop",
        "port": 8080,
        "stable": "v1",
        "canary": {"subset": "v2", "weight": 10},
    }
)


def checkout_objects() -> list[Manifest]:
    return [
        mtls.namespace("shop", Namespace(), kubernetes="1.23.17"),
        mtls.peer_authentication("shop", "STRICT"),
        *routes.subset_rules("checkout", CHECKOUT),
        routes.destination_rule("checkout", CHECKOUT),
        routes.virtual_service("checkout", CHECKOUT),
    ]


def demo_objects() -> list[Manifest]:
    image = catalogue.ECHO_IMAGE
    return [
        echo.echo_service("checkout", CHECKOUT),
        echo.echo_deployment("checkout", "v2", namespace="shop", image=image),
        echo.client_service("shop"),
        echo.outside_namespace(),
        echo.client_deployment(OUTSIDE_NAMESPACE, image=image),
    ]


def init_documents() -> list[Manifest]:
    return [
        kubeadm.init_document(name="cp-1", address="192.0.2.11"),
        *kubeadm.cluster_documents(KUBERNETES, RELEASE, address="192.0.2.11"),
    ]


def flannel_objects() -> list[Manifest]:
    return flannel.flannel(
        pod_cidr=KUBERNETES.pod_cidr,
        endpoint=KUBERNETES.endpoint,
        image=catalogue.FLANNEL_IMAGE,
        plugin_image=catalogue.FLANNEL_CNI_IMAGE,
    )


DOCUMENTS: dict[str, Callable[[], list[Manifest]]] = {
    "checkout.yaml": checkout_objects,
    "demo.yaml": demo_objects,
    "flannel.yaml": flannel_objects,
    "istio-operator.yaml": lambda: [
        istio_operator.control_plane(ISTIO),
        istio_operator.gateways(ISTIO),
    ],
    "kubeadm-init.yaml": init_documents,
    "kubeadm-init-private.yaml": lambda: [
        kubeadm.init_document(name="cp-1", address="10.0.0.11", is_private=True),
        *kubeadm.cluster_documents(KUBERNETES, RELEASE, address="192.0.2.11"),
    ],
    "kubeadm-join-private.yaml": lambda: [
        kubeadm.worker_join_document(name="worker-1", address="10.0.0.21", is_private=True)
    ],
    "kubeadm-join-control-plane.yaml": lambda: [
        kubeadm.control_plane_join_document(name="cp-2", address="192.0.2.12")
    ],
    "kubeadm-join.yaml": lambda: [
        kubeadm.worker_join_document(name="worker-1", address="192.0.2.21")
    ],
}


@pytest.mark.parametrize("file", sorted(DOCUMENTS))
def test_manifests_match_their_golden_files(file: str) -> None:
    check(file, yaml.safe_dump_all(DOCUMENTS[file](), sort_keys=False))


@pytest.mark.parametrize(("weight", "split"), [(0, [100, 0]), (25, [75, 25]), (100, [0, 100])])
def test_route_weights_add_up_to_100(weight: int, split: list[int]) -> None:
    service = CHECKOUT.model_copy(
        update={"canary": CHECKOUT.canary and CHECKOUT.canary.model_copy(update={"weight": weight})}
    )
    manifest = routes.virtual_service("checkout", service)
    destinations: list[dict[str, Any]] = manifest["spec"]["http"][0]["route"]
    assert [route["weight"] for route in destinations] == split


def test_the_admin_kubeconfig_works_without_dns() -> None:
    credentials = {"ca": "Y2E=", "clientCertificate": "Y2VydA==", "clientKey": "a2V5"}
    config = yaml.safe_load(
        kubeadm.admin_kubeconfig(credentials, endpoint="api.oslo.example", address="192.0.2.11")
    )
    assert config["clusters"][0]["cluster"] == {
        "certificate-authority-data": "Y2E=",
        "server": "https://192.0.2.11:6443",
        "tls-server-name": "api.oslo.example",
    }


@pytest.mark.parametrize(
    ("before", "after"), [("", ""), ("Welcome!\n{}\n", "Bye.\n"), ('no newline {"ca":"old"} ', "")]
)
def test_login_shell_output_around_the_credentials_is_ignored(before: str, after: str) -> None:
    result = {"ca": "a", "clientCertificate": "b", "clientKey": "c"}
    printed = json.dumps(result, separators=(",", ":"))
    assert kubeadm.credentials(f"{before}{printed}\n{after}") == result


@pytest.mark.parametrize("text", ["", "Welcome!", '{"ca":"secret-ca","clientKey":"secret-key'])
def test_an_error_about_unreadable_credentials_does_not_quote_them(text: str) -> None:
    with pytest.raises(NordmeshError) as error:
        kubeadm.credentials(text)
    assert error.value.code == "no-cluster-credentials"
    assert "secret" not in str(error.value)
    assert error.value.__suppress_context__
