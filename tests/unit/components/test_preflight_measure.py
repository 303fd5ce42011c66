"""measure.sh: the facts that it reports, and that it changes nothing on the machine."""

import base64
from pathlib import Path

import pytest

from components import preflight
from components.host.table import KUBELET_START
from components.host.templates import render
from tests.unit.machine import STARTUP, Machine, Result

_MEASURE = (Path(preflight.__file__).parent / "measure.sh").read_text()
_LOCK = "/run/nordmesh/lock"
_HOLD_LOCK = f"exec 8>{_LOCK}; flock 8; "
# Each wait is recorded, and the script that holds the lock ends during the third wait.
_NOTE_WAITS = f"sleep() {{ echo wait >>/waits; [ $(wc -l </waits) -lt 3 ] || rm -f {_LOCK}; }}\n"
_VDA = "/sys/devices/virtio1/block/vda"
_SETTINGS = {
    "ADDRESS": "192.0.2.11",
    "PEERS": "",
    "WINDOW": "0",
    "ETCD": "false",
    "NAMES": "",
    "ENDPOINTS": "",
    "PROBE": 'print "@ARGV\\n"',
    "PACKAGES": "",
    "RESOLVER": "",
    "VOLUMES": "",
    "KUBELET_START": render(KUBELET_START.lstrip("/")).replace("'", "'\\''"),
}


@pytest.fixture
def machine(machine: Machine) -> Machine:
    machine.write(STARTUP, _NOTE_WAITS)
    # A busy machine may take longer than the limit of a probe.
    machine.fake("timeout", 'exec /usr/bin/timeout 300 "${@:2}"')
    machine.fake("systemctl", "exit 3")
    machine.fake("findmnt", "echo overlay")
    for command in ("ip", "ss", "dpkg-query", "systemd-detect-virt", "modprobe"):
        machine.fake(command)
    return machine


def measure(machine: Machine, before: str = "", **settings: str) -> Result:
    machine.write("/measure.sh", _MEASURE)
    exports = "".join(
        f"export {name}='{value}'\n" for name, value in (_SETTINGS | settings).items()
    )
    return machine.shell(f"{exports}{before}bash /measure.sh")


def facts(result: Result, key: str) -> list[str]:
    """Return the values of a fact, in order. Fails if the report is incomplete."""
    assert result.status == 0
    assert result.stdout.endswith("\nend\tyes\n")
    lines = (line.split("\t", 1) for line in result.stdout.splitlines())
    return [value for name, value in lines if name == key]


def waits(machine: Machine) -> int:
    return len(machine.read("/waits").splitlines()) if machine.exists("/waits") else 0


def mounted_on(machine: Machine, source: str) -> None:
    """Mount /var/lib from a disk with one partition."""
    machine.fake("findmnt", f"echo '{source}'")
    machine.write(f"{_VDA}/queue/rotational", "1\n")
    machine.path(f"{_VDA}/vda1").mkdir()
    blocks = machine.path("/sys/class/block")
    blocks.mkdir(parents=True)
    for name, device in (("vda", _VDA), ("vda1", f"{_VDA}/vda1")):
        (blocks / name).symlink_to(f"../../{device.removeprefix('/sys/')}")


# --- an earlier run -------------------------------------------------------------------------------


@pytest.mark.parametrize("has_directory", [True, False])
def test_a_machine_without_a_lock_is_measured_immediately(
    machine: Machine, has_directory: bool
) -> None:
    if has_directory:
        machine.path("/run/nordmesh").mkdir()
    assert facts(measure(machine), "uid") == ["0"]
    assert waits(machine) == 0
    assert not machine.exists(_LOCK)


def test_an_unheld_lock_causes_no_wait(machine: Machine) -> None:
    machine.write(_LOCK, "")
    measure(machine)
    assert waits(machine) == 0


def test_measuring_waits_for_a_running_script(machine: Machine) -> None:
    machine.path("/run/nordmesh").mkdir()
    assert facts(measure(machine, _HOLD_LOCK), "uid") == ["0"]
    assert waits(machine) == 3


