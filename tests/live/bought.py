"""Machines that stand for bought VPS machines: containers of the lab, created by hand.

The program only sees an address, a user and a host key, as with a machine of a provider.
"""

import json
import os
import subprocess
from typing import Any

import yaml

from tests.live.harness import CHECKOUT, Project


def make_machine(project: Project, name: str, address: str) -> dict[str, str]:
    """A machine on the project's bridge; its host key, and the private key of root."""
    gateway = f"{address.rpartition('.')[0]}.1"
    network = {"ADDRESS": address, "PREFIX": "24", "GATEWAY": gateway}
    keys: dict[str, str] = json.loads(_run("container-create.sh", project, name, network))
    return keys


def remove_machine(project: Project, name: str) -> None:
    """What make_machine made."""
    _run("container-delete.sh", project, name, {"ALLOW_DATA_LOSS": "true"})


def _run(script: str, project: Project, name: str, settings: dict[str, str]) -> str:
    return subprocess.run(
        ["bash", str(CHECKOUT / "components/scripts" / script)],
        env={**os.environ, "NAME": name, "BRIDGE": project.bridge, **settings},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout


def add_user(project: Project, address: str, user: str, authorized: str = "") -> None:
    """A user with sudo and without a password, who has root's keys or the one given."""
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
    """The whole document of the stack's file."""
    document: dict[str, Any] = yaml.safe_load(project.stack_file.read_text())
    return document
