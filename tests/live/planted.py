"""Faults on two bought machines: planted, reported, and removed again.

Faults that are compatible are planted together; the rest are planted in a second round.
"""

from collections.abc import Mapping
from dataclasses import dataclass

NETWORK = "10.71.0"
BASTION, PLANE, WORKER = (f"{NETWORK}.{number}" for number in (5, 11, 21))
SECOND = f"{NETWORK}.12"  # another address of the control plane
TRANSLATED = f"{NETWORK}.99"  # the address of the worker outside its NAT


@dataclass(frozen=True, kw_only=True)
class Planting:
    """plants, repairs: a script by address of the machine. config: keys of the stack file.

    messages: the expected message by the first line of each finding, `nodes [code]`.
    """

    plants: Mapping[str, str]
    repairs: Mapping[str, str]
    config: Mapping[str, object]
    messages: Mapping[str, tuple[str, ...]]

    def checks(self) -> set[str]:
        return {head.partition("[preflight-")[2].rstrip("]") for head in self.messages}


def over(path: str, content: str) -> str:
    """Mount other content over a file, until it is unmounted.

    content: a command that prints the content.
    """
    copy = f"/run/plant/{path.strip('/').replace('/', '-')}"
    return f"mkdir -p /run/plant; {{ {content}; }} >{copy}; mount --bind {copy} {path}"


def cpu_time(*, stolen: str) -> str:
    """Return a growing CPU time. stolen: hundredths of a second per n tenths of a second."""
    return rf"""
{over("/proc/stat", "cat /proc/stat")}
systemd-run --quiet --unit=plant-stat bash -c '
    n=0
    while :; do
        n=$((n + 1))
        printf "cpu  %d 0 0 %d 0 0 0 %d 0 0\n" $((n * 10)) $((n * 80)) $(({stolen})) \
            >/run/plant/proc-stat
        sleep 0.1
    done'
"""


def program(name: str, body: str) -> str:
    """Install a program before the machine's own program on PATH."""
    return (
        rf"printf '#!/bin/sh\n%s\n' '{body}' >/usr/local/bin/{name}; "
        f"chmod 755 /usr/local/bin/{name}"
    )


DPKG = "/var/lib/dpkg/status"
SAME_ID = over("/etc/machine-id", "echo 4d6b0c8e5a1f47d2930be1c7f2a86d15")

