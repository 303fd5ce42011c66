"""Objects of others are refused at preview: a real program before a real API server."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from config import ports
from tests.engine.rbac_server import ApiServer, Authority, api_server
from tests.engine.test_pipeline import definition
from tests.support.fleet import Fleet, Server, address
from tests.support.ssh_way import redirected

Values = dict[str, Any]

pytestmark = pytest.mark.long

NODES = 2
ADDRESSES = NODES + 1
NETWORK = "198.18.14.0/24"
ENDPOINT = "api.local.nordmesh.internal"
OF_TEAM: Values = {"labels": {"team": "ledger"}}
LEDGER: Values = {
    "apiVersion": "v1",
    "kind": "Namespace",
    "metadata": {"name": "ledger", **OF_TEAM},
}
POLICY: Values = {
    "apiVersion": "security.istio.io/v1beta1",
    "kind": "PeerAuthentication",
    "metadata": {"name": "default", "namespace": "ledger", **OF_TEAM},
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """The API server of the fleet, without objects."""
    authority = Authority(tmp_path_factory.mktemp("certificates"))
    folder = tmp_path_factory.mktemp("server")
    with (
        api_server(folder, authority, hosts=[ENDPOINT]) as cluster,
        redirected(f"{address(0, NETWORK)}/32", cluster.port, service=ports.API),
    ):
        group, version = POLICY["apiVersion"].split("/")
        kind = definition(group, version, POLICY["kind"], "peerauthentications")
        assert cluster.apply(kind)[0] == 201
        yield cluster


@pytest.fixture(scope="module")
def fleet(cluster: ApiServer, server: Server, tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    kubeconfig = yaml.safe_load(cluster.administrator)
    user = kubeconfig["users"][0]["user"]
    fleet = Fleet(tmp_path_factory.mktemp("fleet"), server)
    fleet.deploy(
        NODES,
        made={
            "ca": kubeconfig["clusters"][0]["cluster"]["certificate-authority-data"],
            "clientCertificate": user["client-certificate-data"],
            "clientKey": user["client-key-data"],
        },
    )
    fleet.reach_cluster()
    return fleet


@pytest.fixture(scope="module", autouse=True)
def others(cluster: ApiServer) -> None:
    """A namespace of another team, with a policy."""
    for manifest in (LEDGER, POLICY):
        path = f"{cluster.path_of(manifest)}?fieldManager=helm"
        apply = "application/apply-patch+yaml"
        assert cluster.request("PATCH", path, manifest, content_type=apply)[0] == 201


def with_ledger(config: Values) -> None:
    config["nordmesh:mesh"]["namespaces"] |= {"ledger": {"mtls": "STRICT"}, "billing": {}}


def with_ledger_and_key(config: Values) -> None:
    """The control plane gets new settings, too."""
    with_ledger(config)
    config["nordmesh:kubernetes"]["encryptionKey"] = 2


@pytest.mark.parametrize("edit", [with_ledger, with_ledger_and_key])
@pytest.mark.parametrize("command", [("preview",), ("up", "--yes")])
def test_all_objects_of_others_are_refused_before_a_node_is_touched(
    fleet: Fleet,
    server: Server,
    cluster: ApiServer,
    command: tuple[str, ...],
    edit: Callable[[Values], None],
) -> None:
    fleet.write(NODES + 1, edit)
    server.forget()
    result = fleet.run(*command)
    assert result.returncode != 0
    _, _, text = result.stdout.partition("Diagnostics:")
    assert text.count("[object-exists]") == 1
    assert "Namespace ledger already exists, written by helm" in text
    assert "PeerAuthentication default in namespace ledger already exists" in text
    assert "billing already exists" not in text
    assert "Traceback" not in text
    assert server.ran == []
    assert server.opened == []
    assert cluster.request("GET", "/api/v1/namespaces/billing")[0] == 404


def test_a_preview_without_the_cluster_does_not_look(fleet: Fleet) -> None:
    fleet.write(NODES, with_ledger)
    fleet.reach_cluster(is_reached=False)
    result = fleet.run("preview")
    fleet.reach_cluster()
    assert result.returncode == 0, result.stdout
    assert "did not look" in result.stdout
