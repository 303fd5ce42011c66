"""The lab's programs: their modules, their stamps and the progress of a build."""

from __future__ import annotations

import io
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from config import catalogue
from lab import build, images, paths, programs, roots, selection, services, toolchain
from lab.errors import LabError
from lab.programs import Program
from lab.progress import Progress, duration
from lab.run import Runner
from lab.selection import Selection


def _program(name: str = "echo", group: str = "demo", seconds: int = 1) -> Program:
    return Program(name=name, group=group, package=".", seconds=seconds)


_KUBE_ROUTER = "github.com/cloudnativelabs/kube-router/v2"


def _required(group: str, module: str) -> str:
    text = (build.module_folder(group) / "go.mod").read_text()
    match = re.search(rf"^\s*(?:require )?{re.escape(module)} v(\S+)", text, re.MULTILINE)
    assert match, f"{group}/go.mod does not require {module}"
    return match.group(1)


def test_the_table_and_go_mod_have_the_same_versions() -> None:
    assert _required("kubernetes", "k8s.io/kubernetes") == programs.KUBERNETES
    assert _required("pulumi", "github.com/pulumi/pulumi/pkg/v3") == programs.PULUMI
    assert _required("metrics-server", "sigs.k8s.io/metrics-server") == programs.METRICS_SERVER
    assert _required("kube-router", _KUBE_ROUTER) == programs.KUBE_ROUTER
    assert catalogue.KUBE_ROUTER_IMAGE.endswith(f":v{programs.KUBE_ROUTER}")
    assert _required("alertmanager", "github.com/prometheus/alertmanager") == programs.ALERTMANAGER
    assert catalogue.ALERTMANAGER_IMAGE.endswith(f":v{programs.ALERTMANAGER}")
    provisioner = _required("local-path-provisioner", "github.com/rancher/local-path-provisioner")
    assert provisioner == programs.LOCAL_PATH_PROVISIONER
    assert catalogue.LOCAL_STORAGE_IMAGE.endswith(f":v{provisioner}")
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


def test_the_slowest_group_is_built_first() -> None:
    declared = [_program("a", "one", 5), _program("b", "two", 4), _program("c", "two", 4)]
    assert [group for group, _ in build.by_group(declared)] == ["two", "one"]


def test_a_fingerprint_depends_on_flags_files_and_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "module_folder", lambda group: tmp_path / group)
    folder = tmp_path / "demo"
    folder.mkdir()
    (folder / "go.mod").write_text("module a\n")
    first = build.fingerprint(_program(), "go1.26.6")
    assert build.fingerprint(_program(), "go1.26.6") == first
    (folder / "main_test.go").write_text("package main\n")
    assert build.fingerprint(_program(), "go1.26.6") == first, "tests are not inputs"

    fingerprints = {first, build.fingerprint(_program(), "go1.26.7")}
    fingerprints.add(
        build.fingerprint(
            Program(name="echo", group="demo", package=".", seconds=1, tags="x"), "go1.26.6"
        )
    )
    (folder / "main.go").write_text("package main\n")
    fingerprints.add(build.fingerprint(_program(), "go1.26.6"))
    assert len(fingerprints) == 4


def test_a_stamp_is_valid_for_its_inputs_and_an_existing_output(tmp_path: Path) -> None:
    stamps, output = build.Stamps(tmp_path / "stamps"), tmp_path / "output"
    stamps.write("a", "1")
    assert not stamps.fits("a", "1", output)
    output.touch()
    assert stamps.fits("a", "1", output)
    assert not stamps.fits("a", "2", output)


def test_openapi_packages_are_those_with_the_marker(tmp_path: Path) -> None:
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


def test_a_go_command_ignores_the_flags_and_caches_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOFLAGS", "-mod=mod -race")
    monkeypatch.setenv("GOCACHE", "/elsewhere")
    go = build.Go(build=tmp_path, version="go1.26.6")
    environment = go.environment("etcd")
    assert environment["GOFLAGS"] == "-modcacherw"
    assert environment["GOTOOLCHAIN"] == "local"
    assert environment["CGO_ENABLED"] == "0"
    assert Path(environment["GOCACHE"]).is_relative_to(tmp_path)
    assert Path(environment["GOMODCACHE"]).is_relative_to(tmp_path)
    assert go.environment("flannel", cgo=True)["CGO_ENABLED"] == "1"


