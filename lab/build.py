"""Build the lab's artifacts: programs from Go modules, Debian roots, images, the mirror's tree.

`make up` calls `make_all()`. It may be killed at any line: a complete output is
renamed into place, then stamped with the hash of its inputs, and the next run
builds only the outputs without a matching stamp.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lab import images, paths, programs, roots, selection, toolchain
from lab.errors import LabError
from lab.guest import GuestImage
from lab.programs import Prepare, Program
from lab.progress import Progress, duration
from lab.run import Runner
from lab.selection import Selection

# The Debian packages that the build needs besides the Python environment.
APT_PACKAGES = (
    "ca-certificates",
    "debian-archive-keyring",
    "debootstrap",
    "docker-registry",
    "gcc",
    "libc6-dev",
    "libseccomp-dev",
    "pkgconf",
    "skopeo",
)

# Free bytes that a run from an empty cache needs at its peak, and that it keeps
# (measured: 13.1 GB, to which the second Istio's modules add 1.3, the tests' S3 server 0.5 and the
# container runtime 0.5; and 2.6 GB).
PEAK_BYTES = 15 * 2**30
KEPT_BYTES = 3 * 2**30

# With this much free memory, the compiler may trade memory for time.
_ROOMY_BYTES = 12 * 2**30

# Two programs at a time: the linker and big packages keep only one core busy.
LANES = 2

# The linker drops debug data anyway; not generating it saves a fifth of the compile time.
_COMPILE_FLAGS = ("-trimpath", "-buildvcs=false", "-gcflags=all=-dwarf=false")


def go_binary() -> Path:
    """The `go` of the Python environment, which the lock file pins."""
    return Path(sys.prefix) / "bin" / "go"


@dataclass(frozen=True, kw_only=True)
class Go:
    """Runs Go with caches below the build directory, and without the user's GOFLAGS."""

    build: Path
    version: str

    @property
    def modules(self) -> Path:
        """GOMODCACHE, shared by all groups."""
        return self.build / "modules"

    def objects(self, group: str) -> Path:
        """GOCACHE of one group, so that it can be dropped when the group is done."""
        return self.build / "objects" / group

    def environment(self, group: str, *, cgo: bool = False) -> dict[str, str]:
        """The process environment for one group's commands."""
        return {
            **os.environ,
            "CGO_ENABLED": "1" if cgo else "0",
            "GOCACHE": str(self.objects(group)),
            "GOFLAGS": "-modcacherw",
            "GOGC": _collect_garbage_at(available_memory()),
            "GOMODCACHE": str(self.modules),
            "GOTOOLCHAIN": "local",
            "GOWORK": "off",
        }


def available_memory() -> int:
    """The available memory in bytes, as the kernel estimates it."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _collect_garbage_at(available: int) -> str:
    """GOGC for the compiler: a third faster on big packages, for up to four times the memory."""
    return "400" if available >= _ROOMY_BYTES else "100"


def _read_go_version(runner: Runner) -> str:
    output = runner.output([str(go_binary()), "env", "GOVERSION"])
    return output.strip()


def module_folder(group: str) -> Path:
    """The checkout's folder that names a group's modules."""
    checkout = paths.checkout()
    return checkout.demo if group == "demo" else checkout.artifacts / group


def _module_files(group: str) -> list[Path]:
    """The files that a group is built from: go.mod, go.sum and our own sources."""
    folder = module_folder(group)
    names = [folder / "go.mod", folder / "go.sum", *folder.glob("*.go")]
    return sorted(path for path in names if path.is_file() and not path.name.endswith("_test.go"))


def fingerprint(program: Program, go_version: str) -> str:
    """Hash of all inputs of a program."""
    digest = hashlib.sha256(f"{programs.RECIPE} {go_version} {program!r}\n".encode())
    groups = [program.group]
    if program.prepare is Prepare.OPENAPI:
        groups.append(programs.OPENAPI_GEN.group)
    for group in groups:
        for path in _module_files(group):
            digest.update(f"{group}/{path.name}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


class Stamps:
    """The stamps of finished outputs, one small file for each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def fits(self, name: str, digest: str, output: Path) -> bool:
        """Whether the output exists and was built from inputs with this hash."""
        stamp = self._folder / name
        return output.exists() and stamp.is_file() and stamp.read_text() == digest

    def write(self, name: str, digest: str) -> None:
        """Record a finished output."""
        self._folder.mkdir(parents=True, exist_ok=True)
        unfinished = self._folder / f".{name}.unfinished"
        unfinished.write_text(digest)
        unfinished.replace(self._folder / name)