def test_measuring_waits_for_image_pulls(machine: Machine) -> None:
    machine.fake("systemctl", "[ $3 = nordmesh-pull ] && [ $(wc -l </waits) -lt 5 ]")
    machine.write("/waits", "")
    measure(machine)
    assert waits(machine) == 5


def test_measuring_waits_at_most_two_minutes(machine: Machine) -> None:
    machine.write(STARTUP, "sleep() { echo wait >>/waits; }\n")
    machine.path("/run/nordmesh").mkdir()
    assert facts(measure(machine, _HOLD_LOCK), "uid") == ["0"]
    assert waits(machine) == 120


def test_a_cluster_member_is_measured_without_waiting(machine: Machine) -> None:
    machine.path("/run/nordmesh").mkdir()
    machine.write("/etc/kubernetes/nordmesh-joined.yaml", "")
    assert facts(measure(machine, _HOLD_LOCK), "member") == ["yes"]
    assert waits(machine) == 0


# --- the disk -------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["/dev/vda1", "/dev/vda", "/dev/vda1[/var/lib]"])
def test_the_disk_below_a_file_system_is_found(machine: Machine, source: str) -> None:
    mounted_on(machine, source)
    assert facts(measure(machine), "disk") == ["vda 1"]


@pytest.mark.parametrize("source", ["overlay", "tmpfs", "", "host:/export", "/dev/vdb"])
def test_a_file_system_without_a_disk_has_none(machine: Machine, source: str) -> None:
    mounted_on(machine, source)
    result = measure(machine)
    assert facts(result, "disk") == []
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("folders", "directory"),
    [([], "/var/lib"), (["/var/lib/containerd"], "/var/lib/containerd")],
)
def test_free_space_is_measured_where_images_are_stored(
    machine: Machine, folders: list[str], directory: str
) -> None:
    for folder in folders:
        machine.path(folder).mkdir(parents=True)
    machine.fake("df", 'echo Avail; [ "${*: -1}" != /var/lib ] && echo 7M || echo 9M')
    (free,) = facts(measure(machine), "disk-free")
    assert free == f"{directory} {7 if folders else 9}"


@pytest.mark.parametrize(
    ("etcd", "files", "synced"),
    [
        ("true", [], ["sync /var/lib"]),
        ("true", ["/var/lib/etcd/lost+found"], ["sync /var/lib/etcd"]),
        ("false", [], []),
        # Writes would slow down a running etcd.
        ("true", ["/etc/kubernetes/nordmesh-initialised.yaml"], []),
    ],
)
def test_only_the_disk_of_a_new_etcd_is_measured(
    machine: Machine, etcd: str, files: list[str], synced: list[str]
) -> None:
    for file in files:
        machine.write(file, "")
    assert facts(measure(machine, ETCD=etcd), "sync") == synced


@pytest.mark.parametrize(
    ("mounted", "devices", "unit", "state"),
    [
        (False, (1, 1), "", "none"),
        (True, (1, 1), "/run/systemd/generator/var-lib-etcd.mount", "shared"),
        (True, (1, 2), "", "temporary"),
        (True, (1, 2), "/run/systemd/generator/var-lib-etcd.mount", "own"),
    ],
)
def test_the_mount_of_etcd_is_reported(
    machine: Machine, mounted: bool, devices: tuple[int, int], unit: str, state: str
) -> None:
    machine.fake("mountpoint", f"exit {0 if mounted else 32}")
    above, own = devices
    machine.fake("stat", f'[ "$3" = /var/lib/etcd ] && echo {own} || echo {above}')
    machine.fake("systemctl", f"case $* in *var-lib-etcd.mount) echo '{unit}' ;; *) exit 3 ;; esac")
    assert facts(measure(machine, ETCD="true"), "etcd-mount") == [state]
    assert facts(measure(machine, ETCD="false"), "etcd-mount") == []


