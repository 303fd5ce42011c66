"""Hypervisors of the section `machines`, and what the guests on them are made from."""

import ipaddress
from typing import Annotated, Literal

from pydantic import Field, model_validator

from config.base import Section
from config.host_keys import HostKeyRotation
from config.scalars.guests import Directory, DomainPrefix, ImageUrl, PublicKey, Sha256
from config.scalars.names import InterfaceName, UserName
from config.scalars.networks import Ipv4, Subnet
from config.scalars.numbers import Port
from config.scalars.refused import Refused
from config.scalars.ssh import EXAMPLE_HOST_KEY, HostKey


class Image(Section):
    """The disk image that guests are made from: by address and checksum, or by path."""

    url: ImageUrl | None = Field(default=None, description="where the image is downloaded from")
    path: Directory | None = Field(
        default=None, description="the image's file on each hypervisor, in place of an address"
    )
    sha256: Sha256 | None = Field(
        default=None, description="the image's checksum; a download is never used without"
    )

    @model_validator(mode="after")
    def _one_place(self) -> "Image":
        if (self.url is None) == (self.path is None):
            raise Refused(
                "the image has two places" if self.url else "the image has no place",
                "it is either downloaded or on the hypervisor already",
                "write url and sha256, or path",
            )
        if self.url is not None and self.sha256 is None:
            raise Refused(
                "the image is downloaded without a checksum",
                "the image is the guest's whole system; what is downloaded could be anything",
                "write sha256 with what `sha256sum` prints of the image that you looked at",
            )
        return self


class GuestNetwork(Section):
    """A network that guests are on; their addresses are in it."""

    bridge: InterfaceName = Field(
        description="the bridge on the hypervisor that guests are connected to", examples=["br0"]
    )
    subnet: Subnet = Field(
        description="the network that the guests' addresses are in", examples=["192.0.2.0/24"]
    )
    nameservers: list[Ipv4] = Field(default=[], description="the DNS servers that guests ask")

    @property
    def prefix_length(self) -> int:
        """The subnet's prefix length in bits."""
        return ipaddress.IPv4Network(self.subnet).prefixlen


class BridgedNetwork(GuestNetwork):
    """A bridge that the hypervisor has already: guests are on its network like any machine."""

    type: Literal["bridge"]
    gateway: Ipv4 | None = Field(
        default=None, description="the router of that network; by default there is no way out"
    )

    @property
    def router(self) -> str | None:
        """Where guests send what is for elsewhere."""
        return self.gateway


class RoutedNetwork(GuestNetwork):
    """A network that libvirt makes, and the hypervisor routes; your routers must know the way."""

    type: Literal["routed"]

    @property
    def router(self) -> str:
        """The first address of the subnet, which the hypervisor has on the bridge."""
        return str(ipaddress.IPv4Network(self.subnet)[1])


class Hypervisor(Section):
    """A machine with libvirt that guests are made on, reached over SSH with a pinned host key."""

    address: Ipv4 = Field(
        description="the address at which SSH reaches the hypervisor", examples=["192.0.2.2"]
    )
    host_key: HostKey = Field(
        description="the hypervisor's SSH host key; nothing is sent to a machine with another",
        examples=[EXAMPLE_HOST_KEY],
    )
    host_key_rotation: HostKeyRotation | None = Field(
        default=None,
        description="states that the same machine has a new host key; without it, a changed one is "
        "refused while guests are there",
    )
    user: UserName = Field(default="root", description="the user that SSH logs in as there")
    port: Port = Field(default=22, description="the port that its sshd listens on")
    directory: Directory = Field(
        default="/var/lib/libvirt/images/nordmesh",
        description="where the guests' disks are kept there",
    )
    network: Annotated[BridgedNetwork | RoutedNetwork, Field(discriminator="type")] = Field(
        description="the network that its guests are on",
        examples=[{"type": "bridge", "bridge": "br0", "subnet": "192.0.2.0/24"}],
    )
    emulated: bool = Field(
        default=False,
        description="whether it has no hardware virtualization: guests are then a dozen times "
        "slower, and get more time for everything",
    )


class Kvm(Section):
    """What all nodes with provider kvm have in common."""

    image: Image | None = Field(
        default=None, description="the image that guests are made from, where a node names none"
    )
    clone: Literal["copyOnWrite", "full"] = Field(
        default="copyOnWrite",
        description="how a guest's disk is made of the image: copyOnWrite shares what does not "
        "change, full copies it",
    )
    authorized_keys: list[PublicKey] = Field(
        default=[],
        description="more public keys that may log in to guests, beside sshPrivateKey's own",
    )
    prefix: DomainPrefix = Field(
        default="",
        description="what guests' names in libvirt begin with, before the name of the node",
    )
