"""The section `host`: the operating system of nodes below Kubernetes."""

from typing import Annotated

from pydantic import Field

from config.base import NullAllowed, Section, Unlimited
from config.scalars.names import OtherHost
from config.scalars.networks import Network
from config.scalars.quantities import Memory

_ONLY_US = "only the machine that runs Pulumi, as a /32"
_OPEN_SSH = Unlimited("every network reaches the nodes' SSH", _ONLY_US)
_OPEN_API = Unlimited("every network reaches the API server", _ONLY_US)


class Firewall(Section):
    """The firewall of each node: only members of the cluster can reach the cluster's ports."""

    enabled: bool = Field(default=True, description="whether nodes have a firewall")
    ssh_from: Annotated[list[Network], _OPEN_SSH] = Field(
        default=[], description="the networks that may reach the nodes' SSH; none means all"
    )
    api_from: Annotated[list[Network], _OPEN_API] = Field(
        default=[],
        description="the networks that may reach the API server, besides the cluster's members; "
        "none means all",
    )


class SshServer(Section):
    """The nodes' sshd."""

    hardened: bool = Field(
        default=True,
        description="whether sshd accepts only keys, also for root, and does not forward X11",
    )


class Host(Section):
    """The operating system of nodes: firewall, SSH, time, logs and packages."""

    firewall: Firewall = Field(
        default=Firewall(), description="which networks can reach which ports"
    )
    ssh: SshServer = Field(default=SshServer(), description="how sshd authenticates users")
    time_sync: bool = Field(
        default=True,
        description="whether systemd-timesyncd sets the clock, if no other service does",
    )
    time_servers: list[OtherHost] = Field(
        default=[],
        description="the NTP servers; none means the distribution's",
    )
    journal_size: Annotated[Memory | None, NullAllowed()] = Field(
        default="500Mi",
        description="how much disk space the journal may use; null keeps the distribution's "
        "default",
    )
    hold_packages: bool = Field(
        default=True,
        description="whether packages that the pod network depends on are excluded from unattended "
        "upgrades",
    )
