"""Rendered files of nodes, loaded by the containerd of the lab."""

import subprocess
import tomllib
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from components.host.table import node_files
from lab import paths
from tests.unit.components.host.test_files import host_args

_CRI = "io.containerd.grpc.v1.cri"


def effective_config(config: Path) -> dict[str, Any]:
    """Return the effective configuration of containerd."""
    program = paths.cache().bin / "containerd" / "containerd"
    command = [str(program), "--config", str(config), "config", "dump"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    return tomllib.loads(ended.stdout)


@pytest.mark.parametrize(
    ("driver", "restrict"), list(product(("systemd", "cgroupfs"), (True, False)))
)
def test_containerd_has_the_settings_in_effect(tmp_path: Path, driver: str, restrict: bool) -> None:
    args = host_args(cgroup_driver=driver, restrict_oom_score_adj=restrict, pause_image="a/b:1")
    (text,) = (file.text for file in node_files(args) if file.path == "/etc/containerd/config.toml")
    config = tmp_path / "config.toml"
    config.write_text(f"{text}\n")
    cri = effective_config(config)["plugins"][_CRI]
    runc = cri["containerd"]["runtimes"]["runc"]
    assert cri["sandbox_image"] == "a/b:1"
    assert cri["restrict_oom_score_adj"] is restrict
    assert cri["registry"]["config_path"] == "/etc/containerd/certs.d"
    assert runc["runtime_type"] == "io.containerd.runc.v2"
    assert runc["options"]["SystemdCgroup"] is (driver == "systemd")
