"""Downloads on nodes with the real curl, from a server that fails in many ways."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from components.remote.node_command import text_alone
from tests.support.cut import Mirror, serving
from tests.unit.machine import Machine, Result

CONTENT = b"0123456789abcdef" * 16_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PROGRAM, STAMP = "/opt/bin/tool", "/var/lib/nordmesh/tool.sha256"
PART = f"/var/lib/nordmesh/tool.{SHA256}.part"
EARLIER = "what an earlier release installed"


@dataclass(frozen=True)
class Downloads:
    """Machine with an earlier release of the program, and the mirror that it downloads from."""

    machine: Machine
    mirror: Mirror

    def fetch(self, *folders: str) -> Result:
        """Install the program from the first of these mirror folders that has it."""
        urls = " ".join(f"{self.mirror.address}/{folder}/tool" for folder in folders)
        line = f"fetch_all 'tool {SHA256} /opt/bin - {urls}'"
        look = f"ls -A /opt/bin; cat {PROGRAM} {STAMP}"
        command = f'NODE_NAME=worker-1 bash /script "{line}"; code=$?; {look}; exit $code'
        return self.machine.shell(command, has_network=True)

    def begin(self, content: bytes) -> None:
        """Leave the partial file of an earlier run."""
        self.machine.write(PART, "")
        self.machine.path(PART).write_bytes(content)

    @property
    def requests(self) -> list[tuple[str, int]]:
        """Requested folders, each with the first byte of the range."""
        return [(path.split("/")[1], first) for path, first in self.mirror.requests]

    def is_installed(self) -> bool:
        """Return whether the program is installed; if not, check that the old one is unchanged."""
        program = self.machine.path(PROGRAM)
        if program.read_bytes() != CONTENT:
            assert program.read_text() == EARLIER
            assert self.machine.read(STAMP) == "earlier\n"
            return False
        assert program.stat().st_mode & 0o777 == 0o755
        assert self.machine.read(STAMP) == f"{SHA256}\n"
        assert [path.name for path in program.parent.iterdir()] == ["tool"]
        remaining = {path.name for path in self.machine.path("/var/lib/nordmesh").iterdir()}
        assert remaining == {"tool.sha256", "tool.files"}
        return True


@pytest.fixture
def downloads(machine: Machine, tmp_path: Path) -> Iterator[Downloads]:
    upstream = tmp_path / "upstream"
    for folder, content in (("good", CONTENT), ("other", CONTENT), ("wrong", CONTENT[:-1] + b"x")):
        (upstream / folder).mkdir(parents=True)
        (upstream / folder / "tool").write_bytes(content)
    machine.skip_waits()
    machine.write("/script", text_alone("lib.sh") + text_alone("fetch.sh") + '\neval "$1"\n')
    machine.write(PROGRAM, EARLIER, mode=0o755)
    machine.write(STAMP, "earlier\n")
    with serving(upstream) as mirror:
        yield Downloads(machine, mirror)


@pytest.mark.parametrize(
    ("partial", "offsets"),
    [
        (b"", [0]),
        (CONTENT[:1000], [1000]),
        # Complete, but not yet moved to its target.
        (CONTENT, []),
        # The start of another file.
        (b"x" * 1000, [1000, 0]),
        # The server responds with 416, range not satisfiable.
        (CONTENT + b"more", [len(CONTENT) + 4, 0]),
    ],
)
def test_a_download_resumes_where_an_earlier_run_stopped(
    downloads: Downloads, partial: bytes, offsets: list[int]
) -> None:
    downloads.begin(partial)
    result = downloads.fetch("good")
    assert result.status == 0, result.stderr
    assert downloads.is_installed()
    assert downloads.requests == [("good", first) for first in offsets]
    downloads.mirror.requests.clear()
    assert downloads.fetch("good").status == 0
    assert not downloads.requests


@pytest.mark.parametrize(("has_ranges", "second"), [(True, [1000]), (False, [1000, 0])])
def test_an_interrupted_download_resumes(
    downloads: Downloads, has_ranges: bool, second: list[int]
) -> None:
    downloads.mirror.cuts, downloads.mirror.after = 1, 1000
    downloads.mirror.has_ranges = has_ranges
    result = downloads.fetch("good")
    assert result.status == 0, result.stderr
    assert downloads.is_installed()
    assert downloads.requests == [("good", 0), *(("good", first) for first in second)]


def test_a_silent_connection_is_given_up_and_resumed(downloads: Downloads) -> None:
    """After two seconds here, in place of a minute; a download may take ten."""
    sooner = 'for word; do [ "$word" != 60 ] || word=2; set -- "${@:2}" "$word"; done'
    downloads.machine.fake("curl", f'{sooner}\nexec /usr/bin/curl "$@"')
    downloads.mirror.cuts, downloads.mirror.after = 1, 1000
    downloads.mirror.is_silent = True
    machine = replace(downloads.machine, timeout=30)
    result = replace(downloads, machine=machine).fetch("good")
    assert result.status == 0, result.stderr
    assert downloads.is_installed()
    assert downloads.requests == [("good", 0), ("good", 1000)]


# The status codes that the mirror returns before it serves the file, and the requested folders.
@pytest.mark.parametrize(
    ("statuses", "folders", "requested", "installs"),
    [
        ([500], ["good"], ["good", "good"], True),
        ([503, 429, 408], ["good"], ["good"] * 4, True),
        ([500] * 5, ["good"], ["good"] * 5, False),
        ([500] * 5, ["none", "good"], ["none"] * 5 + ["good"], True),
        ([404], ["good"], ["good"], False),
        ([403], ["other", "good"], ["other", "good"], True),
        ([], ["none"], ["none"], False),
        ([], ["none", "good"], ["none", "good"], True),
        # A checksum mismatch is an error; no other source is tried.
        ([], ["wrong", "good"], ["wrong"], False),
    ],
)
def test_a_failing_mirror_is_retried_or_reported(
    downloads: Downloads,
    statuses: list[int],
    folders: list[str],
    requested: list[str],
    installs: bool,
) -> None:
    downloads.mirror.statuses = statuses
    result = downloads.fetch(*folders)
    assert [folder for folder, _ in downloads.requests] == requested
    assert downloads.is_installed() == installs == (result.status == 0)
    if not installs:
        assert "ERROR on node worker-1: " in result.stderr
        code = "wrong-checksum" if folders[0] == "wrong" else "download-failed"
        assert f"[{code}]" in result.stderr
        assert downloads.mirror.address in result.stderr
        assert downloads.fetch("good").status == 0
        assert downloads.is_installed()


@pytest.mark.parametrize("full", ["/var/lib/nordmesh", "/opt/bin"])
def test_a_full_disk_is_reported_and_changes_nothing(downloads: Downloads, full: str) -> None:
    """The error is not attributed to the mirror."""
    small = f"""
        mkdir -p "$root/kept"
        cp -a "$root{full}/." "$root/kept"
        mount -t tmpfs -o size=64k tmpfs "$root{full}"
        cp -a "$root/kept/." "$root{full}"
    """
    downloads.machine.mount(small)
    result = downloads.fetch("good", "good")
    assert result.status == 1
    # The content of the small disk, which is unmounted after the run.
    assert result.stdout == f"tool\n{EARLIER}earlier\n"
    assert "[write-failed]" in result.stderr
    assert full in result.stderr
    assert "artifacts.mirror" not in result.stderr
    assert len(downloads.requests) == 1
    downloads.machine.path("/mounts").unlink()
    assert downloads.fetch("good").status == 0
    assert downloads.is_installed()