# A slow link from the control plane to the worker, which queues packets.
IN_THE_WAY = Planting(
    plants={
        PLANE: rf"""set -e
{SAME_ID}
mkdir -p /etc/cni/net.d /etc/ufw
echo '{{}}' >/etc/cni/net.d/10-old.conflist
echo ENABLED=yes >/etc/ufw/ufw.conf
printf '%s\n' 'Package: docker-ce' 'Status: install ok installed' 'Version: 1' \
    'Architecture: all' 'Maintainer: nobody' 'Description: planted' '' >>/var/lib/dpkg/status
systemd-run --quiet --unit=plant-web perl -MIO::Socket::INET \
    -e 'my $web = IO::Socket::INET->new(LocalPort => 6443, Listen => 5) or die; sleep 3600'
iptables -A INPUT -p udp --dport 8472 -j DROP
ip address add {SECOND}/24 dev host0
ip route replace {WORKER}/32 dev host0 src {SECOND}
tc qdisc add dev host0 root handle 1: htb default 1
tc class add dev host0 parent 1: classid 1:1 htb rate 1gbit
tc class add dev host0 parent 1: classid 1:2 htb rate 200kbit burst 100
tc filter add dev host0 parent 1: protocol ip u32 match ip dst {WORKER}/32 flowid 1:2
""",
        # As if other guests stole a tenth of each second.
        WORKER: rf"""set -e
{SAME_ID}
{cpu_time(stolen="n * 10")}
{over("/proc/meminfo", "sed 's/^MemTotal:.*/MemTotal:        900000 kB/' /proc/meminfo")}
{over("/proc/cpuinfo", "sed 's/ aes / /' /proc/cpuinfo")}
{over("/proc/swaps", "echo Filename Type Size Used Priority; echo /swapfile file 1048572 0 -2")}
{over("/etc/fstab", "echo /swap.img none swap sw 0 0")}
{over("/etc/apt/sources.list", "echo deb http://127.0.0.1:9/gone bookworm main")}
{over(DPKG, f"sed '/^Package: socat$/,/^$/s/ installed$/ not-installed/' {DPKG}")}
{program("date", 'exec /bin/date -d "+7 seconds" "$@"')}
mkdir -p /var/lib/containerd
mount -t tmpfs -o size=64m none /var/lib/containerd
hostname cp-1
iptables -A INPUT -p tcp --dport 10250 -j DROP
iptables -A INPUT -p tcp --dport 15010 -j REJECT --reject-with tcp-reset
ip link set host0 mtu 1400
""",
    },
    repairs={
        PLANE: rf"""
umount /etc/machine-id
systemctl stop plant-web
ip route delete {WORKER}/32 dev host0
ip address delete {SECOND}/24 dev host0
rm -r /etc/cni/net.d/10-old.conflist /etc/ufw
sed -i '/^Package: docker-ce$/,/^$/d' /var/lib/dpkg/status
iptables -D INPUT -p udp --dport 8472 -j DROP
tc qdisc del dev host0 root
true
""",
        WORKER: r"""
systemctl stop plant-stat
umount /etc/machine-id /proc/stat /proc/meminfo /proc/cpuinfo /proc/swaps /var/lib/containerd
umount /etc/fstab /etc/apt/sources.list /var/lib/dpkg/status
rm /usr/local/bin/date
hostname worker-1
iptables -D INPUT -p tcp --dport 10250 -j DROP
iptables -D INPUT -p tcp --dport 15010 -j REJECT --reject-with tcp-reset
ip link set host0 mtu 1500
true
""",
    },
    config={
        "preflight.override": {},
        "preflight.limits": {"syncLatency": "0.1ms", "cores": 512},
        "artifacts.mirror": f"http://{NETWORK}.1:8099",
        "artifacts.registry": "http://registry.invalid:5000",
        "kubernetes.kubelet": {},
        "istio.version": "1.16.5",
        "machines.nodes.cp-1.etcdMount": True,
        "storage.local": {},
        "machines.nodes.worker-1.capacity": {"cpu": "64", "memory": "1Gi"},
    },
    messages={
        "cp-1 [preflight-in-use]": ("tcp 6443 is in use by perl", "/etc/cni/net.d/10-old.conflist"),
        "cp-1 [preflight-conflicts]": ("ufw is on", "docker-ce"),
        "cp-1 [preflight-etcd-mount]": ("nothing is mounted at /var/lib/etcd",),
        "cp-1 [preflight-route]": (f"packets to worker-1 ({WORKER}) leave from {SECOND} on host0",),
        "cp-1 [preflight-sync-latency]": ("the p99 of fdatasync is", "at most 0.1ms"),
        "cp-1, worker-1 [preflight-hostname]": ("both have cp-1",),
        "cp-1, worker-1 [preflight-machine-id]": ("both have",),
        "cp-1, worker-1 [preflight-mtu]": (
            "packets of 1500 bytes do not arrive",
            "cp-1 1500, worker-1 1400",
        ),
        "cp-1, worker-1 [preflight-ports]": ("udp 8472: no answer, from worker-1",),
        "cp-1, worker-1 [preflight-latency]": ("a round trip takes", "at most 1ms recommended"),
        "worker-1, cp-1 [preflight-ports]": ("tcp 10250: no answer, from cp-1",),
        "worker-1, cp-1 [preflight-mesh-ports]": ("tcp 15010: Connection refused, from cp-1",),
        "worker-1, cp-1 [preflight-clock]": ("s ahead of cp-1",),
        "worker-1 [preflight-steal]": ("10.0% of the CPU time over 1s", "at most 2%"),
        "worker-1 [preflight-memory]": ("879Mi", "at least 1700Mi"),
        "worker-1 [preflight-aes]": ("no AES instructions",),
        "worker-1 [preflight-swap]": ("on: /swapfile", "on after the next boot: /etc/fstab"),
        "worker-1 [preflight-disk-space]": ("64 MiB free below /var/lib/containerd",),
        "worker-1 [preflight-volumes-disk]": ("/srv/volumes is on the same file system as /",),
        "worker-1 [preflight-packages]": ("no answer from http://127.0.0.1:9/gone", "socat"),
        "worker-1 [preflight-cores]": ("at least 512",),
        "worker-1 [preflight-time-sync]": ("timesyncd",),
        "worker-1 [preflight-virtualization]": ("systemd-nspawn", "its own kernel"),
        "worker-1 [preflight-dns]": ("registry.invalid cannot be resolved",),
        "worker-1 [preflight-downloads]": (f"{NETWORK}.1 port 8099 does not answer",),
        "worker-1 [preflight-mesh-capacity]": ("declares 64 of cpu",),
    },
)

