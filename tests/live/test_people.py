"""People of a running cluster: an edit gives roles, and lets the API server accept tokens."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml

from components.manifests import echo, hardening, people, pipeline
from lab import paths
from tests.engine.issuer import FakeIssuer, fake_issuer
from tests.engine.rbac_server import Authority
from tests.live.harness import Project

# Two restarts of the API server; engine tests have the roles and tokens at a real one.
pytestmark = pytest.mark.long
CLIENT = "nordmesh-test"
CONTROL_PLANE = "cp-1"
CLIENT_PODS = f"deployment/{echo.CLIENT}"


@pytest.fixture(scope="module")
def staffed(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeIssuer]:
    """Add the section to the running cluster, and remove it at the end."""
    authority = Authority(tmp_path_factory.mktemp("authority"))
    before = project.stack_file.read_text()
    # This machine's own address on the bridge, which control planes reach.
    bridge = f"{project.machine_addresses()[CONTROL_PLANE].rpartition('.')[0]}.1"
    with fake_issuer(authority, CLIENT, address=bridge) as issuer:
        with project.config() as config:
            config["nordmesh:access"] = {
                "oidc": {
                    "issuerUrl": issuer.url,
                    "clientId": CLIENT,
                    "ca": authority.file.read_text(),
                },
                "roles": {
                    "viewer": [{"oidcUsers": ["kari"]}],
                    "deployer": [{"users": ["dag"], "namespaces": ["shop"]}],
                },
            }
        try:
            started = time.monotonic()
            project.up()
            print(f"\nthe section was added in {time.monotonic() - started:.0f} s")
            yield issuer
        finally:
            project.stack_file.write_text(before)
            project.up()


def kubeconfig(project: Project, folder: Path, *arguments: str) -> Path:
    file = folder / "person.yaml"
    command = [sys.executable, "-m", "cli", "kubeconfig", "--stack", project.stack]
    result = project.run(*command, *arguments, "--output", str(file))
    assert result.code == 0, result.text
    return file


def kubectl(file: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run kubectl, which may fail."""
    return subprocess.run(
        [paths.cache().bin / "kubernetes" / "kubectl", f"--kubeconfig={file}", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def events(project: Project, user: str) -> list[dict[str, Any]]:
    """The requests in the audit log whose user, or impersonated user, has a name."""
    folder = PurePosixPath(hardening.AUDIT_LOG).parent
    # grep's status is 1 where no line has the name.
    command = f'grep -hF \'"username":"{user}"\' {folder}/* || [ $? = 1 ]'
    log = project.ssh(project.machine_addresses()[CONTROL_PLANE], command)
    return [json.loads(line) for line in log.splitlines()]


def test_a_second_up_changes_nothing(project: Project, staffed: FakeIssuer) -> None:
    assert staffed
    project.up("--expect-no-changes")


def test_a_person_has_the_role_of_the_stack_file(
    project: Project, staffed: FakeIssuer, tmp_path: Path
) -> None:
    assert staffed
    file = kubeconfig(project, tmp_path, "--for", "dag", "--days", "1")
    restart = kubectl(file, "-n", "shop", "rollout", "restart", CLIENT_PODS)
    assert restart.returncode == 0, restart.stderr
    # As the tests after this one find it.
    ready = kubectl(file, "-n", "shop", "rollout", "status", CLIENT_PODS, "--timeout=300s")
    assert ready.returncode == 0, ready.stderr
    refused = kubectl(file, "-n", "shop", "get", "secrets")
    assert 'User "dag" cannot list' in refused.stderr
    refused = kubectl(file, "-n", "istio-system", "get", "pods")
    assert 'User "dag" cannot list' in refused.stderr


def test_a_running_api_server_accepts_tokens(
    project: Project, staffed: FakeIssuer, tmp_path: Path
) -> None:
    content = yaml.safe_load(project.outputs()["kubeconfig"])
    file = tmp_path / "token.yaml"

    def asked(*, aud: str) -> subprocess.CompletedProcess[str]:
        content["users"][0]["user"] = {"token": staffed.token(sub="kari", aud=aud)}
        file.write_text(yaml.safe_dump(content))
        return kubectl(file, "get", "pods", "--all-namespaces")

    deadline = time.monotonic() + 120
    while (result := asked(aud=CLIENT)).returncode and time.monotonic() < deadline:
        time.sleep(2)  # the API server fetches the issuer's keys in the background
    assert result.returncode == 0, result.stderr
    assert "Unauthorized" in asked(aud="another-client").stderr


def test_an_up_acts_in_its_own_role(project: Project, staffed: FakeIssuer) -> None:
    assert staffed
    project.set_config("mesh.services.checkout.canary.weight", 17)
    project.up()
    acted = [
        event
        for event in events(project, pipeline.USER)
        if event["verb"] == "patch"
        and event.get("objectRef", {}).get("resource") == "virtualservices"
    ]
    assert acted
    assert {event["impersonatedUser"]["username"] for event in acted} == {pipeline.USER}
    assert {event["user"]["username"] for event in acted} == {"kubernetes-admin"}


def test_an_emergency_is_in_the_audit_log(
    project: Project, staffed: FakeIssuer, tmp_path: Path
) -> None:
    assert staffed
    file = kubeconfig(project, tmp_path, "--for", "kari", "--emergency")
    assert kubectl(file, "-n", "kube-system", "get", "secrets").returncode == 0
    person = f"{people.EMERGENCY_GROUP}:kari"
    seen = events(project, person)
    assert "secrets" in {event.get("objectRef", {}).get("resource") for event in seen}
