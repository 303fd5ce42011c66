"""`nordmesh status`, from responses of the API server and the proxies."""

import copy
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli import status
from cli.backup.age import ANNOTATION
from components.gates.inventory import BarePod, Inventory, Pod, Proxy
from config.errors import NordmeshError
from tests.unit.commands import nordmesh
from tests.unit.conftest import Load
from tests.unit.ending import CREDENTIALS, KUBELET_METRICS, certificate, with_report

Values = dict[str, Any]

AGE_KEY = "age1tlfdsyt7vk7ru5fdq4fqnphq434xr8pz3wpmkuhra0jjrjzg5qnqmv6wa4"

NODES: list[Values] = [
    {
        "metadata": {"name": name, "labels": {label: ""}},
        "status": {
            "conditions": [{"type": "Ready", "status": ready}],
            "addresses": [{"type": "InternalIP", "address": address}],
            "nodeInfo": {
                "kubeletVersion": "v1.23.17",
                "containerRuntimeVersion": "containerd://1.6.36",
            },
        },
    }
    for name, label, ready, address in (
        ("worker-1", "x", "Unknown", "192.0.2.21"),
        ("cp-1", "node-role.kubernetes.io/control-plane", "True", "192.0.2.11"),
    )
]
with_report(NODES[1], days=364)


def deployment(name: str, image: str, ready: int | None, replicas: int) -> Values:
    container = {"image": image}
    return {
        "metadata": {"name": name},
        "spec": {"replicas": replicas, "template": {"spec": {"containers": [container]}}},
        "status": {} if ready is None else {"readyReplicas": ready},
    }


def request_metric(
    version: str, code: str, count: int, *, reporter: str = "source", revision: str = "latest"
) -> str:
    """Render a line of proxy metrics that counts requests. revision: the canonical one."""
    labels = {
        "reporter": reporter,
        "destination_service_name": "checkout",
        "destination_service_namespace": "shop",
        "destination_version": version,
        "destination_canonical_revision": revision,
        "response_code": code,
    }
    rendered = ",".join(f'{name}="{value}"' for name, value in labels.items())
    return f"istio_requests_total{{{rendered}}} {count}\n"


class FakeApi:
    """Fake API server with two proxies. texts: proxy metrics, one dictionary per reading."""

    bare: Sequence[BarePod] = ()

    def __init__(
        self,
        *texts: Mapping[str, str],
        istiod: int | None = 2,
        replicas: int = 2,
        nodes: Sequence[Values] = NODES,
        name: str = "istiod",
    ) -> None:
        self._texts, self._nodes = list(texts), nodes
        self._istiod = deployment(name, "docker.io/istio/pilot:1.17.8", istiod, replicas)
        self.inventories = 0
        self.asked: list[list[str]] = []

    def selector(self, _namespace: str, _service: str) -> Mapping[str, str]:
        return {"app.kubernetes.io/name": "checkout"}

    def pods(self, _namespace: str) -> list[Pod]:
        return []

    def items(self, path: str, **_query: str) -> Sequence[Any]:
        if path.endswith("/configmaps"):
            return [{"data": {"root-cert.pem": certificate(days=3000)}}]
        if path.endswith("/secrets"):
            return []
        return self._nodes if path.endswith("/nodes") else [self._istiod]

    def texts(self, paths: Mapping[str, str], *, limit: float) -> Mapping[str, str]:
        assert limit < 10
        return dict.fromkeys(paths, KUBELET_METRICS)

    def inventory(self) -> Inventory:
        self.inventories += 1
        return Inventory(
            bare=self.bare,
            proxies=[
                Proxy(namespace="shop", pod=pod, workload="shop/x", labels={}, sidecar=True)
                for pod in ("a", "b")
            ],
        )

    def stats(self, proxies: Sequence[Proxy], _metrics: str, *, limit: float) -> Mapping[str, str]:
        assert limit < 10
        self.asked.append([proxy.key for proxy in proxies])
        return self._texts.pop(0)


Run = Callable[..., int]


