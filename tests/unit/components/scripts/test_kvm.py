"""Deleting guests on a hypervisor with a fake libvirt, and failures that must delete nothing."""

import pytest

from tests.unit.machine import STARTUP, Machine, Result

UUID = "6f0c1f0e-6a58-4f0e-9d5c-0d6f5a1c2b3a"
GUESTS = "/var/lib/guests"
IMAGE = f"{GUESTS}/.images/base.image"
NETWORK = "/var/lib/nordmesh/network.nm-test.xml"
SETTINGS = {
    "ALLOW_DATA_LOSS": "true",
    "BRIDGE": "nm-test",
    "DOMAIN": "shop-worker-1",
    "FOLDER": f"{GUESTS}/shop-worker-1",
    "HYPERVISOR": "hv-1",
    "IMAGES": f"{GUESTS}/.images",
    "UUID": UUID,
}
# Guests and networks are files that hold their state. As in virsh, an empty line ends each list.
_VIRSH = """
[ ! -e /libvirtd-is-down ] || { echo "error: failed to connect to the hypervisor" >&2; exit 1; }
case $1 in
list) ls /domains; echo ;;
version) ;;
net-info) [ -e "/networks/$2" ] ;;
net-list)
    for network in /networks/*; do
        [ "$2" != --all ] && [ "$(cat "$network")" != active ] || basename "$network"
    done
    echo
    ;;
domuuid) grep -h uuid "/domains/$2" | cut -d ' ' -f 2; echo ;;
domstate) grep -h state "/domains/$2" | cut -d ' ' -f 2-; echo ;;
destroy) sed -i 's/^state.*/state shut off/' "/domains/$2" ;;
undefine) rm "/domains/$2" ;;
net-destroy) echo inactive >"/networks/$2" ;;
net-undefine) rm "/networks/$2" ;;
*) echo "error: unknown command: '$1'" >&2; exit 1 ;;
esac
"""


@pytest.fixture
def hypervisor(machine: Machine) -> Machine:
    """Hypervisor with one running guest, its base image and its routed network."""
    machine.fake("virsh", _VIRSH)
    machine.write("/domains/shop-worker-1", f"uuid {UUID}\nstate running\n")
    machine.write("/networks/nm-test", "active\n")
    machine.write(NETWORK, "<network/>\n")
    machine.write(f"{GUESTS}/shop-worker-1/uuid", f"{UUID}\n")
    machine.write(f"{GUESTS}/shop-worker-1/root.qcow2", "data\n")
    machine.write(IMAGE, "base\n")
    return machine


def delete(hypervisor: Machine) -> Result:
    return hypervisor.run("kvm-delete.sh", SETTINGS)


def test_deleting_the_last_guest_deletes_everything(hypervisor: Machine) -> None:
    ended = delete(hypervisor)
    assert ended.status == 0, ended.stderr
    for path in ("/domains/shop-worker-1", "/networks/nm-test", NETWORK, GUESTS):
        assert not hypervisor.exists(path), path
    assert delete(hypervisor).status == 0


def test_a_base_image_in_use_by_200_guests_is_kept(hypervisor: Machine) -> None:
    for number in range(200):
        hypervisor.write(f"{GUESTS}/shop-other-{number:03}/root.qcow2", "data\n")
    for _ in range(10):
        hypervisor.write("/domains/shop-worker-1", f"uuid {UUID}\nstate running\n")
        hypervisor.write(f"{GUESTS}/shop-worker-1/uuid", f"{UUID}\n")
        ended = delete(hypervisor)
        assert ended.status == 0, ended.stderr
        assert not hypervisor.exists(f"{GUESTS}/shop-worker-1")
        assert hypervisor.exists(IMAGE)


@pytest.fixture
def no_libvirtd(hypervisor: Machine) -> Machine:
    """Hypervisor whose libvirtd does not answer while its guests keep running."""
    hypervisor.write("/libvirtd-is-down", "")
    hypervisor.skip_waits()
    return hypervisor


