"""Compare the nodes with their expected state.

A preview shows the expected state in the settings of the scripts; files that kubeadm wrote are
compared with copies that the scripts keep. look.sh reports the actual state.
"""

import base64
import binascii
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from cli.drift.findings import NOTHING, Difference, Inconclusive
from cli.drift.values import MISSING, Field, differences, lacking, shown
from cli.review.markdown import code
from cli.review.preview import Preview
from cli.review.scripts import runs
from components import control_plane, node_labels
from components.host import table
from components.host.files import NodeFile, Reader, from_setting
from components.manifests.kubeadm import (
    KUBELET_CONFIG,
    KUBELET_FLAGS,
    MADE,
    STATIC_PODS,
    written_files,
)
from components.remote.node_command import constant, settings
from config.errors import NordmeshError

_HERE = Path(__file__).parent

_DOWNLOADS = ("RUNTIME", "BINARIES")  # settings with lines for fetch.sh
_CONTAINERD = "/usr/local/bin/containerd"
_LINES = 3  # of a file, shown for change difference


@dataclass(frozen=True, kw_only=True)
class Expected:
    """The expected state of a node: the settings of the scripts that run on it.

    urn: of its preparation. kubeadm: of kubeadm-init.sh or kubeadm-join.sh. cluster: of
    kubeadm-init.sh, on whichever node it ran. mesh: of istio-install.sh, if it runs on this node.
    labelled: of label-node.sh for each node whose labels or taints it sets.
    control_planes: the addresses of all control planes.
    """

    name: str
    urn: str
    prepare: Mapping[str, str]
    kubeadm: Mapping[str, str] = field(default_factory=dict)
    cluster: Mapping[str, str] = field(default_factory=dict)
    mesh: Mapping[str, str] = field(default_factory=dict)
    labelled: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    control_planes: Sequence[str] = ()

    @property
    def is_control_plane(self) -> bool:
        return "CLUSTER_CONFIG" in self.kubeadm

    @property
    def documents(self) -> list[dict[str, Any]]:
        """The configuration documents of kubeadm, kubelet and kube-proxy."""
        return list(yaml.safe_load_all(self.cluster.get("CLUSTER_CONFIG", "")))

    @property
    def kubeadm_files(self) -> list[str]:
        """The paths of the files that kubeadm writes on this node."""
        return written_files(is_control_plane=self.is_control_plane)

    @property
    def binaries(self) -> dict[str, tuple[str, str]]:
        """By name: the checksum of the download, and the program's path, "" for an archive."""
        settings = (of.get(name, "") for of in (self.prepare, self.mesh) for name in _DOWNLOADS)
        parts = [line.split(" ") for line in "\n".join(settings).splitlines() if line]
        return {
            name: (sha256, f"{directory}/{name}" if members == "-" else "")
            for name, sha256, directory, members, *_ in parts
        }

    @cached_property
    def files(self) -> list[NodeFile]:
        """The files that node-prepare.sh writes, without the values that only the node knows."""
        return from_setting(self.prepare["FILES"])

    def has_files(self, reader: Reader) -> bool:
        """Whether nordmesh writes files for a reader on this node."""
        return any(file.reader == reader for file in self.files)

    @property
    def sysctls(self) -> dict[str, str]:
        (text,) = (file.text for file in self.files if file.path == table.SYSCTL_FILE)
        return table.sysctls(text)

    @property
    def units(self) -> dict[str, list[str]]:
        """The units that must run, each with the paths of its drop-ins.

        A unit that cannot be enabled runs only when another one starts it.
        """
        paths = [file.path for file in self.files if file.path.startswith(f"{table.UNITS}/")]
        return {
            Path(file.path).name: [path for path in paths if path.startswith(f"{file.path}.d/")]
            for file in self.files
            if Path(file.path).parent == Path(table.UNITS) and "[Install]" in file.text
        }


