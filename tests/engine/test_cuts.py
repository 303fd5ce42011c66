"""SSH connections are cut while real scripts run on a node; the next run continues."""

import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from components.remote.failures import explain
from components.remote.node_command import Script
from tests.engine.conftest import Sshd, wait_until
from tests.engine.pretended import Machine, Up
from tests.engine.test_nodes_ssh import login, measured
from tests.support import cut as cut_mirror
from tests.support.ssh_way import Cut, Way

# The first seeds; the others take minutes.
SEEDS = [
    *range(1, 11),
    *(pytest.param(seed, marks=pytest.mark.long) for seed in range(11, 31)),
]
_KEY = re.compile(r"secret: \S+$", re.MULTILINE)
RESET, SILENT = (Cut(is_reset=is_reset, stays=False) for is_reset in (True, False))


class Field:
    """The machine, its connection, and the results of an uninterrupted build."""

    def __init__(self, machine: Machine, way: Way, mirror: str) -> None:
        self.machine, self.way, self.mirror = machine, way, mirror
        started, carried = time.monotonic(), way.carried
        quiet = self.up("quiet")
        assert quiet.failure is None
        self.seconds = time.monotonic() - started
        self.bytes = way.carried - carried
        self.files = self.built()

    def built(self) -> dict[str, str]:
        """Return the files of the machine; keys, which are random, are masked."""
        return {name: _KEY.sub("secret: *", text) for name, text in self.machine.files().items()}

    def scripts(self, run: str, **more: str) -> dict[str, Script]:
        """Return the scripts of a run. more: settings to override."""
        return self.machine.scripts(self.mirror, run, **more)

    def up(self, run: str, *, after: Up | None = None, only: Sequence[str] = (), **more: str) -> Up:
        """Run what an earlier run has not done. only: restrict the run to these scripts."""
        scripts = self.scripts(run, **more)
        if only:
            scripts = {file: scripts[file] for file in only}
        return self.machine.up(scripts, self.way.port, done=after.done if after else None).run()

    def cut_once(self, chance: random.Random, run: str, after: Up | None = None) -> Up:
        """Run with connections that are cut at a random time or after a random number of bytes."""
        how = Cut(is_reset=chance.random() < 0.7, stays=chance.random() < 0.5)
        timer = None
        if chance.random() < 0.5:
            self.way.cut_after(chance.randrange(self.bytes), how)
        else:
            timer = threading.Timer(chance.uniform(0, self.seconds), self.way.cut, [how])
            timer.start()
        try:
            return self.up(run, after=after)
        finally:
            if timer is not None:
                timer.cancel()
                timer.join()
            self.way.restore()


@pytest.fixture(scope="module")
def field(
    start_sshd: Callable[..., Sshd], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Field]:
    machine = Machine(tmp_path_factory.mktemp("machine"), start_sshd)
    with (
        cut_mirror.serving(machine.mirror) as mirror,
        Way(to=("127.0.0.1", machine.sshd.port)) as way,
    ):
        yield Field(machine, way, mirror.address)


@pytest.fixture(autouse=True)
def _new(field: Field) -> None:
    field.machine.reset()


def in_background(run: Callable[[], Up]) -> "Future[Up]":
    """Start a run in the background and return its future result."""
    executor = ThreadPoolExecutor(max_workers=1)
    running = executor.submit(run)
    executor.shutdown(wait=False)
    return running


def assert_one_at_a_time(journal: list[tuple[str, str, str]]) -> None:
    """Check that programs and runs did not overlap."""
    runs = []
    for begin, end in zip(journal[::2], journal[1::2], strict=True):
        assert (begin[0], end[0]) == ("begin", "end"), journal
        assert begin[1:] == end[1:], journal
        runs.append(begin[1])
    assert runs == sorted(runs), journal


@pytest.mark.parametrize("seed", SEEDS)
def test_the_run_after_a_cut_run_converges(field: Field, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311
    last = None
    for number in range(chance.choice((1, 1, 2))):
        last = field.cut_once(chance, f"{number}", after=last)
        if last.failure is not None:
            # A script that the cut kept from its token says so itself.
            explanation = explain("cp-1", last.failure) or last.failure
            assert "run `pulumi up` again" in explanation
    final = field.up("last", after=last)
    assert final.failure is None
    field.machine.wait()
    assert field.built() == field.files
    assert field.machine.leftovers() == []
    assert field.machine.files_with_secrets() == []
    assert_one_at_a_time(field.machine.journal())


def test_a_waiting_script_does_not_start_after_its_connection_is_cut(field: Field) -> None:
    machine = field.machine
    first = field.up("1", only=("kubeadm-init.sh", "istio-install.sh"))
    before = machine.journal()
    del first.done["istio-install.sh"]  # so the script runs again
    with machine.locked():
        waiting = in_background(lambda: field.up("old", after=first, CONTROL_PLANE="kind: Old"))
        wait_until(lambda: machine.waiting() == 1, "the script waits")
        field.way.cut(RESET)
        assert "without exit status" in str(waiting.result().failure)
    wait_until(lambda: machine.waiting() == 0, "the script stops waiting")
    machine.wait()
    assert machine.journal() == before
    assert not any("kind: Old" in text for text in machine.documents())


def test_a_cut_before_the_secret_arrives_does_not_block_the_next_run(field: Field) -> None:
    machine = field.machine
    first = field.up("1", only=("kubeadm-init.sh", "istio-install.sh"))
    machine.start_without_input(field.way, field.scripts("cut")["kubeadm-join.sh"], SILENT)
    started = time.monotonic()
    assert field.up("2", after=first).failure is None
    assert time.monotonic() - started < 300  # a script that waits for its lock has 600 s
    assert machine.files_with_secrets() == []


def test_a_script_whose_connection_is_cut_deletes_its_secrets(field: Field) -> None:
    machine = field.machine
    first = field.up("1", only=("kubeadm-init.sh", "istio-install.sh"))
    running = in_background(lambda: field.up("2", after=first, SLOWLY="0.5"))
    joins = ("begin", "2", "kubeadm join")
    wait_until(lambda: joins in machine.journal(), "kubeadm joins")
    field.way.cut(RESET)
    assert running.result().failure is not None
    machine.wait()
    assert machine.leftovers() == []
    assert machine.files_with_secrets() == []
    assert field.up("3", after=first).failure is None
    assert_one_at_a_time(machine.journal())


def test_the_preflight_waits_for_the_script_of_a_cut_run(field: Field) -> None:
    with field.machine.locked():
        measurement = ThreadPoolExecutor(max_workers=1).submit(measured, login(field.machine.sshd))
        time.sleep(4)
        assert not measurement.done()
    assert measurement.result(timeout=300).facts.is_whole


def test_the_preflight_does_not_wait_on_a_cluster_member(field: Field) -> None:
    field.up("1", only=("kubeadm-init.sh",))
    with field.machine.locked():
        assert measured(login(field.machine.sshd)).facts.is_member


def test_a_cut_preflight_reports_the_lost_connection(field: Field) -> None:
    measurement = ThreadPoolExecutor(max_workers=1).submit(
        measured, login(field.machine.sshd, port=field.way.port)
    )
    wait_until(lambda: field.machine.runs("perl", "listen"), "the measurement starts")
    field.way.cut(Cut(is_reset=True, stays=True))
    problem = measurement.result(timeout=300).problem
    field.way.restore()
    assert problem is not None
    assert "connection lost" in problem
    assert "None" not in problem
    explanation = explain("cp-1", problem)
    assert explanation is not None
    assert "does not answer over SSH" in explanation