@pytest.mark.parametrize(
    ("exists", "device", "state"),
    [
        ("/srv/disk/volumes", 3, "own"),
        ("/srv/disk", 3, "own"),  # the directory itself comes with the first volume
        ("/srv/disk", 1, "system"),
        ("/srv/disk", 2, "system"),
        ("/", 1, "system"),
    ],
)
def test_volumes_on_a_disk_of_the_system_are_reported(
    machine: Machine, exists: str, device: int, state: str
) -> None:
    """/ is on the first file system, /var/lib on the second."""
    machine.path(exists).mkdir(parents=True, exist_ok=True)
    machine.fake(
        "stat", f"case $3 in /) echo 1 ;; /var/lib) echo 2 ;; {exists}/) echo {device} ;; esac"
    )
    report = measure(machine, VOLUMES="/srv/disk/volumes")
    assert facts(report, "volumes-disk") == [state]
    assert facts(measure(machine), "volumes-disk") == []


# --- the system and the network -------------------------------------------------------------------


def test_only_physical_interfaces_are_reported(machine: Machine) -> None:
    for name in ("eth0", "lo", "cni0", "flannel.1", "veth1a", "docker0", "br-1a", "virbr0"):
        machine.write(f"/sys/class/net/{name}/address", "02:00:00:00:00:01\n")
        machine.write(f"/sys/class/net/{name}/mtu", "1500\n")
    machine.path("/sys/class/net/bonding_masters").mkdir()
    assert facts(measure(machine), "interface") == ["eth0 02:00:00:00:00:01 1500"]


@pytest.mark.parametrize(
    ("address", "interface"), [("192.0.2.11", "eth1"), ("203.0.113.9", "eth0")]
)
def test_the_main_interface_has_the_address_or_the_default_route(
    machine: Machine, address: str, interface: str
) -> None:
    machine.path("/usr/local/bin/ip").unlink()
    network = """
        ip link add eth0 type veth peer name eth1
        ip address add 198.51.100.1/24 dev eth0
        ip address add 192.0.2.11/24 dev eth1
        ip link set eth1 up
        ip link set eth0 up
        ip route add default via 198.51.100.254 dev eth0
    """
    assert facts(measure(machine, network, ADDRESS=address), "main-interface") == [interface]


def test_the_way_to_each_other_node_is_reported(machine: Machine) -> None:
    machine.path("/usr/local/bin/ip").unlink()
    network = """
        ip link add eth0 type veth peer name eth1
        ip address add 192.0.2.11/24 dev eth0
        ip address add 10.0.0.11/24 dev eth1
        ip link set eth1 up
        ip link set eth0 up
        ip route add 10.0.0.22/32 via 192.0.2.1 dev eth0
    """
    result = measure(
        machine, network, ADDRESS="10.0.0.11", PEERS="10.0.0.21 10.0.0.22 192.168.0.23"
    )
    assert facts(result, "route") == [
        "10.0.0.21 eth1 10.0.0.11",
        "10.0.0.22 eth0 192.0.2.11",
        "192.168.0.23 - -",
    ]


@pytest.mark.parametrize(
    ("file", "fact"),
    [
        ("/var/lib/etcd/member/wal", "/var/lib/etcd/member"),
        ("/etc/kubernetes/kubelet.conf", "/etc/kubernetes/kubelet.conf"),
        ("/etc/kubernetes/manifests/etcd.yaml", "/etc/kubernetes/manifests/etcd.yaml"),
        ("/etc/cni/net.d/10-own.conflist", "/etc/cni/net.d/10-own.conflist"),
    ],
)
def test_remains_of_an_earlier_cluster_are_reported(machine: Machine, file: str, fact: str) -> None:
    assert facts(measure(machine), "found") == []
    machine.write(file, "")
    assert facts(measure(machine), "found") == [fact]


def test_running_software_is_reported(machine: Machine) -> None:
    machine.fake("systemctl", "[ $3 = docker ]")
    machine.fake("dpkg-query", "printf '%s\\n' 'installed docker.io' 'config-files ufw'")
    machine.fake("ss", "echo 'tcp LISTEN 0 1 0.0.0.0:6443 * users:((\"nginx\",pid=1))'")
    machine.write("/etc/ufw/ufw.conf", "ENABLED=yes\n")
    task = "/run/containerd/io.containerd.runtime.v2.task"
    machine.path(f"{task}/moby/1a2b").mkdir(parents=True)
    machine.write(f"{task}/moby/log", "")
    result = measure(machine)
    assert facts(result, "package") == ["docker.io"]
    assert facts(result, "service") == ["docker", "ufw"]
    assert facts(result, "container") == ["1a2b"]
    assert facts(result, "listening") == ["tcp 6443 nginx"]
    machine.write("/etc/ufw/ufw.conf", "ENABLED=no\n")
    assert facts(measure(machine), "service") == ["docker"]


