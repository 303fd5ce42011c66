"""The ends of certificates in `nordmesh status` and `nordmesh review`."""

import copy
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cli import certificates
from cli.certificates import Certificate, Certificates
from cli.review import command
from cli.review.certificates import part
from cli.review.markdown import Document
from cli.review.preview import Preview, parse
from components import admin_credentials
from components.remote.node_command import Script
from tests.unit.cli.test_status import NODES
from tests.unit.commands import nordmesh
from tests.unit.conftest import Load
from tests.unit.ending import KUBELET_METRICS, certificate, encoded, login, with_report
from tests.unit.previews import preview, script_change, urn

Values = dict[str, Any]
NOW = datetime.now(UTC)
NO_CHANGE = parse(preview())


class FakeApi:
    """A cluster's objects by the path of their list, and kubelets' metrics by node."""

    def __init__(self, objects: Mapping[str, Values], metrics: Mapping[str, str]) -> None:
        self._objects, self._metrics = objects, metrics

    def items(self, path: str, fieldSelector: str) -> Sequence[Values]:
        data = self._objects.get(f"{path}/{fieldSelector.removeprefix('metadata.name=')}")
        return [] if data is None else [{"data": data}]

    def texts(self, paths: Mapping[str, str], *, limit: float) -> Mapping[str, str]:
        assert limit < 10
        assert paths["cp-1"] == "/api/v1/nodes/cp-1/proxy/metrics"
        return {node: text for node, text in self._metrics.items() if node in paths}


def found(load: Load, stack: Values, **changes: Any) -> Certificates:
    """What is read of a cluster in which nothing ends soon, with some changes."""
    nodes: list[Values] = copy.deepcopy(NODES)
    with_report(nodes[1], **{"days": 364, **changes.get("report", {})})
    if changes.get("silent"):
        del nodes[1]["metadata"]["annotations"]
    root = {"root-cert.pem": certificate(days=changes.get("root", 3000))}
    objects = {
        "/api/v1/namespaces/istio-system/configmaps/istio-ca-root-cert": root,
        **changes.get("objects", {}),
    }
    metrics = {"cp-1": KUBELET_METRICS, "worker-1": KUBELET_METRICS, **changes.get("metrics", {})}
    api: Any = FakeApi(objects, metrics)
    return certificates.read(api, load(stack), login(days=changes.get("login", 300)), nodes)


def review(certificates: Certificates) -> str:
    shown = part(NO_CHANGE, certificates, NOW)
    return Document(title="x", parts=[shown]).render() if shown else ""


def test_nothing_is_said_while_nothing_ends_soon(load: Load, container_stack: Values) -> None:
    everything = found(load, container_stack)
    assert {one.text for one in everything.read} == {
        "kubeconfig of the stack",
        "apiserver of cp-1",
        "etcd-server of cp-1",
        "ca of cp-1",
        "kubelet of cp-1",
        "kubelet of worker-1",
        "Istio root of the mesh",
    }
    assert list(everything.problems(NOW)) == []
    assert review(everything) == ""


@pytest.mark.parametrize(
    ("days", "is_reviewed", "is_problem"), [(61, False, False), (59, True, False), (13, True, True)]
)
@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (lambda days: {"report": {"etcd-peer": days}}, "etcd-peer of cp-1"),
        (lambda days: {"report": {"ca": days}}, "ca of cp-1"),
        (lambda days: {"root": days}, "Istio root of the mesh"),
        (lambda days: {"login": days}, "kubeconfig of the stack"),
    ],
)
def test_a_certificate_is_named_before_it_ends(
    load: Load,
    container_stack: Values,
    changes: Any,
    text: str,
    days: int,
    is_reviewed: bool,
    is_problem: bool,
) -> None:
    everything = found(load, container_stack, **changes(days))
    summary = f"**{text}** ends on "
    assert (summary in review(everything)) == is_reviewed
    assert (f", in {days} days" in review(everything)) == is_reviewed
    assert any(text in line for line in everything.problems(NOW)) == is_problem


def test_a_certificate_that_has_ended(load: Load, container_stack: Values) -> None:
    everything = found(load, container_stack, login=-2)
    assert "kubeconfig of the stack** ended on " in review(everything)
    assert any("ended on" in line for line in everything.problems(NOW))


def test_the_secrets_of_gateways(load: Load, container_stack: Values) -> None:
    container_stack["mesh"]["gateways"] = {"web": {"hosts": ["a.example"], "tls": {"secret": "w"}}}
    # A chain is valid until the first end in it.
    chain = certificate(days=900) + certificate(days=40)
    secret = {"tls.crt": encoded(chain), "tls.key": "secret-key"}
    everything = found(
        load, container_stack, objects={"/api/v1/namespaces/istio-system/secrets/w": secret}
    )
    assert "**Secret w of istio-system** ends on" in review(everything)
    assert "in 40 days" in review(everything)
    assert "secret-key" not in repr(everything)


