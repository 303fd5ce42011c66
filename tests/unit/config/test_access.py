"""Egress, callers, Sidecar resources and proxy sizes: resources, warnings and reports."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli import report
from config import Istio, StackConfig, capacity
from config.access import checks as access
from config.egress import warnings as egress_warnings
from config.errors import ConfigError, NordmeshError
from config.istio.checks import warnings
from config.load import read_stack
from tests.support.mocked import Recorder, changed, config, node, run
from tests.support.paths import PROJECT
from tests.unit.commands import nordmesh
from tests.unit.components.manifests.test_access import MESH, WHY

WORKLOADS = {
    "checkout-v1": {"namespace": "shop", "requests": {"cpu": "50m"}, "pods": 10},
    "ledger": {
        "namespace": "backend",
        "deployment": "ledger-v1",
        "concurrency": 1,
        "apply": "snippet",
    },
}


def stack(**mesh: object) -> StackConfig:
    dumped = MESH.model_dump(by_alias=True)
    return config(mesh={**dumped, "workloads": WORKLOADS, **mesh})


def sized(cpu: str) -> StackConfig:
    nodes = {
        "cp-1": node("control-plane", "192.0.2.11"),
        "worker-1": {**node("worker", "192.0.2.21"), "capacity": {"cpu": cpu, "memory": "8Gi"}},
    }
    pods = {"shop": {"pods": 40}, "backend": {"pods": 0}}
    return config(
        machines={"nodes": nodes},
        mesh={**stack().mesh.model_dump(by_alias=True), "namespaces": pods},
    )


@pytest.fixture(scope="module")
def recorded() -> Recorder:
    recorder, _ = run(stack())
    return recorder


def test_each_egress_host_has_its_own_resources(recorded: Recorder) -> None:
    expected = [f"istio-system/egress-{name}" for name in MESH.egress.hosts]
    assert recorded.names(":ServiceEntry") == sorted(expected)
    by_gateway = [f"istio-system/egress-{name}" for name in MESH.egress.by_gateway]
    assert recorded.names(":Gateway") == sorted(by_gateway)
    assert "istio-system/egress" in recorded.names(":AuthorizationPolicy")
    assert recorded.names(":Telemetry") == ["istio-system/egress"]


def test_an_egress_host_is_annotated_with_its_purpose(recorded: Recorder) -> None:
    metadata = recorded.inputs(":ServiceEntry", "istio-system/egress-acquirer")["metadata"]
    assert metadata["annotations"]["nordmesh.io/purpose"] == "settle card payments"
    assert metadata["annotations"]["pulumi.com/patchFieldManager"] == "nordmesh"


def test_only_services_with_callers_get_a_policy(recorded: Recorder) -> None:
    policies = [x for x in recorded.names(":AuthorizationPolicy") if "-callers" in x]
    assert policies == [
        "backend/ledger-callers",
        "backend/payment-callers",
        "backend/vault-callers",
        "shop/checkout-callers",
    ]
    assert recorded.names(":Sidecar") == ["shop/default"]


def test_a_workload_patch_sets_only_the_pod_template_metadata(recorded: Recorder) -> None:
    assert recorded.names(":DeploymentPatch") == ["kube-system/coredns", "shop/checkout-v1"]
    patch = recorded.inputs(":DeploymentPatch", "shop/checkout-v1")
    assert "annotations" not in patch["metadata"]
    assert set(patch["spec"]["template"]) == {"metadata"}


def test_a_new_caller_changes_one_resource(recorded: Recorder) -> None:
    edited = stack().model_dump(by_alias=True)
    edited["mesh"]["services"]["vault"]["callers"] = [{"service": "payment"}]
    after, _ = run(StackConfig.model_validate(edited))
    assert changed(recorded, after) == ["backend/vault-callers"]


def test_without_egress_hosts_the_gateway_has_no_policy() -> None:
    recorder, _ = run(config())
    assert recorder.names(":AuthorizationPolicy") == recorder.names(":Telemetry") == []


@pytest.mark.parametrize("normalization", ["NONE", "BASE", "MERGE_SLASHES"])
def test_paths_of_callers_need_normalized_requests(normalization: str) -> None:
    assert not any("pathNormalization" in line for line in access.warnings(stack()))
    istio = {"version": "1.16.5", "pathNormalization": normalization}
    limited = {"checkout": {"namespace": "shop", "port": 1, "stable": "v1",
                            "callers": [{"gateway": "x", "paths": ["/a/*"]}]}}  # fmt: skip
    loose = stack(services=limited).model_copy(update={"istio": Istio.model_validate(istio)})
    lines = [line for line in access.warnings(loose) if "pathNormalization" in line]
    assert len(lines) == 1
    assert f"with {normalization}, a caller of checkout gets past its paths" in lines[0]


def outside(**host: object) -> StackConfig:
    listed = {**WHY, "host": "db.example.no", "addresses": ["192.0.2.50"], **host}
    return stack(egress={"hosts": {"db": listed}})


@pytest.mark.parametrize(("port", "name"), [(5432, "PostgreSQL"), (3306, "MySQL"), (587, "SMTP")])
def test_tls_that_begins_late_gives_a_warning(port: int, name: str) -> None:
    def lines(protocol: str) -> list[str]:
        ports = [{"number": port, "protocol": protocol}]
        return list(egress_warnings.warnings(outside(ports=ports, through="direct")))

    (line,) = lines("TLS")
    assert line.startswith(f"mesh.egress.hosts.db.ports[0]: {name} usually begins without TLS")
    assert "protocol: TCP" in line
    assert lines("TCP") == []


def test_tls_that_begins_late_behind_a_gateway_gives_a_warning() -> None:
    gateways = {"web": {"hosts": ["db.example.no"], "tls": {"mode": "PASSTHROUGH"}}}
    db = {"namespace": "shop", "stable": "v1", "protocol": "tcp", "gateway": "web",
          "hosts": ["db.example.no"]}  # fmt: skip
    for port, count in ((5432, 1), (9443, 0)):
        services = {"db": {**db, "port": port}}
        lines = list(egress_warnings.warnings(stack(gateways=gateways, services=services)))
        assert len(lines) == count, lines


def test_a_database_on_a_node_that_no_pod_may_call_gives_a_warning() -> None:
    database = {"engine": "mariadb"}
    nodes = {
        "cp-1": node("control-plane", "192.0.2.11"),
        "worker-1": {**node("worker", "192.0.2.21"), "database": database},
    }
    dumped = stack().mesh.model_dump(by_alias=True)
    (line,) = egress_warnings.warnings(config(machines={"nodes": nodes}, mesh=dumped))
    assert line.startswith("machines.nodes.worker-1.database: pods with a sidecar cannot call it")
    listed = {**WHY, "host": "db.example.no", "addresses": ["192.0.2.21"], "through": "direct",
              "ports": [{"number": 3306, "protocol": "TCP"}]}  # fmt: skip
    allowed = {**dumped, "egress": {"hosts": {"db": listed}}}
    assert list(egress_warnings.warnings(config(machines={"nodes": nodes}, mesh=allowed))) == []
    nodes["worker-1"]["privateAddress"] = "10.0.0.21"
    (line,) = egress_warnings.warnings(config(machines={"nodes": nodes}, mesh=dumped))
    assert "addresses: [10.0.0.21]" in line
    for address in ("192.0.2.21", "10.0.0.21"):
        listed["addresses"] = [address]
        assert list(egress_warnings.warnings(config(machines={"nodes": nodes}, mesh=allowed))) == []


def test_a_long_drain_gives_a_warning() -> None:
    def lines(duration: str) -> list[str]:
        settings = {"version": "1.16.5", "proxy": {"drainDuration": duration}}
        return list(warnings(Istio.model_validate(settings)))

    assert lines("20s") == lines("25s") == []
    assert "terminationGracePeriodSeconds" in lines("26s")[0]


def test_callers_without_enforcement_give_warnings() -> None:
    lines = list(access.warnings(stack()))
    assert len(lines) == 1
    assert lines[0].startswith("checkout: callers are declared")
    services: dict[str, Any] = stack().mesh.model_dump(by_alias=True)["services"]
    services["payment"]["serviceAccount"] = "default"
    (_, shared) = access.warnings(stack(services=services))
    assert "callers run as backend/default" in shared


def test_proxies_that_fit_give_no_warning() -> None:
    # 10 proxies of 50m and 30 of 100m, plus 20%.
    assert capacity.needed(sized("8"))["cpu"] == Decimal("4.2")
    assert list(capacity.warnings(sized("8"))) == []


def test_proxies_that_do_not_fit_give_a_warning() -> None:
    (line,) = capacity.warnings(sized("4"))
    assert "are 4.2 cores, and the nodes have 4 cores" in line


def test_unknown_capacity_gives_one_warning() -> None:
    (line,) = capacity.warnings(stack())
    assert "machines.nodes.worker-1.capacity" in line
    assert "mesh.namespaces.shop.pods" in line
    assert list(capacity.warnings(config())) == []


def write(directory: Path, mesh: object) -> None:
    values = stack().model_dump(by_alias=True, exclude_none=True, exclude_defaults=True)
    values["mesh"] = mesh
    document = {"config": {f"nordmesh:{key}": value for key, value in values.items()}}
    (directory / "Pulumi.test.yaml").write_text(yaml.safe_dump(document))


def test_reports_list_hosts_callers_and_sizes(tmp_path: Path) -> None:
    write(
        tmp_path, stack().mesh.model_dump(by_alias=True, exclude_none=True, exclude_defaults=True)
    )
    read = read_stack(tmp_path, "test").usable("istio", "mesh")
    egress = report.egress(read).markdown().splitlines()
    assert egress[2].startswith("| Host | Ports | From |")
    assert egress[4].startswith("| \\*.store.example (each tenant has its own host) |")
    assert [line.split(" | ")[0] for line in egress[5:]] == [
        "| api.acquirer.example",
        "| db.bank.example",
        "| legacy.bank.example",
        "| mail.example",
        "| rates.bank.example",
    ]
    access_lines = report.access(read).markdown().splitlines()
    assert (
        "| shop/checkout | service account backend/reports | backend/reports | GET | all | 8080 |"
        in access_lines
    )
    assert (
        "| backend/payment | service checkout | shop/checkout | all | all | all |" in access_lines
    )
    assert "| backend/rates | anybody (no callers declared) |  |  |  |  |" in access_lines
    assert "| backend/vault | nobody |  |  |  |  |" in access_lines
    assert access_lines[-1].endswith(": shop.")
    assert "| cpu | 0.6 cores | unknown |" in report.sizes(read).markdown()
    template = {"metadata": {"annotations": {"proxy.istio.io/config": '{"concurrency": 1}'}}}
    assert report.workloads(read) == {"backend/ledger-v1": {"spec": {"template": template}}}


def test_reports_of_an_empty_mesh() -> None:
    assert report.egress(config()).markdown().splitlines()[-1].startswith("| none |")
    assert report.workloads(config()) == {}


def test_a_report_of_an_invalid_stack_fails(tmp_path: Path) -> None:
    write(tmp_path, {"mtls": "STRIKT"})
    with pytest.raises(ConfigError, match="STRIKT"):
        read_stack(tmp_path, "test").usable()
    with pytest.raises(NordmeshError, match=r"Pulumi\.none\.yaml \[no-stack-file\]"):
        read_stack(tmp_path, "none").usable()
    (tmp_path / "Pulumi.list.yaml").write_text("[]")
    with pytest.raises(NordmeshError, match=r"\[not-a-stack-file\]"):
        read_stack(tmp_path, "list").usable()


def test_report_commands_print_tables_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert nordmesh(PROJECT, "report", "access", "--stack", "local") == 0
    assert "| shop/checkout | anybody" in capsys.readouterr().out
    assert nordmesh(PROJECT, "report", "access", "--stack", "local", "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["Service"], row["Caller"]) == ("shop/checkout", "anybody (no callers declared)")
    assert nordmesh(PROJECT, "report", "workloads", "--stack", "local") == 0
    assert capsys.readouterr().out == "No entry of mesh.workloads has apply: snippet.\n"
    assert nordmesh(PROJECT, "report", "egress", "--stack", "none") == 1
    assert "Pulumi.none.yaml" in capsys.readouterr().err
