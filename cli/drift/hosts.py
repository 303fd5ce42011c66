"""Nodes: what the program's scripts were to make of them, and what they are like.

What is expected is in the scripts' settings, which a preview shows; what kubeadm wrote is compared
with the copies that the scripts keep of it. What a node is like, look.sh tells.
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

from cli.drift.findings import NOTHING, Difference, Unknown
from cli.drift.values import MISSING, Field, differences, lacking, shown
from cli.review.markdown import code
from cli.review.preview import Preview
from cli.review.scripts import runs
from components.host import table
from components.host.files import NodeFile, Reader, from_setting
from components.manifests.kubeadm import (
    KUBELET_CONFIG,
    KUBELET_FLAGS,
    MADE,
    STATIC_PODS,
    written_files,
)
from components.node_command import settings

_HERE = Path(__file__).parent
_SCRIPTS = _HERE.parents[1] / "components" / "scripts"

_DOWNLOADS = ("RUNTIME", "BINARIES")  # settings with lines for fetch.sh
_CONTAINERD = "/usr/local/bin/containerd"
_LINES = 3  # of a file that are shown of one difference


class Incomplete(Exception):
    """An answer that is not the whole of one."""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What one node is to be like, in the settings of the scripts that run on it.

    urn: of its preparation. kubeadm: of kubeadm-init.sh or kubeadm-join.sh. cluster: of
    kubeadm-init.sh, wherever that ran. mesh: of istio-install.sh, on the node where that runs.
    """

    name: str
    urn: str
    prepare: Mapping[str, str]
    kubeadm: Mapping[str, str] = field(default_factory=dict)
    cluster: Mapping[str, str] = field(default_factory=dict)
    mesh: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_control_plane(self) -> bool:
        return "CLUSTER_CONFIG" in self.kubeadm

    @property
    def documents(self) -> list[dict[str, Any]]:
        """The cluster's configuration documents for kubeadm, kubelet and kube-proxy."""
        return list(yaml.safe_load_all(self.cluster.get("CLUSTER_CONFIG", "")))

    @property
    def kubeadm_files(self) -> list[str]:
        """The paths of the files that kubeadm writes on this node."""
        return written_files(is_control_plane=self.is_control_plane)

    @property
    def binaries(self) -> dict[str, tuple[str, str]]:
        """By name: the checksum of the download, and the program's path, empty of an archive."""
        settings = (of.get(name, "") for of in (self.prepare, self.mesh) for name in _DOWNLOADS)
        parts = [line.split(" ") for line in "\n".join(settings).splitlines() if line]
        return {
            name: (sha256, f"{directory}/{name}" if members == "-" else "")
            for name, sha256, directory, members, *_ in parts
        }

    @cached_property
    def files(self) -> list[NodeFile]:
        """The files that node-prepare.sh writes, before it fills in what only the node knows."""
        return from_setting(self.prepare["FILES"])

    def has_files(self, reader: Reader) -> bool:
        """Whether nordmesh writes files for a reader on this node."""
        return any(file.reader == reader for file in self.files)

    @property
    def sysctls(self) -> dict[str, str]:
        texts = (file.text for file in self.files if file.path.startswith(table.SYSCTLS))
        lines = (line for text in texts for line in text.splitlines())
        pairs = (line.partition("=") for line in lines if "=" in line and line[0] not in "#;")
        return {key.strip(): value.strip() for key, _, value in pairs}

    @property
    def units(self) -> dict[str, list[str]]:
        """The units that must run, each with the paths of its drop-ins."""
        paths = [file.path for file in self.files if file.path.startswith(f"{table.UNITS}/")]
        return {
            Path(path).name: [other for other in paths if other.startswith(f"{path}.d/")]
            for path in paths
            if Path(path).parent == Path(table.UNITS)
        }


