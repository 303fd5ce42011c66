"""kvm-create.sh creates and changes guests, with a fake libvirt and qemu-img."""

from collections.abc import Callable, Mapping

import pytest

from tests.unit import libvirt
from tests.unit.components.scripts.test_kvm import UUID
from tests.unit.libvirt import (
    BOOTED,
    DOMAIN,
    ETCD,
    FIRST,
    FOLDER,
    GUESTS,
    IMAGE,
    IMAGE_TEXT,
    KEPT,
    NETWORK,
    NETWORK_FILE,
    ROOT,
    SETTINGS,
    SHA256,
)
from tests.unit.machine import STARTUP, Machine, Result

STATE = f"{DOMAIN}/state"
GUEST = (f"{DOMAIN}/uuid", STATE, ROOT)


@pytest.fixture
def hypervisor(machine: Machine) -> Machine:
    """Hypervisor without guests."""
    libvirt.make(machine)
    machine.fake("curl", 'cat /served >>"${*: -2:1}"')
    return machine


def create(hypervisor: Machine, **settings: str) -> Result:
    return hypervisor.run("kvm-create.sh", SETTINGS | settings, stdin=FIRST)


def created(hypervisor: Machine, **settings: str) -> None:
    """Create the guest and clear the record of calls."""
    ended = create(hypervisor, **settings)
    assert ended.status == 0, ended.stderr
    hypervisor.path("/calls").unlink()


def commands(hypervisor: Machine) -> list[str]:
    """List the commands that change something, in order."""
    read_only = ("list", "domuuid", "domstate", "net-list", "info")
    calls = [line.split() for line in hypervisor.calls() if not line.startswith("df ")]
    return [f"{call[0]} {call[1]}" for call in calls if call[1] not in read_only]


def is_running(hypervisor: Machine) -> bool:
    return contents(hypervisor, STATE) == ["running"]


def contents(hypervisor: Machine, *paths: str) -> list[str | None]:
    """Return the content of each file, or None if it is missing."""
    return [hypervisor.read(path) if hypervisor.exists(path) else None for path in paths]


def mode(hypervisor: Machine, path: str) -> int:
    return hypervisor.path(path).stat().st_mode & 0o777


@pytest.mark.parametrize("clone", ["full", "linked"])
def test_a_new_guest_is_created(hypervisor: Machine, clone: str) -> None:
    ended = create(hypervisor, CLONE=clone, ETCD_DISK_MIB="512")
    assert ended.status == 0, ended.stderr
    assert is_running(hypervisor)
    assert hypervisor.read(ROOT) == "2048 qcow2\n"
    assert hypervisor.read(ETCD) == "512 raw\n"
    assert hypervisor.read(KEPT) == IMAGE_TEXT
    assert (
        hypervisor.read(f"{FOLDER}/domain.xml") == hypervisor.read(f"{DOMAIN}/xml") == "<domain/>\n"
    )
    assert hypervisor.read(f"{FOLDER}/uuid") == f"{UUID}\n"
    assert hypervisor.read(NETWORK) == "active\n"
    assert mode(hypervisor, FOLDER) == mode(hypervisor, f"{GUESTS}/.images") == 0o711
    assert mode(hypervisor, ROOT) == mode(hypervisor, ETCD) == 0o600
    assert mode(hypervisor, KEPT) == 0o644
    backing = [line for line in hypervisor.calls("qemu-img create") if f"-b {KEPT}" in line]
    assert bool(backing) == (clone == "linked")
    remaining = {path.name for path in hypervisor.path(FOLDER).iterdir()}
    files = {"booted", "console.log", "domain.xml", "etcd.raw", "root.qcow2", "seed.iso", "uuid"}
    assert remaining == files


def test_the_host_key_is_deleted_from_the_hypervisor_after_the_first_start(
    hypervisor: Machine,
) -> None:
    start = f'[ "$1" != start ] || cp {FOLDER}/seed.iso /first-seed\n'
    hypervisor.fake("virsh", f"{start}{libvirt.VIRSH}")
    created(hypervisor)
    assert hypervisor.read("/first-seed") == f"{FIRST}meta\nnetwork\n"
    assert hypervisor.read(f"{FOLDER}/seed.iso") == "later user-data\nmeta\nnetwork\n"
    assert not list(hypervisor.path("/run/nordmesh").glob("seed.*"))


def test_a_guest_that_is_up_to_date_is_not_changed(hypervisor: Machine) -> None:
    created(hypervisor, ETCD_DISK_MIB="512")
    ended = create(hypervisor, GUEST="exists", ETCD_DISK_MIB="512")
    assert ended.status == 0, ended.stderr
    assert commands(hypervisor) == ["virsh net-autostart"]


def test_a_stopped_guest_is_started(hypervisor: Machine) -> None:
    created(hypervisor)
    hypervisor.write(STATE, "shut off")
    assert create(hypervisor, GUEST="exists").status == 0
    assert commands(hypervisor) == ["virsh net-autostart", "virsh start"]