def expected(preview: Preview) -> list[Expected]:
    """The existing nodes of the stack, sorted by name."""
    scripts: dict[str, dict[str, Mapping[str, str]]] = {}
    labelled: dict[str, Mapping[str, str]] = {}
    urns, lost = {}, set()
    for step in preview.steps:
        if step.op != "delete" and runs(step, control_plane.LEAVE):
            lost.add(settings(step.new["create"])["JOINED_NODE"])
        if step.op not in ("create", "delete") and runs(step, node_labels.FILE):
            of_script = settings(step.new["create"])
            labelled[of_script["JOINED_NODE"]] = of_script
        for script in ("node-prepare", "kubeadm-init", "kubeadm-join", "istio-install"):
            if step.op not in ("create", "delete") and runs(step, f"{script}.sh"):
                of_script = settings(step.new["create"])
                scripts.setdefault(of_script["NODE_NAME"], {})[script] = of_script
                if script == "node-prepare":
                    urns[of_script["NODE_NAME"]] = step.urn
    inits = [of_node["kubeadm-init"] for of_node in scripts.values() if "kubeadm-init" in of_node]
    # A worker's own address is not the one that the API server's name has there.
    addresses = (scripts[name]["node-prepare"]["ENDPOINT_ADDRESS"] for name in urns)
    control_planes = sorted(address for address in addresses if address != table.LOOPBACK)
    return [
        Expected(
            name=name,
            urn=urns[name],
            prepare=scripts[name]["node-prepare"],
            kubeadm=scripts[name].get("kubeadm-init") or scripts[name].get("kubeadm-join") or {},
            cluster=inits[0] if inits else {},
            mesh=scripts[name].get("istio-install") or {},
            labelled=labelled,
            control_planes=control_planes,
        )
        for name in sorted(urns.keys() - lost)
    ]


def packages(node: Expected) -> list[str]:
    """The packages that node-prepare.sh installs."""
    return [
        *constant("node-prepare.sh", "PACKAGES"),
        *(["nftables"] if node.has_files("firewall") else []),
        *(["haproxy"] if node.has_files("endpoint") else []),
    ]


def held(node: Expected) -> list[str]:
    """The packages that host.sh holds if they are installed."""
    is_on = node.prepare.get("HOLD_PACKAGES") == "true"
    return constant("host.sh", "NETWORK_PACKAGES") if is_on else []


def look(node: Expected, variables: Mapping[str, str]) -> str:
    """The script that reports the state of a node. variables: for additional objects to read."""
    copies = [f"{MADE}/{Path(path).name}" for path in node.kubeadm_files]
    lists = {
        "COMMANDS": [path for _, path in node.binaries.values() if path],
        "ARCHIVES": [name for name, (_, path) in node.binaries.items() if not path],
        "DIRECTORIES": [table.REGISTRIES, STATIC_PODS],
        "FILES": [
            *(file.path for file in node.files),
            table.HOSTS,
            table.ENDPOINT_SERVERS,
            *node.kubeadm_files,
            *copies,
        ],
        "PACKAGES": packages(node),
        "SYSCTLS": node.sysctls,
        "UNITS": node.units,
    }
    given = {**{name: " ".join(names) for name, names in lists.items()}, **variables}
    head = "".join(f"{name}={shlex.quote(text)}\n" for name, text in given.items())
    return head + (_HERE / "look.sh").read_text()


class Facts:
    """The facts about a node that look.sh reported."""

    def __init__(self, text: str) -> None:
        """Parse the answer; raises NordmeshError if it is incomplete."""
        self._values: dict[tuple[str, str], bytes] = {}
        for line in text.splitlines():
            kind, _, rest = line.partition("\t")
            name, _, value = rest.partition("\t")
            try:
                self._values[kind, name] = base64.b64decode(value, validate=True)
            except binascii.Error:
                raise _cut_off(f" at {kind} {name}") from None
        if ("end", "end") not in self._values:
            raise _cut_off()

    def raw(self, kind: str, name: str) -> bytes:
        """The value of a fact, empty if it is missing."""
        return self._values.get((kind, name), b"")

    def text(self, kind: str, name: str) -> str:
        return self.raw(kind, name).decode(errors="replace").strip("\n")

    def has(self, kind: str, name: str) -> bool:
        return (kind, name) in self._values


