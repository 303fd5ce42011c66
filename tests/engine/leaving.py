"""Send the packets of the ways out of a cluster, and count those that arrive."""

import json
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Mapping

from tests.engine.pod_network import (
    LISTED,
    METADATA,
    NODE_ADDRESS,
    NODE_ADDRESS_6,
    OTHER_NODE,
    REMOTE_NODE,
    REMOTE_POD,
    SECOND_API_SERVER,
    PodNetwork,
    Space,
)
from tests.support.ways_out import WAYS, Packet, Sender, Way

SERVICE_ADDRESS = "10.96.0.50"
NO_POD = "10.244.1.200"
_AS_SIDECAR = ("setpriv", "--reuid=1337", "--regid=1337", "--clear-groups")
_ARRIVES_SECONDS, _SETTLES_SECONDS = 3.0, 0.3
# For each packet: protocol, address, port, source and whether in fragments.
_SEND = textwrap.dedent("""
    import json, random, socket, struct, sys

    # Another one each time: a packet of a connection that was made before the rules is allowed.
    ID = random.randrange(1, 65536)

    def internet_sum(data):
        total = sum(struct.unpack(f"!{len(data) // 2}H", data))
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)
        return ~total & 0xFFFF

    def crc32c(data):
        value = 0xFFFFFFFF
        for byte in data:
            value ^= byte
            for _ in range(8):
                value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        return struct.pack("<I", value ^ 0xFFFFFFFF)

    def icmp(kind):
        # A destination that is unreachable has the header of a packet, here one of no connection.
        body = bytes.fromhex("45000054000040004001000001020304050607080800000000000000")
        head = struct.pack("!BBHHH", kind, 0, 0, ID, 7)
        return head[:2] + struct.pack("!H", internet_sum(head + body)) + head[4:] + body

    def sctp():
        # The chunk that begins an association.
        chunk = struct.pack("!BBHIIHHI", 1, 0, 20, ID, 65535, 1, 1, ID)
        head = struct.pack("!HHI", ID, 5005, 0)
        return head + crc32c(head + bytes(4) + chunk) + chunk

    def header(source, address, length, offset):
        parts = (0x45, 0, 20 + length, ID, offset, 64, 17, 0)
        ends = socket.inet_aton(source) + socket.inet_aton(address)
        return struct.pack("!BBHHHBBH", *parts) + ends

    def raw(address, port, source, in_fragments):
        data = struct.pack("!HHHH", ID, port, 8 + 16, 0) + bytes(16)
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as one:
            cut = 16 if in_fragments else len(data)
            more = 0x2000 if in_fragments else 0
            for offset, part in ((more, data[:cut]), (cut // 8, data[cut:])):
                if part:
                    head = header(source, address, len(part), offset)
                    one.sendto(head + part, (address, 0))

    for protocol, address, port, source, in_fragments in json.loads(sys.argv[1]):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        if source:
            raw(address, port, source, in_fragments)
        elif protocol == "tcp":
            with socket.socket(family) as one:
                one.setblocking(False)
                one.connect_ex((address, port))
        elif protocol == "udp":
            with socket.socket(family, socket.SOCK_DGRAM) as one:
                one.sendto(b"x", (address, port))
        elif protocol == "icmp6":
            with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as one:
                one.sendto(struct.pack("!BBHHH", port, 0, 0, ID, 7), (address, 0))
        else:
            number = socket.IPPROTO_ICMP if protocol == "icmp" else int(protocol)
            data = icmp(port) if protocol == "icmp" else sctp() if number == 132 else bytes(40)
            with socket.socket(family, socket.SOCK_RAW, number) as one:
                one.sendto(data, (address, 0))
    """)

TRIED: Mapping[str, Way] = {way.name: way for way in WAYS if way.packet is not None}
OPEN = {name for name, way in TRIED.items() if way.is_open}


