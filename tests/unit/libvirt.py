"""A fake hypervisor: libvirt with the states of its guests and networks, and the tools for disks.

Servers write to their own disks; qemu-img and genisoimage to the machine's. A file in / is a fault
of the guest: it cannot start (/cannot-start), stops at once (/crashes), prints nothing (/hangs), or
ignores a shutdown (/deaf).
"""

import hashlib

from tests.unit.components.scripts.test_kvm import UUID
from tests.unit.machine import Machine, Result, prepared_once

GUESTS = "/var/lib/guests"
FOLDER = f"{GUESTS}/shop-worker-1"
IMAGE = "/srv/debian.qcow2"
ROOT, ETCD, BOOTED = f"{FOLDER}/root.qcow2", f"{FOLDER}/etcd.raw", f"{FOLDER}/booted"
DOMAIN, NETWORK = "/domains/shop-worker-1", "/networks/nm-test"
NETWORK_FILE = "/var/lib/nordmesh/network.nm-test.xml"
# A fake disk or image: a file with its size in MiB and its format.
IMAGE_TEXT = "1024 qcow2\n"
SHA256 = hashlib.sha256(IMAGE_TEXT.encode()).hexdigest()
KEPT = f"{GUESTS}/.images/{SHA256}.image"
SETTINGS = {
    "ALLOW_DATA_LOSS": "true",
    "BOOT_SECONDS": "60",
    "BRIDGE": "nm-test",
    "CLONE": "full",
    "DISK_MIB": "2048",
    "DOMAIN": "shop-worker-1",
    "DOMAIN_XML": "<domain/>",
    "EMULATED": "true",
    "ETCD_DISK_MIB": "0",
    "FOLDER": FOLDER,
    "GUEST": "new",
    "HYPERVISOR": "hv-1",
    "IMAGES": f"{GUESTS}/.images",
    "IMAGE_PATH": IMAGE,
    "IMAGE_SHA256": SHA256,
    "IMAGE_URL": "",
    "MEMORY_MIB": "1",
    "META_DATA": "meta",
    "NETWORK_CONFIG": "network",
    "NETWORK_XML": "<network/>",
    "READY": "is ready",
    "STOP_SECONDS": "60",
    "USER_DATA": "later user-data",
    "UUID": UUID,
}
FIRST = "first user-data with the host key\n"
VIRSH = f"""
ulimit -S -f unlimited
umask 022
state() {{ printf '%s' "$2" >"$1/state"; }}
case $1 in
list) ls /domains; echo ;;
domuuid) cat "/domains/$2/uuid"; echo ;;
domstate) cat "/domains/$2/state"; echo ;;
define)
    mkdir -p "/domains/$DOMAIN"
    printf '%s' "$UUID" >"/domains/$DOMAIN/uuid"
    [ -e "/domains/$DOMAIN/state" ] || state "/domains/$DOMAIN" 'shut off'
    cp "$3" "/domains/$DOMAIN/xml"
    ;;
start)
    [ ! -e /cannot-start ] || {{ echo 'error: no such CPU' >&2; exit 1; }}
    state "/domains/$2" running
    cp {FOLDER}/seed.iso "/domains/$2/seed"
    cat {FOLDER}/root.qcow2 {FOLDER}/etcd.raw >"/domains/$2/disks" 2>/dev/null
    [ ! -e /crashes ] || {{ state "/domains/$2" 'shut off'; exit; }}
    [ -e /hangs ] || echo 'the guest is ready' >{FOLDER}/console.log
    ;;
change-media) cp "$4" "/domains/$2/seed" ;;
shutdown) [ -e /deaf ] || state "/domains/$2" 'shut off' ;;
destroy) state "/domains/$2" 'shut off' ;;
undefine) rm -r "/domains/$2"; rm -f "/autostart/$2" ;;
autostart) touch "/autostart/$2" ;;
net-list)
    for network in /networks/*; do
        [ -e "$network" ] || continue
        [ "$2" != --all ] && [ "$(cat "$network")" != active ] || basename "$network"
    done
    echo
    ;;
net-define) echo inactive >{NETWORK} ;;
net-start) echo active >"/networks/$2" ;;
net-destroy) [ ! -e "/networks/$2" ] || echo inactive >"/networks/$2" ;;
net-undefine) rm "/networks/$2"; rm -f "/autostart/$2" ;;
net-autostart) touch "/autostart/$2" ;;
boot)
    for domain in /domains/*; do
        [ ! -e "$domain" ] || state "$domain" 'shut off'
        [ ! -e "/autostart/${{domain##*/}}" ] || virsh start "${{domain##*/}}"
    done
    for network in /networks/*; do
        [ ! -e "$network" ] || echo inactive >"$network"
        [ ! -e "/autostart/${{network##*/}}" ] || echo active >"$network"
    done
    ;;
*) echo "error: unknown command: '$1'" >&2; exit 1 ;;
esac
"""
# A disk is a file with its size in MiB and its format.
QEMU_IMG = """
last=${*: -1}
case $1 in
info)
    read -r mib format <"$last" || exit
    printf '{\\n    "virtual-size": %d,\\n    "format": "%s"\\n}\\n' "$((mib * 1048576))" "$format"
    ;;
convert) cp "$4" "$5" ;;
create)
    [[ $* = *' raw '* ]] && format=raw || format=qcow2
    echo "${last%M} $format" >"${*: -2:1}"
    ;;
# It writes the size as the last step, so an interrupted one changes nothing.
resize)
    read -r _ format <"${*: -2:1}"
    echo "${last%M} $format" >/var/tmp.size && mv /var/tmp.size "${*: -2:1}"
    ;;
*) exit 1 ;;
esac
"""


def make(machine: Machine) -> None:
    """Prepare a hypervisor without guests."""
    machine.fake("virsh", VIRSH)
    machine.fake("qemu-img", QEMU_IMG)
    machine.fake("genisoimage", 'cat "${@: -3}" >"$3"')
    machine.fake("df", "printf 'Avail\\n9000M\\n'")
    machine.skip_waits()
    for folder in ("/domains", "/networks", "/autostart"):
        machine.path(folder).mkdir()
    machine.write(IMAGE, IMAGE_TEXT)


def boot(machine: Machine) -> None:
    """Start the guests and the networks that start at boot."""
    booted = machine.shell("virsh boot")
    assert booted.status == 0, booted.stderr


def create(machine: Machine) -> Result:
    """Create a guest with two disks on its own network."""
    return machine.run("kvm-create.sh", SETTINGS | {"ETCD_DISK_MIB": "512"}, stdin=FIRST)


@prepared_once
def created(machine: Machine) -> None:
    """Prepare a hypervisor with the guest."""
    make(machine)
    ended = create(machine)
    assert ended.status == 0, ended.stderr


def change(machine: Machine) -> Result:
    """Change the guest's domain and grow its disks, which needs a restart."""
    larger = {"DISK_MIB": "4096", "ETCD_DISK_MIB": "1024", "DOMAIN_XML": "<domain>more</domain>"}
    return machine.run("kvm-create.sh", SETTINGS | larger | {"GUEST": "exists"}, stdin=FIRST)


def delete(machine: Machine) -> Result:
    return machine.run("kvm-delete.sh", SETTINGS)
