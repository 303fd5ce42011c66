"""What was measured, as the scripts print it and as the judgement takes it."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Interface:
    """A network interface. mtu: in bytes."""

    name: str
    mac: str
    mtu: int


@dataclass(frozen=True, kw_only=True)
class Listener:
    """A program that listens already; `-` where it is not known."""

    protocol: str
    port: int
    program: str


@dataclass(frozen=True, kw_only=True)
class Clock:
    """How far a node's clock is ahead of this machine's, in seconds, and how sure that is."""

    ahead: float
    error: float


@dataclass(frozen=True, kw_only=True)
class Link:
    """The way from one node to another.

    tcp, udp: what became of each port tried: `ok`, or why not. round_trip: milliseconds.
    full_size: whether a packet of the interface's MTU arrives; None where none could be tried.
    """

    tcp: Mapping[int, str] = field(default_factory=dict)
    udp: Mapping[int, str] = field(default_factory=dict)
    round_trip: float | None = None
    full_size: bool | None = None


class Facts:
    """The facts of one machine, as measure.sh prints them; a fact that is absent is not known."""

    def __init__(self, text: str) -> None:
        self._values: dict[str, list[str]] = {}
        for line in text.splitlines():
            key, tab, value = line.partition("\t")
            if tab:
                self._values.setdefault(key, []).append(value.strip())

    def one(self, key: str) -> str:
        """A fact; empty if it is not known."""
        return self._values.get(key, [""])[0]

    def all(self, key: str) -> list[str]:
        """The values of a fact that may come several times."""
        return [value for value in self._values.get(key, []) if value]

    def number(self, key: str) -> int | None:
        """A fact that is a whole number; None if it is not known."""
        text = self.one(key)
        return int(text) if text.isdecimal() else None

    @property
    def is_whole(self) -> bool:
        """Whether the script came to its end."""
        return bool(self.one("end"))

    @property
    def is_member(self) -> bool:
        """Whether the machine belongs to a cluster of this program already."""
        return bool(self.one("member"))

    @property
    def is_prepared(self) -> bool:
        """Whether this program has prepared the machine before."""
        return bool(self.one("prepared"))

    def keeps_out(self, address: str) -> bool:
        """Whether this program's firewall is there, and takes an address for a stranger's."""
        members = self.all("lets-in")
        return bool(members) and address not in members

    @property
    def steal(self) -> float | None:
        """Stolen CPU time over the window, in percent; None if no time was counted."""
        return _steal(_ticks(self.one("cpu-before")), _ticks(self.one("cpu-after")))

    @property
    def steal_since_boot(self) -> float | None:
        """Stolen CPU time since the machine was started, in percent."""
        ticks = _ticks(self.one("cpu-before"))
        return _steal([0] * len(ticks), ticks)

    @property
    def interface(self) -> Interface | None:
        """The interface that has the node's address."""
        for text in self.all("interface"):
            name, mac, mtu = text.split()
            if name == self.one("main-interface"):
                return Interface(name=name, mac=mac, mtu=int(mtu))
        return None

    @property
    def disk_free(self) -> tuple[str, int] | None:
        """A directory, and the MiB that are free there."""
        place, _, mebibytes = self.one("disk-free").partition(" ")
        return (place, int(mebibytes)) if mebibytes.isdecimal() else None

    @property
    def disk_is_rotational(self) -> bool:
        """Whether the disk says that it turns; virtio disks of a hypervisor say so by default."""
        name, _, rotational = self.one("disk").partition(" ")
        return rotational == "1" and not name.startswith("vd")

    @property
    def sync_p99(self) -> float | None:
        """The 99th percentile of fdatasync in milliseconds; None where it was not measured."""
        words = self.one("sync").split()
        return int(words[2]) / 1000 if len(words) == 4 and words[2].isdecimal() else None

    @property
    def listeners(self) -> list[Listener]:
        """What listens on the machine, as far as `ss` tells."""
        found = (text.split() for text in self.all("listening"))
        return [
            Listener(protocol=words[0], port=int(words[1]), program=words[2])
            for words in found
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
    """The ways from one node to others, by their names, as probe.pl prints them."""
    tcp: dict[str, dict[int, str]] = {}
    udp: dict[str, dict[int, str]] = {}
    round_trips: dict[str, float] = {}
    full_size: dict[str, bool] = {}
    for line in text.splitlines():
        kind, _, rest = line.partition(" ")
        name, _, said = rest.partition(" ")
        if kind in ("tcp", "udp"):
            port, _, result = said.partition(" ")
            (tcp if kind == "tcp" else udp).setdefault(name, {})[int(port)] = result
        elif kind == "rtt":
            round_trips[name] = int(said) / 1000
        elif kind == "mtu":
            full_size[name] = said == "ok"
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
    """One machine. problem: why it could not be measured. busy: ports that are taken, tcp 6443."""

    facts: Facts = field(default_factory=lambda: Facts(""))
    clock: Clock | None = None
    links: Mapping[str, Link] = field(default_factory=dict)
    busy: frozenset[str] = frozenset()
    problem: str | None = None