def test_an_interface_without_a_mac_address_is_reported(machine: Machine) -> None:
    machine.write("/sys/class/net/wg0/address", "\n")
    machine.write("/sys/class/net/wg0/mtu", "1420\n")
    assert facts(measure(machine), "interface") == ["wg0 - 1420"]


@pytest.mark.parametrize(
    ("files", "resolver"),
    [
        ({"/etc/resolv.conf": "nameserver 192.0.2.53\n"}, ["/etc/resolv.conf"]),
        (
            {
                "/etc/resolv.conf": "nameserver 127.0.0.53\n",
                "/run/systemd/resolve/resolv.conf": "nameserver 192.0.2.53\n",
            },
            ["/run/systemd/resolve/resolv.conf"],
        ),
        ({"/etc/resolv.conf": "nameserver 127.0.0.1\n"}, [""]),
    ],
)
def test_the_name_servers_of_pods_are_reported(
    machine: Machine, files: dict[str, str], resolver: list[str]
) -> None:
    for path, text in files.items():
        machine.write(path, text)
    result = measure(machine)
    assert facts(result, "resolver") == resolver
    assert facts(result, "name-server") == [files["/etc/resolv.conf"].split()[1]]


@pytest.mark.parametrize(("exists", "resolver"), [(True, "/etc/pods.conf"), (False, "")])
def test_the_stack_files_resolver_is_looked_for(
    machine: Machine, exists: bool, resolver: str
) -> None:
    machine.write("/etc/resolv.conf", "nameserver 192.0.2.53\n")
    if exists:
        machine.write("/etc/pods.conf", "")
    assert facts(measure(machine, RESOLVER="/etc/pods.conf"), "resolver") == [resolver]


def test_programs_that_answer_dns_are_reported(machine: Machine) -> None:
    machine.path("/usr/local/bin/ss").unlink()
    listen = """perl -MIO::Socket::INET -e '
        sub answer { IO::Socket::INET->new(LocalAddr => shift, LocalPort => 53, Proto => "udp") }
        my @sockets = map { answer($_) or die } "127.0.0.1", "192.0.2.11";
        open my $ready, ">", "/ready"; close $ready; sleep' &
        until [ -e /ready ] || ! kill -0 $!; do /usr/bin/sleep 0.05; done
    """
    network = "ip link set lo up; ip address add 192.0.2.11/32 dev lo\n"
    machine.path("/usr/local/bin/ip").unlink()
    result = measure(machine, network + listen)
    assert facts(result, "name-service") == ["127.0.0.1 perl", "192.0.2.11 perl"]


_SHOW = """
case $* in
*' swap.target') printf 'dev-sda2.swap dev-sda3.swap\\nswap.img.swap\\n' ;;
*LoadState*sda3.swap) echo masked ;;
*LoadState*) echo loaded ;;
*SourcePath*swap.img.swap) echo /etc/fstab ;;
'is-enabled --quiet zramswap.service') ;;
*SourcePath*) ;;
*) exit 1 ;;
esac
"""


@pytest.mark.parametrize(
    ("fstab", "found"),
    [
        ("UUID=1 / ext4 defaults 0 1\n/swap.img none swap sw 0 0\n", True),
        ("/dev/sda1\tnone\tswap\tdefaults\n", True),
        ("# /swap.img none swap sw 0 0\n", False),
        ("/swap.img none swap sw,noauto 0 0\n", False),
    ],
)
def test_swap_of_the_next_boot_is_reported(machine: Machine, fstab: str, found: bool) -> None:
    machine.write("/etc/fstab", fstab)
    assert facts(measure(machine), "swap-at-boot") == (["/etc/fstab"] if found else [])
    machine.fake("systemctl", _SHOW)
    units = ["dev-sda2.swap", "zramswap.service"]
    assert facts(measure(machine), "swap-at-boot") == [*(["/etc/fstab"] if found else []), *units]