class Leaving:
    """The ways that have a packet.

    pods: the space and the address of each sender. service: those of a pod with callers.
    """

    def __init__(
        self,
        network: PodNetwork,
        pods: Mapping[Sender, tuple[Space, str]],
        service: tuple[Space, str],
    ) -> None:
        self._pods: dict[Sender, tuple[Space, str]] = {
            **pods,
            Sender.NODE: (network.node, NODE_ADDRESS),
        }
        self._network, self._service = network, service
        rules = "\n".join(
            f'{self._match(name, way)} counter comment "{number}"'
            for number, (name, way) in enumerate(TRIED.items())
        )
        # The node counts what its own processes get, after every other rule.
        for space, hook in (
            (network.outside, "prerouting priority raw"),
            (service[0], "prerouting priority raw"),
            (network.node, "input priority 300"),
        ):
            chain = f"type filter hook {hook}; policy accept;"
            space.must(
                "nft", "-f", "-", stdin=f"table inet ways {{ chain a {{ {chain}\n{rules}\n}}\n}}"
            )
        # What kube-proxy does for Services.
        (to,) = (
            self._address(name, way)
            for name, way in TRIED.items()
            if _packet(way).target == "a Service of a host outside"
        )
        network.node.must(
            "nft", "-f", "-", stdin=_TRANSLATION.format(service=SERVICE_ADDRESS, to=to)
        )

    def arrived(self, expected: set[str]) -> set[str]:
        """Send every packet once; the ways on which one arrived, by name.

        expected: the ways whose packets it waits for; after that, it waits for others a little.
        """
        before = self._counted()
        for sender in {way.sender for way in TRIED.values()}:
            packets = [self._sent(name, way) for name, way in TRIED.items() if way.sender == sender]
            space, _ = self._pods[sender]
            prefix = _AS_SIDECAR if sender == Sender.SIDECAR_USER else ()
            space.must(*prefix, sys.executable, "-I", "-c", _SEND, json.dumps(packets))
        deadline = time.monotonic() + _ARRIVES_SECONDS
        while not expected <= set(self._counted() - before) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(_SETTLES_SECONDS)
        return set(self._counted() - before)

    def _counted(self) -> Counter[str]:
        names, counted = list(TRIED), Counter[str]()
        for space in (self._network.outside, self._service[0], self._network.node):
            table = json.loads(space.must("nft", "-j", "list", "table", "inet", "ways"))
            for rule in (item["rule"] for item in table["nftables"] if "rule" in item):
                (packets,) = (x["counter"]["packets"] for x in rule["expr"] if "counter" in x)
                counted[names[int(rule["comment"])]] += packets
        return counted

    def _sent(self, name: str, way: Way) -> tuple[str, str, int, str, bool]:
        packet = _packet(way)
        is_raw = packet.spoofed or packet.in_fragments
        source = self._source(way) if is_raw else ""
        is_service = packet.target == "a Service of a host outside"
        address = SERVICE_ADDRESS if is_service else self._address(name, way)
        return packet.protocol, address, packet.port, source, packet.in_fragments

    def _source(self, way: Way) -> str:
        match _packet(way).spoofed:
            case "no pod":
                return NO_POD
            case "another node's pod":
                return REMOTE_POD
            case "a pod of another namespace":
                return self._pods[Sender.OTHER_POD][1]
            case _:
                return self._pods[way.sender][1]

    def _address(self, name: str, way: Way) -> str:
        """Where a packet has to arrive. Each way has its own address outside."""
        number = 100 + list(TRIED).index(name)
        match _packet(way).target:
            case "outside" | "a Service of a host outside":
                return f"203.0.113.{number}"
            case "outside over IPv6":
                return f"2001:db8:ff::{number}"
            case "a listed host":
                return LISTED
            case "metadata":
                return METADATA
            case "an API server":
                return SECOND_API_SERVER
            case "another node":
                return OTHER_NODE
            case "another node, by its pod network":
                return REMOTE_NODE
            case "its own node":
                return NODE_ADDRESS
            case "its own node over IPv6":
                return NODE_ADDRESS_6
            case "a service with callers":
                return self._service[1]

    def _match(self, name: str, way: Way) -> str:
        """The rule that matches the packet of a way, and no answer."""
        packet, address = _packet(way), self._address(name, way)
        to = (
            f"ip6 daddr {address}"
            if ":" in address
            else (f"ip saddr {self._source(way)} ip daddr {address}")
        )
        if packet.protocol == "tcp":
            return f"{to} tcp dport {packet.port} tcp flags & (fin|syn|rst|ack) == syn"
        if packet.in_fragments:
            return f"{to} ip protocol udp"
        if packet.protocol == "udp":
            return f"{to} udp dport {packet.port}"
        if packet.protocol in ("icmp", "icmp6"):
            kind = "icmp" if packet.protocol == "icmp" else "icmpv6"
            return f"{to} {kind} type {packet.port}"
        return f"{to} ip protocol {packet.protocol}"


def _packet(way: Way) -> Packet:
    assert way.packet is not None
    return way.packet


_TRANSLATION = """
table ip services {{ chain prerouting {{
  type nat hook prerouting priority dstnat; policy accept;
  ip daddr {service} dnat to {to}
}}
}}
"""
