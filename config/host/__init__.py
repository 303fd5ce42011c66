"""The section `host`: what a node is made to be beneath Kubernetes."""

from typing import Annotated

from pydantic import Field

from config.base import NullAllowed, Section, Unlimited
from config.scalars.names import HostName
from config.scalars.networks import Network
from config.scalars.quantities import Memory

_OPEN_SSH = Unlimited("every network reaches the nodes' SSH")
_OPEN_API = Unlimited("every network reaches the API server")


class Firewall(Section):
    """The rules of each node: the cluster's ports are for the cluster's members."""

    enabled: bool = Field(default=True, description="whether nodes have these rules")
    ssh_from: Annotated[list[Network], _OPEN_SSH] = Field(
        default=[], description="the networks that SSH to the nodes comes from; none means all"
    )
    api_from: Annotated[list[Network], _OPEN_API] = Field(
        default=[],
        description="the networks that reach the API server, beside the cluster's members; none "
        "means all",
    )


class SshServer(Section):
    """The nodes' sshd."""

    hardened: bool = Field(
        default=True,
        description="whether sshd takes keys only, also from root, and forwards no X11",
    )


class Host(Section):
    """What a node is made to be beneath Kubernetes: firewall, SSH, time, logs and packages."""

    firewall: Firewall = Field(default=Firewall(), description="who reaches which port")
    ssh: SshServer = Field(default=SshServer(), description="how sshd lets people in")
    time_sync: bool = Field(
        default=True,
        description="whether systemd-timesyncd sets the clock, where no other service does",
    )
    time_servers: list[HostName] = Field(
        default=[],
        description="the NTP servers; none means those of the distribution",
    )
    journal_size: Annotated[Memory | None, NullAllowed()] = Field(
        default="500Mi",
        description="how much the journal may take of the disk; null means as the distribution has "
        "it",
    )
    hold_packages: bool = Field(
        default=True,
        description="whether packages that the pods' network stands on are held back from upgrades "
        "that nobody planned",
    )