def expected(preview: Preview) -> list[Expected]:
    """The stack's nodes that exist, sorted by name."""
    found: dict[str, dict[str, Mapping[str, str]]] = {}
    prepared = {}
    for step in preview.steps:
        for script in ("node-prepare", "kubeadm-init", "kubeadm-join", "istio-install"):
            if step.op not in ("create", "delete") and runs(step, f"{script}.sh"):
                made = settings(step.new["create"])
                found.setdefault(made["NODE_NAME"], {})[script] = made
                if script == "node-prepare":
                    prepared[made["NODE_NAME"]] = step.urn
    inits = [scripts["kubeadm-init"] for scripts in found.values() if "kubeadm-init" in scripts]
    return [
        Expected(
            name=name,
            urn=prepared[name],
            prepare=found[name]["node-prepare"],
            kubeadm=found[name].get("kubeadm-init") or found[name].get("kubeadm-join") or {},
            cluster=inits[0] if inits else {},
            mesh=found[name].get("istio-install") or {},
        )
        for name in sorted(prepared)
    ]


def packages(node: Expected) -> list[str]:
    """The packages that node-prepare.sh installs, as it names them."""
    return [
        *_named("PACKAGES", "node-prepare.sh"),
        *(["nftables"] if node.has_files("firewall") else []),
    ]


def held(node: Expected) -> list[str]:
    """The packages that host.sh holds, where they are installed."""
    is_on = node.prepare.get("HOLD_PACKAGES") == "true"
    return _named("NETWORK_PACKAGES", "host.sh") if is_on else []


def _named(constant: str, script: str) -> list[str]:
    text = (_SCRIPTS / script).read_text().replace("\\\n", "")
    (names,) = re.findall(rf'^readonly {constant}="([^"]+)"$', text, re.MULTILINE)
    return str(names).split()


def look(node: Expected, wanted: Mapping[str, str]) -> str:
    """The script that tells what a node is like. wanted: more that it is to read."""
    made = [f"{MADE}/{Path(path).name}" for path in node.kubeadm_files]
    asked = {
        "COMMANDS": [path for _, path in node.binaries.values() if path],
        "ARCHIVES": [name for name, (_, path) in node.binaries.items() if not path],
        "DIRECTORIES": [table.REGISTRIES, STATIC_PODS],
        "FILES": [
            *(file.path for file in node.files),
            table.HOSTS,
            *node.kubeadm_files,
            *made,
        ],
        "PACKAGES": packages(node),
        "SYSCTLS": node.sysctls,
        "UNITS": node.units,
    }
    variables = {**{name: " ".join(names) for name, names in asked.items()}, **wanted}
    head = "".join(f"{name}={shlex.quote(text)}\n" for name, text in variables.items())
    return head + (_HERE / "look.sh").read_text()


class Facts:
    """What look.sh told of a node."""

    def __init__(self, text: str) -> None:
        """Raises Incomplete if the script did not come to its end."""
        self._values: dict[tuple[str, str], bytes] = {}
        for line in text.splitlines():
            kind, _, rest = line.partition("\t")
            name, _, value = rest.partition("\t")
            try:
                self._values[kind, name] = base64.b64decode(value, validate=True)
            except binascii.Error:
                raise Incomplete(f"its answer was cut off at {kind} {name}") from None
        if ("end", "end") not in self._values:
            raise Incomplete("its answer was cut off")

    def raw(self, kind: str, name: str) -> bytes:
        """A fact, empty where there is none."""
        return self._values.get((kind, name), b"")

    def text(self, kind: str, name: str) -> str:
        return self.raw(kind, name).decode(errors="replace").strip("\n")

    def has(self, kind: str, name: str) -> bool:
        return (kind, name) in self._values


def has_made(node: Expected, facts: Facts) -> bool:
    """Whether the node has copies of what kubeadm wrote there."""
    return facts.has("file", f"{MADE}/{Path(KUBELET_CONFIG).name}") or not node.kubeadm


def no_copies(stack: str, node: Expected) -> Unknown:
    """That what kubeadm wrote on a node has nothing to be compared with."""
    return Unknown(
        place=node.name,
        why=f"kubelet's files and the static pods: there are no copies of them in {MADE}",
        remedy=f"`pulumi up --stack {stack}` keeps them from now on.",
    )


