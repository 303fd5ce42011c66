"""The stack: a second run without changes, a state without secrets, exports."""

import base64
import json
import re
from collections.abc import Iterator

import pytest
import yaml

from lab.screen import Cluster
from tests.live.harness import Built, Project


def accepted_logins(project: Project, address: str) -> int:
    """Count the SSH logins that a node has accepted, including this one."""
    return int(project.ssh(address, "journalctl --unit ssh --grep Accepted --quiet | wc -l"))


def test_a_second_up_changes_nothing_and_opens_no_ssh_connection(project: Project) -> None:
    addresses = project.machine_addresses().values()
    before = {address: accepted_logins(project, address) for address in addresses}
    result = project.up("--expect-no-changes")
    after = {address: accepted_logins(project, address) for address in addresses}
    assert re.search(r"Resources:\n\s+\d+ unchanged", result.text), result.text
    # The extra login is that of the count.
    assert after == {address: count + 1 for address, count in before.items()}


def test_the_replicas_of_coredns_are_on_two_nodes(cluster: Cluster) -> None:
    """kubeadm started both on the control plane, before there was a worker."""
    pods = cluster.items("pods", "-n", "kube-system", "-l", "k8s-app=kube-dns")
    running = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    assert sorted(pod["spec"]["nodeName"] for pod in running) == ["cp-1", "worker-1"]


def test_a_preview_shows_no_changes(project: Project) -> None:
    project.pulumi("preview", "--expect-no-changes")


def test_the_stack_exports_its_endpoint_and_nodes(project: Project) -> None:
    outputs = project.outputs()
    assert outputs["istioVersion"] == "1.16.5"
    assert outputs["apiEndpoint"].endswith(":6443")
    assert outputs["nodes"]["worker-1"]["role"] == "worker"
    assert "[secret]" in project.pulumi("stack", "output").text


def secrets_of(project: Project) -> dict[str, str]:
    """Return excerpts of every secret of the stack that are long enough to be unique."""
    admin = yaml.safe_load(project.outputs()["kubeconfig"])
    key = admin["users"][0]["user"]["client-key-data"]
    ssh = (project.state_directory / "id_ed25519").read_text().splitlines()
    return {
        "the kubeconfig's key": key[100:160],
        "the kubeconfig's key, decoded": base64.b64decode(key).decode().splitlines()[3],
        "the SSH private key": ssh[2],
    }


def test_no_secret_is_in_state_on_a_command_line_or_in_a_log(built: Built) -> None:
    project = built.project
    texts = {
        "the exported state": project.pulumi("stack", "export").text,
        "a command line": "\n".join(built.command_lines),
        "the output of the run": built.screen,
    }
    for name, address in project.machine_addresses().items():
        logs = project.ssh(address, "journalctl --quiet; cat /var/log/nordmesh/*.log")
        texts[f"the logs of {name}"] = logs
    assert "kubeadm init" in texts["a command line"]
    for what, secret in secrets_of(project).items():
        for where, text in texts.items():
            # Not an assertion, which would print the secret.
            if secret in text:
                pytest.fail(f"{what} is in {where}", pytrace=False)


def encrypted(value: object, name: str = "") -> Iterator[str]:
    """Return the keys of the encrypted values in an exported state."""
    if isinstance(value, list):
        for item in value:
            yield from encrypted(item, name)
    elif isinstance(value, dict):
        if "ciphertext" in value:
            yield name
        else:
            for key, item in value.items():
                yield from encrypted(item, key)


def test_the_encrypted_values_in_the_state_are_as_documented(project: Project) -> None:
    deployment = json.loads(project.pulumi("stack", "export").text)["deployment"]
    encrypted_in: dict[str, set[str]] = {}
    for resource in deployment["resources"]:
        for key in encrypted([resource.get("inputs"), resource.get("outputs")]):
            encrypted_in.setdefault(key, set()).add(resource["urn"].rpartition("::")[2])
    # The SSH key of each script.
    assert {"cp-1-init", "worker-1-join", "istio-install"} <= encrypted_in.pop("connection")
    stack = deployment["resources"][0]["urn"].rpartition("::")[2]
    assert encrypted_in == {
        "kubeconfig": {"cluster", stack},
        "stdin": {"worker-1-join"},  # the cluster's address and CA, which come from a secret
        "stdout": {
            "cp-1-credentials",
            "cp-1-init",
            "cp-1-machine",
            "worker-1-machine",
        },  # the source of those credentials
        "stderr": {"cp-1-credentials", "cp-1-init"},
    }


def test_the_state_cannot_make_nodes(project: Project) -> None:
    joins = {"worker-1-join"}
    state = json.loads(project.pulumi("stack", "export", "--show-secrets").text)
    for resource in state["deployment"]["resources"]:
        if resource["urn"].rpartition("::")[2] in joins:
            joins.discard(resource["urn"].rpartition("::")[2])
            stdin = json.loads(resource["inputs"]["stdin"]["plaintext"])
            assert yaml.safe_load(stdin)["users"][0]["user"] == {}
    assert not joins
    account = project.ssh(
        project.machine_addresses()["cp-1"],
        "kubectl --kubeconfig /etc/kubernetes/admin.conf -n kube-system get "
        "secret/nordmesh-join serviceaccount/nordmesh-join --ignore-not-found -o name",
    )
    assert account.strip() == ""


def test_bootstrap_tokens_are_deleted(project: Project) -> None:
    listed = project.ssh(
        project.machine_addresses()["cp-1"],
        "kubeadm --kubeconfig /etc/kubernetes/admin.conf token list -o json",
    )
    # Counted instead of compared, so that a failure prints no token.
    tokens, ends = listed.count('"token":'), listed.count('"expires":')
    assert tokens == ends
