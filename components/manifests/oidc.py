"""The flags with which an API server accepts the tokens of an identity provider."""

from components.manifests import Manifest
from config import Oidc

CA_FILE = "/etc/kubernetes/pki/nordmesh-oidc-ca.pem"
"""In the directory of the certificates, which kubeadm mounts into the API server anyway."""


def flags(oidc: Oidc | None) -> Manifest:
    """The extraArgs of the API server in a ClusterConfiguration."""
    if oidc is None:
        return {}
    return {
        "oidc-client-id": oidc.client_id,
        "oidc-groups-claim": oidc.groups_claim,
        "oidc-groups-prefix": oidc.groups_prefix,
        "oidc-issuer-url": oidc.issuer_url,
        "oidc-signing-algs": ",".join(oidc.signing_algorithms),
        "oidc-username-claim": oidc.username_claim,
        "oidc-username-prefix": oidc.username_prefix,
        **({"oidc-ca-file": CA_FILE} if oidc.ca else {}),
    }
