"""What the control planes of a stack have before a restore, and what that refuses."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from components.remote import nodes_ssh
from components.remote.node_command import Script
from components.remote.nodes_ssh import Answer, Login
from config.errors import NAMESPACE, NordmeshError

LOOK = "restore-look.sh"
_SECONDS = 60


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A control plane that answers. owner: the node that the machine is, if it is another one.

    etcd: running, stopped or none. cluster: whether it has other files of a cluster. restoring: the
    snapshot of an unfinished restore. placed: whether that has placed its data. missing: the
    directory for snapshots, if it is not there.
    """

    name: str
    login: Login
    owner: str
    etcd: str
    cluster: bool
    restoring: str
    placed: bool
    missing: str

    @property
    def is_empty(self) -> bool:
        return self.etcd == "none" and not self.cluster


@dataclass(frozen=True, kw_only=True)
class Planes:
    """The control planes that a restore uses, by name in the order of the stack file.

    target: the one that gets the data; the others join it. kept: those that an earlier run of the
    same restore has worked on. cleared: those whose cluster is deleted first.
    """

    target: Machine
    others: Sequence[Machine]
    kept: Collection[str]
    cleared: Sequence[Machine]

    @property
    def all(self) -> Sequence[Machine]:
        return (self.target, *self.others)


def look(
    logins: Mapping[str, Login], *, endpoint: str, directory: str | None
) -> dict[str, Machine | str]:
    """Ask all control planes at once; a text says why one does not answer.

    directory: where the restored cluster stores snapshots, None for a bucket.
    """
    settings = {"ENDPOINT": endpoint, "DIRECTORY": directory or ""}
    answers = nodes_ssh.run(
        {
            name: (login, Script(file=LOOK, node=name, settings=settings).text)
            for name, login in logins.items()
        },
        seconds=_SECONDS,
    )
    return {name: _parsed(name, logins[name], answer) for name, answer in answers.items()}


def _parsed(name: str, login: Login, answer: Answer) -> Machine | str:
    if answer.problem is not None:
        return answer.problem
    lines = (line.partition(" ") for line in answer.text.splitlines())
    values = {key: value for key, _, value in lines}
    try:
        return Machine(
            name=name,
            login=login,
            owner=values["owner"],
            etcd=values["etcd"],
            cluster=values["cluster"] == "yes",
            restoring=values["restoring"],
            placed=values["placed"] == "yes",
            missing=values["missing"],
        )
    except KeyError:
        return "its answer cannot be read"


def choose(
    looks: Mapping[str, Machine | str], snapshot: str, *, lost: Collection[str], discard: bool
) -> Planes:
    """Choose what to do with each machine; raises NordmeshError if it must not be done.

    lost: the control planes that the user knows to be switched off. discard: whether etcd's data
    may be deleted.
    """
    unknown = sorted(set(lost) - set(looks))
    if unknown:
        raise NordmeshError(
            f"--lost names {', '.join(unknown)}, and the stack file has no such control plane",
            code="restore-lost-unknown",
            fix=f"the control planes are {', '.join(looks)}",
        )
    machines = [one for one in looks.values() if isinstance(one, Machine)]
    _refuse(looks, lost)
    if not machines:
        raise NordmeshError(
            "no control plane answers over SSH",
            code="restore-no-machine",
            why="one of them has to receive the data",
            fix="install a machine, and set its address and hostKey in the stack file",
        )
    if unmounted := [one for one in machines if one.missing]:
        raise _no_directory(unmounted)
    target, *others = machines
    kept: set[str] = set()
    if target.restoring == snapshot:
        kept = {one.name for one in machines if one.restoring == snapshot}
    cleared = [one for one in machines if one.name not in kept and not one.is_empty]
    full = [one for one in cleared if one.etcd != "none"]
    if full and not discard:
        raise _has_data(full)
    return Planes(target=target, others=others, kept=kept, cleared=cleared)


def _refuse(looks: Mapping[str, Machine | str], lost: Collection[str]) -> None:
    problems = dict(_problems(looks, lost))
    if problems:
        raise NordmeshError(
            "; ".join(f"{name}: {problem}" for name, problem in problems.items()),
            code="restore-machine-refused",
            why="a control plane of the old cluster could keep running beside the restored one; "
            "nothing was changed",
            fix="make it answer over SSH, or set its address and hostKey to the right machine; if "
            "it is switched off for good, pass --lost with its name",
        )


def _problems(
    looks: Mapping[str, Machine | str], lost: Collection[str]
) -> Iterator[tuple[str, str]]:
    for name, one in looks.items():
        if isinstance(one, Machine):
            if one.owner:
                yield name, f"this machine is node {one.owner}"
            elif name in lost:
                yield name, "--lost names it, and it answers"
        elif name not in lost:
            yield name, one


def _no_directory(machines: Sequence[Machine]) -> NordmeshError:
    names = ", ".join(one.name for one in machines)
    return NordmeshError(
        f"there is no directory {machines[0].missing} on {names}",
        code="restore-directory-missing",
        path=f"{NAMESPACE}:backup.directory",
        why="the last step of a restore starts the timer that stores snapshots there, and would "
        "fail; nothing was changed",
        fix="mount the storage there, or create the directory on purpose; then run the same "
        "command again",
    )


def _has_data(machines: Sequence[Machine]) -> NordmeshError:
    texts = {"running": "etcd runs", "stopped": "etcd does not run"}
    shown = ", ".join(f"{one.name} ({texts[one.etcd]})" for one in machines)
    return NordmeshError(
        f"these machines have etcd's data: {shown}",
        code="restore-etcd-exists",
        why="it may be newer than the snapshot, and a restore deletes it; nothing was changed",
        fix="start the cluster from it if you can: see `journalctl -u kubelet` there. To delete "
        "it, pass --discard-etcd",
    )
