"""`nordmesh new` with a real SSH server, and a preview of the file that it writes."""

import re
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from cli import host_keys
from config import schema
from config.errors import NordmeshError
from lab.paths import PROJECT
from tests.engine.conftest import Project, Sshd
from tests.unit.commands import nordmesh


@pytest.fixture(scope="module")
def address() -> str:
    """Return an address of this machine other than loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing; only selects a route
        name: str = probe.getsockname()[0]
        return name


@pytest.fixture(scope="module")
def server(start_sshd: Callable[..., Sshd], address: str) -> Sshd:
    return start_sshd(f"ListenAddress {address}")


def console(key: str) -> str:
    """Return the output of `ssh-keygen -l` for a host key, as on the console of a machine."""
    result = subprocess.run(
        ["ssh-keygen", "-lf", "-"], input=key, capture_output=True, text=True, check=True
    )
    (fingerprint,) = re.findall(r"SHA256:\S+", result.stdout)
    return str(fingerprint)


def test_a_stack_with_a_real_machine_can_be_previewed(
    project: Callable[..., Project],
    server: Sshd,
    address: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = project("")
    shutil.copytree(PROJECT / "stacks", made.directory / "stacks")
    typed = iter(["", "", "", address, "", str(server.port), console(server.host_key), ""])
    assert nordmesh(made.directory, "new", "vps", ask=lambda _: next(typed)) == 0
    assert server.host_key in (made.directory / "Pulumi.vps.yaml").read_text()
    assert console(server.host_key) in capsys.readouterr().out

    path = made.directory / "Pulumi.vps.yaml"
    before = path.read_text()
    made.pulumi("stack", "init", "vps").ok()
    key = "engine:mesh.mtls"
    made.pulumi("config", "set", "--stack", "vps", "--path", key, "STRICT").ok()
    text = path.read_text()
    assert text.splitlines()[0] == schema.MODELINE
    config = yaml.safe_load(text)["config"]
    assert config.pop("engine:mesh") == {"mtls": "STRICT"}
    assert config == yaml.safe_load(before)["config"]
    assert "#podCidr: 10.244.0.0/16" in text


def test_a_host_key_mismatch_is_refused(
    server: Sshd, address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    node = f"cp-1,role=control-plane,address={address},port={server.port}"
    wrong = f"{node},fingerprint=SHA256:{'A' * 43}"
    assert nordmesh(tmp_path, "new", "vps", "--node", wrong) == 1
    assert "[host-key-mismatch]" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_unreachable_machine_is_refused(address: str) -> None:
    with socket.socket() as taken:
        taken.bind((address, 0))
        with pytest.raises(NordmeshError, match="no SSH server answers"):
            host_keys.scan(address, taken.getsockname()[1])