# The class directory is copied, because a container has no DMI directory for a product UUID.
SAME_HARDWARE = f"""
mkdir -p /run/plant/class/dmi/id
cp -a /sys/class/net /sys/class/block /run/plant/class
echo 1c4f0b9e-7a52-4e0d-8f13-6b2d9a5c7e01 >/run/plant/class/dmi/id/product_uuid
mount --bind /run/plant/class /sys/class
{over("/sys/class/net/host0/address", "echo 52:54:00:12:34:56")}
"""

# Two machines from one image on one hypervisor; the worker is of another kind, behind NAT.
WHAT_IT_IS = Planting(
    plants={
        BASTION: f"iptables -t nat -A OUTPUT -d {TRANSLATED} -j DNAT --to-destination {WORKER}",
        PLANE: rf"""set -e
iptables -t nat -A OUTPUT -d {TRANSLATED} -j DNAT --to-destination {WORKER}
{SAME_HARDWARE}
""",
        WORKER: rf"""set -e
{SAME_HARDWARE}
{cpu_time(stolen="1000")}
{over("/etc/os-release", "echo ID=alpine; echo VERSION_ID=3.19")}
{over("/proc/kallsyms", "true")}
mkdir /run/plant/nothing
[ ! -d /sys/module ] || mount --bind /run/plant/nothing /sys/module
{over("/sys/class/block/loop0/queue/rotational", "echo 1")}
{program("findmnt", "echo /dev/loop0")}
{program("uname", "[ $1 = -m ] && echo aarch64 || echo 6.1.0-of-nobody")}
""",
    },
    repairs={
        BASTION: f"iptables -t nat -D OUTPUT -d {TRANSLATED} -j DNAT --to-destination {WORKER}",
        PLANE: rf"""
iptables -t nat -D OUTPUT -d {TRANSLATED} -j DNAT --to-destination {WORKER}
umount /sys/class/net/host0/address /sys/class
true
""",
        WORKER: r"""
systemctl stop plant-stat
umount /sys/class/block/loop0/queue/rotational /sys/class/net/host0/address /sys/class
umount /proc/stat /etc/os-release /proc/kallsyms /sys/module
rm /usr/local/bin/findmnt /usr/local/bin/uname
true
""",
    },
    config={"machines.nodes.worker-1.address": TRANSLATED},
    messages={
        "cp-1, worker-1 [preflight-mac]": ("both have 52:54:00:12:34:56",),
        "cp-1, worker-1 [preflight-product-uuid]": (
            "both have 1c4f0b9e-7a52-4e0d-8f13-6b2d9a5c7e01",
        ),
        "worker-1 [preflight-address]": (f"no interface has {TRANSLATED}", f"has {WORKER}"),
        "worker-1 [preflight-architecture]": ("aarch64", "x86_64, which amd64 binaries need"),
        "worker-1 [preflight-os]": ("alpine 3.19", "install Debian 12"),
        "worker-1 [preflight-kernel-modules]": ("no overlay, br_netfilter, vxlan",),
        "worker-1 [preflight-disk-kind]": ("loop0 is a hard disk",),
        "worker-1 [preflight-dedicated-cores]": ("of the CPU time since boot was stolen",),
    },
)