def test_a_guest_with_unknown_state_keeps_its_disks(no_libvirtd: Machine) -> None:
    ended = delete(no_libvirtd)
    assert ended.status != 0
    assert "failed to connect to the hypervisor" in ended.stderr
    assert "[libvirt-silent]" in ended.stderr
    assert no_libvirtd.exists(f"{GUESTS}/shop-worker-1/root.qcow2")
    assert no_libvirtd.exists(IMAGE)
    assert no_libvirtd.exists(NETWORK)


def test_the_script_waits_for_a_restarting_libvirtd(no_libvirtd: Machine) -> None:
    # libvirtd is back after the first sleep of the script.
    no_libvirtd.write(STARTUP, "sleep() { rm -f /libvirtd-is-down; }")
    ended = delete(no_libvirtd)
    assert ended.status == 0, ended.stderr
    assert not no_libvirtd.exists("/domains/shop-worker-1")


def test_a_network_with_unknown_state_is_kept(no_libvirtd: Machine) -> None:
    """The guest is already deleted, and libvirtd has stopped since."""
    no_libvirtd.path(f"{GUESTS}/shop-worker-1/uuid").unlink()
    ended = delete(no_libvirtd)
    assert ended.status != 0
    assert no_libvirtd.exists(NETWORK)


def test_a_guest_of_another_stack_with_the_same_name_stays(hypervisor: Machine) -> None:
    hypervisor.write("/domains/shop-worker-1", "uuid of-another\nstate running\n")
    hypervisor.path(f"{GUESTS}/shop-worker-1/uuid").unlink()
    ended = delete(hypervisor)
    assert ended.status == 0, ended.stderr
    assert hypervisor.exists("/domains/shop-worker-1")
    assert hypervisor.exists(f"{GUESTS}/shop-worker-1/root.qcow2")


def test_deletion_succeeds_without_libvirt_and_disks(machine: Machine) -> None:
    machine.write(STARTUP, 'command() { [ "$*" != "-v virsh" ] && builtin command "$@"; }\n')
    ended = machine.run("kvm-delete.sh", SETTINGS)
    assert ended.status == 0, ended.stderr


CREATE = {
    "BOOT_SECONDS": "60",
    "CLONE": "full",
    "DISK_MIB": "2048",
    "DOMAIN_XML": "<domain/>",
    "EMULATED": "true",
    "ETCD_DISK_MIB": "0",
    "GUEST": "exists",
    "IMAGE_PATH": IMAGE,
    "IMAGE_SHA256": "",
    "IMAGE_URL": "",
    "MEMORY_MIB": "1",
    "META_DATA": "",
    "NETWORK_CONFIG": "",
    "NETWORK_XML": "",
    "READY": "is ready",
    "STOP_SECONDS": "60",
    "USER_DATA": "",
}


@pytest.fixture
def with_tools(hypervisor: Machine) -> Machine:
    """Hypervisor with the tools that create guests."""
    hypervisor.fake("qemu-img", '[ "$1" != info ] || echo \'    "virtual-size": 1073741824\'')
    hypervisor.fake("genisoimage")
    hypervisor.fake("curl")
    hypervisor.skip_waits()
    hypervisor.path("/sys/class/net/nm-test/bridge").mkdir(parents=True)
    return hypervisor


def test_the_disk_of_a_guest_that_may_be_running_is_not_resized(with_tools: Machine) -> None:
    """libvirtd stops between two calls: the guest has to be off before its disk grows."""
    with_tools.fake("virsh", f'[ "$1" != domstate ] || exit 1\n{_VIRSH}')
    ended = with_tools.run("kvm-create.sh", SETTINGS | CREATE)
    assert ended.status != 0
    assert "[libvirt-silent]" in ended.stderr
    assert not [call for call in with_tools.calls("qemu-img") if "resize" in call]


def test_a_missing_disk_is_not_replaced_with_an_empty_one(with_tools: Machine) -> None:
    """The directory or the hypervisor may have been exchanged."""
    with_tools.path(f"{GUESTS}/shop-worker-1/root.qcow2").unlink()
    ended = with_tools.run("kvm-create.sh", SETTINGS | CREATE)
    assert ended.status != 0
    assert "[guest-disk-missing]" in ended.stderr
    assert not with_tools.exists(f"{GUESTS}/shop-worker-1/root.qcow2")
    assert with_tools.calls("qemu-img") == []