def _cut_off(where: str = "") -> NordmeshError:
    return NordmeshError(
        f"its answer was cut off{where}",
        code="drift-answer-cut",
        fix="Run it again; if it is cut off again, pass a longer --timeout.",
    )


def has_copies(node: Expected, facts: Facts) -> bool:
    """Whether the node has copies of the files that kubeadm wrote."""
    return facts.has("file", f"{MADE}/{Path(KUBELET_CONFIG).name}") or not node.kubeadm


def no_copies(stack: str, node: Expected) -> Inconclusive:
    """The finding that the files of kubeadm cannot be compared."""
    return Inconclusive(
        subject=node.name,
        why=f"kubelet's files and the static pods have no copies in {MADE}",
        fix=f"Run `pulumi up --stack {stack}`, which keeps copies from now on.",
    )


def unread_sshd(node: Expected, facts: Facts) -> list[Inconclusive]:
    """The finding that sshd did not report its settings, if they must be compared."""
    if not node.has_files("sshd") or facts.has("sshd", "effective"):
        return []
    return [
        Inconclusive(
            subject=node.name,
            why=f"sshd's settings in effect: {facts.text('error', 'sshd') or 'no answer'}",
            fix="Run `sshd -T` on the node, fix the errors that it prints, and run this again.",
        )
    ]


