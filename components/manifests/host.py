"""The files that a node has beneath Kubernetes: its firewall, sshd, time, logs and a database.

Each function gives texts by path. components/scripts/host.sh writes them, removes those that are
none any more, and has their services take them up.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from components.packed import packed, unpacked
from components.preflight import needs
from config import Database, Host, Role
from config.host import Firewall
from config.scalars.quantities import quantity

Files = dict[str, str]
"""Texts by path, without a newline at the end."""

BUFFER_POOL_PLACE = "@BUFFER_POOL@"
"""Where host.sh puts the size of the InnoDB buffer pool: only the node knows its memory."""

_WRITTEN = "Written by nordmesh; changes are overwritten."

RULES = "/etc/nordmesh/firewall.nft"
MEMBERS = "/etc/nordmesh/members.nft"
_PROGRAM = "/usr/local/lib/nordmesh/members.sh"
UNITS = ("nordmesh-firewall.service", "nordmesh-members.service")
# kube-proxy's health and figures (Kubernetes, "Ports and protocols", and kube-proxy's reference).
_KUBE_PROXY = (10249, 10256)

# Before the hook of iptables and of Debian's own nftables.conf, and it accepts whatever it does not
# drop: other tables still have their say. Conntrack has let in what this node asked for. Pods of
# this node come over cni0, and flannel.1 has what members alone may send to the overlay's port.
_TABLE = """\
# {written}
include "{members}"
table inet nordmesh
delete table inet nordmesh
table inet nordmesh {{
  set members {{
    type ipv4_addr
    elements = $members
  }}
{sets}  chain input {{
    type filter hook input priority filter - 10; policy accept;
    ct state established,related accept
    iifname {{ "lo", "cni0", "flannel.1" }} accept
    tcp dport {{ {tcp} }} jump cluster
    udp dport {overlay} jump cluster
{jumps}  }}
  chain cluster {{
    ip saddr @members return
    counter drop
  }}
{chains}}}"""
_SET = """\
  set {name} {{
    type ipv4_addr
    flags interval
    auto-merge
    elements = {{ {networks} }}
  }}
"""
_CHAIN = """\
  chain {name} {{
{returns}    counter drop
  }}
"""

# As Debian's nftables.service: before there is a network. That one's file may flush all rules, so
# this comes after it.
_FIREWALL_UNIT = """\
# {written}
[Unit]
Description=nordmesh: the cluster's ports are for its members
DefaultDependencies=no
Wants=network-pre.target
Before=network-pre.target shutdown.target
After=nftables.service
Conflicts=shutdown.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/nft -f {rules}
ExecReload=/usr/sbin/nft -f {rules}
ExecStop=/usr/sbin/nft delete table inet nordmesh

[Install]
WantedBy=sysinit.target"""
_MEMBERS_UNIT = """\
# {written}
[Unit]
Description=nordmesh: who is a member of the cluster
Requires=nordmesh-firewall.service
After=nordmesh-firewall.service

[Service]
ExecStart=/bin/bash {program} {seed}
Restart=always
RestartSec=2