def test_cache_and_state_follow_xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", "relative/is/ignored")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert paths.cache().bin == tmp_path / "nordmesh" / "bin"
    assert paths.state().passphrase == tmp_path / "home/.local/state/nordmesh/passphrase"


def test_a_failing_command_shows_the_end_of_its_log(tmp_path: Path) -> None:
    runner = Runner(tmp_path)
    script = "for i in $(seq 30); do echo line $i >&2; done; exit 3"
    with pytest.raises(LabError) as failure:
        runner.run("etcd", ["sh", "-c", script])
    message = str(failure.value)
    assert "etcd failed (exit code 3)" in message
    assert str(tmp_path / "etcd.log") in message
    assert "line 30" in message
    assert "line 5\n" not in message


def test_stop_ends_running_commands_and_refuses_new_ones(tmp_path: Path) -> None:
    runner = Runner(tmp_path)
    started = time.monotonic()
    threading.Timer(0.3, runner.stop).start()
    with pytest.raises(LabError, match="another step failed"):
        runner.run("long", ["sleep", "600"])
    assert time.monotonic() - started < 300
    with pytest.raises(LabError, match="another step failed"):
        runner.run("next", ["true"])


def test_the_first_failure_is_reported(tmp_path: Path) -> None:
    runner = Runner(tmp_path)

    def task(script: str) -> Callable[[], None]:
        return lambda: discard(runner.run(script.split()[0], ["sh", "-c", script]))

    with pytest.raises(LabError, match="compiler says no"):
        build.run_side_by_side([task("sleep 600"), task("echo compiler says no; exit 1")], runner)


def discard(_: object) -> None:
    """Discard a value, in a lambda that must return None."""


def test_progress_shows_count_and_duration() -> None:
    lines: list[str] = []
    progress = Progress(lines.append, total=12, clock=Clock())
    with progress.step("kubelet"):
        pass
    assert lines == ["[ 1/12] kubelet ... 0s"]
    assert [duration(s) for s in (43.4, 60, 163)] == ["43s", "1m00s", "2m43s"]


class Clock:
    """A clock that advances in `wait`. waits: the number of waits before it is done."""

    def __init__(self, waits: int = 0) -> None:
        self.now = 0.0
        self.waits = waits
        self.seconds: list[float] = []
        self.done = threading.Event()

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> bool:
        if len(self.seconds) == self.waits:
            self.done.set()
            return True
        self.seconds.append(seconds)
        self.now += seconds
        return False


def test_a_slow_build_is_reported_every_30_s() -> None:
    lines: list[str] = []
    clock = Clock(waits=2)
    progress = Progress(lines.append, total=3, clock=clock)
    with progress.step("etcd"):
        pass
    with progress.step("kubelet"):
        clock.now += 70
        with progress.step("Go modules"), progress.watch(clock.wait):
            clock.done.wait(120)
    assert set(clock.seconds) == {30.0}
    assert lines == [
        "[1/3] etcd ... 0s",
        "in progress: kubelet for 1m40s, Go modules for 30s; 2 of 3 left",
        "in progress: kubelet for 2m10s, Go modules for 1m00s; 2 of 3 left",
        "[2/3] Go modules ... 1m00s",
        "[3/3] kubelet ... 2m10s",
    ]


