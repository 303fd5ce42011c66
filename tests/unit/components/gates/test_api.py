"""The credentials of a gate's connection to the API server: valid, and deleted on exit."""

import base64
import os
import signal
import ssl
import subprocess
import sys
from pathlib import Path

import yaml

from components.gates.api import connect
from components.manifests import kubeadm
from tests.engine.deployed import credentials
from tests.support.paths import PROJECT

# Exits immediately on SIGINT, like the Pulumi program when the engine interrupts it.
MEASURING = """
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
from components.gates.api import connect
with connect(sys.stdin.read()):
    print("connected", flush=True)
    signal.pause()
"""


def kubeconfig() -> str:
    return kubeadm.admin_kubeconfig(credentials(), endpoint="api.internal", address="192.0.2.11")


def test_tls_accepts_the_credentials() -> None:
    with connect(kubeconfig()) as api:
        configuration = api._configuration
        context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
        context.load_cert_chain(configuration.cert_file, configuration.key_file)
        assert context.cert_store_stats()["x509"] == 1


def test_each_credential_is_used_for_its_purpose() -> None:
    content = yaml.safe_load(kubeconfig())
    cluster, user = content["clusters"][0]["cluster"], content["users"][0]["user"]
    cluster["tls-server-name"] = "api.internal"
    with connect(yaml.safe_dump(content)) as api:
        configuration = api._configuration
        assert configuration.host == cluster["server"]
        assert configuration.tls_server_name == "api.internal"
        assert configuration.retries is False
        for path, data in (
            (configuration.ssl_ca_cert, cluster["certificate-authority-data"]),
            (configuration.cert_file, user["client-certificate-data"]),
            (configuration.key_file, user["client-key-data"]),
        ):
            assert Path(path).read_bytes() == base64.b64decode(data)


def test_an_interrupted_measurement_leaves_no_files(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", MEASURING],
        cwd=PROJECT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(kubeconfig())
        process.stdin.close()
        assert process.stdout.readline() == "connected\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(300) == -signal.SIGINT
    assert list(tmp_path.rglob("*")) == []
