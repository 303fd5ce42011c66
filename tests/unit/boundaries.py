"""Interrupt a script before one of its commands: its boundaries, and the ways to interrupt it.

Bash counts the commands in its DEBUG trap: 7 is the script's seventh command, and 7.1 the first
command of the subshell that it starts. Two boundaries are alike if the machine is the same at both:
a survey compares names, modes, inodes, sizes and times of all files but logs, which no later run
reads, and the position of the script's output.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby, pairwise

from tests.unit.machine import Machine

_STOP_AT, _COMMANDS, _OUTPUT = "/stop-at", "/commands-run", "/output"
# The bash that runs the script is the child of `timeout`, which is PID 1 of the machine. A limit of
# the file size simulates a full disk; servers (fakes that lift it) have their own disks. A cut
# connection has no reader of the output any more.
STARTUP_TEXT = """
sleep() { SECONDS=$((SECONDS + 25 + ${1%%.*})); }
if [ -e /stop-at ]; then
    read -r stop_at stop_how </stop-at
    relay() { echo "$BASHPID" >>/relays; exec cat; }
    stop_now() {
        trap - DEBUG
        stop_applied=true
        : >/stopped
        case $stop_how in
        kill | reboot) kill -KILL -1; kill -KILL "$BASHPID" ;;
        term) kill -TERM -1; kill -TERM "$BASHPID" ;;
        full) trap '' XFSZ; ulimit -S -f 0 ;;
        cut)
            exec 0</dev/null
            [ ! -e /relays-ended ] || return 0
            local relays=() relay
            while [ "${#relays[@]}" -lt 2 ]; do mapfile -t relays </relays; done
            kill -KILL "${relays[@]}"
            for relay in "${relays[@]}"; do
                while [ -e "/proc/$relay/exe" ]; do :; done
            done
            : >/relays-ended
            ;;
        esac
    }
    stop_disk() {
        find / \\( -path /usr -o -path /proc -o -path /sys -o -path /dev -o -path /var/log \\
            -o -path /calls -o -path /commands-run -o -path /output \\) -prune \\
            -o -type d -printf '%p %m\\n' -o -printf '%p %i %m %s %T@\\n'
        find /usr/local /opt -type f -printf '%p %i %m %s %T@\\n'
    }
    stop_here() {
        if [ "$BASHPID" != "$stop_shell" ]; then
            stop_shell=$BASHPID stop_prefix=$stop_prefix$stop_count. stop_count=0
        fi
        stop_count=$((stop_count + 1))
        case $stop_how in
        trace | survey)
            local traps disk=- size=-
            traps=$(trap -p EXIT)
            if [ "$stop_how" = survey ]; then
                disk=$(trap - DEBUG; stop_disk 2>/dev/null | cksum) || true
                size=$(trap - DEBUG; stat -c %s /output)
            fi
            printf '%s\\t%s\\t%s\\t%s\\t%s\\n' "$stop_prefix$stop_count" "${traps:+trap}" "$disk" \\
                "$size" "${1//$'\\n'/ }" >>/commands-run
            ;;
        *)
            if $stop_applied; then return 0; fi
            if [ -e /stopped ] || [ "$stop_prefix$stop_count" = "$stop_at" ]; then stop_now; fi
            ;;
        esac
    }
    if [ $$ = 1 ]; then
        case $stop_how in
        trace | survey) exec >>/output 2>&1 ;;
        cut) : >/relays; exec > >(relay) 2> >(relay >&2) ;;
        esac
    elif [ "$PPID" = 1 ]; then
        stop_shell=$BASHPID stop_prefix= stop_count=0 stop_applied=false
        set -T
        trap 'stop_here "$BASH_COMMAND"' DEBUG
    fi