@pytest.mark.parametrize(
    ("settings", "root", "etcd"),
    [
        ({"DISK_MIB": "4096"}, 4096, 512),
        ({"ETCD_DISK_MIB": "1024"}, 2048, 1024),
        ({"DOMAIN_XML": "<domain>more</domain>"}, 2048, 512),
    ],
)
def test_a_guest_is_changed_while_it_is_off(
    hypervisor: Machine, settings: Mapping[str, str], root: int, etcd: int
) -> None:
    created(hypervisor, ETCD_DISK_MIB="512")
    running = '[ "$1" != resize ] || ! grep -q running /domains/*/state || exit 1\n'
    hypervisor.fake("qemu-img", f"{running}{libvirt.QEMU_IMG}")
    ended = create(hypervisor, GUEST="exists", **{"ETCD_DISK_MIB": "512", **settings})
    assert ended.status == 0, ended.stderr
    assert is_running(hypervisor)
    assert hypervisor.read(ROOT) == f"{root} qcow2\n"
    assert hypervisor.read(ETCD) == f"{etcd} raw\n"
    calls = commands(hypervisor)
    assert calls.index("virsh shutdown") < calls.index("virsh start")
    assert ("virsh define" in calls) == ("DOMAIN_XML" in settings)
    # Only a new guest gets a seed image.
    assert not hypervisor.calls("genisoimage")


def test_an_image_is_downloaded_once_and_resumed(hypervisor: Machine) -> None:
    hypervisor.write("/served", IMAGE_TEXT[4:])
    hypervisor.write(f"{KEPT}.partial", IMAGE_TEXT[:4])
    url = {"IMAGE_PATH": "", "IMAGE_URL": "https://images.example/debian.qcow2"}
    created(hypervisor, **url)
    assert hypervisor.read(KEPT) == IMAGE_TEXT
    hypervisor.path(ROOT).unlink()
    assert create(hypervisor, **url).status == 0
    assert not hypervisor.calls("curl")


def test_the_image_of_an_existing_guest_is_not_checked(hypervisor: Machine) -> None:
    created(hypervisor)
    hypervisor.path(IMAGE).unlink()
    assert create(hypervisor, GUEST="exists", IMAGE_SHA256="0" * 64).status == 0


@pytest.mark.parametrize("suffix", [".new", ".partial"])
def test_a_file_from_a_killed_run_is_not_used_as_a_disk(hypervisor: Machine, suffix: str) -> None:
    hypervisor.write(f"{ROOT}{suffix}", "7 qcow2\n")
    created(hypervisor)
    assert hypervisor.read(ROOT) == "2048 qcow2\n"


def write(path: str, text: str) -> Callable[[Machine], None]:
    return lambda hypervisor: hypervisor.write(path, text)


def without(command: str) -> Callable[[Machine], None]:
    hidden = f'command() {{ [ "$*" != "-v {command}" ] && builtin command "$@"; }}\n'
    return lambda hypervisor: hypervisor.write(STARTUP, hidden)


def with_devices(*names: str) -> Callable[[Machine], None]:
    """Provide only these devices, as empty files except for /dev/null."""
    touches = "".join(f'touch "$root/dev/{name}"\n' for name in names)
    text = f"""
        mount -t tmpfs none "$root/dev"
        ln -s /proc/self/fd "$root/dev/fd"
        {touches}
        mount --bind /dev/null "$root/dev/null"
    """
    return lambda hypervisor: hypervisor.mount(text)


def exists(hypervisor: Machine) -> None:
    created(hypervisor)


def exists_with_etcd(hypervisor: Machine) -> None:
    created(hypervisor, ETCD_DISK_MIB="512")


def is_used(hypervisor: Machine) -> None:
    exists(hypervisor)
    hypervisor.path("/sys/class/net/nm-test/brif/vnet0").mkdir(parents=True)


def has_other_guest(hypervisor: Machine) -> None:
    hypervisor.write(f"{DOMAIN}/uuid", "of-another")
    hypervisor.write(STATE, "running")


_IS_BRIDGED = {"NETWORK_XML": ""}


