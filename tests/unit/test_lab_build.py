"""The declared programs, their stamps, and what the user sees while they are built."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from lab import build, paths, programs
from lab.programs import Program
from lab.run import Failed, Progress, Runner, duration
from stacks import catalogue


def _program(name: str = "echo", group: str = "demo", seconds: int = 1) -> Program:
    return Program(name=name, group=group, package=".", seconds=seconds)


def _required(group: str, module: str) -> str:
    text = (build.module_folder(group) / "go.mod").read_text()
    found = re.search(rf"^\s*(?:require )?{re.escape(module)} v(\S+)", text, re.MULTILINE)
    assert found, f"{group}/go.mod does not require {module}"
    return found.group(1)


def test_the_table_and_the_module_files_name_the_same_versions() -> None:
    assert _required("kubernetes", "k8s.io/kubernetes") == programs.KUBERNETES
    assert _required("pulumi", "github.com/pulumi/pulumi/pkg/v3") == programs.PULUMI
    assert _required("metrics-server", "sigs.k8s.io/metrics-server") == programs.METRICS_SERVER
    kubernetes = catalogue.KUBERNETES[programs.KUBERNETES]
    for group, module, version, listed in (
        ("containerd", "containerd/containerd", programs.CONTAINERD, kubernetes.containerd),
        ("runc", "opencontainers/runc", programs.RUNC, kubernetes.runc),
        (
            "cni-plugins",
            "containernetworking/plugins",
            programs.CNI_PLUGINS,
            kubernetes.cni_plugins,
        ),
    ):
        assert _required(group, f"github.com/{module}") == version == listed
    for release in programs.ISTIO:
        text = (build.module_folder(release.group) / "go.mod").read_text()
        assert f"// The commit that release {release.version} was cut from.\n" in text
    assert (
        f"sdk/v4 v{programs.PULUMI_KUBERNETES}"
        in (build.module_folder("pulumi-kubernetes") / "go.mod").read_text()
    )


@pytest.mark.parametrize(
    "program",
    [*programs.CLUSTER, *programs.TESTS, programs.CLI, programs.PROVIDER, programs.OPENAPI_GEN],
    ids=lambda program: f"{program.group}/{program.name}",
)
def test_every_program_has_a_module(program: Program) -> None:
    assert (build.module_folder(program.group) / "go.mod").is_file()


def test_the_slowest_group_is_begun_first() -> None:
    wanted = [_program("a", "one", 5), _program("b", "two", 4), _program("c", "two", 4)]
    assert [group for group, _ in build.by_group(wanted)] == ["two", "one"]


def test_a_fingerprint_follows_flags_files_and_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "module_folder", lambda group: tmp_path / group)
    folder = tmp_path / "demo"
    folder.mkdir()
    (folder / "go.mod").write_text("module a\n")
    first = build.fingerprint(_program(), "go1.26.6")
    assert build.fingerprint(_program(), "go1.26.6") == first
    (folder / "main_test.go").write_text("package main\n")
    assert build.fingerprint(_program(), "go1.26.6") == first, "a test is no input"

    seen = {first, build.fingerprint(_program(), "go1.26.7")}
    seen.add(
        build.fingerprint(
            Program(name="echo", group="demo", package=".", seconds=1, tags="x"), "go1.26.6"
        )
    )
    (folder / "main.go").write_text("package main\n")
    seen.add(build.fingerprint(_program(), "go1.26.6"))
    assert len(seen) == 4


def test_a_stamp_fits_only_its_inputs_and_an_output_that_exists(tmp_path: Path) -> None:
    stamps, output = build.Stamps(tmp_path / "stamps"), tmp_path / "output"
    stamps.write("a", "1")
    assert not stamps.fits("a", "1", output)
    output.touch()
    assert stamps.fits("a", "1", output)
    assert not stamps.fits("a", "2", output)


def test_openapi_packages_are_those_that_ask_for_definitions(tmp_path: Path) -> None:
    files = {
        "k8s.io/api/core/v1/doc.go": "// +k8s:openapi-gen=true\npackage v1\n",
        "k8s.io/apimachinery/pkg/util/intstr/intstr.go": (
            "package intstr\n\n// IntOrString holds either.\n// +k8s:openapi-gen=true\n"
        ),
        "k8s.io/client-go/gen.go": 'package gen\n\nvar tag = "+k8s:openapi-gen=true"\n',
        "k8s.io/api/apps/v1/doc.go": "// +k8s:openapi-gen=false\npackage v1\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert build.openapi_packages(tmp_path) == [
        "k8s.io/api/core/v1",
        "k8s.io/apimachinery/pkg/util/intstr",
    ]


def test_a_go_command_sees_neither_the_users_flags_nor_caches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOFLAGS", "-mod=mod -race")
    monkeypatch.setenv("GOCACHE", "/elsewhere")
    go = build.Go(build=tmp_path, version="go1.26.6")
    found = go.environment("etcd")
    assert found["GOFLAGS"] == "-modcacherw"
    assert found["GOTOOLCHAIN"] == "local"
    assert found["CGO_ENABLED"] == "0"
    assert Path(found["GOCACHE"]).is_relative_to(tmp_path)
    assert Path(found["GOMODCACHE"]).is_relative_to(tmp_path)
    assert go.environment("flannel", cgo=True)["CGO_ENABLED"] == "1"


def test_the_run_time_directories_follow_xdg(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", "relative/is/ignored")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert paths.cache().bin == tmp_path / "nordmesh" / "bin"
    assert paths.state().passphrase == tmp_path / "home/.local/state/nordmesh/passphrase"


def test_a_failing_command_shows_the_end_of_its_log(tmp_path: Path) -> None:
    runner = Runner(tmp_path)
    script = "for i in $(seq 30); do echo line $i >&2; done; exit 3"
    with pytest.raises(Failed) as failure:
        runner.run("etcd", ["sh", "-c", script])
    message = str(failure.value)
    assert "etcd failed (exit code 3)" in message
    assert str(tmp_path / "etcd.log") in message
    assert "line 30" in message
    assert "line 5\n" not in message


def test_stopping_ends_what_runs_and_refuses_what_comes(tmp_path: Path) -> None:
    runner = Runner(tmp_path)
    started = time.monotonic()
    threading.Timer(0.3, runner.stop).start()
    with pytest.raises(Failed, match="another step failed"):
        runner.run("long", ["sleep", "30"])
    assert time.monotonic() - started < 10
    with pytest.raises(Failed, match="another step failed"):
        runner.run("next", ["true"])


def test_the_first_failure_is_the_one_that_is_told(tmp_path: Path) -> None:
    runner = Runner(tmp_path)

    def task(script: str) -> Callable[[], None]:
        return lambda: void(runner.run(script.split()[0], ["sh", "-c", script]))

    with pytest.raises(Failed, match="compiler says no"):
        build.run_side_by_side([task("sleep 30"), task("echo compiler says no; exit 1")], runner)


def void(_: object) -> None:
    """For a lambda that must return nothing."""


def test_progress_counts_and_times() -> None:
    lines: list[str] = []
    progress = Progress(lines.append, total=12)
    with progress.step("kubelet"):
        pass
    assert lines == ["[ 1/12] kubelet ... 0s"]
    assert [duration(s) for s in (43.4, 60, 163)] == ["43s", "1m00s", "2m43s"]


def test_an_estimate_is_no_input_of_a_program() -> None:
    assert repr(_program(seconds=1)) == repr(_program(seconds=99))


@pytest.mark.parametrize(("gibibytes", "expected"), [(4, "100"), (16, "400")])
def test_the_compiler_takes_more_memory_only_where_there_is_plenty(
    gibibytes: int, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "available_memory", lambda: gibibytes * 2**30)
    go = build.Go(build=tmp_path, version="go1.26.6")
    assert go.environment("etcd")["GOGC"] == expected


class _Recorder(Runner):
    """Runs nothing, and notes which build cache each Go command would use."""

    def __init__(self, logs: Path) -> None:
        super().__init__(logs)
        self.caches: list[tuple[str, str]] = []

    def run(
        self,
        label: str,
        command: Sequence[str],
        *,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> str:
        assert label
        assert cwd is not None
        assert environment is not None
        cache = Path(environment["GOCACHE"])
        cache.mkdir(parents=True, exist_ok=True)
        self.caches.append((command[1], cache.name))
        return ""


def test_a_groups_build_cache_begins_with_the_standard_library(tmp_path: Path) -> None:
    runner = _Recorder(tmp_path / "logs")
    cache = paths.Cache(root=tmp_path)
    builder = build.Builder(
        cache=cache,
        go=build.Go(build=cache.build, version="go1.26.6"),
        runner=runner,
        stamps=build.Stamps(cache.stamps),
    )
    etcd = next(p for p in programs.CLUSTER if p.name == "etcd")
    builder.fetch("etcd", [etcd])
    builder.warm("std")
    (builder.go.objects("std") / "compiled").touch()
    builder.begin_group("etcd")
    assert (builder.go.objects("etcd") / "compiled").exists()
    assert runner.caches == [("list", "lists"), ("build", "std")]