def test_an_intermediate_of_istio(load: Load, container_stack: Values) -> None:
    secret = {"ca-cert.pem": encoded(certificate(days=30)), "ca-key.pem": "secret-key"}
    everything = found(
        load, container_stack, objects={"/api/v1/namespaces/istio-system/secrets/cacerts": secret}
    )
    assert "**Istio intermediate of the mesh** ends on" in review(everything)
    assert "secret-key" not in repr(everything)


def test_a_kubelet_renews_later_than_the_others(load: Load, container_stack: Values) -> None:
    def metrics(days: int) -> Values:
        line = f"kubelet_certificate_manager_client_ttl_seconds {days * 86400 + 60}\n"
        return {"metrics": {"worker-1": line}}

    assert review(found(load, container_stack, **metrics(40))) == ""
    late = found(load, container_stack, **metrics(29))
    assert "**kubelet of worker-1** ends on" in review(late)


def test_what_is_not_known_is_a_problem(load: Load, container_stack: Values) -> None:
    silent = found(load, container_stack, silent=True)
    (line,) = silent.problems(NOW)
    assert line.startswith("cp-1 has not reported its certificates yet")
    assert "cp-1 has not reported its certificates yet" in review(silent)
    old = found(load, container_stack, report={"age": 4})
    assert [line[:40] for line in old.problems(NOW)] == ["cp-1 last checked its certificates on 20"]
    down = found(load, container_stack, metrics={"worker-1": "no metrics"})
    assert list(down.problems(NOW)) == [
        "the kubelet of worker-1 does not report when its certificate ends"
    ]


def test_certificates_of_one_day_share_a_row(
    load: Load, container_stack: Values, capsys: pytest.CaptureFixture[str]
) -> None:
    certificates.show(found(load, container_stack), NOW)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert any(line.startswith("apiserver, etcd-server cp-1 20") for line in lines)
    assert len(lines) == 1 + 6


def test_the_table_and_the_errors_count_the_same_days(capsys: pytest.CaptureFixture[str]) -> None:
    night = datetime(2026, 11, 30, 23, 30, tzinfo=UTC)
    soon = Certificate(
        name="etcd-peer", owner="cp-1", ends=night + timedelta(days=9, hours=1), renewed="by hand"
    )
    read = Certificates(read=[soon], unread=[])
    certificates.show(read, night)
    row = capsys.readouterr().out.splitlines()[-1].split()
    assert row[:4] == ["etcd-peer", "cp-1", "2026-12-10", "9"]
    (problem,) = read.problems(night)
    assert "in 9 days" in problem


def renewal(old: str | None, new: str) -> Preview:
    """The preview of the script that renews the certificate in the kubeconfig."""
    before, after = (
        None
        if day is None
        else Script(file=admin_credentials.FILE, node="x", settings={"SINCE": day})
        for day in (old, new)
    )
    return parse(preview(script_change("cp-1-credentials", "ControlPlane", before, after)))


@pytest.mark.parametrize(
    ("old", "new", "is_named"),
    [
        ("", "2027-08-30", True),
        ("2026-11-28", "2027-08-30", True),
        ("2027-08-30", "2027-08-30", False),
        (None, "", False),
    ],
)
def test_a_renewal_of_the_kubeconfig_is_named(old: str | None, new: str, is_named: bool) -> None:
    nothing = Certificates(read=[], unread=[])
    shown = part(renewal(old, new), nothing, NOW)
    assert ("due for renewal on 2027-08-30" in (shown.rows[0] if shown else "")) == is_named


def test_a_review_without_the_api_server_still_reads_the_state(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A pipeline that previews may not reach the cluster."""
    (tmp_path / "Pulumi.yaml").write_text("name: nordmesh\n")
    (tmp_path / "Pulumi.prod.yaml").write_text("config: {}\n")
    stays = {"op": "same", "urn": urn("kubernetes:core/v1:Namespace", "shop")}
    done = subprocess.CompletedProcess([], 0, stdout=preview(stays), stderr="")
    monkeypatch.setattr(command, "run", lambda *_, **__: done)
    monkeypatch.setattr(command, "output", lambda *_, **__: "[]")
    monkeypatch.setattr(command, "kubeconfig", lambda _: login(days=30))
    assert nordmesh(tmp_path, "review", "--stack", "prod") == 0
    text = capsys.readouterr().out
    assert "### Certificates" in text
    assert "**kubeconfig of the stack** ends on" in text
    assert "Only the certificate in the state was checked: " in text


def test_a_preview_of_a_stack_without_a_cluster_has_no_certificates(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "Pulumi.yaml").write_text("name: nordmesh\n")
    created = {"op": "create", "urn": urn("pulumi:pulumi:Stack", "nordmesh-prod")}
    done = subprocess.CompletedProcess([], 0, stdout=preview(created), stderr="")
    monkeypatch.setattr(command, "run", lambda *_, **__: done)
    monkeypatch.setattr(command, "output", lambda *_, **__: "[]")
    assert nordmesh(tmp_path, "review", "--stack", "prod") == 0
    assert "Certificates" not in capsys.readouterr().out
