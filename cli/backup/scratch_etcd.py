"""Start an etcd from a snapshot on this machine, and read from it."""

import base64
import json
import socket
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.programs import captured
from config.errors import NordmeshError

DATABASE, PKI = "etcd.db", "pki"
"""The database, and the directory of certificates and keys, in an unpacked snapshot."""
PROGRAMS = ("etcd", "etcdutl")
OBJECTS = "/registry/"
"""The prefix of the keys of Kubernetes objects."""
SECRETS = "/registry/secrets/"

_SECONDS = 60
_LOCAL = "127.0.0.1"


def keys_below(prefix: str) -> tuple[str, str]:
    """The first key below a prefix, and the first key after them, in base64."""
    # The end of a prefix is its successor: the last character one higher.
    ends = prefix, f"{prefix[:-1]}{chr(ord(prefix[-1]) + 1)}"
    first, end = (base64.b64encode(text.encode()).decode() for text in ends)
    return first, end


@dataclass(frozen=True)
class Revisions:
    """The revisions at which a key was created and last changed."""

    created: int
    changed: int


def revisions(answer: Mapping[str, Any]) -> dict[str, Revisions]:
    """The keys in an answer of etcd's JSON API, with their revisions."""
    return {
        base64.b64decode(kv["key"]).decode(errors="replace"): Revisions(
            int(kv["create_revision"]), int(kv["mod_revision"])
        )
        for kv in answer.get("kvs", [])
    }


@dataclass(frozen=True)
class ScratchEtcd:
    """A running etcd with the data of a snapshot."""

    url: str
    context: ssl.SSLContext

    @classmethod
    def of(cls, url: str, pki: Path) -> "ScratchEtcd":
        """An etcd that has its certificates from a PKI of kubeadm."""
        own = pki / "etcd"
        context = ssl.create_default_context(cafile=str(own / "ca.crt"))
        context.load_cert_chain(own / "healthcheck-client.crt", own / "healthcheck-client.key")
        return cls(url, context)

    def answers(self) -> bool:
        """Whether it is up."""
        with suppress(OSError):
            self.count()
            return True
        return False

    def keys(self) -> dict[str, Revisions]:
        """The keys of all Kubernetes objects, with their revisions."""
        return revisions(self._range({"keys_only": True}))

    def count(self) -> tuple[int, int]:
        """The number of Kubernetes objects, and etcd's revision."""
        answer = self._range({"count_only": True})
        return int(answer.get("count", 0)), int(answer["header"]["revision"])

    def objects(self, prefix: str = OBJECTS) -> dict[bytes, bytes]:
        """The Kubernetes objects below a prefix by key, as etcd has them."""
        pairs = self._range({}, prefix).get("kvs", [])
        return {base64.b64decode(kv["key"]): base64.b64decode(kv["value"]) for kv in pairs}

    def _range(self, options: Mapping[str, object], prefix: str = OBJECTS) -> Any:
        key, end = keys_below(prefix)
        return self.ask("v3/kv/range", {"key": key, "range_end": end, **options})

    def ask(self, path: str, question: Mapping[str, object]) -> Any:
        """The answer of etcd's JSON API."""
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=self.context)
        )
        body = json.dumps(question).encode()
        with opener.open(f"{self.url}/{path}", data=body, timeout=_SECONDS) as answer:
            return json.load(answer)


@contextmanager
def started(folder: Path, name: str) -> Iterator[ScratchEtcd]:
    """Start an etcd from the unpacked snapshot in a folder; raises NordmeshError.

    It is a new cluster of one member. Both of its ports ask for a certificate of the snapshot's CA.
    """
    with ExitStack() as stack:
        client, peer = _free_ports()
        data, pki = folder / "scratch", folder / PKI / "etcd"
        peers = [
            f"--initial-cluster=scratch=https://{_LOCAL}:{peer}",
            f"--initial-advertise-peer-urls=https://{_LOCAL}:{peer}",
        ]
        restore = ["etcdutl", "snapshot", "restore", str(folder / DATABASE)]
        restored = captured([*restore, f"--data-dir={data}", "--name=scratch", *peers])
        if restored.returncode:
            raise _failed(name, "etcdutl cannot restore it", restored.stderr)
        log = stack.enter_context((folder / "etcd.log").open("wb"))
        server = stack.enter_context(
            subprocess.Popen(
                [
                    *("etcd", f"--data-dir={data}", "--name=scratch", *peers),
                    f"--listen-client-urls=https://{_LOCAL}:{client}",
                    f"--advertise-client-urls=https://{_LOCAL}:{client}",
                    f"--listen-peer-urls=https://{_LOCAL}:{peer}",
                    *(f"--cert-file={pki}/server.crt", f"--key-file={pki}/server.key"),
                    *("--client-cert-auth", f"--trusted-ca-file={pki}/ca.crt"),
                    *(f"--peer-cert-file={pki}/peer.crt", f"--peer-key-file={pki}/peer.key"),
                    *("--peer-client-cert-auth", f"--peer-trusted-ca-file={pki}/ca.crt"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        )
        stack.callback(server.kill)
        etcd = ScratchEtcd.of(f"https://{_LOCAL}:{client}", folder / PKI)
        deadline = time.monotonic() + _SECONDS
        while not etcd.answers():
            if server.poll() is not None or time.monotonic() > deadline:
                text = (folder / "etcd.log").read_text(errors="replace")
                raise _failed(name, "an etcd that starts from it does not answer", text)
            time.sleep(0.1)
        yield etcd


def _free_ports() -> tuple[int, int]:
    with socket.socket() as first, socket.socket() as second:
        first.bind((_LOCAL, 0))
        second.bind((_LOCAL, 0))
        return first.getsockname()[1], second.getsockname()[1]


def _failed(name: str, what: str, log: str) -> NordmeshError:
    lines = "\n".join(log.strip().splitlines()[-10:])
    return NordmeshError(
        what,
        code="backup-etcd-not-started",
        path=name,
        why="the cluster could not be restored from it, or this machine cannot run etcd",
        fix="read the end of its log below; use the etcd release of the cluster",
        details=lines,
    )
