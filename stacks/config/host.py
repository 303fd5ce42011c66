"""The section `host`: what a node is made to be beneath Kubernetes."""

from pydantic import Field

from stacks.config.base import Section
from stacks.fields.names import HostName
from stacks.fields.networks import Network
from stacks.fields.quantities import Memory


class Firewall(Section):
    """The rules of each node: the cluster's ports are for the cluster's members."""

    enabled: bool = Field(default=True, description="whether nodes have these rules")
    ssh_from: list[Network] = Field(
        default=[], description="the networks that SSH to the nodes comes from; none means all"
    )
    api_from: list[Network] = Field(
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
    journal_size: Memory | None = Field(
        default="500Mi",
        description="how much the journal may take of the disk; null means as the distribution has "
        "it",
    )
    hold_packages: bool = Field(
        default=True,
        description="whether packages that the pods' network stands on are held back from upgrades "
        "that nobody planned",
    )
