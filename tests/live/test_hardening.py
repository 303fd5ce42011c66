"""The hardened control plane of a real cluster: Secrets in etcd, the audit log, a rotated key.

With several control planes: tests/live/test_control_planes.py.
"""

import json
import sys
import time
from pathlib import PurePosixPath

import pytest

from components.manifests import hardening
from lab.screen import Cluster
from tests.live.encrypted import files_with, keys, secrets
from tests.live.harness import Project

PLANTED = "text-of-a-planted-secret"
CONTROL_PLANE = "cp-1"
# kubelets' serving certificates are their own.
OPEN = {"1.2.6"}


@pytest.fixture
def plane(project: Project) -> str:
    return project.machine_addresses()[CONTROL_PLANE]


@pytest.fixture
def secret(cluster: Cluster) -> str:
    name = "planted"
    cluster.kubectl("delete", "secret", name, "--ignore-not-found")
    cluster.kubectl("create", "secret", "generic", name, f"--from-literal=a={PLANTED}")
    return name


def test_a_key_is_rotated_and_no_secret_is_lost(
    project: Project, cluster: Cluster, secret: str, plane: str
) -> None:
    """The new key stays in the shared lab: to go back would be another rotation."""
    old = keys(project, plane)
    assert list(old) == ["key1"]
    before = secrets(project, plane)
    assert len(before) > 5
    # The search finds what is there.
    assert files_with(project, plane, old["key1"]) == [hardening.ENCRYPTION_FILE]
    project.set_config("kubernetes.encryptionKey", 2)
    started = time.monotonic()
    project.up()
    print(f"\nthe key was rotated in {time.monotonic() - started:.0f} s")
    assert list(keys(project, plane)) == ["key2"]
    after = secrets(project, plane)
    assert {name: after.get(name) for name in before} == before
    assert files_with(project, plane, old["key1"]) == []
    assert files_with(project, plane, PLANTED) == []
    project.up("--expect-no-changes")
    cluster.kubectl("delete", "secret", secret)


def test_the_audit_log_has_no_body_of_a_secret(
    project: Project, cluster: Cluster, secret: str, plane: str
) -> None:
    cluster.kubectl("get", "secret", secret, "-o", "yaml")
    folder = PurePosixPath(hardening.AUDIT_LOG).parent
    lines = project.ssh(plane, f'grep -hF \'"name":"{secret}"\' {folder}/*').splitlines()
    events = [json.loads(line) for line in lines]
    about = [event for event in events if event.get("objectRef", {}).get("name") == secret]
    assert {"create", "get"} <= {event["verb"] for event in about}
    assert files_with(project, plane, PLANTED) == []
    modes = project.ssh(plane, f"stat -c %a {hardening.AUDIT_LOG} {folder}")
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
