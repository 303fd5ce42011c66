"""The hypervisors of the section `machines`, and the images and networks of their guests."""

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
    """The disk image of guests: a URL with a checksum, or a path."""

    url: ImageUrl | None = Field(default=None, description="the URL of the image")
    path: Directory | None = Field(
        default=None, description="the image's file on each hypervisor, instead of a URL"
    )
    sha256: Sha256 | None = Field(
        default=None, description="the image's checksum; a download needs one"
    )

    @model_validator(mode="after")
    def _one_source(self) -> "Image":
        if (self.url is None) == (self.path is None):
            raise Refused(
                "image-source-count",
                "the image has two sources" if self.url else "the image has no source",
                "it is either downloaded or already on the hypervisor",
                "set url and sha256, or path",
            )
        if self.url is not None and self.sha256 is None:
            raise Refused(
                "image-checksum-missing",
                "the image is downloaded without a checksum",
                "the image is the guest's whole system, and an unverified download could "
                "be anything",
                "set sha256 to what `sha256sum` prints for the image that you reviewed",
            )
        return self


class GuestNetwork(Section):
    """A network of guests; it contains their addresses."""

    bridge: InterfaceName = Field(
        description="the bridge on the hypervisor that guests are connected to", examples=["br0"]
    )
    subnet: Subnet = Field(
        description="the network that contains the guests' addresses", examples=["192.0.2.0/24"]
    )
    nameservers: list[Ipv4] = Field(default=[], description="the DNS servers of guests")

    @property
    def prefix_length(self) -> int:
        """The subnet's prefix length in bits."""
        return ipaddress.IPv4Network(self.subnet).prefixlen


class BridgedNetwork(GuestNetwork):
    """An existing bridge of the hypervisor: guests join its network like any other machine."""

    type: Literal["bridge"]
    gateway: Ipv4 | None = Field(
        default=None,
        description="the router of that network; by default guests have no route to other networks",
    )

    @property
    def router(self) -> str | None:
        """The router for traffic to other networks."""
        return self.gateway


class RoutedNetwork(GuestNetwork):
    """A network that libvirt creates and the hypervisor routes; your routers need a route to it."""

    type: Literal["routed"]

    @property
    def router(self) -> str:
        """The first address of the subnet, which the hypervisor has on the bridge."""
        return str(ipaddress.IPv4Network(self.subnet)[1])


class Hypervisor(Section):
    """A machine with libvirt that runs guests, reached over SSH with a pinned host key."""

    address: Ipv4 = Field(
        description="the address at which SSH reaches the hypervisor", examples=["192.0.2.2"]
    )
    host_key: HostKey = Field(
        description="the hypervisor's SSH host key; nordmesh connects to no machine with another "
        "key",
        examples=[EXAMPLE_HOST_KEY],
    )
    host_key_rotation: HostKeyRotation | None = Field(
        default=None,
        description="confirms that the same machine has a new host key; without it, a changed "
        "key is "
        "refused while the hypervisor has guests",
    )
    user: UserName = Field(default="root", description="the SSH user")
    port: Port = Field(default=22, description="the SSH port")
    directory: Directory = Field(
        default="/var/lib/libvirt/images/nordmesh",
        description="the directory of the guests' disks",
    )
    network: Annotated[BridgedNetwork | RoutedNetwork, Field(discriminator="type")] = Field(
        description="the network of its guests",
        examples=[{"type": "bridge", "bridge": "br0", "subnet": "192.0.2.0/24"}],
    )
    emulated: bool = Field(
        default=False,
        description="whether it lacks hardware virtualization: guests are then about twelve times "
        "slower, and get longer timeouts",
    )


class Kvm(Section):
    """Settings of all nodes with provider kvm."""

    image: Image | None = Field(
        default=None, description="the image of guests whose node does not set one"
    )
    clone: Literal["copyOnWrite", "full"] = Field(
        default="copyOnWrite",
        description="how a guest's disk is created from the image: copyOnWrite stores only "
        "changes, "
        "full copies it",
    )
    authorized_keys: list[PublicKey] = Field(
        default=[],
        description="further public keys that may log in to guests, besides that of sshPrivateKey",
    )
    prefix: DomainPrefix = Field(
        default="",
        description="the prefix of guests' names in libvirt, before the name of the node",
    )
