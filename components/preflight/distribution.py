"""Checks of how a machine's distribution is set up: swap, name servers and package sources."""

from collections.abc import Iterator

from components.preflight import needs
from components.preflight.findings import Finding, Node

_ANY = ("0.0.0.0", "*", "[::]")  # noqa: S104
_RESOLVED = "systemd-resolve"


def swap(node: Node) -> Iterator[Finding]:
    """Swap that is on, or that the next boot turns on."""
    on, at_boot = node.facts.values("swap"), node.facts.values("swap-at-boot")
    if not (on or at_boot) or node.config.kubernetes.kubelet.get("failSwapOn") is False:
        return
    units = [name for name in at_boot if not name.startswith("/")]
    fixes = [
        *(["run `swapoff -a`"] if on else []),
        *(["remove swap from /etc/fstab"] if len(units) < len(at_boot) or not units else []),
        *([f"run `systemctl mask --now {' '.join(units)}`"] if units else []),
    ]
    states = (("on", on), ("on after the next boot", at_boot))
    yield node.finding(
        "swap",
        "; ".join(f"{state}: {', '.join(names)}" for state, names in states if names),
        "none; kubelet 1.23 does not start with it",
        ", and ".join(fixes),
    )


def name_servers(node: Node) -> Iterator[Finding]:
    """Name servers that pods reach: in a pod, the loopback is the pod itself."""
    if node.facts.value("resolver"):
        return
    if own := needs.resolver(node.config):
        yield node.finding(
            "dns",
            f"{own} does not exist",
            "the file of nordmesh:kubernetes.kubelet.resolvConf, on each node",
            f"write the name servers of pods to {own}",
        )
        return
    services = [text.split() for text in node.facts.values("name-service")]
    address = node.config.machines.nodes[node.name].cluster_address
    if any(listens in (*_ANY, address) for listens, _ in services):
        return  # kubelet-start.sh names the node's address to pods.
    programs = sorted({program for _, program in services} - {_RESOLVED})
    servers = ", ".join(node.facts.values("name-server")) or "none"
    yield node.finding(
        "dns",
        f"the name servers of the machine are {servers}"
        + (f", where {', '.join(programs)} answers" if programs else ""),
        "a name server that pods reach: in a pod, the loopback is the pod itself",
        "write the name servers that it asks to a file on each node, and set "
        "nordmesh:kubernetes.kubelet.resolvConf to its path; or put them into /etc/resolv.conf"
        if programs
        else "set a name server in /etc/resolv.conf, unless pods need the cluster's names only",
        # Where nothing answers, the machine itself resolves no names either.
        refuses=bool(programs),
    )


def packages(node: Node) -> Iterator[Finding]:
    """Package sources, if packages are missing."""
    missing = node.facts.value("missing-packages")
    sources = [text.partition(" ") for text in node.facts.values("source")]
    dead = sorted({uri for answers, _, uri in sources if answers == "no"})
    if not missing or (sources and not dead):
        return
    answering = len({uri for answers, _, uri in sources if answers == "yes"})
    yield node.finding(
        "packages",
        f"no answer from {', '.join(dead)}" if dead else "apt has no package source",
        f"the package sources answer; to be installed: {missing}",
        "correct or remove these sources in /etc/apt"
        if dead
        else "add the distribution's package source to /etc/apt/sources.list",
        # apt installs from those that answer.
        refuses=not answering,
    )
