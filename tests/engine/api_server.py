"""A real API server with its etcd, without nodes or controllers."""

import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lab import paths
from lab.ports import reserved_port

TOKEN = "a-token-of-this-test"  # noqa: S105


@dataclass(frozen=True)
class ApiServer:
    """A running API server that allows everything to the token's user.

    kubeconfig: the file with the token. within: the command that runs another in its network.
    """

    kubeconfig: Path
    within: Sequence[str] = ()

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        ended = self._run(arguments, stdin)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def is_ready(self) -> bool:
        return self._run(["get", "--raw", "/readyz"]).returncode == 0

    def _run(self, arguments: Sequence[str], stdin: str = "") -> subprocess.CompletedProcess[str]:
        program = paths.cache().bin / "kubernetes" / "kubectl"
        command = [*self.within, str(program), "--kubeconfig", str(self.kubeconfig), *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)


@contextmanager
def serving(folder: Path, within: Sequence[str] = ()) -> Iterator[ApiServer]:
    """Run an API server that keeps its files in a folder. within: as in ApiServer."""
    with reserved_port() as etcd, reserved_port() as peer, reserved_port() as port:
        server = ApiServer(folder / "admin.conf", within)
        server.kubeconfig.write_text(_kubeconfig(port))
        yield from _running(server, folder, _commands(etcd, peer, port))


def _commands(etcd: int, peer: int, port: int) -> list[list[str]]:
    cache, url = paths.cache().bin, f"http://127.0.0.1:{etcd}"
    return [
        [
            str(cache / "etcd" / "etcd"), "--data-dir=etcd", f"--listen-client-urls={url}",
            f"--advertise-client-urls={url}", f"--listen-peer-urls=http://127.0.0.1:{peer}",
        ],
        [
            str(cache / "kubernetes" / "kube-apiserver"), f"--etcd-servers={url}",
            "--bind-address=127.0.0.1", "--advertise-address=192.0.2.11",
            f"--secure-port={port}", "--cert-dir=certificates",
            "--token-auth-file=tokens", "--authorization-mode=RBAC",
            "--disable-admission-plugins=TaintNodesByCondition,ServiceAccount",
            "--service-account-issuer=https://test", "--service-cluster-ip-range=10.96.0.0/16",
            "--service-account-key-file=accounts.key",
            "--service-account-signing-key-file=accounts.key",
        ],
    ]  # fmt: skip


def _kubeconfig(port: int) -> str:
    cluster = {"server": f"https://127.0.0.1:{port}", "insecure-skip-tls-verify": True}
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": {"token": TOKEN}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "current-context": "test",
        }
    )


def _running(server: ApiServer, folder: Path, commands: list[list[str]]) -> Iterator[ApiServer]:
    subprocess.run(
        ["openssl", "genrsa", "-out", "accounts.key", "2048"], cwd=folder, check=True,
        capture_output=True,
    )  # fmt: skip
    (folder / "tokens").write_text(f"{TOKEN},admin,admin,system:masters\n")
    with (folder / "log").open("w") as log:
        running = [
            subprocess.Popen([*server.within, *command], cwd=folder, stderr=log)
            for command in commands
        ]
        try:
            deadline = time.monotonic() + 300
            while not server.is_ready():
                assert all(process.poll() is None for process in running), (
                    folder / "log"
                ).read_text()[-2000:]
                assert time.monotonic() < deadline, (folder / "log").read_text()[-2000:]
                time.sleep(0.5)
            yield server
        finally:
            for process in running:
                process.kill()
                process.wait()