def unread_sshd(node: Expected, facts: Facts) -> list[Unknown]:
    """That sshd did not say what it has in effect, where that is to be compared."""
    if not node.has_files("sshd") or facts.has("sshd", "effective"):
        return []
    return [
        Unknown(
            place=node.name,
            why=f"sshd's settings in effect: {facts.text('said', 'sshd') or 'no answer'}",
            remedy="Run `sshd -T` on the node and fix what it names; then ask again.",
        )
    ]


class Comparison:
    """One node against what is expected of it."""

    def __init__(self, stack: str, node: Expected, facts: Facts) -> None:
        self._node, self._facts = node, facts
        self._again = (
            "its script puts that back: "
            f"{code(f'pulumi up --stack {stack} --target-replace {shlex.quote(node.urn)}')}."
        )

    def all(self) -> list[Difference]:
        """Everything that differs."""
        checks = (
            self._packages, self._held, self._binaries, self._running, self._files,
            self._registries, self._hosts, self._firewall, self._sshd, self._sysctls, self._swap,
            self._units, self._kubeadm, self._flags,
        )  # fmt: skip
        return [found for check in checks for found in check()]

    def _packages(self) -> Iterator[Difference]:
        lines = (line.split() for line in self._facts.text("packages", "installed").splitlines())
        state = dict(line for line in lines if len(line) == 2)
        for name in packages(self._node):
            if state.get(name) != "installed":
                what = f"the package {code(name)}"
                yield self._found(what, "installed", state.get(name) or NOTHING)
        for line in self._facts.text("packages", "verified").splitlines():
            # ??5?????? c /path; a configuration file is marked c, and may be changed.
            *marks, path = line.split()
            is_program = not path.startswith(("/usr/share/", "/etc/"))
            if "c" not in marks and is_program:
                yield self._found(
                    code(path), "as its package has it", "missing" if "missing" in marks else
                    "changed", "install its package anew, with `apt-get install --reinstall`.",
                )  # fmt: skip

    def _held(self) -> Iterator[Difference]:
        lines = (line.split() for line in self._facts.text("packages", "installed").splitlines())
        installed = {line[0] for line in lines if line[1:] == ["installed"]}
        for name in held(self._node):
            if name in installed and name not in self._facts.text("packages", "held").split():
                yield self._found(f"the package {code(name)}", "held back", "not held")

    def _binaries(self) -> Iterator[Difference]:
        for name, (sha256, path) in self._node.binaries.items():
            remedy = (
                f"remove {code(f'/var/lib/nordmesh/{name}.sha256')} on the node, so that it "
                f"is fetched again; then {self._again}"
            )
            # Of an archive the programs' own checksums are not known, but which it came from, and
            # what they were when they were installed.
            found = self._facts.text(*(("sha256", path) if path else ("download", name)))
            if found != sha256:
                what = code(path) if path else f"the archive that {code(name)} is from"
                yield self._found(f"{what}, sha256", code(sha256), shown(found), remedy)
            for each in self._facts.text("changed", name).splitlines():
                yield self._found(
                    code(each), f"as in the archive of {code(name)}", "another, or none", remedy
                )

    def _running(self) -> Iterator[Difference]:
        found = self._facts.text("running", "containerd")
        if found not in ("", _CONTAINERD):
            yield self._found(
                "the containerd that runs", code(_CONTAINERD), code(found),
                "run `systemctl restart containerd` on the node: its containers go on.",
            )  # fmt: skip

    def _files(self) -> Iterator[Difference]:
        for file in self._node.files:
            yield from self._file(file)

    def _file(self, file: NodeFile) -> Iterator[Difference]:
        path = file.path
        if not self._facts.has("file", path):
            yield self._found(code(path), "a file", NOTHING)
            return
        actual = self._facts.text("file", path)
        for one, other in _lines(self._filled_in(file, actual), actual):
            yield self._found(code(path), one, other)
        mode, expected_mode = self._facts.text("mode", path), f"{file.mode} root"
        if mode != expected_mode:
            yield self._found(f"{code(path)}, mode and owner", code(expected_mode), code(mode))

    def _filled_in(self, file: NodeFile, actual: str) -> str:
        """The text of a file with what only the node knows: its memory, its stricter sshd."""
        if file.path == table.SSHD:
            return table.sshd_on(file.text, actual)
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
                yield self._found(
                    code(path), NOTHING, "a file",
                    "remove it on the node: containerd asks the registry that it names.",
                )  # fmt: skip

    def _hosts(self) -> Iterator[Difference]:
        address, endpoint = (self._node.prepare[x] for x in ("ENDPOINT_ADDRESS", "ENDPOINT"))
        lines = [
            line.partition("#")[0].split()
            for line in self._facts.text("file", table.HOSTS).splitlines()
        ]
        found = [line[0] for line in lines if endpoint in line[1:]]
        if found != [address]:
            what = f"{code(table.HOSTS)}, the address of {code(endpoint)}"
            yield self._found(what, code(address), shown(", ".join(found)))

    def _firewall(self) -> Iterator[Difference]:
        """The rules in effect, by their hooks and verdicts; members and counters are their own."""
        rules = self._facts.text("firewall", "rules")
        if not self._node.has_files("firewall"):
            if rules:
                yield self._found("the firewall's table `inet nordmesh`", NOTHING, "rules")
            return
        (text,) = (file.text for file in self._node.files if file.path == table.RULES)
        wanted = _rules(text)
        for one, other in _lines("\n".join(wanted), "\n".join(_rules(rules))):
            yield self._found(
                "the firewall's rules in effect", one, other,
                "run `systemctl reload nordmesh-firewall` on the node.",
            )  # fmt: skip

    def _sshd(self) -> Iterator[Difference]:
        if self._node.has_files("sshd") and self._facts.has("sshd", "effective"):
            found = self._facts.text("sshd", "effective").split()
            if found[-1:] != ["no"]:
                yield self._found(
                    "sshd's `passwordauthentication` in effect", code("no"), shown(found[-1])
                )

    def _sysctls(self) -> Iterator[Difference]:
        for key, value in self._node.sysctls.items():
            found = " ".join(self._facts.text("sysctl", key).split())
            if found != value:
                what = f"the sysctl {code(key)} in effect"
                yield self._found(what, code(value), shown(found))

    def _swap(self) -> Iterator[Difference]:
        devices = [line.split()[0] for line in self._facts.text("swap", "devices").splitlines()]
        if devices and self._node.prepare["ALLOW_SWAP"] != "true":
            yield self._found(
                "swap", "off", code(", ".join(devices)),
                "run `swapoff -a` on the node, and take swap out of /etc/fstab.",
            )  # fmt: skip

    def _units(self) -> Iterator[Difference]:
        for unit, drop_ins in self._node.units.items():
            lines = self._facts.text("unit", unit).splitlines()
            state = dict(line.split("=", 1) for line in lines if "=" in line)
            for key, value in (("ActiveState", "active"), ("UnitFileState", "enabled")):
                if state.get(key) != value:
                    yield self._found(
                        f"the unit {code(unit)}", value, shown(state.get(key) or MISSING),
                        f"run {code(f'systemctl enable --now {unit}')} on the node.",
                    )  # fmt: skip
            for path in state.get("DropInPaths", "").split():
                # Others, in service.d, are the distribution's for every unit.
                if path not in drop_ins and f"/{unit}.d/" in path:
                    yield self._found(
                        f"a drop-in of the unit {code(unit)}", NOTHING, code(path),
                        "remove it on the node, then run `systemctl daemon-reload` and restart "
                        "the unit.",
                    )  # fmt: skip
            if state.get("NeedDaemonReload") == "yes":
                yield self._found(
                    f"the unit {code(unit)}", "loaded as its files are",
                    "files that were changed since",
                    f"run {code(f'systemctl daemon-reload && systemctl restart {unit}')} on the "
                    "node.",
                )  # fmt: skip

    def _kubeadm(self) -> Iterator[Difference]:
        if not self._node.kubeadm:
            return
        for path in self._node.kubeadm_files:
            copy = f"{MADE}/{Path(path).name}"
            remedy = (
                f"on the node, {code(f'cp {copy} {path}')}"
                f"{'' if path.startswith(STATIC_PODS) else ', and `systemctl restart kubelet`'}."
            )
            if not self._facts.has("file", path):
                yield self._found(code(path), "a file", NOTHING, remedy)
                continue
            for what, one, other in self._made(path, copy):
                yield self._found(f"{code(path)}{what}", one, other, remedy)
        for name in self._facts.text("directory", STATIC_PODS).splitlines():
            path = f"{STATIC_PODS}/{name}"
            if path not in self._node.kubeadm_files:
                yield self._found(
                    code(path),
                    NOTHING,
                    "a static pod",
                    "remove it on the node, or make it an object of the cluster.",
                )

    def _made(self, path: str, copy: str) -> Iterator[tuple[str, str, str]]:
        """What differs in a file of kubeadm's: which field, what is expected, what is found."""
        text = self._facts.text("file", path)
        original = self._facts.text("file", copy) if self._facts.has("file", copy) else text
        if path == KUBELET_FLAGS:
            by_flag = list(_texts(_of_flags(original, text), "--"))
            yield from by_flag or (("", *pair) for pair in _lines(original, text))
            return
        wanted, found = _document(original), _document(text)
        fields = {each.path: each for each in differences(wanted, found)}
        if path == KUBELET_CONFIG:
            for document in self._node.documents:
                if document["kind"] == "KubeletConfiguration":
                    fields |= {each.path: each for each in lacking(document, found)}
        yield from _texts(fields.values())

    def _flags(self) -> Iterator[Difference]:
        if not self._node.kubeadm or not self._facts.has("kubelet", "flags"):
            return
        copy = f"{MADE}/{Path(KUBELET_FLAGS).name}"
        kept = self._facts.text("file", copy) or self._facts.text("file", KUBELET_FLAGS)
        units = [file.text for file in self._node.files if file.reader == "kubelet"]
        wanted = "\n".join([*units, kept])
        found = self._facts.text("kubelet", "flags")
        for each in _of_flags(wanted, found):
            yield self._found(
                f"kubelet's flag {code(f'--{each.path}')} in effect", shown(each.expected),
                shown(each.found), "once its files are right, `systemctl restart kubelet` on "
                "the node.",
            )  # fmt: skip

    def _found(self, what: str, expected: str, found: str, remedy: str = "") -> Difference:
        return Difference(
            place=self._node.name,
            what=what,
            expected=expected,
            found=found,
            remedy=remedy or self._again,
        )


