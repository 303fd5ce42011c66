"""A fake control plane beside a real etcd, whose snapshots are stored by its real script.

In a directory, or in a bucket of a real S3 server.
"""

import base64
import datetime
import ipaddress
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cli.backup import scratch_etcd
from components.host import backup
from config import Backup
from lab import paths
from lab.ports import reserved_port
from tests.support import servers
from tests.support.servers import S3
from tests.unit.machine import Machine, Result

CLUSTER, NODE = "prod", "cp-1"
OBJECTS = 500
LOCAL = "127.0.0.1"


def need(*names: str) -> None:
    for name in names:
        if shutil.which(name) is None:
            pytest.fail(f"{name} is missing: install Debian's {name}", pytrace=False)


# --- a control plane -----------------------------------------------------------------------------


def make_pki(folder: Path) -> None:
    """Write the certificates of kubeadm that etcd and the snapshot need."""
    for directory in (folder, folder / "etcd"):
        directory.mkdir(parents=True)
    for name in ("ca", "front-proxy-ca", "etcd/ca"):
        certificate(folder / name, None)
    for name in ("server", "peer", "healthcheck-client"):
        certificate(folder / "etcd" / name, folder / "etcd" / "ca")
    shutil.copy(folder / "ca.key", folder / "sa.key")