def test_a_terminal_shows_a_progress_bar() -> None:
    screen = io.StringIO()
    clock = Clock()
    console = Console(file=screen, force_terminal=True, width=80)
    progress = Progress(lambda line: console.print(line), total=2, clock=clock, console=console)

    def wait_for(text: str) -> None:
        deadline = time.monotonic() + 120
        while text not in screen.getvalue():
            assert time.monotonic() < deadline, screen.getvalue()
            time.sleep(0.02)

    with progress.watch(), progress.step("kubelet"):
        clock.now += 39
        wait_for("0:00:39")
        output = Text.from_ansi(screen.getvalue()).plain
        assert "kubelet" in output
        assert "2 of 2 left" in output
        with progress.step("etcd"):
            pass
        wait_for("1 of 2 left")
        assert "in progress" not in screen.getvalue(), "the bar replaces the lines"
    assert "[2/2] kubelet ... 39s" in Text.from_ansi(screen.getvalue()).plain


def test_a_failed_step_is_not_counted() -> None:
    lines: list[str] = []
    clock = Clock(waits=1)
    progress = Progress(lines.append, total=2, clock=clock)
    with pytest.raises(LabError), progress.step("kubelet"):
        raise LabError("compiler says no", code="unit")
    with progress.step("etcd"), progress.watch(clock.wait):
        clock.done.wait(120)
    assert lines == ["in progress: etcd for 30s; 2 of 2 left", "[1/2] etcd ... 30s"]


