"""What libvirt and cloud-init are given to make a guest.

libvirt's documents are XML (libvirt.org/formatdomain.html), cloud-init's are YAML of the data
source NoCloud. A guest has no balloon, no graphics and no USB.
"""

import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

import yaml

from components.manifests import Manifest
from config import BridgedNetwork, Hypervisor, KvmNode, RoutedNetwork
from config.scalars.quantities import quantity

READY = "nordmesh: the machine is up and answers to SSH"
"""What a guest writes to its serial console at each start, when sshd runs."""

ETCD_DISK = "/dev/vdb"
_ETCD_LABEL = "nordmesh-etcd"  # at most 16 characters in ext4
_NAMESPACE = uuid.UUID("6b2f5d0e-6d0c-5c39-8f3e-0a8f2b9f7d51")

_READY_UNIT = f"""\
[Unit]
Description=Tell the serial console that SSH answers
After=ssh.service sshd.service

[Service]
Type=oneshot
ExecStart=/bin/sh -c 'echo "{READY}" >/dev/ttyS0'

[Install]
WantedBy=multi-user.target
"""


@dataclass(frozen=True, kw_only=True)
class Guest:
    """A guest of a hypervisor. domain: its name in libvirt. folder: where its disks are there."""

    name: str
    domain: str
    folder: str
    node: KvmNode
    hypervisor: Hypervisor

    @property
    def uuid(self) -> str:
        """The guest's identity: the same for the same name and address, whatever else changes."""
        return str(uuid.uuid5(_NAMESPACE, f"{self.domain} {self.node.address}"))

    @property
    def mac(self) -> str:
        """An address of the range that QEMU and libvirt take (52:54:00)."""
        digest = hashlib.sha256(self.uuid.encode()).hexdigest()
        return ":".join(["52:54:00", digest[0:2], digest[2:4], digest[4:6]])


def mebibytes(size: str) -> int:
    """A Kubernetes quantity of bytes in MiB, of which the models take whole numbers only."""
    return int(quantity(size) / quantity("1Mi"))


# --- libvirt -------------------------------------------------------------------------------------


def domain(guest: Guest) -> str:
    """The domain XML of a guest."""
    node, emulated = guest.node, guest.hypervisor.emulated
    root = ElementTree.Element("domain", type="qemu" if emulated else "kvm")
    _text(root, "name", guest.domain)
    _text(root, "uuid", guest.uuid)
    _text(root, "description", f"node {guest.name}, made by nordmesh: change it in the stack file")
    _text(root, "memory", str(mebibytes(node.memory)), unit="MiB")
    _add_processors(root, node)
    system = ElementTree.SubElement(root, "os")
    _text(system, "type", "hvm", arch="x86_64", machine="q35")
    ElementTree.SubElement(system, "boot", dev="hd")
    features = ElementTree.SubElement(root, "features")
    ElementTree.SubElement(features, "acpi")
    ElementTree.SubElement(features, "apic")
    # The processor's own features, AES-NI among them; or all that QEMU can imitate.
    ElementTree.SubElement(root, "cpu", mode="maximum" if emulated else "host-passthrough")
    ElementTree.SubElement(root, "clock", offset="utc")
    for event, action in (("poweroff", "destroy"), ("reboot", "restart"), ("crash", "restart")):
        _text(root, f"on_{event}", action)
    _add_devices(root, guest)
    return _xml(root)


def _add_processors(root: ElementTree.Element, node: KvmNode) -> None:
    if node.pinned_cpus is None:
        _text(root, "vcpu", str(node.cpus))
        return
    own = ",".join(map(str, node.pinned_cpus))
    _text(root, "vcpu", str(node.cpus), cpuset=own)
    tuning = ElementTree.SubElement(root, "cputune")
    for number, processor in enumerate(node.pinned_cpus):
        ElementTree.SubElement(tuning, "vcpupin", vcpu=str(number), cpuset=str(processor))
    ElementTree.SubElement(tuning, "emulatorpin", cpuset=own)


