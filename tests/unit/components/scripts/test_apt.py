"""Installing packages on a node: real apt and dpkg with a local package source."""

import hashlib
import subprocess
from pathlib import Path

import pytest

from components.remote.node_command import text_alone
from tests.unit.machine import Machine, Result

# Kills dpkg while it configures this package.
_POSTINST = "#!/bin/sh\n[ ! -e /kill-dpkg ] || { rm /kill-dpkg; kill -9 $PPID; }\n"
LOCKS = {
    "lists": "/var/lib/apt/lists/lock",
    "dpkg": "/var/lib/dpkg/lock-frontend",
    "archives": "/var/cache/apt/archives/lock",
}
# Holds a lock as apt does, from before the script starts until a condition.
_HOLDER = """
perl -MFcntl -e 'open my $file, "+>>", "{path}" or die;
    my $lock = pack "s s x4 q q l x4", F_WRLCK, 0, 0, 0, 0;
    fcntl $file, F_SETLK, $lock or die;
    open my $held, ">", "/held"; close $held;
    do {{ select undef, undef, undef, 0.1 }} until {released};' &
until [ -e /held ] || ! kill -0 $!; do sleep 0.05; done
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Package source with one package, `conntrack`."""
    directory = tmp_path_factory.mktemp("packages")
    control = (
        "Package: conntrack\nVersion: 1\nArchitecture: all\nMaintainer: Nobody <nobody@localhost>\n"
        "Description: a fake conntrack\n"
    )
    tree = directory / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN" / "control").write_text(control)
    (tree / "DEBIAN" / "postinst").write_text(_POSTINST)
    (tree / "DEBIAN" / "postinst").chmod(0o755)
    (tree / "opt").mkdir()
    (tree / "opt" / "conntrack").write_text("installed")
    repository = directory / "repository"
    repository.mkdir()
    file = repository / "conntrack.deb"
    build = ["dpkg-deb", "--root-owner-group", "--build", str(tree), str(file)]
    subprocess.run(build, check=True, capture_output=True)
    data = file.read_bytes()
    index = (
        f"Filename: ./{file.name}\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}"
    )
    (repository / "Packages").write_text(f"{control}{index}\n")
    return repository


@pytest.fixture
def debian(machine: Machine, package: Path) -> Machine:
    """Machine with apt, dpkg and the package source."""
    for folder in (
        "/etc/apt/apt.conf.d",
        "/etc/dpkg/dpkg.cfg.d",
        "/var/cache/apt/archives/partial",
        "/var/lib/apt/lists/partial",
        "/var/lib/dpkg/info",
        "/var/lib/dpkg/updates",
        "/var/lib/dpkg/triggers",
    ):
        machine.path(folder).mkdir(parents=True)
    machine.write("/var/lib/dpkg/status", "")
    # The sandbox user cannot read the directory of the machine.
    machine.write("/etc/apt/apt.conf.d/user", 'APT::Sandbox::User "root";\n')
    machine.write("/etc/apt/sources.list", "deb [trusted=yes] file:/repository ./\n")
    for path in package.iterdir():
        machine.path("/repository").mkdir(exist_ok=True)
        machine.path(f"/repository/{path.name}").write_bytes(path.read_bytes())
    return machine


def install(machine: Machine, *, seconds: int = 30, before: str = "") -> Result:
    """Run the library's function as a script does."""
    text = text_alone("lib.sh") + text_alone("apt.sh") + "install_packages conntrack\n"
    machine.write("/script", text)
    run = f"NODE_NAME=worker-1 APT_SECONDS={seconds} bash /script 2>/said"
    return machine.shell(f"{before}\n{run}; code=$?; cat /said >&2; exit $code")


def is_installed(machine: Machine) -> bool:
    return "Status: install ok installed" in machine.read("/var/lib/dpkg/status")


def test_a_missing_package_is_installed_once(debian: Machine) -> None:
    result = install(debian)
    assert result.status == 0, result.stderr
    assert is_installed(debian)
    assert "WARNING" not in result.stderr
    assert install(debian).stderr == ""


@pytest.mark.parametrize("lock", LOCKS.values(), ids=LOCKS)
def test_the_script_waits_for_the_lock_of_another_process(debian: Machine, lock: str) -> None:
    waits = '-s "/said" && `cat /said` =~ /waiting up to/'
    result = install(debian, seconds=600, before=_HOLDER.format(path=lock, released=waits))
    assert "waiting up to 600 s for another process that installs packages" in result.stderr
    assert result.status == 0, result.stderr
    assert is_installed(debian)
    assert "WARNING" not in result.stderr


def test_a_lock_that_is_never_released_ends_the_script(debian: Machine) -> None:
    before = _HOLDER.format(path=LOCKS["lists"], released="0")
    result = install(debian, seconds=1, before=before)
    assert result.status == 1
    assert "[package-manager-locked]" in result.stderr
    assert LOCKS["lists"] in result.stderr


def test_an_interrupted_dpkg_is_completed(debian: Machine) -> None:
    debian.write("/kill-dpkg", "")
    assert install(debian).status == 1
    assert not is_installed(debian)
    result = install(debian)
    assert result.status == 0, result.stderr
    assert is_installed(debian)


@pytest.mark.parametrize("source", ["cdrom:[Debian]/ ./", "[trusted=yes] file:/nowhere ./"])
def test_a_broken_package_source_is_only_a_warning(debian: Machine, source: str) -> None:
    sources = debian.read("/etc/apt/sources.list")
    debian.write("/etc/apt/sources.list", f"deb {source}\n{sources}")
    result = install(debian)
    assert result.status == 0, result.stderr
    assert "worker-1: WARNING: `apt-get update` failed" in result.stderr
    assert is_installed(debian)


def test_a_package_without_a_source_ends_the_script(debian: Machine) -> None:
    debian.write("/etc/apt/sources.list", "")
    result = install(debian)
    assert result.status == 1
    assert "ERROR on node worker-1: apt or dpkg failed: E: " in result.stderr
    assert "[apt-failed]" in result.stderr


def test_an_unreadable_database_is_not_a_missing_package(debian: Machine) -> None:
    debian.fake("dpkg-query", "exit 2")
    result = install(debian)
    assert result.status == 1
    assert "[dpkg-unreadable]" in result.stderr
    assert not debian.calls("apt-get")


@pytest.mark.parametrize("seconds", [600, 1])
def test_the_script_waits_for_the_first_boot(debian: Machine, seconds: int) -> None:
    wait = "until [ -e /booted ]; do sleep 0.1; done"
    debian.fake("cloud-init", f"case $* in status) echo 'status: running' ;; *) {wait} ;; esac")
    boot = "(until grep -qs 'first boot' /said; do sleep 0.1; done; touch /booted) &"
    before = boot if seconds > 1 else ""
    result = install(debian, seconds=seconds, before=before)
    assert "cloud-init to finish the first boot" in result.stderr
    assert ("WARNING: cloud-init has not finished" in result.stderr) == (seconds == 1)
    assert result.status == 0, result.stderr
    assert is_installed(debian)
