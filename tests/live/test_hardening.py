"""The hardened control plane of a real cluster: Secrets in etcd, the audit log, a rotated key."""

import json
import sys
import time

import pytest

from components.manifests import hardening
from lab.screen import Cluster
from tests.live.harness import Project

PLANTED = "text-of-a-planted-secret"
CONTROL_PLANE = "cp-1"
# kubelets' serving certificates are their own.
OPEN = {"1.2.6"}


@pytest.fixture
def secret(cluster: Cluster) -> str:
    name = "planted"
    cluster.kubectl("create", "secret", "generic", name, f"--from-literal=a={PLANTED}")
    return name


def on_control_plane(project: Project, command: str) -> str:
    return project.ssh(project.machine_addresses()[CONTROL_PLANE], command)


def keys(project: Project) -> list[str]:
    text = on_control_plane(project, f"sed -n 's/^ *- name: //p' {hardening.ENCRYPTION_FILE}")
    return text.split()


@pytest.mark.usefixtures("stack_file")
def test_a_key_is_rotated_and_no_secret_is_lost(
    project: Project, cluster: Cluster, secret: str
) -> None:
    assert keys(project) == ["key1"]
    old = on_control_plane(
        project, f"sed -n 's/^ *secret: //p' {hardening.ENCRYPTION_FILE}"
    ).strip()
    before = {(x["metadata"]["namespace"], x["metadata"]["name"]): x["data"]
              for x in cluster.items("secrets", "--all-namespaces") if "data" in x}  # fmt: skip
    project.set_config("kubernetes.encryptionKey", 2)
    started = time.monotonic()
    project.up()
    print(f"\nthe key was rotated in {time.monotonic() - started:.0f} s")
    assert keys(project) == ["key2"]
    after = {(x["metadata"]["namespace"], x["metadata"]["name"]): x["data"]
             for x in cluster.items("secrets", "--all-namespaces") if "data" in x}  # fmt: skip
    assert {name: after.get(name) for name in before} == before
    for text in (PLANTED, old):
        assert not on_control_plane(project, f"grep -rlF -- {text} /var/lib/etcd || true")
    assert not on_control_plane(project, f"grep -rlF -- {old} /etc /var/log /run/nordmesh || true")
    # A second run has nothing to do.
    assert "unchanged" in project.up().text
    cluster.kubectl("delete", "secret", secret)


def test_the_audit_log_has_no_body_of_a_secret(
    project: Project, cluster: Cluster, secret: str
) -> None:
    cluster.kubectl("get", "secret", secret, "-o", "yaml")
    log = on_control_plane(project, f"cat {hardening.AUDIT_LOG}")
    events = [json.loads(line) for line in log.splitlines()]
    about = [event for event in events if event.get("objectRef", {}).get("name") == secret]
    assert {"create", "get"} <= {event["verb"] for event in about}
    assert PLANTED not in log
    modes = on_control_plane(
        project, f"stat -c %a {hardening.AUDIT_LOG} $(dirname {hardening.AUDIT_LOG})"
    )
    assert modes.split() == ["600", "700"]
    cluster.kubectl("delete", "secret", secret)


def test_the_report_of_the_benchmark(project: Project) -> None:
    result = project.run(
        sys.executable, "-m", "cli", "report", "cis", "--stack", project.stack, "--json"
    )
    items = json.loads(result.text)
    print("\n" + "\n".join(f"{x['id']} {x['result']} {x['detail']}" for x in items))
    assert {item["id"] for item in items if item["result"] == "fail"} <= OPEN
    assert not [item for item in items if item["result"] == "unknown"]


def test_a_changed_control_plane_is_no_drift(project: Project) -> None:
    result = project.run(sys.executable, "-m", "cli", "drift", "--stack", project.stack)
    assert "**No drift found.**" in result.text