def _add_devices(root: ElementTree.Element, guest: Guest) -> None:
    devices = ElementTree.SubElement(root, "devices")
    _add_disk(devices, f"{guest.folder}/root.qcow2", "qcow2", "vda")
    if guest.node.etcd_disk is not None:
        _add_disk(devices, f"{guest.folder}/etcd.raw", "raw", ETCD_DISK.removeprefix("/dev/"))
    seed = ElementTree.SubElement(devices, "disk", type="file", device="cdrom")
    ElementTree.SubElement(seed, "driver", name="qemu", type="raw")
    ElementTree.SubElement(seed, "source", file=f"{guest.folder}/seed.iso")
    # Debian's cloud kernel has drivers for virtio only.
    ElementTree.SubElement(seed, "target", dev="sda", bus="scsi")
    ElementTree.SubElement(seed, "readonly")
    _add_interface(devices, guest)
    console = ElementTree.SubElement(devices, "serial", type="pty")
    ElementTree.SubElement(console, "log", file=f"{guest.folder}/console.log", append="off")
    random = ElementTree.SubElement(devices, "rng", model="virtio")
    _text(random, "backend", "/dev/urandom", model="random")
    ElementTree.SubElement(devices, "controller", type="scsi", model="virtio-scsi")
    ElementTree.SubElement(devices, "controller", type="usb", model="none")
    ElementTree.SubElement(devices, "memballoon", model="none")
    video = ElementTree.SubElement(devices, "video")
    ElementTree.SubElement(video, "model", type="none")


def _add_disk(devices: ElementTree.Element, file: str, kind: str, target: str) -> None:
    disk = ElementTree.SubElement(devices, "disk", type="file", device="disk")
    # etcd counts on fdatasync: past the hypervisor's page cache, straight to the disk.
    driver = {"name": "qemu", "type": kind, "cache": "none", "io": "native"}
    if kind == "qcow2":
        driver["discard"] = "unmap"  # what was taken from the start is not given back
    ElementTree.SubElement(disk, "driver", driver)
    ElementTree.SubElement(disk, "source", file=file)
    ElementTree.SubElement(disk, "target", dev=target, bus="virtio")


def _add_interface(devices: ElementTree.Element, guest: Guest) -> None:
    network = guest.hypervisor.network
    if isinstance(network, BridgedNetwork):
        interface = ElementTree.SubElement(devices, "interface", type="bridge")
        ElementTree.SubElement(interface, "source", bridge=network.bridge)
    else:
        interface = ElementTree.SubElement(devices, "interface", type="network")
        ElementTree.SubElement(interface, "source", network=network.bridge)
    ElementTree.SubElement(interface, "mac", address=guest.mac)
    ElementTree.SubElement(interface, "model", type="virtio")


def routed_network(network: RoutedNetwork) -> str:
    """The XML of a network that the hypervisor routes: no NAT, no DHCP, no DNS of its own."""
    root = ElementTree.Element("network")
    _text(root, "name", network.bridge)
    ElementTree.SubElement(root, "forward", mode="route")
    ElementTree.SubElement(root, "bridge", name=network.bridge, stp="on", delay="0")
    ElementTree.SubElement(root, "dns", enable="no")
    ElementTree.SubElement(root, "ip", address=network.router, prefix=str(network.prefix_length))
    return _xml(root)


def _text(parent: ElementTree.Element, tag: str, text: str, **attributes: str) -> None:
    ElementTree.SubElement(parent, tag, attributes).text = text


def _xml(root: ElementTree.Element) -> str:
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode")


# --- cloud-init ----------------------------------------------------------------------------------


def user_data(
    guest: Guest,
    *,
    user: str,
    authorized_keys: Sequence[str],
    host_key: tuple[str, str] | None,
) -> str:
    """The user-data of a guest.

    user: who logs in, with sudo if it is not root. host_key: the private key (a secret) and the
    public one, None for what stays with the guest when it has taken them over.
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
    unit = "/etc/systemd/system/nordmesh-ready.service"
    document["write_files"] = [{"path": unit, "content": _READY_UNIT}]
    # Not waited for here: the unit comes after what is being done at this moment.
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
    # systemd grows the file system when the disk has grown.
    options = "defaults,noatime,x-systemd.growfs"
    return {
        "fs_setup": [{**disk, "partition": "none"}],
        "mounts": [[f"LABEL={_ETCD_LABEL}", "/var/lib/etcd", "ext4", options, "0", "2"]],
        # As kubeadm would have made it.
        "runcmd": [["chmod", "700", "/var/lib/etcd"]],
    }


def meta_data(guest: Guest) -> str:
    """The meta-data: the same instance for as long as the guest lives."""
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
    """YAML with texts of several lines as they are."""


def _present_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _present_text)


def _yaml(document: Manifest) -> str:
    text: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=1000)
    return text
