"""The requirements of the lab: checks of the machine and their messages."""

from collections import namedtuple
from pathlib import Path

import pytest

from lab import build, host
from lab.errors import LabError
from lab.host import GIB, Need

Usage = namedtuple("Usage", "free")
SMALL = Need(cache_bytes=0, state_bytes=0, memory_bytes=0)


def test_all_problems_are_reported_at_once_with_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_os_release", lambda _: {"ID": "fedora", "PRETTY_NAME": "Fedora 40"})
    monkeypatch.setattr(host, "disk_usage", lambda _: Usage(GIB // 2))
    monkeypatch.setattr(host, "_memory_bytes", lambda: {"MemAvailable": GIB})
    monkeypatch.setattr(host, "_cores", lambda: 1)
    with pytest.raises(LabError) as caught:
        host.require(Need.of_run(artifacts=False, machines=False))
    message = str(caught.value)
    assert "the system is Fedora 40" in message
    assert "1 core is available, 2 are needed" in message
    assert "1.0 GiB of memory is available, 3 GiB is needed" in message
    assert "0.5 GiB of disk is free" in message
    assert "XDG_CACHE_HOME" in message


def test_missing_capabilities_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    all_but_admin = (1 << 41) - 1 - (1 << 21)
    monkeypatch.setattr(Path, "read_text", lambda _: f"Name:\tx\nCapEff:\t{all_but_admin:016x}\n")
    (problem,) = host._capability_problems()
    assert problem.startswith("root lacks 1 of 13 capabilities: CAP_SYS_ADMIN;")


def test_a_user_other_than_root_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    (problem,) = host._capability_problems()
    assert "user id 1000" in problem
    assert "run as root" in problem


def test_existing_artifacts_need_no_disk_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a" / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    empty_cache = host._disk_needs(Need.of_run(artifacts=False, machines=False))
    full_cache = host._disk_needs(Need.of_run(artifacts=True, machines=True))
    assert empty_cache == {tmp_path: build.PEAK_BYTES + host.LAB_BYTES}, (
        "needs on the same disk are added"
    )
    assert full_cache == {tmp_path: 2 * host.SPARE_BYTES}
    assert Need.of_run(artifacts=True, machines=True).memory_bytes == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('ID=debian\nVERSION_ID="12"\n', {"ID": "debian", "VERSION_ID": "12"}),
        ("", {}),
        ("# a comment\nNAME='x y'\n", {"NAME": "x y"}),
    ],
)
def test_os_release_is_parsed(tmp_path: Path, text: str, expected: dict[str, str]) -> None:
    path = tmp_path / "os-release"
    path.write_text(text)
    assert host._os_release(path) == expected
    assert host._os_release(tmp_path / "none") == {}


def test_services_of_new_packages_do_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = tmp_path / "policy-rc.d"
    monkeypatch.setattr(host, "_POLICY", policy)
    with host._services_not_started():
        assert "docker-registry" in policy.read_text()
        assert policy.stat().st_mode & 0o111
    assert not policy.exists()


def test_an_existing_policy_rc_d_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tmp_path / "policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")
    monkeypatch.setattr(host, "_POLICY", policy)
    with host._services_not_started():
        pass
    assert policy.read_text() == "#!/bin/sh\nexit 101\n"


def test_a_new_postgresql_creates_no_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = tmp_path / "createcluster.d" / "nordmesh.conf"
    monkeypatch.setattr(host, "_CLUSTERS", setting)
    with host._no_database_made(["kmod"]):
        assert not setting.parent.exists(), "files of other packages are unchanged"
    with host._no_database_made(["kmod", "postgresql"]):
        assert setting.read_text() == "create_main_cluster = off\n"
    assert not setting.exists()


def test_the_inotify_limit_allows_several_labs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = tmp_path / "max_user_instances"
    monkeypatch.setattr(host, "_INOTIFY", limit)
    monkeypatch.setattr(host, "_load_bridge_module", lambda: None)
    messages: list[str] = []
    for before, after in (("128\n", "512"), ("512\n", "512"), ("8192\n", "8192")):
        limit.write_text(before)
        host.prepare_kernel(messages.append)
        assert limit.read_text().strip() == after
    assert len(messages) == 1
    assert "512" in messages[0]