def certificate(path: Path, issuer: Path | None) -> None:
    """Write a certificate and its key, signed by an issuer, or a CA."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, path.name)])
    by, signer = subject, key
    if issuer is not None:
        by = x509.load_pem_x509_certificate(issuer.with_suffix(".crt").read_bytes()).subject
        loaded = serialization.load_pem_private_key(issuer.with_suffix(".key").read_bytes(), None)
        assert isinstance(loaded, ec.EllipticCurvePrivateKey)
        signer = loaded
    now = datetime.datetime.now(datetime.UTC)
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    addresses = [x509.IPAddress(ipaddress.ip_address(LOCAL))]
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectAlternativeName(addresses), critical=False)
    )
    pem = serialization.Encoding.PEM
    path.with_suffix(".crt").write_bytes(builder.sign(signer, hashes.SHA256()).public_bytes(pem))
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.with_suffix(".key").write_bytes(private)


@dataclass(frozen=True)
class Plane:
    """A fake control plane beside a running etcd; identity: the team's private key."""

    machine: Machine
    etcd: scratch_etcd.ScratchEtcd
    identity: Path

    def install(
        self, settings: Backup, secret: str = "", *, node: str = NODE, cluster: str = CLUSTER
    ) -> None:
        """Write what backup-install.sh would, with the port of this etcd."""
        port = self.etcd.url.rpartition(":")[2]
        for file in backup.node_files(node, settings, cluster=cluster):
            text = file.text.replace(f"{LOCAL}:2379", f"{LOCAL}:{port}")
            self.machine.write(file.path, f"{text}\n")
        login = f"\nsecret_access_key = {secret}\n" if secret else "\n"
        self.machine.write("/etc/nordmesh/rclone.conf", backup.rclone(settings) + login, mode=0o600)

    @property
    def public(self) -> str:
        """The public half of the team's key."""
        command = ["age-keygen", "-y", str(self.identity)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def store(self, environment: str = "") -> Result:
        command = f"env -u AWS_CA_BUNDLE {environment} SPARE_MIB=1 bash {backup.RUNNER}"
        return self.machine.shell(command, has_network=True)


@pytest.fixture
def etcd(
    tmp_path: Path, wait: Callable[[Callable[[], bool], str], None]
) -> Iterator[tuple[scratch_etcd.ScratchEtcd, Path]]:
    """A running etcd with its PKI, with objects in it."""
    pki = tmp_path / "made" / "pki"
    make_pki(pki)
    own, log = pki / "etcd", tmp_path / "etcd.log"
    program = paths.cache().bin / "etcd" / "etcd"
    if not program.exists():
        pytest.fail(f"there is no {program}; `make test` makes it", pytrace=False)
    with reserved_port() as client, reserved_port() as peer, log.open("wb") as stream:
        command = [
            *(str(program), f"--data-dir={tmp_path / 'data'}", "--unsafe-no-fsync"),
            f"--listen-client-urls=https://{LOCAL}:{client}",
            f"--advertise-client-urls=https://{LOCAL}:{client}",
            f"--listen-peer-urls=http://{LOCAL}:{peer}",
            f"--initial-advertise-peer-urls=http://{LOCAL}:{peer}",
            f"--initial-cluster=default=http://{LOCAL}:{peer}",
            *(f"--cert-file={own}/server.crt", f"--key-file={own}/server.key"),
            *("--client-cert-auth", f"--trusted-ca-file={own}/ca.crt"),
        ]
        server = subprocess.Popen(command, stdout=stream, stderr=stream)
        try:
            running = scratch_etcd.ScratchEtcd.of(f"https://{LOCAL}:{client}", pki)
            wait(running.answers, "etcd answers")
            yield running, pki
        finally:
            server.kill()
            server.wait()


def put(etcd: scratch_etcd.ScratchEtcd, key: str, value: bytes) -> None:
    pair = {"key": key.encode(), "value": value}
    texts = {name: base64.b64encode(data).decode() for name, data in pair.items()}
    etcd.ask("v3/kv/put", texts)


def fill(etcd: scratch_etcd.ScratchEtcd) -> dict[bytes, bytes]:
    """Write objects of every length and byte; return them."""
    for number in range(OBJECTS):
        put(etcd, f"/registry/secrets/shop/{number:04}", os.urandom(1 + number * 7))
    return etcd.objects()


@pytest.fixture
def plane(etcd: tuple[scratch_etcd.ScratchEtcd, Path], tmp_path: Path) -> Plane:
    need("age", "rclone", "zstd")
    running, pki = etcd
    machine = Machine.make(tmp_path / "machine")
    shutil.copytree(pki, machine.path("/etc/kubernetes/pki"))
    program = shutil.which("rclone")
    assert program is not None
    shutil.copy(program, machine.path("/usr/local/bin/rclone"))
    key = machine.path("/etc/ssh/ssh_host_ed25519_key")
    key.parent.mkdir(parents=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    identity = tmp_path / "identity"
    subprocess.run(["age-keygen", "-o", identity], check=True, capture_output=True)
    return Plane(machine, running, identity)


# --- where snapshots are stored ------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """settings: the section backup without keys. options: of the command line.

    root: the directory that the storage keeps its files in. environment: of the control plane.
    """

    settings: dict[str, object]
    options: tuple[str, ...]
    root: Path
    secret: str = ""
    environment: str = ""


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with reserved_port() as port, servers.s3(tmp_path_factory.mktemp("s3"), port) as server:
        yield server


@pytest.fixture
def places(
    request: pytest.FixtureRequest, plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Place]:
    """Create an empty place of a kind."""

    def make(kind: str) -> Place:
        if kind == "directory":
            root = plane.machine.path("/srv/backup")
            root.mkdir(parents=True)
            return Place({"directory": "/srv/backup"}, ("--directory", str(root)), root)
        server: S3 = request.getfixturevalue("s3")
        bucket = f"snapshots-{os.urandom(4).hex()}"
        (server.root / bucket).mkdir()
        login = server.environment
        plane.machine.write("/etc/ca.crt", Path(login["AWS_CA_BUNDLE"]).read_text())
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_CA_BUNDLE"):
            monkeypatch.setenv(name, login[name])
        values = {
            "host": LOCAL,
            "port": server.port,
            "region": "eu-north-1",
            "bucket": bucket,
            "accessKeyId": login["AWS_ACCESS_KEY_ID"],
        }
        secret = login["AWS_SECRET_ACCESS_KEY"]
        return Place({"s3": values}, (), server.root / bucket, secret, "SSL_CERT_FILE=/etc/ca.crt")

    return make