@pytest.mark.parametrize(
    ("arrange", "settings", "code"),
    [
        (without("virsh"), {}, "hypervisor-lacks-tool"),
        (without("genisoimage"), {}, "hypervisor-lacks-tool"),
        (with_devices("null"), {"EMULATED": "false"}, "no-hardware-virtualization"),
        (lambda _: None, _IS_BRIDGED, "hypervisor-lacks-bridge"),
        (has_other_guest, {}, "guest-name-in-use"),
        (write(f"{FOLDER}/uuid", "of-another\n"), {}, "guest-directory-in-use"),
        (lambda _: None, {"GUEST": "exists"}, "guest-disk-missing"),
        (exists, {"GUEST": "exists", "DISK_MIB": "2047"}, "disk-would-shrink"),
        (exists_with_etcd, {"GUEST": "exists", "ETCD_DISK_MIB": "511"}, "disk-would-shrink"),
        (exists, {"GUEST": "exists", "ETCD_DISK_MIB": "512"}, "etcd-disk-too-late"),
        (lambda _: None, {"MEMORY_MIB": "99999999"}, "hypervisor-memory"),
        (lambda _: None, {"DISK_MIB": "1023"}, "image-too-large"),
        (lambda _: None, {"IMAGE_SHA256": "0" * 64}, "wrong-image-checksum"),
        (lambda _: None, {"IMAGE_PATH": "/srv/none"}, "hypervisor-lacks-image"),
        (write(NETWORK, "active\n"), {}, "network-name-in-use"),
        (is_used, {"NETWORK_XML": "<network>other</network>"}, "network-in-use"),
    ],
)
def test_a_refused_creation_changes_no_guest(
    hypervisor: Machine,
    arrange: Callable[[Machine], None],
    settings: Mapping[str, str],
    code: str,
) -> None:
    if "NETWORK_XML" not in settings or settings["NETWORK_XML"]:
        hypervisor.path("/sys/class/net/nm-test/bridge").mkdir(parents=True)
    arrange(hypervisor)
    before = contents(hypervisor, *GUEST)
    network = contents(hypervisor, NETWORK)
    ended = create(hypervisor, **settings)
    assert ended.status == 1
    assert f" [{code}]\n    why   " in ended.stderr
    assert contents(hypervisor, *GUEST) == before
    assert network in ([None], contents(hypervisor, NETWORK))
    assert not hypervisor.exists(KEPT) or settings.get("IMAGE_SHA256", SHA256) == SHA256
    # Otherwise the next download would resume a wrong file.
    assert not list(hypervisor.path(f"{GUESTS}/.images").glob("*.partial"))
    assert not {"virsh start", "virsh shutdown", "virsh define"} & set(commands(hypervisor))


@pytest.mark.parametrize(
    ("arrange", "settings"),
    [
        (exists, {"GUEST": "exists"}),
        (lambda _: None, {"DISK_MIB": "1024"}),
        (with_devices("null", "kvm"), {"EMULATED": "false"}),
    ],
)
def test_a_guest_exactly_at_a_limit_is_created(
    hypervisor: Machine, arrange: Callable[[Machine], None], settings: Mapping[str, str]
) -> None:
    arrange(hypervisor)
    ended = create(hypervisor, **settings)
    assert ended.status == 0, ended.stderr


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("/cannot-start", "guest-does-not-start"),
        ("/crashes", "guest-stopped"),
        ("/hangs", "guest-boot-timeout"),
    ],
)
@pytest.mark.parametrize("console", ["", "cloud-init: \x1b[31mno datasource\x1b[0m\r\n"])
def test_a_guest_that_does_not_boot_is_reported_with_its_console(
    hypervisor: Machine, fault: str, code: str, console: str
) -> None:
    """With or without console output. The next run starts the guest with its host key."""
    hypervisor.write(fault, "")
    if console:
        hypervisor.write(f"{FOLDER}/console.log", console)
    ended = create(hypervisor)
    assert ended.status == 1
    assert f"[{code}]" in ended.stderr
    if console and fault != "/cannot-start":
        assert "cloud-init: no datasource\n" in ended.stderr
    assert not hypervisor.exists(BOOTED)
    assert hypervisor.read(f"{FOLDER}/seed.iso").startswith(FIRST)
    hypervisor.path(fault).unlink()
    hypervisor.write(STATE, "shut off")
    assert create(hypervisor).status == 0
    assert hypervisor.exists(BOOTED)


def test_a_guest_that_does_not_shut_down_is_not_killed(hypervisor: Machine) -> None:
    created(hypervisor)
    hypervisor.write("/deaf", "")
    ended = create(hypervisor, GUEST="exists", DISK_MIB="4096", STOP_SECONDS="700")
    assert ended.status == 1
    assert "[guest-does-not-shut-down]" in ended.stderr
    assert is_running(hypervisor)
    assert hypervisor.read(ROOT) == "2048 qcow2\n"
    # Shutdown is repeated because a guest that is still booting ignores it.
    assert commands(hypervisor).count("virsh shutdown") > 1


def test_an_unused_network_is_changed(hypervisor: Machine) -> None:
    created(hypervisor)
    ended = create(hypervisor, GUEST="exists", NETWORK_XML="<network>other</network>")
    assert ended.status == 0, ended.stderr
    assert hypervisor.read(NETWORK_FILE) == "<network>other</network>\n"
    assert commands(hypervisor)[:3] == ["virsh net-destroy", "virsh net-define", "virsh net-start"]


def test_no_network_is_created_for_bridged_guests(hypervisor: Machine) -> None:
    hypervisor.path("/sys/class/net/nm-test/bridge").mkdir(parents=True)
    assert create(hypervisor, **_IS_BRIDGED).status == 0
    assert not hypervisor.calls("virsh net-")
    assert not hypervisor.exists(NETWORK_FILE)


def test_concurrent_runs_for_one_guest_are_refused(hypervisor: Machine) -> None:
    hypervisor.fake("flock", "[ $1 != --nonblock ] && [ $1 != --wait ]")
    ended = create(hypervisor)
    assert ended.status == 1
    assert "[guest-locked]" in ended.stderr
    assert commands(hypervisor) == ["flock --nonblock", "flock --wait"]
