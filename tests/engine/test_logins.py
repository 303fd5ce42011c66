"""SSH logins: kinds of host keys, encrypted private keys, and bastions."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.engine.conftest import Project, Sshd
from tests.support.needles import Needles

Projects = Callable[..., Project]
PASSWORD = "a passphrase with 'quotes'"  # noqa: S105
WRONG_PASSWORD = "another"  # noqa: S105
PROGRAM = """
it = remote.Command("it", connection=connection, create="echo $SSH_CONNECTION")
pulumi.export("port", it.stdout.apply(lambda text: text.split()[-1]))
"""


def encrypted_key(sshd: Sshd, path: Path) -> str:
    """Client key of the server, encrypted with `ssh-keygen -p`."""
    path.touch(mode=0o600)
    path.write_text(sshd.private_key)
    command = ["ssh-keygen", "-q", "-p", "-P", "", "-N", PASSWORD, "-f", str(path)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return path.read_text()


@pytest.mark.parametrize("kind", ["ecdsa", "rsa"])
def test_each_kind_of_host_key_is_accepted(
    project: Projects, start_sshd: Callable[..., Sshd], tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "host_key"
    command = ["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "", "-f", str(path)]
    subprocess.run(command, check=True)
    # In addition to its ed25519 key, which it would offer first.
    server = start_sshd(f"HostKey {path}")
    key = path.with_name("host_key.pub").read_text().strip()
    stack = project(PROGRAM, connection=server.connection(host_key=key))
    stack.up().ok()
    other = start_sshd()
    stack.write(PROGRAM, connection=other.connection(host_key=key))
    assert "host key" in stack.up().failed().output


def test_login_with_an_encrypted_private_key(project: Projects, sshd: Sshd, tmp_path: Path) -> None:
    key = encrypted_key(sshd, tmp_path / "key")
    stack = project(
        PROGRAM, connection=sshd.connection(private_key=key, private_key_password=PASSWORD)
    )
    output = stack.up().ok().output
    kept = stack.state() + output
    assert not [text for text in Needles({"it": PASSWORD}).texts if text.decode() in kept]
    wrong_login = sshd.connection(private_key=key, private_key_password=WRONG_PASSWORD)
    stack.write(PROGRAM, connection=wrong_login)
    output = stack.up().failed().output
    assert "cannot be read" in output
    assert WRONG_PASSWORD not in output


def test_login_through_a_bastion_with_an_encrypted_key(
    project: Projects, sshd: Sshd, start_sshd: Callable[..., Sshd], tmp_path: Path
) -> None:
    bastion = start_sshd()
    through = bastion.connection(
        private_key=encrypted_key(bastion, tmp_path / "key"), private_key_password=PASSWORD
    )
    stack = project(PROGRAM, connection=sshd.connection(proxy=through))
    opened = bastion.connections()
    stack.up().ok()
    assert bastion.connections() == opened + 1
    assert stack.outputs() == {"port": str(sshd.port)}
    stack.up("--expect-no-changes").ok()
    assert bastion.connections() == opened + 1


def test_a_host_key_mismatch_of_the_bastion_is_refused(
    project: Projects, sshd: Sshd, start_sshd: Callable[..., Sshd]
) -> None:
    bastion = start_sshd()
    wrong_login = bastion.connection(host_key=sshd.host_key)
    stack = project(PROGRAM, connection=sshd.connection(proxy=wrong_login))
    opened, behind = bastion.connections(), sshd.connections()
    output = stack.up().failed().output
    assert "ssh: handshake failed: ssh: host key mismatch" in output
    assert bastion.connections() == opened + 1
    assert sshd.connections() == behind


@pytest.mark.parametrize("host_key", [None, "nonsense"])
def test_a_bastion_without_a_usable_host_key_fails_the_preview(
    project: Projects, sshd: Sshd, host_key: str | None
) -> None:
    through = sshd.connection(host_key=host_key)
    stack = project(PROGRAM, connection=sshd.connection(proxy=through))
    opened = sshd.connections()
    assert "connection.proxy.hostKey" in stack.preview().failed().output
    assert sshd.connections() == opened