def _rules(text: str) -> list[str]:
    """What a table does, of its file or as nft lists it: the lines of its chains."""
    inside, found = False, []
    for line in map(str.strip, text.splitlines()):
        inside = line.startswith("chain ") or (inside and line != "}")
        if inside:
            found.append(re.sub(r" packets \d+ bytes \d+", "", line))
    return found


def _document(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return {"": text}


def _flags(text: str) -> dict[str, str]:
    """The flags in a text, such as --config=/a."""
    return dict(re.findall(r"--([a-z][\w-]*)(?:=([^\s\"\0]*))?", text))


def _of_flags(wanted: str, found: str) -> Iterator[Field]:
    """The flags in which two texts differ."""
    ours, theirs = _flags(wanted), _flags(found)
    for name in sorted({**ours, **theirs}):
        if ours.get(name) != theirs.get(name):
            yield Field(name, ours.get(name, MISSING), theirs.get(name, MISSING))


def _texts(fields: Iterable[Field], before: str = "") -> Iterator[tuple[str, str, str]]:
    for each in fields:
        yield f", {code(before + each.path)}", shown(each.expected), shown(each.found)


def _lines(wanted: str, found: str) -> Iterator[tuple[str, str]]:
    """The places in which two texts differ, as the lines that were to be there and that are."""
    lines = wanted.splitlines(), found.splitlines()
    for tag, a, b, c, d in SequenceMatcher(None, *lines, autojunk=False).get_opcodes():
        if tag != "equal":
            yield _some(lines[0][a:b]), _some(lines[1][c:d])


def _some(lines: Sequence[str]) -> str:
    more = f" and {len(lines) - _LINES} more lines" if len(lines) > _LINES else ""
    return " ".join(map(code, lines[:_LINES])) + more or NOTHING