@pytest.fixture
def run(tmp_path: Path, container_stack: Values, monkeypatch: pytest.MonkeyPatch) -> Run:
    config = {f"nordmesh:{key}": value for key, value in container_stack.items()}
    (tmp_path / "Pulumi.dev.yaml").write_text(yaml.safe_dump({"config": config}))
    monkeypatch.setattr(status, "kubeconfig", lambda _: CREDENTIALS)
    monkeypatch.setattr("cli.status.time.sleep", lambda _: None)

    def with_api(api: object, *arguments: str) -> int:
        @contextmanager
        def connect(credentials: str) -> Iterator[object]:
            assert credentials == CREDENTIALS
            yield api

        monkeypatch.setattr("components.gates.api.connect", connect)
        return nordmesh(tmp_path, *arguments, "--stack", "dev")

    return with_api


def test_only_requests_within_the_window_are_counted(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {
        "shop/a": request_metric("v1", "200", 1000),
        "shop/b": request_metric("v2", "200", 500),
    }
    after = {
        "shop/a": request_metric("v1", "200", 1070)
        + request_metric("v1", "503", 5)
        + request_metric("v1", "200", 999, reporter="destination"),
        "shop/b": request_metric("v2", "200", 25),  # restarted: its counters started again at 0
    }
    assert run(FakeApi(before, after), "canary", "status", "--json") == 0
    (split,) = json.loads(capsys.readouterr().out)["canaries"]
    assert split == {
        "service": "shop/checkout",
        "canary": "v2",
        "weight": 10,
        "requests": 100,
        "share": 25.0,
        "failed": 5,
    }


def test_a_version_is_counted_by_its_own_label(container_stack: Values, load: Load) -> None:
    """Istio reports a label other than `version` as the canonical revision."""
    checkout = container_stack["mesh"]["services"]["checkout"]
    checkout |= {"stable": "1.2.0", "versionLabel": "app.kubernetes.io/version"}
    checkout["canary"]["subset"] = "1.3.0"
    counted = status.counters(
        request_metric("unknown", "200", 70, revision="1.2.0")
        + request_metric("unknown", "200", 30, revision="1.3.0")
    )
    (split,) = status.splits(load(container_stack), counted)
    assert (split.canary, split.requests, split.share) == ("1.3.0", 100, 30.0)


def test_a_silent_proxy_is_named_and_not_counted_as_healthy(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    readings = (
        {"shop/a": request_metric("v1", "200", 7)},
        {"shop/a": request_metric("v1", "200", 7)},
    )
    api = FakeApi(*readings)
    assert run(api, "canary", "status") == 0
    out = capsys.readouterr().out
    assert "no requests" in out
    assert "did not answer: shop/b" in out
    # Another reading of it could not be used, and would wait for a dead node once more.
    assert api.asked == [["shop/a", "shop/b"], ["shop/a"]]


def test_nodes_and_istiod_that_are_not_ready_are_problems(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(FakeApi({}, {}, istiod=None), "status") == 1
    out, err = capsys.readouterr()
    lines = [line.split() for line in out.splitlines()]
    assert " ".join(lines[1]) == "cp-1 control-plane 192.0.2.11 v1.23.17 containerd 1.6.36 ready"
    assert ["istiod", "1.17.8", "0", "of", "2"] in lines
    assert "error: node worker-1 is not ready" in err
    assert "error: istiod has 0 of 2 replicas ready" in err


def test_certificates_are_shown_and_are_a_problem_before_they_end(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes = copy.deepcopy(NODES)
    with_report(nodes[1], days=364, **{"etcd-peer": 9})
    assert run(FakeApi({}, {}, nodes=nodes), "status") == 1
    out, err = capsys.readouterr()
    lines = [line.split() for line in out.splitlines()]
    peer = next(line for line in lines if line[:2] == ["etcd-peer", "cp-1"])
    assert peer[3:] == ["9", *["by", "a", "timer", "on", "its", "machine"]]
    assert "error: the certificate etcd-peer of cp-1 ends on " in err
    assert "journalctl -u nordmesh-certificates" in err


@pytest.mark.parametrize(
    ("api", "problem"),
    [
        (FakeApi({}, {}, nodes=NODES[1:]), "node worker-1 of the stack file is not in the cluster"),
        (FakeApi({}, {}, istiod=0, replicas=0), "istiod has 0 of 0 replicas ready"),
        (FakeApi({}, {}, name="istio-ingressgateway"), "there is no istiod in istio-system"),
    ],
)
def test_what_is_missing_is_a_problem(
    api: FakeApi, problem: str, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(api, "status") == 1
    assert f"error: {problem}" in capsys.readouterr().err


def test_the_pods_are_listed_once(run: Run) -> None:
    api = FakeApi({}, {})
    run(api, "status")
    assert api.inventories == 1


def test_status_as_json(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(FakeApi({}, {}), "status", "--json") == 1
    document = json.loads(capsys.readouterr().out)
    assert "node worker-1 is not ready" in document["problems"]
    assert [node["name"] for node in document["nodes"]] == ["cp-1", "worker-1"]
    assert document["proxies"] == 2


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        (None, "no control plane has stored a snapshot of the cluster"),
        ("20200101T000000Z-cp-1", "the newest snapshot of the cluster is"),
        ("anything else", "no control plane has stored a snapshot of the cluster"),
        ("20991231T000000Z-cp-1", None),
    ],
)
def test_a_snapshot_that_is_missing_or_old_is_a_problem(
    name: str | None,
    problem: str | None,
    run: Run,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    path = tmp_path / "Pulumi.dev.yaml"
    document = yaml.safe_load(path.read_text())
    document["config"]["nordmesh:backup"] = {"keys": [AGE_KEY], "directory": "/srv/backup"}
    path.write_text(yaml.safe_dump(document))
    nodes: list[Values] = deepcopy(NODES)
    if name is not None:
        nodes[1]["metadata"]["annotations"] = {ANNOTATION: name}
    run(FakeApi({}, {}, nodes=nodes), "status")
    output, error = capsys.readouterr()
    assert ("snapshot" in error) == (problem is not None)
    assert problem is None or f"error: {problem}" in error
    assert ("Newest snapshot: 20" in output) == (name is not None and name.startswith("20"))


def test_open_callers_and_missing_secrets_are_problems(
    run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Neither fails `pulumi up` where the namespace was new."""
    path = tmp_path / "Pulumi.dev.yaml"
    document = yaml.safe_load(path.read_text())
    mesh = document["config"]["nordmesh:mesh"]
    mesh["services"]["checkout"]["callers"] = []
    mesh["namespaces"]["shop"] = {"mtls": "STRICT"}
    mesh["gateways"] = {"web": {"hosts": ["a.example"], "tls": {"secret": "web-tls"}}}
    path.write_text(yaml.safe_dump(document))
    api = FakeApi({}, {})
    api.bare = [BarePod(namespace="shop", workload="shop/agent", labels={}, on_host=True)]
    assert run(api, "status") == 1
    error = " ".join(capsys.readouterr().err.split())
    assert "mesh.services.checkout.callers: no pod in shop has the labels app=checkout" in error
    assert "mesh.namespaces.shop.mtls: shop/agent have no sidecar" in error
    assert "the Secret istio-system/web-tls does not exist" in error
    # What a refused edit leaves as it was; here nothing was edited.
    assert "the rule was not applied" not in error
    assert "the mode stays as it was" not in error


def test_an_unreachable_cluster_is_reported(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    class UnreachableApi(FakeApi):
        def inventory(self) -> Inventory:
            raise NordmeshError("no answer", code="gate-no-api-server", fix="run `pulumi up`")

    assert run(UnreachableApi(), "status") == 3
    error = capsys.readouterr().err
    assert "dev [cluster-unreachable]" in error
    assert "pulumi up" not in error


def test_control_planes_that_do_not_answer_are_named(
    run: Run,
    tmp_path: Path,
    container_stack: Values,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class UnreachableApi(FakeApi):
        def inventory(self) -> Inventory:
            raise NordmeshError("no answer", code="gate-no-api-server")

    async def statuses(addresses: Sequence[str]) -> list[int | None]:
        assert len(addresses) == 3
        return [None, 500, 200]

    nodes = container_stack["machines"]["nodes"]
    for number in (2, 3):
        nodes[f"cp-{number}"] = {**nodes["cp-1"], "address": f"10.66.0.1{number}"}
    config = {f"nordmesh:{key}": value for key, value in container_stack.items()}
    (tmp_path / "Pulumi.dev.yaml").write_text(yaml.safe_dump({"config": config}))
    monkeypatch.setattr("components.api_servers.statuses", statuses)
    assert run(UnreachableApi(), "status") == 3
    error = capsys.readouterr().err
    for fact in ("1 of 3 control planes", "cp-1 does not answer", "cp-2 is not ready (HTTP 500)"):
        assert fact in " ".join(error.split())


def test_the_command_line_starts_without_the_clients_of_single_commands() -> None:
    check = (
        "import sys, cli.app; assert not {'asyncssh', 'kubernetes', 'websocket'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", check], check=True)