class Comparison:
    """Compare one node with its expected state."""

    def __init__(self, stack: str, node: Expected, facts: Facts) -> None:
        self._node, self._facts = node, facts
        self._again = (
            "Run the node's script again: "
            f"{code(f'pulumi up --stack {stack} --target-replace {shlex.quote(node.urn)}')}."
        )

    def all(self) -> list[Difference]:
        """All differences."""
        checks = (
            self._packages, self._held, self._binaries, self._running, self._files,
            self._registries, self._hosts, self._endpoint, self._firewall, self._sshd,
            self._sysctls, self._swap, self._units, self._kubeadm, self._flags,
        )  # fmt: skip
        return [difference for check in checks for difference in check()]

    def _packages(self) -> Iterator[Difference]:
        lines = (line.split() for line in self._facts.text("packages", "installed").splitlines())
        state = dict(line for line in lines if len(line) == 2)
        for name in packages(self._node):
            if state.get(name) != "installed":
                what = f"the package {code(name)}"
                yield self._difference(what, "installed", state.get(name) or NOTHING)
        for line in self._facts.text("packages", "verified").splitlines():
            # ??5?????? c /path; a configuration file is marked c, and may be changed.
            *marks, path = line.split()
            is_program = not path.startswith(("/usr/share/", "/etc/"))
            if "c" not in marks and is_program:
                yield self._difference(
                    code(path), "as in its package", "missing" if "missing" in marks else
                    "changed", "Install its package again with `apt-get install --reinstall`.",
                )  # fmt: skip

    def _held(self) -> Iterator[Difference]:
        lines = (line.split() for line in self._facts.text("packages", "installed").splitlines())
        installed = {line[0] for line in lines if line[1:] == ["installed"]}
        for name in held(self._node):
            if name in installed and name not in self._facts.text("packages", "held").split():
                yield self._difference(f"the package {code(name)}", "held back", "not held")

    def _binaries(self) -> Iterator[Difference]:
        for name, (sha256, path) in self._node.binaries.items():
            fix = (
                f"Remove {code(f'/var/lib/nordmesh/{name}.sha256')} on the node, so that the "
                f"script downloads it again. {self._again}"
            )
            # Nobody publishes checksums of the programs in an archive: compare the checksum of the
            # archive, and those of the programs at installation.
            actual = self._facts.text(*(("sha256", path) if path else ("download", name)))
            if actual != sha256:
                what = code(path) if path else f"the archive of {code(name)}"
                yield self._difference(f"{what}, sha256", code(sha256), shown(actual), fix)
            for changed in self._facts.text("changed", name).splitlines():
                yield self._difference(
                    code(changed), f"as in the archive of {code(name)}", "changed or missing", fix
                )

    def _running(self) -> Iterator[Difference]:
        actual = self._facts.text("running", "containerd")
        if actual not in ("", _CONTAINERD):
            yield self._difference(
                "the running containerd", code(_CONTAINERD), code(actual),
                "Run `systemctl restart containerd` on the node; its containers keep running.",
            )  # fmt: skip

    def _files(self) -> Iterator[Difference]:
        for file in self._node.files:
            yield from self._file(file)

    def _file(self, file: NodeFile) -> Iterator[Difference]:
        path = file.path
        if not self._facts.has("file", path):
            yield self._difference(code(path), "a file", NOTHING)
            return
        actual = self._facts.text("file", path)
        for one, other in _lines(self._filled_in(file, actual), actual):
            yield self._difference(code(path), one, other)
        mode, expected_mode = self._facts.text("mode", path), f"{file.mode} root"
        if mode != expected_mode:
            yield self._difference(f"{code(path)}, mode and owner", code(expected_mode), code(mode))

    def _filled_in(self, file: NodeFile, actual: str) -> str:
        """Fill in the values of a file that only the node knows: memory, limits, stricter sshd."""
        if file.path == table.SSHD:
            return table.sshd_on(file.text, actual)
        if file.path == table.SYSCTL_FILE:
            return table.sysctls_on(file.text, actual)
        memory = self._facts.text("memory", "kib")
        default = table.default_buffer_pool(int(memory)) if memory.isdecimal() else ""
        pool = self._node.prepare.get("BUFFER_POOL") or default
        return file.text.replace(table.BUFFER_POOL_PLACE, pool)

    def _registries(self) -> Iterator[Difference]:
        """Files of registries that nordmesh did not write."""
        ours = {file.path for file in self._node.files}
        for name in self._facts.text("directory", table.REGISTRIES).splitlines():
            path = f"{table.REGISTRIES}/{name}"
            if path not in ours:
                yield self._difference(
                    code(path), NOTHING, "a file",
                    "Remove it on the node: containerd asks the registry in it.",
                )  # fmt: skip

    def _hosts(self) -> Iterator[Difference]:
        address, endpoint = (self._node.prepare[x] for x in ("ENDPOINT_ADDRESS", "ENDPOINT"))
        lines = [
            line.partition("#")[0].split()
            for line in self._facts.text("file", table.HOSTS).splitlines()
        ]
        actual = [line[0] for line in lines if endpoint in line[1:]]
        if actual != [address]:
            what = f"{code(table.HOSTS)}, the address of {code(endpoint)}"
            yield self._difference(what, code(address), shown(", ".join(actual)))

    def _endpoint(self) -> Iterator[Difference]:
        """The servers of a worker's load balancer, which follows the cluster's node table."""
        if not self._node.has_files("endpoint") or not self._node.kubeadm:
            return
        lines = self._facts.text("file", table.ENDPOINT_SERVERS).splitlines()
        actual = sorted({line.split()[1] for line in lines if line.split()[:1] == ["server"]})
        if actual != self._node.control_planes:
            yield self._difference(
                f"{code(table.ENDPOINT_SERVERS)}, the control planes that the node uses",
                shown(", ".join(self._node.control_planes)), shown(", ".join(actual) or MISSING),
                "Run `systemctl restart nordmesh-members` on the node, and read "
                "`journalctl -u nordmesh-members -u nordmesh-endpoint` there.",
            )  # fmt: skip

    def _firewall(self) -> Iterator[Difference]:
        """The rules in effect: hooks and verdicts, without members and counters."""
        rules = self._facts.text("firewall", "rules")
        if not self._node.has_files("firewall"):
            if rules:
                yield self._difference("the firewall's table `inet nordmesh`", NOTHING, "rules")
            return
        (text,) = (file.text for file in self._node.files if file.path == table.RULES)
        wanted = rules_of(text)
        for one, other in _lines("\n".join(wanted), "\n".join(rules_of(rules))):
            yield self._difference(
                "the firewall's rules in effect", one, other,
                "Run `systemctl reload nordmesh-firewall` on the node.",
            )  # fmt: skip

    def _sshd(self) -> Iterator[Difference]:
        if self._node.has_files("sshd") and self._facts.has("sshd", "effective"):
            actual = self._facts.text("sshd", "effective").split()
            if actual[-1:] != ["no"]:
                yield self._difference(
                    "sshd's `passwordauthentication` in effect", code("no"), shown(actual[-1])
                )

    def _sysctls(self) -> Iterator[Difference]:
        for key, value in self._node.sysctls.items():
            actual = " ".join(self._facts.text("sysctl", key).split())
            is_higher = actual.isdecimal() and table.is_least(key) and int(actual) > int(value)
            if actual != value and not is_higher:
                what = f"the sysctl {code(key)} in effect"
                yield self._difference(what, code(value), shown(actual))

    def _swap(self) -> Iterator[Difference]:
        devices = [line.split()[0] for line in self._facts.text("swap", "devices").splitlines()]
        if devices and self._node.prepare["ALLOW_SWAP"] != "true":
            yield self._difference(
                "swap", "off", code(", ".join(devices)),
                "Run `swapoff -a` on the node, remove swap from /etc/fstab, and mask units that "
                "turn it on.",
            )  # fmt: skip

    def _units(self) -> Iterator[Difference]:
        for unit, drop_ins in self._node.units.items():
            lines = self._facts.text("unit", unit).splitlines()
            state = dict(line.split("=", 1) for line in lines if "=" in line)
            for key, value in (("ActiveState", "active"), ("UnitFileState", "enabled")):
                if state.get(key) != value:
                    yield self._difference(
                        f"the unit {code(unit)}", value, shown(state.get(key) or MISSING),
                        f"Run {code(f'systemctl enable --now {unit}')} on the node.",
                    )  # fmt: skip
            for path in state.get("DropInPaths", "").split():
                # Drop-ins in service.d are the distribution's, for every unit.
                if path not in drop_ins and f"/{unit}.d/" in path:
                    yield self._difference(
                        f"a drop-in of the unit {code(unit)}", NOTHING, code(path),
                        "Remove it on the node, then run `systemctl daemon-reload` and restart "
                        "the unit.",
                    )  # fmt: skip
            if state.get("NeedDaemonReload") == "yes":
                yield self._difference(
                    f"the unit {code(unit)}", "loaded from its files",
                    "files that changed later",
                    f"Run {code(f'systemctl daemon-reload && systemctl restart {unit}')} on the "
                    "node.",
                )  # fmt: skip

    def _kubeadm(self) -> Iterator[Difference]:
        if not self._node.kubeadm:
            return
        for path in self._node.kubeadm_files:
            copy = f"{MADE}/{Path(path).name}"
            fix = (
                f"On the node, run {code(f'cp {copy} {path}')}"
                f"{'' if path.startswith(STATIC_PODS) else ', and `systemctl restart kubelet`'}."
            )
            if not self._facts.has("file", path):
                yield self._difference(code(path), "a file", NOTHING, fix)
                continue
            for what, one, other in self._made(path, copy):
                yield self._difference(f"{code(path)}{what}", one, other, fix)
        for name in self._facts.text("directory", STATIC_PODS).splitlines():
            path = f"{STATIC_PODS}/{name}"
            if path not in self._node.kubeadm_files:
                yield self._difference(
                    code(path),
                    NOTHING,
                    "a static pod",
                    "Remove it on the node, or make it an object of the cluster.",
                )

    def _made(self, path: str, copy: str) -> Iterator[tuple[str, str, str]]:
        """The differences in a file of kubeadm: the field, the expected and the actual value."""
        text = self._facts.text("file", path)
        original = self._facts.text("file", copy) if self._facts.has("file", copy) else text
        if path == KUBELET_FLAGS:
            by_flag = list(_texts(_of_flags(original, text), "--"))
            yield from by_flag or (("", *pair) for pair in _lines(original, text))
            return
        wanted, actual = _document(original), _document(text)
        fields = {change.path: change for change in differences(wanted, actual)}
        if path == KUBELET_CONFIG:
            for document in self._node.documents:
                if document["kind"] == "KubeletConfiguration":
                    fields |= {change.path: change for change in lacking(document, actual)}
        yield from _texts(fields.values())

    def _flags(self) -> Iterator[Difference]:
        if not self._node.kubeadm or not self._facts.has("kubelet", "flags"):
            return
        copy = f"{MADE}/{Path(KUBELET_FLAGS).name}"
        kept = self._facts.text("file", copy) or self._facts.text("file", KUBELET_FLAGS)
        units = [
            file.text
            for file in self._node.files
            if file.reader == "kubelet" and file.path.startswith(f"{table.UNITS}/")
        ]
        wanted = "\n".join([*units, kept])
        actual = self._facts.text("kubelet", "flags")
        for change in _of_flags(wanted, actual):
            yield self._difference(
                f"kubelet's flag {code(f'--{change.path}')} in effect", shown(change.expected),
                shown(change.actual), "Fix kubelet's files, then run `systemctl restart kubelet` "
                "on the node.",
            )  # fmt: skip

    def _difference(self, what: str, expected: str, actual: str, fix: str = "") -> Difference:
        return Difference(
            subject=self._node.name,
            what=what,
            expected=expected,
            actual=actual,
            fix=fix or self._again,
        )


