"""The files of a container machine, and its settings for container-create.sh."""

from components.host import templates

_FILES = {
    "BOOT_SCRIPT": "usr/local/sbin/nordmesh-boot",
    "BOOT_UNIT": "etc/systemd/system/nordmesh-boot.service",
    "SSHD_CONF": "etc/ssh/sshd_config.d/nordmesh.conf",
}
TEMPLATES = frozenset(_FILES.values())
"""The templates of a container, below components/host/files/."""


def settings(*, address: str, prefix: int, gateway: str) -> dict[str, str]:
    """The settings of container-create.sh: the machine's network, and its files as text.

    address, gateway: IPv4. prefix: length in bits.
    """
    network = {"address": address, "prefix": str(prefix), "gateway": gateway}
    files = {name: templates.render(path, **network) for name, path in _FILES.items()}
    return {name.upper(): value for name, value in network.items()} | files
