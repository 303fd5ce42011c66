"""Machines that stand in for bought VPS machines: containers of the lab, created by hand.

The program only sees an address, a user and a host key, as with a machine of a provider.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml

from components.manifests import container
from components.remote.node_command import local_text
from tests.live.harness import Project


def make_machine(project: Project, name: str, address: str) -> dict[str, str]:
    """Create a machine on the bridge of the project; return its host key and root's private key."""
    gateway = f"{address.rpartition('.')[0]}.1"
    settings = container.settings(address=address, prefix=24, gateway=gateway)
    keys: dict[str, str] = json.loads(_run("container-create.sh", project, name, settings))
    return keys


@contextmanager
def joined(project: Project, name: str, address: str) -> Iterator[None]:
    """Add such a machine as a worker, and allow no data loss; restore the stack at the end."""
    before = project.stack_file.read_text()
    keys = make_machine(project, name, address)
    try:
        secret = ("config", "set", "--secret", "nordmesh:sshPrivateKey")
        project.pulumi(*secret, stdin=keys["privateKey"])
        with project.config() as config:
            machines = config["nordmesh:machines"]
            machines["allowDataLoss"] = []
            machines["nodes"][name] = {
                "role": "worker",
                "provider": "existing",
                "address": address,
                "user": "root",
                "hostKey": keys["hostKey"],
            }
        project.up()
        yield
    finally:
        project.stack_file.write_text(before)
        project.up()
        remove_machine(project, name)


def remove_machine(project: Project, name: str) -> None:
    """Delete a machine that make_machine created."""
    _run("container-delete.sh", project, name, {"ALLOW_DATA_LOSS": "true"})


def _run(script: str, project: Project, name: str, settings: dict[str, str]) -> str:
    return subprocess.run(
        ["bash", "-c", local_text(script)],
        env={**os.environ, "NAME": name, "BRIDGE": project.bridge, **settings},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout


def add_user(project: Project, address: str, user: str, authorized: str = "") -> None:
    """Create a user with passwordless sudo, with root's keys or the given key."""
    keys = f"/home/{user}/.ssh/authorized_keys"
    project.ssh(
        address,
        f"""set -e
useradd --create-home --shell /bin/bash {user}
echo '{user} ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/{user}
install -d -o {user} -m 700 /home/{user}/.ssh
install -o {user} -m 600 /root/.ssh/authorized_keys {keys}
{f"echo '{authorized}' >{keys}" if authorized else ""}
""",
    )


def read_config(project: Project) -> dict[str, Any]:
    """Read the stack file."""
    document: dict[str, Any] = yaml.safe_load(project.stack_file.read_text())
    return document
