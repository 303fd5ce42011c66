"""Client certificates that a cluster's CA signs, through the API of CertificateSigningRequests."""

import base64
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from config.errors import NordmeshError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

    from components.gates.api import Api

SIGNER = "kubernetes.io/kube-apiserver-client"
PATH = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
_SECONDS = 60


@dataclass(frozen=True, kw_only=True)
class Owner:
    """Whom a certificate is for. name, groups: as in the certificate."""

    name: str
    groups: Sequence[str]
    lifetime: timedelta


@dataclass(frozen=True, kw_only=True)
class Issued:
    """A certificate and its key, PEM, and its end.

    The cluster may shorten the lifetime: its controller manager has a maximum.
    """

    certificate: bytes
    key: bytes
    ends: datetime


class _Refused(Exception):
    """Why there is no certificate."""


def issue(api: "Api", owner: Owner) -> Issued:
    """Make a key here, and let the cluster's CA sign a certificate for it; raises NordmeshError."""
    from cryptography import x509  # 0.1 s, which no other command needs
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    try:
        pem = _signed(api, _approved(api, _request(key, owner), owner))
    except _Refused as refused:
        raise _not_issued(str(refused)) from None
    except NordmeshError as error:  # no response of the API server
        raise _not_issued(error.what) from None
    certificate = x509.load_pem_x509_certificate(pem)
    if certificate.public_key() != key.public_key():
        raise _not_issued("the certificate is for another key")
    return Issued(
        certificate=pem,
        key=key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
        ends=certificate.not_valid_after_utc,
    )


def _request(key: "EllipticCurvePrivateKey", owner: Owner) -> dict[str, Any]:
    """A CertificateSigningRequest. Its name has the person's, because the audit log has no body."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.x509.oid import NameOID

    groups = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in owner.groups]
    name = x509.Name([*groups, x509.NameAttribute(NameOID.COMMON_NAME, owner.name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    pem = request.public_bytes(serialization.Encoding.PEM)
    plain = "".join(letter if letter.isalnum() else "-" for letter in owner.name.lower())
    return {
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"generateName": f"nordmesh-{plain.removeprefix('nordmesh-')}-"},
        "spec": {
            "request": base64.b64encode(pem).decode(),
            "signerName": SIGNER,
            "expirationSeconds": int(owner.lifetime.total_seconds()),
            "usages": ["client auth"],
        },
    }


def _approved(api: "Api", request: dict[str, Any], owner: Owner) -> str:
    """Create and approve a request; returns its path."""
    made = _accepted(*api.send("POST", PATH, request))
    path = f"{PATH}/{made['metadata']['name']}"
    approval = {
        "type": "Approved",
        "status": "True",
        "reason": "nordmesh",
        "message": f"nordmesh kubeconfig --for {owner.name}",
    }
    approved = {**made, "status": {"conditions": [approval]}}
    _accepted(*api.send("PUT", f"{path}/approval", approved))
    return path


def _signed(api: "Api", path: str) -> bytes:
    """Wait for the certificate of an approved request."""
    deadline = time.monotonic() + _SECONDS
    while True:
        status = _accepted(*api.send("GET", path)).get("status") or {}
        if text := status.get("certificate"):
            return base64.b64decode(text)
        for condition in status.get("conditions") or ():
            if condition["type"] in ("Denied", "Failed"):
                raise _Refused(condition.get("message") or condition["type"])
        if time.monotonic() > deadline:
            raise _Refused(f"the controller manager did not sign the request in {_SECONDS} s")
        time.sleep(0.2)


def _accepted(status: int, answer: dict[str, Any]) -> dict[str, Any]:
    if status in (HTTPStatus.OK, HTTPStatus.CREATED):
        return answer
    raise _Refused(str(answer.get("message") or f"status {status}"))


def _not_issued(reason: str) -> NordmeshError:
    return NordmeshError(
        f"the cluster issued no certificate: {reason}",
        code="kubeconfig-not-issued",
        why="the key that was made for it is gone, and nothing was written",
        fix="check with `nordmesh status` that the control planes are healthy, then run the "
        "command again",
    )
