"""Programs out of Debian packages: what is kept of them, and when they are made again."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from lab import packages, paths
from lab.packages import Unpacked
from lab.run import Failed, Runner

ONE = Unpacked(name="one", packages=("one", "two"))


class _Apt(Runner):
    """An apt that makes the packages that it is asked for; `empty`: it has no index at first."""

    def __init__(self, logs: Path, *, empty: bool = False) -> None:
        super().__init__(logs)
        self.commands: list[str] = []
        self._empty = empty

    def run(
        self,
        label: str,
        command: Sequence[str],
        *,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> str:
        if command[0] != "apt-get":
            return super().run(label, command, cwd=cwd, environment=environment)
        asked = [word for word in command if word in {"update", "download"}]
        self.commands += asked
        if asked == ["update"]:
            self._empty = False
        elif self._empty:
            raise Failed("E: Unable to locate package one")
        else:
            assert cwd is not None
            for name in command[command.index("download") + 1 :]:
                _make_package(name, cwd)
        return ""


def _make_package(name: str, folder: Path) -> None:
    root = folder / f"{name}-root"
    for path in (f"usr/bin/{name}", f"usr/share/{name}/page.html", f"usr/share/doc/{name}/x"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(name)
    (root / "DEBIAN").mkdir()
    (root / "DEBIAN/control").write_text(
        f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b.c>\nDescription: x\n"
    )
    command = ["dpkg-deb", "--build", str(root), str(folder / f"{name}_1_all.deb")]
    subprocess.run(command, check=True, capture_output=True)


@pytest.mark.parametrize("empty", [False, True])
def test_packages_are_unpacked_together_without_their_documentation(
    tmp_path: Path, empty: bool
) -> None:
    cache = paths.Cache(root=tmp_path)
    apt = _Apt(cache.logs, empty=empty)
    assert not ONE.is_made(cache)
    ONE.make(cache, apt)
    assert ONE.is_made(cache)
    made = cache.bin / "one"
    found = sorted(path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file())
    assert found == [
        "usr/bin/one",
        "usr/bin/two",
        "usr/share/one/page.html",
        "usr/share/two/page.html",
    ]
    assert apt.commands == (["download", "update", "download"] if empty else ["download"])


def test_another_list_of_packages_is_made_again(tmp_path: Path) -> None:
    cache = paths.Cache(root=tmp_path)
    apt = _Apt(cache.logs)
    ONE.make(cache, apt)
    fewer = Unpacked(name="one", packages=("one",))
    assert not fewer.is_made(cache)
    fewer.make(cache, apt)
    assert not (cache.bin / "one/usr/bin/two").exists()


def test_names_are_unique() -> None:
    names = [one.name for one in packages.ALL]
    assert len(set(names)) == len(names)
