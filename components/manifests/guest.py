"""The documents of libvirt and cloud-init for a guest.

libvirt reads XML (libvirt.org/formatdomain.html), cloud-init YAML of the data source NoCloud. A
guest has no balloon, no graphics and no USB.
"""

import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import yaml

from components.host.templates import render
from components.manifests import Manifest
from config import BridgedNetwork, Hypervisor, KvmNode, RoutedNetwork
from config.scalars.quantities import quantity

READY = "nordmesh: the machine is up and answers to SSH"
"""The line on the serial console of a guest at each start, when sshd runs."""

ETCD_DISK = "/dev/vdb"
_ETCD_LABEL = "nordmesh-etcd"  # at most 16 characters in ext4
_NAMESPACE = uuid.UUID("6b2f5d0e-6d0c-5c39-8f3e-0a8f2b9f7d51")

READY_UNIT = "etc/systemd/system/nordmesh-ready.service"
DOMAIN = "{folder}/domain.xml"
NETWORK = "var/lib/nordmesh/network.{bridge}.xml"
TEMPLATES = (READY_UNIT, DOMAIN, NETWORK)
"""The templates of components/host/files for guests and their hypervisors."""


@dataclass(frozen=True, kw_only=True)
class Guest:
    """A guest. domain: its name in libvirt. folder: where its disks are on the hypervisor."""

    name: str
    domain: str
    folder: str
    node: KvmNode
    hypervisor: Hypervisor

    @property
    def uuid(self) -> str:
        """The identity of the guest, which depends on its name and address only."""
        return str(uuid.uuid5(_NAMESPACE, f"{self.domain} {self.node.address}"))

    @property
    def mac(self) -> str:
        """An address in the range of QEMU and libvirt (52:54:00)."""
        digest = hashlib.sha256(self.uuid.encode()).hexdigest()
        return ":".join(["52:54:00", digest[0:2], digest[2:4], digest[4:6]])


def mebibytes(size: str) -> int:
    """A Kubernetes quantity of bytes in MiB; the models accept whole numbers only."""
    return int(quantity(size) / quantity("1Mi"))


# --- libvirt -------------------------------------------------------------------------------------


def domain(guest: Guest) -> str:
    """The domain XML of a guest."""
    node, hypervisor = guest.node, guest.hypervisor
    return render(
        DOMAIN,
        bridge=hypervisor.network.bridge,
        cpus=node.cpus,
        domain=guest.domain,
        emulated=hypervisor.emulated,
        folder=guest.folder,
        etcd_disk=ETCD_DISK.removeprefix("/dev/") if node.etcd_disk is not None else None,
        is_bridged=isinstance(hypervisor.network, BridgedNetwork),
        mac=guest.mac,
        memory_mib=mebibytes(node.memory),
        name=guest.name,
        pinned_cpus=node.pinned_cpus,
        uuid=guest.uuid,
    )


def routed_network(network: RoutedNetwork) -> str:
    """The XML of a network that the hypervisor routes: without NAT, DHCP and DNS."""
    return render(
        NETWORK,
        bridge=network.bridge,
        prefix_length=network.prefix_length,
        router=network.router,
    )


# --- cloud-init ----------------------------------------------------------------------------------


def user_data(
    guest: Guest,
    *,
    user: str,
    authorized_keys: Sequence[str],
    host_key: tuple[str, str] | None,
) -> str:
    """The user-data of a guest.

    user: logs in, with sudo unless it is root. host_key: the private key (a secret) and the public
    one; None once the guest has them.
    """
    document: Manifest = {
        "hostname": guest.name,
        "manage_etc_hosts": "localhost",
        "ssh_pwauth": False,
        "disable_root": user != "root",
        **_logins(user, authorized_keys),
    }
    if host_key is not None:
        private, public = host_key
        document["ssh_deletekeys"] = True
        document["ssh_keys"] = {"ed25519_private": private, "ed25519_public": public}
    if guest.node.etcd_disk is not None:
        document |= _etcd_disk()
    unit = f"{render(READY_UNIT, ready=READY)}\n"
    document["write_files"] = [{"path": f"/{READY_UNIT}", "content": unit}]
    # Without --no-block, it would wait for a unit that starts after this one has ended.
    ready = ["systemctl", "enable", "--now", "--no-block", "nordmesh-ready.service"]
    document["runcmd"] = [*document.get("runcmd", []), ready]
    return "#cloud-config\n" + _yaml(document)


def _logins(user: str, authorized_keys: Sequence[str]) -> Manifest:
    keys = list(authorized_keys)
    if user == "root":
        return {"users": [], "ssh_authorized_keys": keys}
    login = {
        "name": user,
        "shell": "/bin/bash",
        "sudo": "ALL=(ALL) NOPASSWD:ALL",
        "lock_passwd": True,
        "ssh_authorized_keys": keys,
    }
    return {"users": [login]}


def _etcd_disk() -> Manifest:
    disk = {"device": ETCD_DISK, "filesystem": "ext4", "label": _ETCD_LABEL, "overwrite": False}
    # systemd grows the file system after the disk has grown.
    options = "defaults,noatime,x-systemd.growfs"
    return {
        "fs_setup": [{**disk, "partition": "none"}],
        "mounts": [[f"LABEL={_ETCD_LABEL}", "/var/lib/etcd", "ext4", options, "0", "2"]],
        # The mode that kubeadm would set.
        "runcmd": [["chmod", "700", "/var/lib/etcd"]],
    }


def meta_data(guest: Guest) -> str:
    """The meta-data, with the same instance during the whole life of the guest."""
    return _yaml({"instance-id": guest.uuid, "local-hostname": guest.name})


def network_config(guest: Guest) -> str:
    """The static address, in version 2 of cloud-init's network configuration."""
    network = guest.hypervisor.network
    interface: Manifest = {
        "match": {"macaddress": guest.mac},
        "set-name": "eth0",
        "addresses": [f"{guest.node.address}/{network.prefix_length}"],
    }
    if network.router is not None:
        interface["routes"] = [{"to": "0.0.0.0/0", "via": network.router}]
    if network.nameservers:
        interface["nameservers"] = {"addresses": list(network.nameservers)}
    return _yaml({"version": 2, "ethernets": {"eth0": interface}})


class _Dumper(yaml.SafeDumper):
    """YAML with literal blocks for texts of several lines."""


def _present_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _present_text)


def _yaml(document: Manifest) -> str:
    text: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=1000)
    return text
