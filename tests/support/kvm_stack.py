"""A valid stack of guests, and a private key in OpenSSH format with a readable public key."""

import base64
from typing import Any

Values = dict[str, Any]

PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGv0457aEuQP9UlUZmC2e8QC9Qktw9CdAUl2NmMRN67m"
HYPERVISOR_KEYS = (
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICvCvNE8Pu3m/HboTtBRHtWBh3dzuzCJpsuBUSDUXlRz",
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIXf5r+A0EbjhBzOK+TNkLPzYfR6dx4oqZeD92VlzKMy",
)
SHA256 = "0123456789abcdef" * 4


def private_key(public: str = PUBLIC_KEY) -> str:
    """Return the start of a private key with its public key, which is useless for logins."""
    blob = base64.b64decode(public.split()[1])
    fields = [b"none", b"none", b"", (1).to_bytes(4, "big"), blob]
    texts = [
        field if number == 3 else len(field).to_bytes(4, "big") + field
        for number, field in enumerate(fields)
    ]
    body = base64.b64encode(b"openssh-key-v1\0" + b"".join(texts)).decode()
    return f"-----BEGIN OPENSSH PRIVATE KEY-----\n{body}\n-----END OPENSSH PRIVATE KEY-----\n"


def machines() -> Values:
    """Return two hypervisors, one bridged and one routed, with a guest on each."""
    return {
        "kvm": {
            "image": {
                "url": "https://mirror.example.internal/debian-12.qcow2",
                "sha256": SHA256,
            },
        },
        "hypervisors": {
            "hv-1": {
                "address": "192.0.2.2",
                "hostKey": HYPERVISOR_KEYS[0],
                "network": {
                    "type": "bridge",
                    "bridge": "br0",
                    "subnet": "192.0.2.0/24",
                    "gateway": "192.0.2.1",
                    "nameservers": ["192.0.2.53"],
                },
            },
            "hv-2": {
                "address": "192.0.2.3",
                "hostKey": HYPERVISOR_KEYS[1],
                "network": {"type": "routed", "bridge": "nm0", "subnet": "198.51.100.0/24"},
            },
        },
        "nodes": {
            "cp-1": {
                "role": "control-plane",
                "provider": "kvm",
                "hypervisor": "hv-1",
                "address": "192.0.2.31",
                "cpus": 4,
                "pinnedCpus": [4, 5, 6, 7],
                "memory": "8Gi",
                "disk": "40Gi",
                "etcdDisk": "10Gi",
            },
            "worker-1": {
                "role": "worker",
                "provider": "kvm",
                "hypervisor": "hv-2",
                "address": "198.51.100.31",
                "cpus": 2,
                "memory": "4Gi",
                "disk": "20Gi",
            },
        },
    }