class FakeBuild:
    """A build without side effects: it records what it would build and its messages.

    reports: the number of reports of progress that a step waits for.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, root: Path, *, reports: int = 0) -> None:
        self.built: list[str] = []
        self.images: list[str] = []
        self.messages: list[str] = []

        def compile_(_: build.Builder, program: Program) -> None:
            deadline = time.monotonic() + 120
            while len(self.reports()) < reports and time.monotonic() < deadline:
                time.sleep(0.01)
            self.built.append(f"{program.group}/{program.name}")

        def make_images(chosen: Sequence[images.Image], *_: object) -> int:
            self.images += [image.reference for image in chosen]
            return len(self.images)

        monkeypatch.setenv("XDG_CACHE_HOME", str(root))
        monkeypatch.setattr(build, "_read_go_version", lambda _: "go1.26.6")
        monkeypatch.setattr(roots, "ALL", ())
        monkeypatch.setattr(toolchain, "install", lambda *_: None)
        for name in ("fetch", "warm", "begin_group", "end_group", "copy_bootstrap_template"):
            monkeypatch.setattr(build.Builder, name, lambda *_: None)
        monkeypatch.setattr(build.Builder, "is_built", lambda *_: False)
        monkeypatch.setattr(build.Builder, "compile", compile_)
        monkeypatch.setattr(images, "make_all", make_images)
        monkeypatch.setattr(images, "make_mirror", lambda _: None)
        monkeypatch.setattr(images, "write_lock", lambda *_: None)

    def reports(self) -> list[str]:
        return [line for line in self.messages if line.startswith("in progress: etcd for ")]

    def make(self, **options: Any) -> None:
        build.make_all(say=self.messages.append, from_source=(), **options)


def local_selection(**sections: object) -> Selection:
    """The selection of the shipped lab. sections: replaced sections of its stack file."""
    values = services.read_stack(paths.PROJECT, "local") | sections
    values = {name: value for name, value in values.items() if value is not None}
    return selection.of_stack(values, paths.PROJECT)


ONLY_FOR_TESTS = {
    "alertmanager/alertmanager",
    "kube-router/kube-router",
    "local-path-provisioner/local-path-provisioner",
    "istio-1.18/pilot-discovery",
    "istio-1.18/istioctl",
    "istio-1.18/pilot-agent",
    "prometheus/prometheus",
    "prometheus/promtool",
    "etcdutl/etcdutl",
    "versitygw/versitygw",
}


def test_the_shipped_lab_builds_only_what_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tests = FakeBuild(monkeypatch, tmp_path)
    tests.make(more=programs.TESTS)
    up = FakeBuild(monkeypatch, tmp_path)
    up.make(chosen=local_selection())
    assert set(tests.built) - set(up.built) == ONLY_FOR_TESTS
    assert set(tests.built) == {f"{p.group}/{p.name}" for p in (*programs.CLUSTER, *programs.TESTS)}
    assert set(tests.images) == {image.reference for image in images.ALL}
    config = services.read_stack(paths.PROJECT, "local")
    versions = config["kubernetes"]["version"], config["istio"]["version"]
    assert set(up.images) == set(catalogue.images(*versions, demo=True))


def names(chosen: Selection) -> set[str]:
    return {f"{program.group}/{program.name}" for program in chosen.programs}


def test_enabled_features_are_built() -> None:
    shipped = names(local_selection())
    observed = local_selection(observability={"prometheus": {"enabled": True}})
    assert names(observed) - shipped == {"prometheus/prometheus"}
    assert catalogue.PROMETHEUS_IMAGE in {image.reference for image in observed.images}
    mesh = services.read_stack(paths.PROJECT, "local")["mesh"]
    filtered = local_selection(mesh={**mesh, "networkPolicy": True})
    assert names(filtered) - shipped == {"kube-router/kube-router"}
    receiver = {"webhook": {"host": "receiver.shop.svc.cluster.local"}}
    alerting = local_selection(
        observability={
            "prometheus": {"enabled": True},
            "alertmanager": {"enabled": True, **receiver},
        }
    )
    assert names(alerting) - names(observed) == {"alertmanager/alertmanager"}
    istio = services.read_stack(paths.PROJECT, "local")["istio"]
    newer = names(local_selection(istio={**istio, "version": "1.18.1"}))
    assert newer - shipped == {name for name in ONLY_FOR_TESTS if "istio" in name}
    assert not any(name.startswith("istio/") for name in newer)
    bare = names(local_selection(istio=None, mesh=None, demo=None))
    assert not any("istio" in name or "demo" in name for name in bare)
    assert {"kubernetes/kubelet", "etcd/etcd", "containerd/containerd"} <= bare


@pytest.mark.parametrize(
    "section", [{"istio": {"version": "9.9.9"}}, {"kubernetes": "x"}, {"misspelt": {}}]
)
def test_everything_is_built_for_an_invalid_file(section: dict[str, object]) -> None:
    assert local_selection(**section) == selection.EVERYTHING


def test_each_download_and_image_of_a_stack_has_its_program() -> None:
    for chosen in (local_selection(), selection.EVERYTHING):
        files = {name for image in chosen.images for name in image.files.values()}
        files |= {name for url in chosen.downloads for name in images.built_files(url)}
        not_built = {"envoy", "pause/pause"}
        assert {p for p in files - not_built if not p.endswith(".json")} == names(chosen)


def test_a_build_reports_slow_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.progress.REPORT_SECONDS", 0.05)
    slow = FakeBuild(monkeypatch, tmp_path, reports=2)
    etcd = next(p for p in programs.CLUSTER if p.name == "etcd")
    slow.make(chosen=Selection(images=(), downloads=()), more=[etcd])
    first, second = slow.reports()[:2]
    assert first.endswith("; 1 of 3 left")
    assert second.endswith("; 1 of 3 left")


def test_an_estimate_does_not_change_the_fingerprint() -> None:
    assert repr(_program(seconds=1)) == repr(_program(seconds=99))


@pytest.mark.parametrize(("gibibytes", "expected"), [(4, "100"), (16, "400")])
def test_the_compiler_uses_more_memory_on_a_large_machine(
    gibibytes: int, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "available_memory", lambda: gibibytes * 2**30)
    go = build.Go(build=tmp_path, version="go1.26.6")
    assert go.environment("etcd")["GOGC"] == expected


class _Recorder(Runner):
    """A runner that runs nothing and records the build cache of each Go command."""

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


def test_the_build_cache_of_a_group_starts_with_the_standard_library(tmp_path: Path) -> None:
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


def test_a_root_for_nodes_does_not_start_the_packages_haproxy(tmp_path: Path) -> None:
    """It has nothing to listen on there, and would be a failed unit of every node."""
    wants = tmp_path / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True)
    for unit in ("haproxy.service", "ssh.service"):
        (wants / unit).symlink_to(f"/lib/systemd/system/{unit}")
    roots.strip(tmp_path, small=False)
    assert [link.name for link in wants.iterdir()] == ["ssh.service"]
