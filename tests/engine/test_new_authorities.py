"""docs/certificate-authorities.md: its commands, on a control plane with files of real kubeadm.

Its static pods are those of test_certificates.py, which only restart. Control planes do a step one
after another, so after each step what is issued has to be trusted by the files of before, and what
was issued before by the files of now.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from components.host.table import CERTIFICATES
from tests.engine import aged
from tests.engine.aged import certificate
from tests.engine.test_certificates import control_plane, restarted
from tests.support import documented
from tests.unit.machine import Machine

_PKI = "/etc/kubernetes/pki"
_STEPS = 4
BLOCKS = [
    block.text
    for block in documented.blocks("docs/certificate-authorities.md")
    if block.is_tried_with("tests/engine/test_new_authorities.py")
]
API_SERVER, ETCD = "kube-apiserver", "etcd"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return aged.make(tmp_path_factory.mktemp("kubeadm") / "machine")


@pytest.fixture
def plane(tmp_path: Path, made: Path) -> Machine:
    machine = control_plane(tmp_path / "machine", made)
    machine.fake("systemctl", f"bash {CERTIFICATES}")
    machine.write("/kubeadm.yaml", aged.CONFIGURATION)
    # A pretended machine does not have Debian's settings of openssl.
    machine.write("/etc/ssl/openssl.cnf", Path("/etc/ssl/openssl.cnf").read_text())
    for folder in ("/root", "/var/lib/nordmesh"):
        machine.path(folder).mkdir(parents=True, exist_ok=True)
    return machine


def items(plane: Machine, file: str) -> list[bytes]:
    """The parts of a PEM file with several."""
    parts = plane.read(f"{_PKI}/{file}").split("-----BEGIN")
    return [f"-----BEGIN{part}".encode() for part in parts[1:]]


@dataclass(frozen=True)
class Authority:
    """The files that say what is trusted, and what is issued, by name.

    verify: whether one of the first trusts one of the second.
    """

    trusted: tuple[bytes, ...]
    issued: dict[str, bytes]
    verify: Callable[[bytes, bytes], bool]

    def trusts(self, issued: Iterable[bytes]) -> list[bool]:
        return [any(self.verify(each, one) for each in self.trusted) for one in issued]


def signed(authority: bytes, issued: bytes) -> bool:
    """Whether a CA has issued a certificate."""
    ca, leaf = x509.load_pem_x509_certificate(authority), x509.load_pem_x509_certificate(issued)
    try:
        leaf.verify_directly_issued_by(ca)
    except (InvalidSignature, ValueError):  # ValueError: of another name
        return False
    return True


def is_pair(public: bytes, private: bytes) -> bool:
    """Whether tokens of a private key are accepted with a public one."""
    return _written(load_pem_private_key(private, None).public_key()) == _written(
        load_pem_public_key(public)
    )


def _written(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def authority(plane: Machine, file: str, names: tuple[str, ...]) -> Authority:
    issued = {name: certificate(plane, name).public_bytes(Encoding.PEM) for name in names}
    return Authority(tuple(items(plane, f"{file}.crt")), issued, signed)


def service_accounts(plane: Machine) -> Authority:
    (key,) = items(plane, "sa.key")
    return Authority(tuple(items(plane, "sa.pub")), {"tokens": key}, is_pair)


ETCD_CERTIFICATES = ("etcd-server", "etcd-peer", "etcd-healthcheck-client", "apiserver-etcd-client")


@pytest.mark.parametrize(
    ("first", "read", "pods"),
    [
        (
            0,
            lambda plane: authority(plane, "front-proxy-ca", ("front-proxy-client",)),
            [[], [API_SERVER], [API_SERVER], [API_SERVER]],
        ),
        (
            _STEPS,
            lambda plane: authority(plane, "etcd/ca", ETCD_CERTIFICATES),
            [[], [ETCD, API_SERVER], [ETCD, API_SERVER], [ETCD, API_SERVER]],
        ),
        (
            2 * _STEPS,
            service_accounts,
            [[], [API_SERVER], [API_SERVER, "kube-controller-manager"], [API_SERVER]],
        ),
    ],
    ids=["front-proxy", "etcd", "service-accounts"],
)
def test_everything_issued_is_trusted_after_each_step(
    plane: Machine, first: int, read: Callable[[Machine], Authority], pods: list[list[str]]
) -> None:
    assert len(BLOCKS) == 3 * _STEPS
    states = [read(plane)]
    for text, expected in zip(BLOCKS[first : first + _STEPS], pods, strict=True):
        before = restarted(plane)
        result = plane.shell(f"set -e\n{text}")
        assert result.status == 0, result
        assert restarted(plane)[len(before) :] == expected
        # A control plane that has not done the step yet, and one that has.
        old, new = states[-1], read(plane)
        states.append(new)
        for one, other in ((old, new), (new, old), (new, new)):
            assert all(one.trusts(other.issued.values())), text
    begin, end = states[0], states[-1]
    assert not any(end.trusts(begin.issued.values())), "the old one is still trusted"
    assert len(end.trusted) == 1
    assert begin.issued.keys() == end.issued.keys()
    assert not plane.exists("/root/new")
    # kubeadm's next renewal is with the new one.
    if first < 2 * _STEPS:
        for name in end.issued:
            assert plane.shell(f"kubeadm certs renew {name} --config /kubeadm.yaml").status == 0
        assert all(end.trusts(read(plane).issued.values()))