@dataclass(frozen=True, kw_only=True)
class Builder:
    """Compiles programs of the table."""

    cache: paths.Cache
    go: Go
    runner: Runner
    stamps: Stamps

    def output(self, program: Program) -> Path:
        """The path of a built program."""
        return self.cache.bin / program.group / program.name

    def stamp_name(self, program: Program) -> str:
        """Name of a program's stamp."""
        return f"{program.group}.{program.name}"

    def is_built(self, program: Program) -> bool:
        """Whether the program is up to date."""
        digest = fingerprint(program, self.go.version)
        return self.stamps.fits(self.stamp_name(program), digest, self.output(program))

    def _work(self, group: str) -> Path:
        """A copy of the group's folder, so that nothing is ever written into the checkout."""
        work = self.go.build / "work" / group
        work.mkdir(parents=True, exist_ok=True)
        for path in _module_files(group):
            shutil.copy2(path, work / path.name)
        return work

    def _go(
        self, label: str, arguments: Sequence[str], work: Path, program: Program, **extra: str
    ) -> str:
        environment = self.go.environment(program.group, cgo=program.cgo) | extra
        return self.runner.run(
            label, [str(go_binary()), *arguments], cwd=work, environment=environment
        )

    def fetch(self, group: str, members: Sequence[Program]) -> None:
        """Download the modules that a group's programs need, and no others."""
        work = self._work(group)
        first = members[0]
        label = f"{group}.modules"
        if first.prepare is Prepare.SCHEMA:
            self._copy_schema(work, first)
        elif first.prepare is Prepare.KUBERNETES_DISCOVERY:
            self._leave_out_discovery(work, first)
        for tags in sorted({program.tags for program in members}):
            packages = [program.package for program in members if program.tags == tags]
            # Every module is one request; more of them at a time than there are cores.
            arguments = ["list", "-deps", "-tags", tags, "-f", '{{""}}', *packages]
            # The group's own build cache must not exist yet: it begins as a copy.
            extra = {"GOMAXPROCS": "16", "GOCACHE": str(self.go.objects("lists"))}
            self._insist(partial(self._go, label, arguments, work, first, **extra))

    def _insist(self, action: Callable[[], object]) -> None:
        """Try three times: a download of hundreds of modules sometimes fails."""
        for pause in (5, 15):
            with suppress(LabError):
                action()
                return
            self.runner.check()
            time.sleep(pause)
        action()

    def warm(self, group: str) -> None:
        """Compile the standard library once; the groups' caches begin as copies of it."""
        done = self.go.build / "objects" / f".{group}.warm"
        if done.exists():
            return
        environment = self.go.environment(group)
        work = self._work(programs.OPENAPI_GEN.group)
        command = [str(go_binary()), "build", *_COMPILE_FLAGS, "std"]
        self.runner.run("std", command, cwd=work, environment=environment)
        done.touch()

    def begin_group(self, group: str) -> None:
        """Give a group its build cache."""
        target = self.go.objects(group)
        if target.exists():
            return
        unfinished = target.with_name(f".{group}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        # Go never writes into a cached object again, so links are as good as copies.
        shutil.copytree(self.go.objects("std"), unfinished, copy_function=os.link)
        unfinished.replace(target)

    def end_group(self, group: str) -> None:
        """Delete a group's build cache and work copy, which take most of the disk space."""
        shutil.rmtree(self.go.objects(group), ignore_errors=True)
        shutil.rmtree(self.go.build / "work" / group, ignore_errors=True)

    def copy_bootstrap_template(self, release: programs.IstioRelease) -> None:
        """Copy Envoy's bootstrap template, which Istio's images hold, out of Istio's module."""
        group, stamp = release.group, f"{release.group}.template"
        program = next(p for p in programs.CLUSTER if p.group == group)
        target = self.cache.bin / group / "envoy_bootstrap.json"
        digest = fingerprint(program, self.go.version)
        if self.stamps.fits(stamp, digest, target):
            return
        module = self._module_folder("istio.io/istio", self._work(group), program)
        unfinished = target.with_name(f".{target.name}.unfinished")
        shutil.copyfile(module / "tools" / "packaging" / "common" / target.name, unfinished)
        unfinished.replace(target)
        self.stamps.write(stamp, digest)

    def compile(self, program: Program) -> None:
        """Build one program and put it into place."""
        work = self._work(program.group)
        extra: dict[str, str] = {}
        if program.prepare is Prepare.OPENAPI:
            work = self._generate_openapi(program)
            extra["GOFLAGS"] = "-mod=vendor"
        elif program.prepare is Prepare.SCHEMA:
            self._copy_schema(work, program)
        elif program.prepare is Prepare.KUBERNETES_DISCOVERY:
            self._leave_out_discovery(work, program)
        output = self.output(program)
        output.parent.mkdir(parents=True, exist_ok=True)
        unfinished = output.with_name(f".{program.name}.unfinished")
        self._go(
            self.stamp_name(program), self._arguments(program, unfinished), work, program, **extra
        )
        unfinished.replace(output)
        self.stamps.write(self.stamp_name(program), fingerprint(program, self.go.version))

    @staticmethod
    def _arguments(program: Program, output: Path) -> list[str]:
        ldflags = f"-s -w {program.ldflags}".strip()
        flags = [*_COMPILE_FLAGS, "-ldflags", ldflags]
        if program.gcflags:
            flags.append(f"-gcflags={program.gcflags}")
        if program.tags:
            flags += ["-tags", program.tags]
        return ["build", *flags, "-o", str(output), program.package]

    def _copy_schema(self, work: Path, program: Program) -> None:
        """Put the provider's two embedded files beside our main.go."""
        module = self._module_folder(programs.PROVIDER_MODULE, work, program)
        source = module / "cmd" / program.name
        for name in ("schema.json", "terraform-mapping.json"):
            shutil.copyfile(source / name, work / name)

    def _leave_out_discovery(self, work: Path, program: Program) -> None:
        """Build Prometheus from a copy of its module that discovers targets in Kubernetes alone.

        The client libraries of all other clouds would be most of what is downloaded and compiled.
        """
        name, source = programs.PROMETHEUS_MODULE, work / "source"
        if not source.exists():
            unfinished = work / ".source.unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            module = self._module_folder(name, work, program)
            # Not copy2: a module's files are read-only.
            shutil.copytree(module, unfinished, copy_function=shutil.copyfile)
            plugins = unfinished / "plugins" / "plugins.go"
            plugins.write_text(f'package plugins\n\nimport _ "{name}/discovery/kubernetes"\n')
            unfinished.replace(source)
        arguments = ["mod", "edit", f"-replace={name}=./{source.name}"]
        self._go(f"{program.group}.replace", arguments, work, program)

    def _module_folder(self, module: str, work: Path, program: Program) -> Path:
        output = self._go(
            f"{program.group}.download",
            ["mod", "download", "-json", module],
            work,
            program,
            GOCACHE=str(self.go.objects("lists")),
        )
        return Path(json.loads(output)["Dir"])

    def _generate_openapi(self, program: Program) -> Path:
        """A vendored copy of the Kubernetes modules with the API server's OpenAPI definitions.

        The module leaves that generated file out. It cannot be laid over the
        module cache, so the modules are vendored.
        """
        generator = self.go.build / "openapi-gen"
        tool = programs.OPENAPI_GEN
        if not generator.exists():
            arguments = self._arguments(tool, generator)
            environment = self.go.environment(program.group)
            self.runner.run(
                "openapi-gen.build",
                [str(go_binary()), *arguments],
                cwd=self._work(tool.group),
                environment=environment,
            )
        work = self._work(program.group)
        copy = work / "vendored"
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        for name in ("go.mod", "go.sum"):
            shutil.copyfile(work / name, copy / name)
        self._go("kubernetes.vendor", ["mod", "vendor"], copy, program)
        target = copy / "vendor" / "k8s.io" / "kubernetes" / "pkg" / "generated" / "openapi"
        boilerplate = copy / "boilerplate.txt"
        boilerplate.touch()
        command = [
            str(generator),
            "--go-header-file", str(boilerplate),
            "--output-pkg", "k8s.io/kubernetes/pkg/generated/openapi",
            "--output-dir", str(target),
            "--output-file", "zz_generated.openapi.go",
            "--report-filename", str(copy / "violations.txt"),
            *openapi_packages(copy / "vendor"),
        ]  # fmt: skip
        environment = self.go.environment(program.group) | {
            "GOFLAGS": "-mod=vendor",
            "PATH": f"{go_binary().parent}{os.pathsep}{os.environ['PATH']}",
        }
        self.runner.run("kubernetes.openapi", command, cwd=copy, environment=environment)
        return copy

    def copy_language_exec(self) -> None:
        """Copy the script that starts Python programs out of Pulumi's SDK module."""
        target = self.cache.toolchain_bin / toolchain.LANGUAGE_EXEC
        digest = fingerprint(programs.CLI, self.go.version)
        if self.stamps.fits("pulumi.exec", digest, target):
            return
        work = self._work(programs.CLI.group)
        sdk = self._module_folder("github.com/pulumi/pulumi/sdk/v3", work, programs.CLI)
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_name(f".{target.name}.unfinished")
        shutil.copyfile(sdk / "python" / "cmd" / toolchain.LANGUAGE_EXEC, unfinished)
        unfinished.chmod(0o755)
        unfinished.replace(target)
        self.stamps.write("pulumi.exec", digest)


def openapi_packages(vendor: Path) -> list[str]:
    """Import paths below vendor/k8s.io whose files ask for OpenAPI definitions."""
    marker = b"+k8s:openapi-gen=true"
    packages = {
        path.parent.relative_to(vendor).as_posix()
        for path in (vendor / "k8s.io").rglob("*.go")
        if any(
            line.lstrip(b"/ \t").startswith(marker)
            for line in path.read_bytes().splitlines()
            if line.startswith(b"//")
        )
    }
    return sorted(packages)


def by_group(wanted: Iterable[Program]) -> list[tuple[str, list[Program]]]:
    """The programs in groups, the slowest group first."""
    groups: dict[str, list[Program]] = {}
    for program in wanted:
        groups.setdefault(program.group, []).append(program)
    return sorted(groups.items(), key=lambda item: -sum(p.seconds for p in item[1]))


class _Plan:
    """Builds groups in lanes while their modules are still being downloaded."""

    def __init__(self, builder: Builder, progress: Progress, wanted: Sequence[Program]) -> None:
        self._builder = builder
        self._progress = progress
        self._groups = by_group(wanted)
        self._queue = iter(self._groups)
        self._turn = threading.Lock()
        self._fetched = {group: threading.Event() for group, _ in self._groups}
        self._warm = threading.Event()

    def tasks(self) -> list[Callable[[], None]]:
        """The steps that run in parallel."""
        return [self._fetch_all, self._warm_up, *[self._lane] * LANES]

    def _fetch_all(self) -> None:
        # In the order of the lanes, and as many at a time.
        with self._progress.step("Go modules"), ThreadPoolExecutor(LANES) as pool:
            for future in [pool.submit(self._fetch, *item) for item in self._groups]:
                future.result()

    def _fetch(self, group: str, members: list[Program]) -> None:
        self._builder.fetch(group, members)
        if any(program.prepare is Prepare.OPENAPI for program in members):
            self._builder.fetch(programs.OPENAPI_GEN.group, [programs.OPENAPI_GEN])
        self._fetched[group].set()

    def _warm_up(self) -> None:
        with self._progress.step("Go's standard library"):
            self._builder.warm("std")
        self._warm.set()

    def _lane(self) -> None:
        while True:
            with self._turn:
                item = next(self._queue, None)
            if item is None:
                return
            group, members = item
            self._await(self._warm)
            self._await(self._fetched[group])
            self._builder.begin_group(group)
            for program in members:
                with self._progress.step(program.name):
                    self._builder.compile(program)
            self._builder.end_group(group)

    def _await(self, event: threading.Event) -> None:
        while not event.wait(0.2):
            self._builder.runner.check()


@contextmanager
def _locked(cache: paths.Cache, say: Callable[[str], None]) -> Iterator[None]:
    """Allow one build at a time in a cache; waits for processes that a killed build left."""
    cache.root.mkdir(parents=True, exist_ok=True)
    with (cache.root / "lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another build is using the cache; waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def run_side_by_side(tasks: Sequence[Callable[[], None]], runner: Runner) -> None:
    """Run all tasks; the first failure stops the others and is raised."""
    with ThreadPoolExecutor(len(tasks)) as pool:
        futures: list[Future[None]] = [pool.submit(task) for task in tasks]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            failures = [future for future in done if future.exception() is not None]
            if failures:
                runner.stop()
        except BaseException:
            runner.stop()
            raise
    for future in [*failures, *futures]:
        future.result()


def make_all(
    *,
    say: Callable[[str], None] | None = None,
    from_source: Iterable[Program] | None = None,
    chosen: Selection = selection.EVERYTHING,
    more: Iterable[Program] = (),
    guests: bool = False,
) -> None:
    """Make the chosen artifacts that are missing or out of date, and the toolchain.

    `from_source` replaces the toolchain's own decision about which of its
    programs must be built; `more` is built beside the chosen ones, and the disk
    image of KVM guests with `guests`. Raises LabError with the end of the failing
    step's log.
    """
    say = say or (lambda line: print(line, flush=True))
    started = time.monotonic()
    cache = paths.cache()
    with _locked(cache, say):
        worked = _make_all(cache, say, from_source, chosen, more)
        worked = (guests and _make_guest_image(cache, say)) or worked
    took = duration(time.monotonic() - started)
    say(f"artifacts ready in {took}" if worked else "artifacts: nothing to do")


def _make_guest_image(cache: paths.Cache, say: Callable[[str], None]) -> bool:
    """Build the disk image of KVM guests; False if it exists."""
    image = GuestImage(cache=cache)
    if image.is_made():
        return False
    progress = Progress(say, total=1)
    with progress.watch(), progress.step("disk image of KVM guests"):
        image.make(Runner(cache.logs))
    return True


def _make_all(
    cache: paths.Cache,
    say: Callable[[str], None],
    from_source: Iterable[Program] | None,
    chosen: Selection,
    more: Iterable[Program],
) -> bool:
    """Build the missing outputs; False if none was missing."""
    runner = Runner(cache.logs)
    stamps = Stamps(cache.stamps)
    go = Go(build=cache.build, version=_read_go_version(runner))
    builder = Builder(cache=cache, go=go, runner=runner, stamps=stamps)

    tools = toolchain.fetch(say) if from_source is None else list(from_source)
    wanted = [p for p in (*tools, *chosen.programs, *more) if not builder.is_built(p)]
    missing_roots = [root for root in roots.ALL if not root.is_made(cache)]
    # Before the programs come their modules and Go's standard library.
    before = 2 if wanted else 0
    progress = Progress(say, total=len(wanted) + before + len(missing_roots))

    def make_roots() -> None:
        for root in missing_roots:
            with progress.step(f"Debian root {root.name}"):
                root.make(cache, runner)

    tasks = _Plan(builder, progress, wanted).tasks() if wanted else []
    if missing_roots:
        tasks.append(make_roots)
    if tasks:
        names = ", ".join(p.name for _, members in by_group(wanted) for p in members)
        if names:
            say(f"building from Go modules: {names}")
        with progress.watch():
            run_side_by_side(tasks, runner)
    if programs.CLI in tools:
        builder.copy_language_exec()
    toolchain.install(cache.bin, tools, say)
    for release in chosen.istio_releases:
        builder.copy_bootstrap_template(release)
    pushed = images.make_all(chosen.images, images.Sources(cache=cache), runner, say)
    images.make_mirror(cache)
    images.write_lock(paths.checkout().lock, cache)
    with suppress(FileNotFoundError):
        shutil.rmtree(cache.build)
    return bool(tasks) or pushed > 0
