"""The credentials of a gate's connection to the API server: usable, and nowhere on a disk."""

import os
import signal
import ssl
import subprocess
import sys
from pathlib import Path

from components.gates.api import connect
from components.manifests import kubeadm
from lab import paths
from tests.engine.deployed import credentials

# Like the program: it ends at once when the engine interrupts it.
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


def test_tls_takes_the_credentials() -> None:
    with connect(kubeconfig()) as api:
        configuration = api._configuration
        context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
        context.load_cert_chain(configuration.cert_file, configuration.key_file)
        assert context.cert_store_stats()["x509"] == 1


def test_an_interrupted_measurement_leaves_no_key(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", MEASURING],
        cwd=paths.PROJECT,
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
        assert process.wait(30) == -signal.SIGINT
    assert list(tmp_path.rglob("*")) == []