fi
"""
# Commands that can change a file: samples prefer the boundaries at both of their ends.
_CHANGING = re.compile(
    r"(?:apt-mark|chmod|cp|find|install|kubeadm|mkdir|mv|nft|rm|rmdir|systemctl|systemd-run|tar|touch"
    r"|as_admin|genisoimage|request|\"\$@\"|DEBIAN_FRONTEND=)[ ]?"
)
_WRITING = re.compile(r"(?<![<2&])>>? (?!&|/dev/null)")
_SPEAKING = re.compile(r"(?:step|warn|printf .*>&2|printf '\{)")


class How(StrEnum):
    """How a run is interrupted.

    KILL: all of its processes are killed. TERM: its time limit ends it. CUT: the SSH connection is
    gone: its input ends, and nobody reads its output. FULL: the disk is full from then on. REBOOT:
    the machine reboots: processes and everything in memory are gone.
    """

    KILL = "kill"
    TERM = "term"
    CUT = "cut"
    FULL = "full"
    REBOOT = "reboot"


@dataclass(frozen=True)
class Stop:
    """Interrupt a run before the command with this number."""

    number: str
    how: How


@dataclass(frozen=True)
class Boundary:
    """The point before a command. disk, output: equal at boundaries that are alike; - in a trace.

    is_trapped: whether the script does something at its end, even if a signal ends it.
    """

    number: str
    is_trapped: bool
    disk: str
    output: str
    command: str


def arm(machine: Machine, stop: Stop) -> None:
    """Interrupt the next run."""
    machine.write(_STOP_AT, f"{stop.number} {stop.how}\n")


def disarm(machine: Machine) -> None:
    """Let the next run end."""
    for path in (_STOP_AT, "/stopped", "/relays", "/relays-ended"):
        machine.path(path).unlink(missing_ok=True)


def record(machine: Machine, *, is_survey: bool) -> None:
    """Record the boundaries of the next run, with or without the state of the machine at each."""
    machine.write(_STOP_AT, f"0 {'survey' if is_survey else 'trace'}\n")


def recorded(machine: Machine) -> list[Boundary]:
    """Read the boundaries of the recorded run."""
    lines = (line.split("\t", 4) for line in machine.read(_COMMANDS).splitlines())
    return [
        Boundary(number, bool(trap), disk, output, command)
        for number, trap, disk, output, command in (line for line in lines if len(line) == 5)
    ]


def output(machine: Machine) -> str:
    """The output of the recorded run."""
    return machine.read(_OUTPUT)


def all_stops(surveyed: Sequence[Boundary]) -> list[Stop]:
    """One stop for all that are alike, of every way to interrupt the run at any boundary.

    Two stops at which the files are the same leave the same machine. A full disk is noticed at the
    next write, and a cut connection when the script next reads or prints.
    """
    return list(_distinct(surveyed))


def _distinct(surveyed: Sequence[Boundary]) -> Iterator[Stop]:
    seen: set[tuple[str, str]] = set()
    for boundary in surveyed:
        if ("kill", boundary.disk) not in seen:
            seen.add(("kill", boundary.disk))
            yield Stop(boundary.number, How.KILL)
            yield Stop(boundary.number, How.REBOOT)
        if boundary.is_trapped and ("term", boundary.disk) not in seen:
            seen.add(("term", boundary.disk))
            yield Stop(boundary.number, How.TERM)
    for _, alike in groupby(surveyed, lambda boundary: boundary.disk):
        yield Stop([*alike][-1].number, How.FULL)
    for _, alike in groupby(surveyed, lambda boundary: boundary.output):
        silent = [*alike]
        yield Stop(silent[0].number, How.CUT)
        if len(silent) > 1:
            yield Stop(silent[-1].number, How.CUT)


def likely_stops(traced: Sequence[Boundary]) -> list[Stop]:
    """The stops at commands that can change a file or print, by the text of the commands."""
    after = {first.number: second.number for first, second in pairwise(traced)}
    writing = [b.number for b in traced if _WRITING.search(b.command)]
    changing = [*writing, *(b.number for b in traced if _CHANGING.match(b.command))]
    near = {*changing, *(after.get(number, number) for number in changing)}
    stops = []
    for boundary in traced:
        number = boundary.number
        if number in near:
            stops += [Stop(number, How.KILL), Stop(number, How.REBOOT)]
            stops += [Stop(number, How.TERM)] if boundary.is_trapped else []
        if number in writing:
            stops.append(Stop(number, How.FULL))
        if _SPEAKING.match(boundary.command):
            stops.append(Stop(number, How.CUT))
    return stops