_PROXY = r"""
perl -MIO::Socket::INET -e '
    my $proxy = IO::Socket::INET->new(LocalPort => 3128, Listen => 5) or die;
    open my $ready, ">", "/ready"; close $ready;
    while (my $peer = $proxy->accept) {
        my $line = <$peer>;
        my $login = $ENV{LOGIN} ? "" : "none";
        while (my $header = <$peer>) {
            last unless $header =~ /\S/;
            $login = $1 if $header =~ /^Proxy-Authorization: Basic (\S+)/;
        }
        my $status = $line =~ /^CONNECT dl\.example:443 / ? 200 : 403;
        $status = 407 if $login ne ($ENV{LOGIN} || "none");
        print $peer "HTTP/1.1 $status \r\n\r\n";
        close $peer;
    }' &
until [ -e /ready ] || ! kill -0 $!; do /usr/bin/sleep 0.05; done
ip link set lo up
export https_proxy=http://127.0.0.1:3128/ no_proxy=localhost,.example.internal
"""


def test_endpoints_behind_a_proxy_are_probed_through_it(machine: Machine) -> None:
    machine.path("/usr/local/bin/ip").unlink()
    endpoints = "dl.example:443 refused.example:443 mirror.example.internal:443"
    result = measure(machine, _PROXY, ENDPOINTS=endpoints)
    assert facts(result, "reaches") == ["dl.example:443"]


def test_a_proxy_with_a_login_gets_it(machine: Machine) -> None:
    """In its URL, a login is percent-encoded."""
    machine.path("/usr/local/bin/ip").unlink()
    login = base64.b64encode(b"team@a:p%/\\n").decode()
    proxy = f"export LOGIN={login}\n{_PROXY}"
    assert facts(measure(machine, proxy, ENDPOINTS="dl.example:443"), "reaches") == []
    machine.path("/ready").unlink()
    url = "http://team%40a:p%25%2f\\n@127.0.0.1:3128"
    result = measure(machine, f"{proxy}export https_proxy='{url}'\n", ENDPOINTS="dl.example:443")
    assert facts(result, "reaches") == ["dl.example:443"]


def test_package_sources_are_asked_only_if_a_package_is_missing(machine: Machine) -> None:
    lists = machine.path("/srv/debian/dists/bookworm")
    lists.mkdir(parents=True)
    (lists / "Release").write_text("Suite: bookworm\n")
    machine.write(
        "/etc/apt/sources.list",
        "deb http://127.0.0.1:9/gone bookworm main\n"
        "deb copy:/srv/debian bookworm main\n"
        "deb cdrom:[Debian]/ bookworm main\n",
    )
    machine.path("/var/lib/dpkg").mkdir(parents=True)
    machine.write("/var/lib/dpkg/status", "")
    machine.fake("dpkg-query", "[ $4 = curl ] && echo installed")
    assert facts(measure(machine, PACKAGES="curl"), "missing-packages") == []
    result = measure(machine, PACKAGES="curl socat")
    assert facts(result, "missing-packages") == ["socat"]
    assert sorted(facts(result, "source")) == [
        "no cdrom://Debian",
        "no http://127.0.0.1:9/gone",
        "yes copy:/srv/debian",
    ]
    assert list(machine.path("/run").glob("nordmesh-preflight*")) == []


def test_dns_names_and_endpoints_are_probed(machine: Machine) -> None:
    machine.fake("getent", "[ $2 = dl.example ]")
    machine.fake("timeout", '[ $2 != bash ] || { [ "$5" = dl.example ]; exit; }; shift; "$@"')
    result = measure(machine, NAMES="dl.example gone.example", ENDPOINTS="dl.example:443 x:80")
    assert facts(result, "resolves") == ["dl.example"]
    assert facts(result, "reaches") == ["dl.example:443"]
