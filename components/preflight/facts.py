"""The measurements, parsed from what the scripts print."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

# Lines of probe.pl. A shell's startup file may print others.
_PORT = re.compile(r"^(tcp|udp) (\S+) (\d+) (.+)$", re.MULTILINE)
_ROUND_TRIP = re.compile(r"^rtt (\S+) (\d+)$", re.MULTILINE)
_FULL_SIZE = re.compile(r"^mtu (\S+) (ok|no answer)$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Interface:
    """A network interface. mac: empty if it has none, for example WireGuard. mtu: in bytes."""

    name: str
    mac: str
    mtu: int


@dataclass(frozen=True, kw_only=True)
class Listener:
    """A listening program; `-` if it is not known."""

    protocol: str
    port: int
    program: str


@dataclass(frozen=True, kw_only=True)
class Clock:
    """A node's clock: seconds ahead of this machine's, and the uncertainty of that."""

    ahead: float
    error: float


@dataclass(frozen=True, kw_only=True)
class Link:
    """The network path from one node to another.

    tcp, udp: the result of each port: `ok`, or an error. round_trip: milliseconds. full_size:
    whether a packet of the interface's MTU arrives; None if that could not be tested.
    """

    tcp: Mapping[int, str] = field(default_factory=dict)
    udp: Mapping[int, str] = field(default_factory=dict)
    round_trip: float | None = None
    full_size: bool | None = None


class Facts:
    """The facts of one machine, as measure.sh prints them; an absent fact is unknown."""

    def __init__(self, text: str) -> None:
        self._values: dict[str, list[str]] = {}
        for line in text.splitlines():
            key, tab, value = line.partition("\t")
            if tab:
                self._values.setdefault(key, []).append(value.strip())

    def value(self, key: str) -> str:
        """A fact; empty if it is unknown."""
        return self._values.get(key, [""])[0]

    def values(self, key: str) -> list[str]:
        """The values of a fact that may occur several times."""
        return [value for value in self._values.get(key, []) if value]

    def number(self, key: str) -> int | None:
        """A fact that is a whole number; None if it is unknown."""
        text = self.value(key)
        return int(text) if text.isdecimal() else None

    @property
    def memory(self) -> Decimal | None:
        """The machine's memory in bytes; None if it is unknown."""
        kibibytes = self.number("memory-kib")
        return None if kibibytes is None else Decimal(kibibytes) * 1024

    @property
    def is_whole(self) -> bool:
        """Whether the script ran to its end."""
        return bool(self.value("end"))

    @property
    def is_member(self) -> bool:
        """Whether the machine belongs to a cluster of this program."""
        return bool(self.value("member"))

    @property
    def is_prepared(self) -> bool:
        """Whether this program has prepared the machine."""
        return bool(self.value("prepared"))

    def blocks(self, address: str) -> bool:
        """Whether this program's firewall runs there and blocks an address."""
        members = self.values("lets-in")
        return bool(members) and address not in members

    @property
    def steal(self) -> float | None:
        """Stolen CPU time over the window, in percent; None if the kernel counted no time."""
        return _steal(_ticks(self.value("cpu-before")), _ticks(self.value("cpu-after")))

    @property
    def steal_since_boot(self) -> float | None:
        """Stolen CPU time since boot, in percent."""
        ticks = _ticks(self.value("cpu-before"))
        return _steal([0] * len(ticks), ticks)

    @property
    def interface(self) -> Interface | None:
        """The interface with the node's address."""
        for text in self.values("interface"):
            name, mac, mtu = text.split()
            if name == self.value("main-interface"):
                return Interface(name=name, mac=mac.strip("-"), mtu=int(mtu))
        return None

    @property
    def disk_free(self) -> tuple[str, int] | None:
        """A directory, and its free space in MiB."""
        directory, _, mebibytes = self.value("disk-free").partition(" ")
        return (directory, int(mebibytes)) if mebibytes.isdecimal() else None

    @property
    def disk_is_rotational(self) -> bool:
        """Whether the disk reports that it rotates; virtio disks always do, and do not count."""
        name, _, rotational = self.value("disk").partition(" ")
        return rotational == "1" and not name.startswith("vd")

    @property
    def sync_p99(self) -> float | None:
        """The 99th percentile of fdatasync in milliseconds; None if it was not measured."""
        words = self.value("sync").split()
        return int(words[2]) / 1000 if len(words) == 4 and words[2].isdecimal() else None

    @property
    def listeners(self) -> list[Listener]:
        """The listening programs that `ss` shows."""
        lines = (text.split() for text in self.values("listening"))
        return [
            Listener(protocol=words[0], port=int(words[1]), program=words[2])
            for words in lines
            if len(words) == 3 and words[1].isdecimal()
        ]


def _ticks(line: str) -> list[int]:
    """user, nice, system, idle, iowait, irq, softirq and steal of a line of /proc/stat."""
    words = line.split()[1:9]
    return [int(word) for word in words] if len(words) == 8 else []


def _steal(before: list[int], after: list[int]) -> float | None:
    if not before or not after:
        return None
    spent = [late - early for early, late in zip(before, after, strict=True)]
    return 100 * spent[7] / sum(spent) if sum(spent) > 0 else None


def links(text: str) -> dict[str, Link]:
    """The paths from one node to others, by their names, as probe.pl prints them."""
    tcp: dict[str, dict[int, str]] = {}
    udp: dict[str, dict[int, str]] = {}
    round_trips: dict[str, float] = {}
    full_size: dict[str, bool] = {}
    for kind, name, port, result in _PORT.findall(text):
        (tcp if kind == "tcp" else udp).setdefault(name, {})[int(port)] = result
    for name, microseconds in _ROUND_TRIP.findall(text):
        round_trips[name] = int(microseconds) / 1000
    for name, result in _FULL_SIZE.findall(text):
        full_size[name] = result == "ok"
    return {
        name: Link(
            tcp=tcp.get(name, {}),
            udp=udp.get(name, {}),
            round_trip=round_trips.get(name),
            full_size=full_size.get(name),
        )
        for name in tcp.keys() | udp.keys()
    }


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One machine. problem: why it could not be measured. busy: ports in use, as `tcp 6443`."""

    facts: Facts = field(default_factory=lambda: Facts(""))
    clock: Clock | None = None
    links: Mapping[str, Link] = field(default_factory=dict)
    busy: frozenset[str] = frozenset()
    problem: str | None = None


def of_milliseconds(time: float) -> Decimal:
    """A measured time, in seconds."""
    return exact(time) / 1000


def exact(measured: float) -> Decimal:
    """A measurement in decimals, as the limits are: 1.1 is 1.1."""
    return Decimal(str(measured))