def rules_of(text: str) -> list[str]:
    """The lines of a table's chains, from its file or from `nft list`, without counters."""
    is_in_chain, lines = False, []
    for line in map(str.strip, text.splitlines()):
        is_in_chain = line.startswith("chain ") or (is_in_chain and line != "}")
        if is_in_chain:
            lines.append(re.sub(r" packets \d+ bytes \d+", "", line))
    return lines


def _document(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return {"": text}


def _flags(text: str) -> dict[str, str]:
    """The flags in a text, for example --config=/a."""
    return dict(re.findall(r"--([a-z][\w-]*)(?:=([^\s\"\0]*))?", text))


def _of_flags(wanted: str, actual: str) -> Iterator[Field]:
    """The flags in which two texts differ."""
    ours, theirs = _flags(wanted), _flags(actual)
    for name in sorted({**ours, **theirs}):
        if ours.get(name) != theirs.get(name):
            yield Field(name, ours.get(name, MISSING), theirs.get(name, MISSING))


def _texts(fields: Iterable[Field], before: str = "") -> Iterator[tuple[str, str, str]]:
    for change in fields:
        yield f", {code(before + change.path)}", shown(change.expected), shown(change.actual)


def _lines(wanted: str, actual: str) -> Iterator[tuple[str, str]]:
    """The differing parts of two texts, as the expected and the actual lines."""
    lines = wanted.splitlines(), actual.splitlines()
    for tag, a, b, c, d in SequenceMatcher(None, *lines, autojunk=False).get_opcodes():
        if tag != "equal":
            yield _some(lines[0][a:b]), _some(lines[1][c:d])


def _some(lines: Sequence[str]) -> str:
    more = f" and {len(lines) - _LINES} more lines" if len(lines) > _LINES else ""
    return " ".join(map(code, lines[:_LINES])) + more or NOTHING