[Install]
WantedBy=multi-user.target"""

# sshd takes the first value that it reads, and cloud images have a file 50-cloud-init.conf. Of
# several values host.sh takes the machine's own if it is one of them, else the last: they are
# sorted from the strictest to ours. A grace time of 0 has no end.
SSHD = "/etc/ssh/sshd_config.d/00-nordmesh.conf"
_SSHD = """\
# {written}
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitEmptyPasswords no
PermitRootLogin no|forced-commands-only|prohibit-password
X11Forwarding no
MaxAuthTries 0|1|2|3|4
LoginGraceTime {grace_times}"""
_GRACE_SECONDS = 30

_TIME = "/etc/systemd/timesyncd.conf.d/nordmesh.conf"
_JOURNAL = "/etc/systemd/journald.conf.d/nordmesh.conf"
_LOGROTATE = "/etc/logrotate.d/nordmesh"
# The scripts write a log anew each time; this keeps a single one from filling the disk.
_LOGROTATE_TEXT = """\
# {written}
/var/log/nordmesh/*.log {{
  size 10M
  rotate 2
  copytruncate
  compress
  missingok
  notifempty
}}"""

_DATABASE: Mapping[str, str] = {
    "mysql": "/etc/mysql/conf.d/nordmesh.cnf",
    "mariadb": "/etc/mysql/mariadb.conf.d/60-nordmesh.cnf",
}
# The guides' figures.
_DATABASE_TEXT = """\
# {written}
[mysqld]
innodb_buffer_pool_size = {pool}
innodb_log_file_size = 1G
innodb_io_capacity = 2000
innodb_flush_method = O_DIRECT"""


@dataclass(frozen=True, kw_only=True)
class HostArgs:
    """A node's host section, and what it is for. ssh_port: where its sshd listens. api_address: the
    API server's. members_program: the text of members.sh.
    """

    host: Host
    role: Role
    ssh_port: int
    api_address: str
    database: Database | None
    members_program: str


def firewall(args: HostArgs) -> Files:
    """The rules, the services, and the program that follows the node table; empty if off.

    Who is a member is in none of them, so that a node that is added changes no other node's
    settings; the API server's address is one from the beginning.
    """
    if not args.host.firewall.enabled:
        return {}
    return {
        RULES: _rules(args.host.firewall, role=args.role, ssh_port=args.ssh_port),
        _PROGRAM: args.members_program.rstrip("\n"),
        **{
            f"/etc/systemd/system/{unit}": text.format(
                written=_WRITTEN, rules=RULES, program=_PROGRAM, seed=args.api_address
            )
            for unit, text in zip(UNITS, (_FIREWALL_UNIT, _MEMBERS_UNIT), strict=True)
        },
    }


def cluster_ports(role: Role) -> tuple[int, ...]:
    """The TCP ports of a node that are for the cluster's members alone."""
    plane = (*needs.ETCD, *needs.CONTROL_PLANE_OWN) if role == "control-plane" else ()
    return tuple(sorted((*plane, needs.KUBELET, *_KUBE_PROXY)))


def _rules(settings: Firewall, *, role: Role, ssh_port: int) -> str:
    limited = {"ssh": (ssh_port, settings.ssh_from)}
    if role == "control-plane":
        limited["api"] = (needs.API, settings.api_from)
    sets = jumps = chains = ""
    for name, (port, networks) in limited.items():
        if networks:
            sets += _SET.format(name=f"{name}_from", networks=", ".join(networks))
            jumps += f"    tcp dport {port} jump {name}\n"
            known = ["@members"] if name == "api" else []
            returns = "".join(f"    ip saddr {each} return\n" for each in (*known, f"@{name}_from"))
            chains += _CHAIN.format(name=name, returns=returns)
    return _TABLE.format(
        written=_WRITTEN,
        members=MEMBERS,
        sets=sets,
        tcp=", ".join(map(str, cluster_ports(role))),
        overlay=needs.OVERLAY,
        jumps=jumps,
        chains=chains,
    )


def sshd(host: Host) -> Files:
    """What sshd reads before its own configuration; a setting's values are separated by |."""
    if not host.ssh.hardened:
        return {}
    grace_times = "|".join(map(str, range(1, _GRACE_SECONDS + 1)))
    return {SSHD: _SSHD.format(written=_WRITTEN, grace_times=grace_times)}


def sshd_on(text: str, found: str) -> str:
    """The text of SSHD on a node: of several values the one that the node's file has, or the last.

    text: as `sshd` gives it. found: the node's file.
    """
    has = dict(line.split(" ", 1) for line in found.splitlines() if " " in line)
    lines = []
    for line in text.splitlines():
        keyword, _, rest = line.partition(" ")
        values = rest.split("|")
        lines.append(f"{keyword} {has[keyword] if has.get(keyword) in values else values[-1]}")
    return "\n".join(lines)


def time(host: Host) -> Files:
    """The servers that systemd-timesyncd asks, where they are not the distribution's."""
    if not host.time_sync or not host.time_servers:
        return {}
    return {_TIME: f"# {_WRITTEN}\n[Time]\nNTP={' '.join(host.time_servers)}"}


def logs(host: Host) -> Files:
    """How much of the disk the journal and the scripts' logs take."""
    rotated = {_LOGROTATE: _LOGROTATE_TEXT.format(written=_WRITTEN)}
    if host.journal_size is None:
        return rotated
    size = f"{_mebibytes(host.journal_size)}M"
    return {_JOURNAL: f"# {_WRITTEN}\n[Journal]\nSystemMaxUse={size}", **rotated}


def database(settings: Database | None) -> Files:
    """The guides' settings of a database on the node, with BUFFER_POOL_PLACE in them."""
    if settings is None:
        return {}
    text = _DATABASE_TEXT.format(written=_WRITTEN, pool=BUFFER_POOL_PLACE)
    return {_DATABASE[settings.engine]: text}


def default_buffer_pool(memory_kib: int) -> str:
    """What host.sh puts at BUFFER_POOL_PLACE on a machine with so much memory: 75% of it.

    In whole GiB, where it is 3 or more of them: the guides' 12G on a machine of 16 GB.
    """
    mebibytes = memory_kib * 3 // 4096
    unit = 128 if mebibytes < 3072 else 1024
    return f"{(mebibytes + unit // 2) // unit * unit}M"


def settings(args: HostArgs) -> dict[str, str]:
    """What host.sh reads from its environment, but for ENDPOINT_ADDRESS."""
    host = args.host
    pool = args.database.buffer_pool if args.database else None
    return {
        "BUFFER_POOL": f"{_mebibytes(pool)}M" if pool else "",
        "DATABASE": in_lines(database(args.database)),
        "FIREWALL": in_lines(firewall(args)),
        "HOLD_PACKAGES": str(host.hold_packages).lower(),
        "LOGS": in_lines(logs(host)),
        "SSHD": in_lines(sshd(host)),
        "SSH_FROM": ", ".join(host.firewall.ssh_from),
        "TIME": in_lines(time(host)),
        "TIME_SYNC": str(host.time_sync).lower(),
    }


def in_lines(files: Files) -> str:
    """Files as host.sh reads them: lines of a path, a tab, and the text, packed."""
    return "\n".join(f"{path}\t{packed(text)}" for path, text in files.items())


def files_of(setting: str) -> Files:
    """The files of one setting of host.sh."""
    lines = (line.split("\t") for line in setting.splitlines())
    return {path: unpacked(text) for path, text in (line for line in lines if len(line) == 2)}


def _mebibytes(amount: str) -> int:
    return int(quantity(amount) / 1024**2)
