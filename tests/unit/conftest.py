"""Valid stacks for tests to edit, and the fixtures that load them."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from config import StackConfig, catalogue
from config.load import load as load_stack
from tests.support.sections import checkout
from tests.unit.machine import Machine

# Property tests take the same examples in every run, and as long as a busy machine needs: by
# default, an example that takes more than 200 ms fails.
settings.load_profile("ci")

Values = dict[str, Any]
Load = Callable[[Values], StackConfig]

HOST_KEYS = (
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICvCvNE8Pu3m/HboTtBRHtWBh3dzuzCJpsuBUSDUXlRz",
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIXf5r+A0EbjhBzOK+TNkLPzYfR6dx4oqZeD92VlzKMy",
)
# The header of an unencrypted OpenSSH key, without a body.
SSH_KEY = (
    "-----BEGIN OPENSSH PRIVATE KEY-----\n"
    "b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtzc2gtZW\n"
    "-----END OPENSSH PRIVATE KEY-----\n"
)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """An empty machine that can run the checked-in scripts."""
    return Machine.make(tmp_path / "machine")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start the clock at 0; only `time.sleep` advances it."""
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])


@pytest.fixture
def ssh_key() -> str:
    """The header of a private key: it passes the checks and unlocks nothing."""
    return SSH_KEY


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project directory whose lock has a checksum for every artifact."""
    entries = {download.key: "0" * 64 for download in catalogue.all_downloads()}
    (tmp_path / "stacks").mkdir()
    lock = tmp_path / "stacks" / "artifacts.lock.json"
    lock.write_text(json.dumps({"binaries": entries}))
    return tmp_path


@pytest.fixture
def load(project: Path) -> Load:
    """Load values as Pulumi passes them: each section as JSON."""

    def load_as_json(values: Values) -> StackConfig:
        sections = {
            key: value if isinstance(value, str) else json.dumps(value)
            for key, value in values.items()
        }
        return load_stack(sections, project_dir=project)

    return load_as_json


@pytest.fixture
def container_stack() -> Values:
    """A stack of two lab nodes that sets every section."""
    return {
        "machines": {
            "allowDataLoss": True,
            "container": {"bridge": "nordmesh0", "subnet": "10.66.0.0/24"},
            "nodes": {
                "worker-1": {
                    "role": "worker",
                    "provider": "container",
                    "address": "10.66.0.21",
                },
                "cp-1": {
                    "role": "control-plane",
                    "provider": "container",
                    "address": "10.66.0.11",
                },
            },
        },
        "artifacts": {"mirror": "http://10.66.0.1:8080/", "registry": "http://10.66.0.1:5000"},
        "kubernetes": {
            "clusterName": "local",
            "version": "1.23.17",
            "endpoint": "api.local.nordmesh.internal",
            "podCidr": "10.244.0.0/16",
            "serviceCidr": "10.96.0.0/12",
            "cgroupDriver": "cgroupfs",
            "kubelet": {"failSwapOn": False, "featureGates": {"KubeletInUserNamespace": True}},
            "kubeProxy": {"conntrack": {"maxPerCore": 0}},
            "restrictOomScoreAdj": True,
        },
        "istio": {
            "version": "1.16.5",
            "proxy": {
                "requests": {"cpu": "100m", "memory": "128Mi"},
                "limits": {"cpu": "2000m", "memory": "1024Mi"},
            },
            "values": {"pilot": {"env": {"PILOT_ENABLE_ALPN_FILTER": "false"}}},
        },
        "mesh": {
            "namespaces": {
                "shop": {"injection": True, "mtls": "STRICT"},
                "plain": {"injection": False},
            },
            "services": {"checkout": checkout()},
        },
        "demo": {"enabled": True},
    }


@pytest.fixture
def existing_stack() -> Values:
    """The smallest valid stack of two bought machines."""
    return {
        "machines": {
            "ssh": {"user": "admin"},
            "nodes": {
                "cp-1": {
                    "role": "control-plane",
                    "provider": "existing",
                    "address": "192.0.2.11",
                    "hostKey": HOST_KEYS[0],
                },
                "worker-1": {
                    "role": "worker",
                    "provider": "existing",
                    "address": "192.0.2.21",
                    "hostKey": HOST_KEYS[1],
                    "user": "debian",
                    "port": 2222,
                },
            },
        },
        "kubernetes": {
            "clusterName": "prod",
            "version": "1.23.17",
            "endpoint": "api.prod.example.internal",
        },
        "istio": {"version": "1.17.8"},
        "sshPrivateKey": SSH_KEY,
    }
