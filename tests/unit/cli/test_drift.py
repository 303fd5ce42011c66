"""Drift of nodes, objects and the mesh: what is detected and how it is reported."""

import gzip
import hashlib
import json
import os
import re
import subprocess
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.drift import cluster, hosts, objects
from cli.drift.findings import Difference, Group, Inconclusive, Report
from cli.drift.values import MISSING, Field, at, differences
from cli.review.preview import parse
from components.host import table
from components.host.files import NodeFile, from_setting, to_setting
from components.manifests import kubeadm
from components.remote.nodes_ssh import Answer, Login
from config.errors import NordmeshError
from tests.support.golden import check
from tests.support.mocked import HOST_KEY, SSH_KEY
from tests.support.paths import PROJECT
from tests.unit.commands import nordmesh
from tests.unit.drifting import (
    STACK,
    Fact,
    answer,
    commands,
    events,
    healthy,
    kubelet_config,
    nodes,
    packed,
    same,
    urn,
)
from tests.unit.machine import Machine

SCRIPTS = PROJECT / "components" / "scripts"
_nodes = cache(nodes)


# --- hosts ----------------------------------------------------------------------------------------


def drift_on(name: str, facts: dict[Fact, str]) -> list[str]:
    """The drift of a node, one line for each difference: "what: expected / actual"."""
    node = _nodes()[name]
    read_facts = hosts.Facts(answer(facts))
    return [
        f"{difference.what}: {difference.expected} / {difference.actual}"
        for difference in hosts.Comparison(STACK, node, read_facts).all()
    ]


@pytest.mark.parametrize(("limit", "is_drift"), [("65536", False), ("128", True)])
def test_only_a_lower_limit_is_drift(limit: str, *, is_drift: bool) -> None:
    node = _nodes()["worker-1"]
    facts = healthy(node)
    key = "fs.inotify.max_user_instances"
    facts["sysctl", key] = limit
    facts["file", _SYSCTLS] = facts["file", _SYSCTLS].replace(f"{key} = 8192", f"{key} = {limit}")
    found = [line for line in drift_on("worker-1", facts) if key in line]
    assert bool(found) == is_drift


@pytest.mark.parametrize("name", ["cp-1", "worker-1"])
def test_an_unchanged_node_has_no_drift(name: str) -> None:
    assert drift_on(name, healthy(_nodes()[name])) == []
    assert hosts.has_copies(_nodes()[name], hosts.Facts(answer(healthy(_nodes()[name]))))


_SYSCTLS = "/etc/sysctl.d/99-nordmesh.conf"
_FLAGS = "/var/lib/kubelet/kubeadm-flags.env"
_CONFIG = "/var/lib/kubelet/config.yaml"
_MANIFEST = "/etc/kubernetes/manifests/etcd.yaml"


@pytest.mark.parametrize(
    ("kind", "name", "old", "new", "line"),
    [
        (
            "sysctl",
            "net.ipv4.ip_forward",
            "1",
            "0",
            "the sysctl `net.ipv4.ip_forward` in effect: `1` / `0`",
        ),
        (
            "sysctl",
            "net.ipv4.ip_forward",
            "1",
            None,
            "the sysctl `net.ipv4.ip_forward` in effect: `1` / nothing",
        ),
        (
            "file",
            _SYSCTLS,
            "ip_forward = 1",
            "ip_forward = 0",
            f"`{_SYSCTLS}`: `net.ipv4.ip_forward = 1` / `net.ipv4.ip_forward = 0`",
        ),
        ("file", _SYSCTLS, "", None, f"`{_SYSCTLS}`: a file / nothing"),
        (
            "file",
            "/etc/containerd/config.toml",
            "# Written",
            "# Edited",
            "`/etc/containerd/config.toml`: "
            "`# Written by nordmesh; changes are overwritten.` / "
            "`# Edited by nordmesh; changes are overwritten.`",
        ),
        (
            "mode",
            _SYSCTLS,
            "644 root",
            "666 admin",
            f"`{_SYSCTLS}`, mode and owner: `644 root` / `666 admin`",
        ),
        (
            "file",
            "/etc/hosts",
            "192.0.2.11",
            "192.0.2.99",
            "`/etc/hosts`, the address of `api.oslo.example.internal`: `192.0.2.11` / `192.0.2.99`",
        ),
        ("file", _FLAGS, "--node-ip", "--v=4 --node-ip", f"`{_FLAGS}`, `--v`: nothing / `4`"),
        (
            "kubelet",
            "flags",
            "--node-ip",
            "--v=4\0--node-ip",
            "kubelet's flag `--v` in effect: nothing / `4`",
        ),
        (
            "kubelet",
            "flags",
            "--config=/var/lib/kubelet/config.yaml",
            "--config=/tmp/other",
            "kubelet's flag `--config` in effect: `/var/lib/kubelet/config.yaml` / `/tmp/other`",
        ),
        (
            "file",
            _CONFIG,
            "rotateCertificates: true",
            "rotateCertificates: false",
            f"`{_CONFIG}`, `rotateCertificates`: `true` / `false`",
        ),
        (
            "file",
            _CONFIG,
            "- 10.96.0.10",
            "- 8.8.8.8",
            f"`{_CONFIG}`, `clusterDNS[0]`: `10.96.0.10` / `8.8.8.8`",
        ),
        ("file", _CONFIG, "kind:", "maxPods: 10\nkind:", f"`{_CONFIG}`, `maxPods`: nothing / `10`"),
        (
            "file",
            _MANIFEST,
            "name: etcd",
            "name: other",
            f"`{_MANIFEST}`, `name`: `etcd` / `other`",
        ),
        (
            "directory",
            "/etc/kubernetes/manifests",
            "etcd.yaml",
            "etcd.yaml\nminer.yaml",
            "`/etc/kubernetes/manifests/miner.yaml`: nothing / a static pod",
        ),
        (
            "directory",
            table.REGISTRIES,
            "",
            "quay.io/hosts.toml",
            "`/etc/containerd/certs.d/quay.io/hosts.toml`: nothing / a file",
        ),
        (
            "packages",
            "installed",
            "socat installed",
            "socat config-files",
            "the package `socat`: installed / config-files",
        ),
        (
            "packages",
            "verified",
            "missing ",
            "??5??????   /usr/bin/socat\nmissing ",
            "`/usr/bin/socat`: as in its package / changed",
        ),
        (
            "changed",
            "cni-plugins",
            "",
            "/opt/cni/bin/bridge",
            "`/opt/cni/bin/bridge`: as in the archive of `cni-plugins` / changed or missing",
        ),
        (
            "running",
            "containerd",
            "/usr/local/bin/containerd",
            "/usr/local/bin/containerd (deleted)",
            "the running containerd: `/usr/local/bin/containerd` / "
            "`/usr/local/bin/containerd (deleted)`",
        ),
        (
            "unit",
            "kubelet.service",
            "active",
            "failed",
            "the unit `kubelet.service`: active / `failed`",
        ),
        (
            "unit",
            "kubelet.service",
            "enabled",
            "disabled",
            "the unit `kubelet.service`: enabled / `disabled`",
        ),
        (
            "unit",
            "kubelet.service",
            "kubeadm.conf",
            "kubeadm.conf /run/kubelet.service.d/own.conf /run/service.d/all.conf",
            "a drop-in of the unit `kubelet.service`: nothing / `/run/kubelet.service.d/own.conf`",
        ),
        (
            "unit",
            "containerd.service",
            "Reload=no",
            "Reload=yes",
            "the unit `containerd.service`: loaded from its files / files that changed later",
        ),
        ("swap", "devices", "", "/swap file 1 0 -2", "swap: off / `/swap`"),
    ],
)
def test_a_changed_node_is_reported(
    kind: str, name: str, old: str, new: str | None, line: str
) -> None:
    facts = healthy(_nodes()["cp-1"])
    if new is None:
        del facts[kind, name]
    else:
        facts[kind, name] = facts[kind, name].replace(old, new, 1) if old else new
    assert drift_on("cp-1", facts) == [line]


def test_a_different_binary_is_reported() -> None:
    facts = healthy(_nodes()["worker-1"])
    facts["sha256", "/usr/local/bin/kubelet"] = "f" * 64
    (line,) = drift_on("worker-1", facts)
    assert line.startswith("`/usr/local/bin/kubelet`, sha256: ")
    assert line.endswith(f"/ `{'f' * 64}`")


@pytest.mark.parametrize("name", ["istioctl", "containerd"])
def test_a_binary_from_an_archive_is_compared_by_archive(name: str) -> None:
    node = _nodes()["cp-1"]
    sha256, path = node.binaries[name]
    assert not path
    facts = healthy(node)
    facts["download", name] = "b" * 64
    assert drift_on("cp-1", facts) == [
        f"the archive of `{name}`, sha256: `{sha256}` / `{'b' * 64}`"
    ]


def test_a_different_runc_is_reported_with_its_path() -> None:
    facts = healthy(_nodes()["worker-1"])
    facts["sha256", "/usr/local/sbin/runc"] = "f" * 64
    (line,) = drift_on("worker-1", facts)
    assert line.startswith("`/usr/local/sbin/runc`, sha256: ")


def test_equal_durations_are_not_drift() -> None:
    expected, actual = {"a": "1m", "b": "30s"}, {"a": "1m0s", "b": "31s"}
    assert list(differences(expected, actual)) == [Field("b", "30s", "31s")]


def test_missing_copies_of_kubeadms_files_are_detected() -> None:
    node, facts = _nodes()["cp-1"], healthy(_nodes()["cp-1"])
    for kind, name in list(facts):
        if name.startswith(kubeadm.MADE):
            del facts[kind, name]
    assert drift_on("cp-1", facts) == []
    assert not hosts.has_copies(node, hosts.Facts(answer(facts)))


_RULES = "/etc/nordmesh/firewall.nft"


@pytest.mark.parametrize(
    ("kind", "name", "old", "new", "text"),
    [
        (
            "firewall",
            "rules",
            "tcp dport { 2379,",
            "tcp dport { 9999,",
            "the firewall's rules in effect: `tcp dport { 2379, 2380, 2381, 10249, 10250, 10256, "
            "10257, 10259 } jump cluster` / `tcp dport { 9999, 2380, 2381, 10249, 10250, 10256, "
            "10257, 10259 } jump cluster`",
        ),
        ("file", _RULES, "udp dport 8472 jump cluster", "# udp", f"`{_RULES}`: "),
        ("sshd", "effective", "no", "yes", "sshd's `passwordauthentication` in effect: `no` / `y"),
        ("packages", "held", "ebtables", "", "the package `ebtables`: held back / not held"),
        ("file", "/etc/systemd/journald.conf.d/nordmesh.conf", "500M", "9G", "SystemMaxUse=9G"),
        (
            "unit",
            "nordmesh-members.service",
            "ActiveState=active",
            "ActiveState=failed",
            "the unit `nordmesh-members.service`: active / `failed`",
        ),
        (
            "unit",
            "nordmesh-certificates.timer",
            "ActiveState=active",
            "ActiveState=inactive",
            "the unit `nordmesh-certificates.timer`: active / `inactive`",
        ),
    ],
)
def test_a_changed_host_is_reported(kind: str, name: str, old: str, new: str, text: str) -> None:
    facts = healthy(_nodes()["cp-1"])
    assert old in facts[kind, name]
    facts[kind, name] = facts[kind, name].replace(old, new)
    (line,) = drift_on("cp-1", facts)
    assert text in line


@pytest.mark.parametrize(
    ("old", "new", "actual"),
    [("192.0.2.11", "192.0.2.99", "`192.0.2.99`"), ("server ", "# ", "nothing")],
)
def test_a_load_balancer_that_lost_a_control_plane_is_reported(
    old: str, new: str, actual: str
) -> None:
    facts = healthy(_nodes()["worker-1"])
    key = ("file", table.ENDPOINT_SERVERS)
    facts[key] = facts[key].replace(old, new)
    (line,) = drift_on("worker-1", facts)
    assert "the control planes that the node uses: `192.0.2.11` / " in line
    assert line.endswith(f" / {actual}")


def test_a_load_balancer_that_does_not_run_is_reported() -> None:
    facts = healthy(_nodes()["worker-1"])
    key = ("unit", "nordmesh-endpoint.service")
    facts[key] = facts[key].replace("active", "failed", 1)
    (line,) = drift_on("worker-1", facts)
    assert "the unit `nordmesh-endpoint.service`: active / `failed`" in line


@pytest.mark.parametrize(
    ("line", "is_drift"),
    [
        ("MaxAuthTries 3", False),
        ("MaxAuthTries 6", True),
        ("LoginGraceTime 20", False),
        ("LoginGraceTime 0", True),
        ("PermitRootLogin no", False),
        ("PermitRootLogin yes", True),
        ("X11Forwarding yes", True),
    ],
)
def test_a_stricter_sshd_is_not_drift(line: str, *, is_drift: bool) -> None:
    facts = healthy(_nodes()["cp-1"])
    keyword = line.split()[0]
    file = ("file", table.SSHD)
    facts[file], count = re.subn(rf"^{keyword} .*$", line, facts[file], flags=re.MULTILINE)
    assert count == 1
    lines = drift_on("cp-1", facts)
    assert [line in difference for difference in lines] == [True] * is_drift


def test_a_flushed_firewall_is_drift() -> None:
    facts = healthy(_nodes()["cp-1"])
    del facts["firewall", "rules"]
    (line,) = drift_on("cp-1", facts)
    assert line.startswith("the firewall's rules in effect: `chain input {`")


def test_a_firewall_that_should_be_off_is_drift() -> None:
    prepare = _nodes()["cp-1"].prepare
    files = [file for file in from_setting(prepare["FILES"]) if file.reader != "firewall"]
    node = replace(_nodes()["cp-1"], prepare={**prepare, "FILES": to_setting(files)})
    facts = healthy(_nodes()["cp-1"])
    drift = hosts.Comparison(STACK, node, hosts.Facts(answer(facts))).all()
    assert [difference.what for difference in drift] == ["the firewall's table `inet nordmesh`"]


def test_a_different_buffer_pool_size_is_drift() -> None:
    text = "[mysqld]\ninnodb_buffer_pool_size = @BUFFER_POOL@"
    path = "/etc/mysql/conf.d/nordmesh.cnf"
    file = NodeFile(path=path, reader="database", mode="644", text=text)
    prepare = _nodes()["worker-1"].prepare
    files = to_setting([*from_setting(prepare["FILES"]), file])
    node = replace(_nodes()["worker-1"], prepare={**prepare, "FILES": files})
    facts = healthy(node)
    assert hosts.Comparison(STACK, node, hosts.Facts(answer(facts))).all() == []
    facts["file", path] = facts["file", path].replace("12288M", "1G")
    (difference,) = hosts.Comparison(STACK, node, hosts.Facts(answer(facts))).all()
    assert difference.expected == "`innodb_buffer_pool_size = 12288M`"


@pytest.mark.parametrize("cut", [20, -20])
def test_a_truncated_answer_is_an_error(cut: int) -> None:
    text = answer(healthy(_nodes()["cp-1"]))
    with pytest.raises(NordmeshError, match="drift-answer-cut"):
        hosts.Facts(text[:cut])


def test_every_file_that_the_script_writes_is_compared() -> None:
    """Besides FILES, the script writes /etc/hosts and the list of images to pull."""
    text = "".join((SCRIPTS / name).read_text() for name in ("node-prepare.sh", "runtime.sh"))
    # $1 is the file that gets the endpoint's line: /etc/hosts or cloud-init's template.
    assert set(re.findall(r'\bwrite_file "?(\S+?)"? ', text)) == {"$1", "$IMAGES_FILE"}
    assert f"add_endpoint {table.HOSTS}\n" in text
    assert table.HOSTS in hosts.look(_nodes()["cp-1"], {})


def test_scripts_keep_copies_where_drift_reads_them() -> None:
    assert f"={kubeadm.MADE}\n" in (SCRIPTS / "lib.sh").read_text()
    for script in ("kubeadm-init.sh", "kubeadm-join.sh"):
        assert re.search("^ *keep_generated$", (SCRIPTS / script).read_text(), re.MULTILINE)


def test_the_prepare_script_has_no_delete_command() -> None:
    """The fix replaces this resource, and Pulumi would run a `delete` after the new script."""
    for step in commands():
        deletes = step["new"]["inputs"].get("delete")
        assert not (deletes and step["urn"].endswith("-prepare"))


def test_look_sh_prints_the_facts_of_a_machine(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one\ntwo\n")
    environment = {
        "PATH": os.environ["PATH"], "FILES": f"{tmp_path}/a {tmp_path}/none",
        "DIRECTORIES": str(tmp_path), "COMMANDS": "/nothing/of-this-name", "ARCHIVES": "none",
        "SYSCTLS": "kernel.ostype", "PACKAGES": "coreutils no-such-package", "UNITS": "",
    }  # fmt: skip
    script = (PROJECT / "cli" / "drift" / "look.sh").read_text()
    result = subprocess.run(
        ["bash", "-s"], input=script, env=environment, capture_output=True, text=True, check=True
    )
    facts = hosts.Facts(result.stdout)
    assert facts.text("file", f"{tmp_path}/a") == "one\ntwo"
    assert not facts.has("file", f"{tmp_path}/none")
    assert facts.text("directory", str(tmp_path)) == "a"
    assert facts.text("sysctl", "kernel.ostype") == "Linux"
    assert facts.text("packages", "installed") == "coreutils installed"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


# --- objects --------------------------------------------------------------------------------------

ROUTE = {
    "apiVersion": "networking.istio.io/v1beta1",
    "kind": "VirtualService",
    "metadata": {"name": "checkout", "namespace": "shop"},
    "spec": {"http": [{"route": [{"weight": 90}, {"weight": 10}]}]},
}
_ROUTE = ("kubernetes:networking.istio.io/v1beta1:VirtualService", "shop/checkout")
_SECRET = ("kubernetes:core/v1:Secret", "shop/token")


def edited(values: Any, path: str, value: Any) -> Any:
    """A copy with a value replaced at a path, for example spec.http.0.weight."""
    copy = json.loads(json.dumps(values))
    *most, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    parent = copy
    for key in most:
        parent = parent[key]
    parent[last] = value
    return copy


def live(manifest: Any, *entries: dict[str, Any]) -> dict[str, Any]:
    """An object in the cluster, with its managed fields."""
    own = {"manager": "nordmesh", "operation": "Apply", "fieldsV1": {"f:spec": {"f:hosts": {}}}}
    metadata = {**manifest["metadata"], "managedFields": [own, *entries]}
    return {**manifest, "metadata": metadata, "__fieldManager": "nordmesh"}


def managed_by(manager: str, fields: dict[str, Any], **options: str) -> dict[str, Any]:
    return {"manager": manager, "time": "2026-11-21T06:31:10Z", "fieldsV1": fields, **options}


def refreshed_state(inputs: Any, actual: Any, **outputs: Any) -> dict[str, Any]:
    """The refreshed state: the inputs in the state, and the object in the cluster."""
    new = {"inputs": inputs, "outputs": actual, **outputs} if actual else None
    return {"old": {"inputs": inputs}, "new": new}


def report_of(step: dict[str, Any], refresh: dict[str, Any] | None = None) -> str:
    """The report for one object. refresh: its refreshed state."""
    text = events([step], {step["urn"]: refresh} if refresh else {})
    groups = objects.groups(parse(text), objects.refreshed(text))
    return Report(stack=STACK, groups=groups).render()


def update(of: tuple[str, str], old: Any, new: Any, *fields: str) -> dict[str, Any]:
    step = {**same(*of, new), "op": "update"}
    return {**step, "old": {"inputs": old}, "detailedDiff": {field: {} for field in fields}}


def test_an_unchanged_object_has_no_drift() -> None:
    report = report_of(same(*_ROUTE, ROUTE), refreshed_state(ROUTE, live(ROUTE)))
    assert report.endswith("**No drift found.**\n")
    assert "1 objects of the program" in report


def test_a_weight_changed_by_hand_is_drift() -> None:
    actual = edited(ROUTE, "spec.http.0.route.0.weight", 70)
    step = update(_ROUTE, actual, ROUTE, "spec.http[0].route[0].weight")
    report = report_of(step, refreshed_state(ROUTE, live(actual)))
    assert (
        "- `VirtualService shop/checkout`: `spec.http[0].route[0].weight`\n"
        "  - expected: `90`\n  - found: `70`\n"
        "  - Run `pulumi up --refresh --stack prod`, which restores it.\n"
    ) in report
    assert report.endswith("**1 difference.**\n")


def test_a_weight_not_yet_applied_is_drift() -> None:
    new = edited(ROUTE, "spec.http.0.route.0.weight", 75)
    step = update(_ROUTE, ROUTE, new, "spec.http[0].route[0].weight")
    report = report_of(step, refreshed_state(ROUTE, live(ROUTE)))
    assert "The stack file was edited since: run `pulumi up --stack prod` to apply it." in report


def test_a_field_added_by_hand_is_reported_once_with_its_manager() -> None:
    actual = edited(
        edited(ROUTE, "spec.http.0.fault", {"abort": 1}), "spec.http.0.route.0.weight", 70
    )
    step = update(_ROUTE, actual, ROUTE, "spec.http[0].route[0].weight")
    entry = managed_by("kubectl-patch", {"f:spec": {"f:http": {}}})
    report = report_of(step, refreshed_state(ROUTE, live(actual, entry)))
    assert (
        "- `VirtualService shop/checkout`: `spec.http[0].fault`\n"
        '  - expected: nothing\n  - found: `{"abort": 1}`\n'
        "  - `kubectl-patch (2026-11-21T06:31:10Z)` set it, and nordmesh does not: remove it "
        "by hand, with `kubectl -n shop edit virtualservice checkout`.\n"
    ) in report
    assert report.endswith("**2 differences.**\n")


@pytest.mark.parametrize(
    "entry",
    [
        managed_by("kube-controller-manager", {"f:spec": {"f:http": {}}}),
        managed_by("anybody", {"f:spec": {"f:http": {}}}, subresource="status"),
        managed_by("kubectl-apply", {"f:metadata": {"f:name": {}}}),
        managed_by("kubectl-edit", {"f:spec": {"f:gone": {}}}),
    ],
)
def test_fields_of_controllers_and_equal_values_are_not_drift(entry: dict[str, Any]) -> None:
    actual = edited(ROUTE, "spec.http.0.timeout", "1s")
    report = report_of(same(*_ROUTE, ROUTE), refreshed_state(ROUTE, live(actual, entry)))
    assert report.endswith("**No drift found.**\n"), report


def test_list_items_are_matched_by_key() -> None:
    manifest = {
        "metadata": {"name": "a", "namespace": "shop", "finalizers": ["x"]},
        "spec": {"containers": [{"name": "one", "image": "i"}, {"name": "two", "image": "j"}]},
    }
    actual = edited(manifest, "spec.containers.1.env", [{"name": "HAND", "value": "made"}])
    actual = edited(actual, "metadata.finalizers", ["x", "y"])
    fields = {
        "f:metadata": {"f:finalizers": {".": {}, 'v:"y"': {}}},
        "f:spec": {
            "f:containers": {
                'k:{"name":"two"}': {
                    "f:env": {".": {}, 'k:{"name":"HAND"}': {".": {}, "f:value": {}}}
                }
            }
        },
    }
    step = same("kubernetes:apps/v1:Deployment", "shop/a", manifest)
    report = report_of(
        step, refreshed_state(manifest, live(actual, managed_by("kubectl-set", fields)))
    )
    assert '`spec.containers[{"name":"two"}].env`' in report
    assert '`metadata.finalizers["y"]`' in report


@pytest.mark.parametrize(
    ("items", "fields"),
    [
        ([90, 10, 5], {"spec.http[0].route[2]": ("nothing", '`{"weight": 5}`')}),
        ([90], {"spec.http[0].route[1]": ('`{"weight": 10}`', "nothing")}),
        (
            [10, 90],
            {
                "spec.http[0].route[0].weight": ("`90`", "`10`"),
                "spec.http[0].route[1].weight": ("`10`", "`90`"),
            },
        ),
    ],
)
def test_a_list_changed_by_hand_is_drift(
    items: list[int], fields: dict[str, tuple[str, str]]
) -> None:
    actual = edited(ROUTE, "spec.http.0.route", [{"weight": weight} for weight in items])
    entry = managed_by("kubectl-edit", {"f:spec": {"f:http": {}}})
    report = report_of(same(*_ROUTE, ROUTE), refreshed_state(ROUTE, live(actual, entry)))
    for field, (expected, actual_value) in fields.items():
        assert f"`{field}`\n  - expected: {expected}\n  - found: {actual_value}\n" in report
    assert report.count("kubectl-edit") == len(fields)


def test_a_deleted_object_is_drift() -> None:
    step = {"op": "create", "urn": urn(*_ROUTE), "new": {"inputs": ROUTE}}
    report = report_of(step, refreshed_state(ROUTE, None))
    assert (
        "the object\n  - expected: an object\n  - found: nothing\n  - Run `pulumi up --refresh"
        in report
    )


def test_an_object_not_yet_created_is_drift() -> None:
    report = report_of({"op": "create", "urn": urn(*_ROUTE), "new": {"inputs": ROUTE}})
    assert "found: nothing\n  - The stack file was edited since" in report


def test_an_object_not_yet_deleted_is_drift() -> None:
    step = {"op": "delete", "urn": urn(*_ROUTE), "old": {"inputs": ROUTE}}
    report = report_of(step, refreshed_state(ROUTE, live(ROUTE)))
    assert "expected: nothing\n  - found: an object\n  - The stack file was edited" in report


def test_secrets_are_hidden() -> None:
    manifest = {"kind": "Secret", "metadata": {"name": "token"}, "data": {"key": "aHVudGVyMg=="}}
    actual = edited(manifest, "data.key", "aHVudGVyMw==")
    report = report_of(
        update(_SECRET, actual, manifest, "data.key"), refreshed_state(manifest, live(actual))
    )
    assert "`data.key`\n  - expected: a hidden value\n" in report
    assert "aHVudGVy" not in report


def test_an_object_that_is_not_ready_is_a_note() -> None:
    refresh = refreshed_state(ROUTE, live(ROUTE), initErrors=["1 of 2 pods available"])
    report = report_of(update(_ROUTE, ROUTE, ROUTE), refresh)
    assert "- note: `VirtualService shop/checkout` is not ready: `1 of 2 pods available`" in report
    assert report.endswith("**No drift found.**\n")


def test_other_fields_of_a_patched_object_are_not_drift() -> None:
    entry = managed_by("helm", {"f:spec": {"f:replicas": {}}})
    patched = same("kubernetes:apps/v1:DeploymentPatch", "shop/a", ROUTE)
    report = report_of(
        patched, refreshed_state(ROUTE, live(edited(ROUTE, "spec.replicas", 2), entry))
    )
    assert report.endswith("**No drift found.**\n")


def test_a_pending_script_is_drift() -> None:
    old, *_ = (step for step in commands() if step["urn"].endswith("worker-1-prepare"))
    inputs = old["new"]["inputs"]
    new = {**inputs, "create": inputs["create"].replace("ip_forward = 1", "ip_forward = 0")}
    step = {**old, "op": "update", "new": {"inputs": new}, "detailedDiff": {"create": {}}}
    report = Report(stack=STACK, groups=[objects.pending(parse(events([step])))]).render()
    assert (
        "- `worker-1-prepare`: `pulumi up` would update it (`command:remote:Command`)\n" in report
    )
    assert f"expected: `{_SYSCTLS}`\n" in report


@pytest.mark.parametrize("op", ["update", "replace"])
def test_a_command_that_only_a_refresh_would_rerun_is_not_drift(op: str) -> None:
    step = {**commands()[0], "op": op}
    report = Report(stack=STACK, groups=[objects.pending(parse(events([step])))])
    assert report.status == 0


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec.http[0].route[1].weight", 10),
        ("spec.http[3]", MISSING),
        ('metadata.labels["a.b/c"]', "d"),
        ("metadata.labels.none", MISSING),
        ("spec.http.route", MISSING),
    ],
)
def test_the_value_at_a_path(path: str, value: object) -> None:
    assert at(edited(ROUTE, "metadata.labels", {"a.b/c": "d"}), path) == value


# --- objects of kubeadm and istioctl --------------------------------------------------------------

ISTIOD: dict[str, Any] = {
    "kind": "Deployment",
    "metadata": {
        "name": "istiod",
        "namespace": "istio-system",
        "labels": {"install.operator.istio.io/owning-resource": "unknown"},
    },
    "spec": {"replicas": 1},
}
_OWNED = managed_by("istio-operator", {"f:spec": {"f:replicas": {}}})


def cluster_facts(istiod: Any = None, **facts: str | bytes) -> dict[Fact, str | bytes]:
    """The facts of an unchanged cluster. istiod: its Deployment, if it was changed."""
    node = _nodes()["cp-1"]
    unchanged = {
        **ISTIOD,
        "metadata": {**ISTIOD["metadata"], "managedFields": [_OWNED]},
        "status": {},
    }
    documents = {document["kind"]: document for document in node.documents}
    maps = {
        "kubeadm-config": ("ClusterConfiguration", documents["ClusterConfiguration"]),
        "kubelet-config-1.23": ("kubelet", kubelet_config(node)),
        "kube-proxy": ("config.conf", documents["KubeProxyConfiguration"]),
    }
    facts_of: dict[Fact, str | bytes] = {
        ("end", "end"): "",
        **{
            ("configmap", name): json.dumps({"data": {key: yaml.safe_dump(value)}})
            for name, (key, value) in maps.items()
        },
    }
    for name in ("DOCUMENT_CONTROL_PLANE", "DOCUMENT_GATEWAYS"):
        facts_of["planned", name] = packed(ISTIOD)
        facts_of["actual", name] = packed(istiod or unchanged)
    facts_of |= {tuple(key.split("__")): value for key, value in facts.items()}  # type: ignore[misc]
    return facts_of


def of_one_control_plane(facts: hosts.Facts) -> Report:
    """The report of a cluster with one control plane, from its facts."""
    node = _nodes()["cp-1"]
    return Report(stack=STACK, groups=list(cluster.groups([node], {node.name: facts})))


def cluster_report(istiod: Any = None, **facts: str | bytes) -> str:
    return of_one_control_plane(hosts.Facts(answer(cluster_facts(istiod, **facts)))).render()


def test_an_unchanged_cluster_has_no_drift() -> None:
    report = cluster_report()
    assert report.endswith("**No drift found.**\n"), report
    assert "2 objects that istioctl installed" in report


def test_a_changed_mesh_object_is_reported_with_the_istioctl_fix() -> None:
    report = cluster_report(edited(ISTIOD, "spec.replicas", 3))
    assert (
        "- `Deployment istio-system/istiod`: `spec.replicas`\n  - expected: `1`\n  - found: `3`\n"
        "  - On `cp-1`, run `KUBECONFIG=/etc/kubernetes/admin.conf istioctl install "
        "--skip-confirmation --filename /run/nordmesh/istio-control-plane.yaml`.\n"
    ) in report


def test_a_field_added_to_a_mesh_object_is_reported_with_its_manager() -> None:
    entries = [_OWNED, managed_by("kubectl-label", {"f:metadata": {"f:labels": {"f:hand": {}}}})]
    labels = {"hand": "made"}
    metadata = {**ISTIOD["metadata"], "labels": labels, "managedFields": entries}
    # A server-side dry run keeps the label.
    planned = {**ISTIOD, "metadata": {**ISTIOD["metadata"], "labels": labels}}
    report = cluster_report({**ISTIOD, "metadata": metadata}, **{
        "planned__DOCUMENT_CONTROL_PLANE": packed(planned),
        "planned__DOCUMENT_GATEWAYS": packed(planned),
    })  # fmt: skip
    assert "`metadata.labels.hand`\n  - expected: nothing\n  - found: `made`\n" in report
    assert "`kubectl-label (2026-11-21T06:31:10Z)` set it. Fix it by hand" in report


def test_a_field_with_a_similar_name_does_not_hide_an_added_field() -> None:
    entries = [_OWNED, managed_by("kubectl-label", {"f:metadata": {"f:labels": {"f:hand": {}}}})]
    labels = {"hand": "made", "hand-book": "old"}
    metadata = {**ISTIOD["metadata"], "labels": labels, "managedFields": entries}
    planned = edited(edited(ISTIOD, "metadata.labels", labels), "metadata.labels.hand-book", "new")
    report = cluster_report({**ISTIOD, "metadata": metadata}, **{
        "planned__DOCUMENT_CONTROL_PLANE": packed(planned),
        "planned__DOCUMENT_GATEWAYS": packed(planned),
    })  # fmt: skip
    assert "`metadata.labels.hand-book`" in report
    assert "`metadata.labels.hand`" in report


def test_fields_that_istiod_sets_in_webhooks_are_not_drift() -> None:
    hook = {**ISTIOD, "kind": "ValidatingWebhookConfiguration"}
    ours = {**hook, "webhooks": [{"failurePolicy": "Ignore", "clientConfig": {}}]}
    theirs = {**hook, "webhooks": [{"failurePolicy": "Fail", "clientConfig": {"caBundle": "x"}}]}
    report = cluster_report(theirs, **{
        "planned__DOCUMENT_CONTROL_PLANE": packed(ours), "planned__DOCUMENT_GATEWAYS": packed(ours),
    })  # fmt: skip
    assert report.endswith("**No drift found.**\n"), report


def test_a_deleted_mesh_object_is_drift() -> None:
    report = cluster_report(actual__DOCUMENT_GATEWAYS=b"")
    assert "the object\n  - expected: an object\n  - found: nothing\n  - On `cp-1`, run " in report


def test_an_unreachable_api_server_is_inconclusive() -> None:
    report = cluster_report(error__readyz="connection refused", **{"configmap__kube-proxy": ""})
    for tool in ("kubeadm", "istioctl"):
        assert f"- `objects of {tool}`: **inconclusive**: connection refused" in report
    assert report.endswith("**No drift found; 2 checks were inconclusive.**\n")


def test_manifests_refused_by_the_api_server_are_inconclusive() -> None:
    report = cluster_report(
        planned__DOCUMENT_GATEWAYS=b"", error__DOCUMENT_GATEWAYS="no matches for kind"
    )
    assert "- `cp-1`: **inconclusive**: no matches for kind" in report


def test_missing_answers_of_the_api_server_are_inconclusive() -> None:
    """The API server becomes unavailable between two requests."""
    missing = {("actual", "DOCUMENT_GATEWAYS"), ("configmap", "kube-proxy")}
    facts = {key: value for key, value in cluster_facts().items() if key not in missing}
    read_facts = hosts.Facts(answer(facts))
    report = of_one_control_plane(read_facts).render()
    assert report.count("- `cp-1`: **inconclusive**: ") == 2
    assert report.endswith("**No drift found; 2 checks were inconclusive.**\n")


def run_look(machine: Machine, kubectl: str, **lists: str) -> hosts.Facts:
    """The facts that look.sh reads on a control plane with a fake kubectl. lists: what it reads."""
    machine.fake("kubectl", kubectl)
    machine.fake("istioctl", "cat")
    machine.write("/etc/kubernetes/admin.conf", "")
    machine.write("/look.sh", (PROJECT / "cli" / "drift" / "look.sh").read_text())
    names = ("FILES", "DIRECTORIES", "COMMANDS", "ARCHIVES", "SYSCTLS", "PACKAGES", "UNITS")
    variables = "".join(f"export {name}={lists.get(name, '')}\n" for name in names)
    result = machine.shell(
        f"{variables}export DOCUMENT_MESH='kind: Role' CONFIG_MAPS=kube-proxy\n"
        "bash /look.sh 2>/dev/null"
    )
    return hosts.Facts(result.stdout)


def test_the_changed_and_the_missing_programs_of_an_archive_are_read(machine: Machine) -> None:
    sums = ""
    for name in ("same", "changed", "missing"):
        path = f"/usr/local/bin/{name}"
        sums += f"{hashlib.sha256(name.encode()).hexdigest()}  {path}\n"
        machine.write(path, name)
    machine.write("/usr/local/bin/changed", "another program")
    machine.path("/usr/local/bin/missing").unlink()
    machine.write("/var/lib/nordmesh/containerd.files", sums)
    machine.write("/var/lib/nordmesh/containerd.sha256", "sum of the archive\n")
    facts = run_look(machine, "exit 1", ARCHIVES="containerd")
    assert facts.text("download", "containerd") == "sum of the archive"
    assert facts.text("changed", "containerd").split() == [
        "/usr/local/bin/changed",
        "/usr/local/bin/missing",
    ]


def test_a_failing_kubectl_gives_errors_and_no_facts(machine: Machine) -> None:
    """The API server is ready, then unavailable."""
    machine.fake("sshd", "echo 'line 1: bad option' >&2; exit 255")
    facts = run_look(machine, '[[ "$*" = *readyz* ]] || { echo refused >&2; exit 1; }')
    assert not facts.has("error", "readyz")
    assert facts.text("error", "DOCUMENT_MESH") == "refused"
    assert not facts.has("configmap", "kube-proxy")
    assert not facts.has("actual", "DOCUMENT_MESH")
    assert not facts.has("sshd", "effective")
    assert facts.text("error", "sshd") == "line 1: bad option"


def test_an_unready_api_server_gets_no_further_requests(machine: Machine) -> None:
    facts = run_look(
        machine, '[[ "$*" != *readyz* ]] || { echo etcd failed >&2; exit 1; }; echo {}'
    )
    assert facts.text("error", "readyz") == "etcd failed"
    assert len(machine.calls("kubectl")) == 1
    assert not facts.has("configmap", "kube-proxy")


def test_objects_are_read_from_a_ready_api_server(machine: Machine) -> None:
    facts = run_look(machine, 'echo \'{"kind": "Role"}\'')
    assert not facts.has("error", "readyz")
    assert json.loads(facts.text("configmap", "kube-proxy")) == {"kind": "Role"}
    for kind in ("planned", "actual"):
        assert json.loads(gzip.decompress(facts.raw(kind, "DOCUMENT_MESH"))) == {"kind": "Role"}


def test_a_changed_kubeadm_config_map_is_drift() -> None:
    text = yaml.safe_dump({"kubernetesVersion": "v1.22.0"})
    data = json.dumps({"data": {"ClusterConfiguration": text}})
    report = cluster_report(**{"configmap__kubeadm-config": data})
    assert (
        "`ConfigMap kube-system/kubeadm-config`: `ClusterConfiguration, kubernetesVersion`\n"
        in report
    )
    assert "  - expected: `v1.23.17`\n  - found: `v1.22.0`\n" in report


@pytest.mark.parametrize(
    ("names", "drifted"),
    [
        (["api.prod.example.internal", "192.0.2.99"], False),
        (["api.other.example.internal", "192.0.2.11"], True),
    ],
)
def test_only_the_first_control_planes_address_is_in_the_config_map(
    names: list[str], drifted: bool
) -> None:
    documents = {document["kind"]: document for document in _nodes()["cp-1"].documents}
    cluster_document = documents["ClusterConfiguration"]
    endpoint = cluster_document["apiServer"]["certSANs"][0]
    names = [name.replace("api.prod.example.internal", endpoint) for name in names]
    text = yaml.safe_dump({**cluster_document, "apiServer": {"certSANs": names}})
    data = json.dumps({"data": {"ClusterConfiguration": text}})
    report = cluster_report(**{"configmap__kubeadm-config": data})
    assert ("certSANs" in report) == drifted


@pytest.mark.parametrize(
    ("answering", "inconclusive"),
    [
        ("cp-1 cp-2 cp-3", []),
        ("cp-1", []),
        ("cp-2 cp-3", [("Mesh", "cp-1 did not answer")]),
        (
            "",
            [
                (
                    "Cluster",
                    "cp-1 did not answer; cp-2 did not answer; cp-3 did not answer",
                ),
                ("Mesh", "cp-1 did not answer"),
            ],
        ),
    ],
)
def test_three_control_planes_report_the_clusters_objects_once(
    answering: str, inconclusive: list[tuple[str, str]]
) -> None:
    first = _nodes()["cp-1"]
    planes = [first, *(replace(first, name=name, mesh={}) for name in ("cp-2", "cp-3"))]
    changed = json.dumps({"data": {"ClusterConfiguration": "clusterName: other"}})
    facts = hosts.Facts(answer(cluster_facts(**{"configmap__kubeadm-config": changed})))
    groups = list(cluster.groups(planes, dict.fromkeys(answering.split(), facts)))
    assert [group.title for group in groups] == ["Cluster", "Mesh"]
    found = [(group.title, check.why) for group in groups for check in group.inconclusive]
    assert found == inconclusive
    names = [one.what for one in groups[0].differences if "clusterName" in one.what]
    assert len(names) == bool(answering)


def test_a_mesh_without_gateways_requests_none() -> None:
    node, facts = _nodes()["cp-1"], hosts.Facts(answer(cluster_facts()))
    bare = replace(node, mesh={**node.mesh, "GATEWAYS": "kind: IstioOperator\n"})
    assert "DOCUMENT_GATEWAYS" not in cluster.variables(bare)
    assert not any(group.inconclusive for group in cluster.groups([bare], {bare.name: facts}))


def test_secrets_are_not_requested_from_the_cluster() -> None:
    assert not any("kind: Secret" in text for text in cluster.variables(_nodes()["cp-1"]).values())
    assert cluster.variables(_nodes()["worker-1"]) == {}


# --- the report -----------------------------------------------------------------------------------

ONE = Difference(subject="a", what="b", expected="c", actual="d", fix="e.")
WHY = Inconclusive(subject="a", why="b", fix="c.")


@pytest.mark.parametrize(
    ("differing", "unknown", "status", "last"),
    [
        ([], [], 0, "**No drift found.**"),
        ([ONE], [], 1, "**1 difference.**"),
        ([ONE, ONE], [WHY], 1, "**2 differences; 1 check was inconclusive.**"),
        ([], [WHY, WHY], 3, "**No drift found; 2 checks were inconclusive.**"),
    ],
)
def test_the_report_has_an_exit_status_and_a_summary(
    differing: list[Difference], unknown: list[Inconclusive], status: int, last: str
) -> None:
    group = Group(title="Hosts", checked="1 node", differences=differing, inconclusive=unknown)
    report = Report(stack=STACK, groups=[group])
    assert report.status == status
    assert report.render().splitlines()[-1] == last


# --- the command ----------------------------------------------------------------------------------

PULUMI = """#!/bin/sh
case "$*" in
    *export*) cat "$STATE" ;;
    *--refresh*) cat "$EVENTS"; echo "$REFUSED" >&2; [ -z "$REFUSED" ] ;;
    *) cat "$EVENTS" ;;
esac
"""


class DriftCommand:
    """The environment of `nordmesh drift`: a fake pulumi and the answers of nodes."""

    def __init__(self, directory: Path, patch: pytest.MonkeyPatch) -> None:
        tools = directory / "bin"
        tools.mkdir()
        (tools / "pulumi").write_text(PULUMI)
        (tools / "pulumi").chmod(0o755)
        facts = healthy(_nodes()["cp-1"])
        self.answers = {
            "cp-1": Answer(text=answer({**facts, **cluster_facts()})),
            "worker-1": Answer(text=answer(healthy(_nodes()["worker-1"]))),
        }
        self.tasks: dict[str, tuple[Login, str]] = {}
        self.events = directory / "events"
        self.events.write_text(events(commands()))
        (directory / "state").write_text(json.dumps(state()))
        self._patch = patch
        patch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
        patch.setenv("STATE", str(directory / "state"))
        patch.setenv("EVENTS", str(self.events))
        patch.setenv("REFUSED", "")
        patch.setattr("components.remote.nodes_ssh.run", self._run)

    def refuse(self, message: str) -> None:
        """Make a preview with --refresh fail."""
        self._patch.setenv("REFUSED", message)

    def _run(self, tasks: dict[str, tuple[Login, str]], *, seconds: int) -> dict[str, Answer]:
        assert seconds == 60
        self.tasks = tasks
        return {name: self.answers[name] for name in tasks}


def state() -> dict[str, Any]:
    """An exported state with the SSH connections of the nodes."""

    def connection(address: str) -> dict[str, str]:
        login = {
            "host": address, "user": "admin", "port": 2222,
            "hostKey": HOST_KEY, "privateKey": SSH_KEY,
        }  # fmt: skip
        return {"4dabf18193072939515e22adb298388d": "1b47", "plaintext": json.dumps(login)}

    resources = [
        {
            "type": "command:remote:Command",
            "urn": urn("command:remote:Command", f"{name}-prepare"),
            "inputs": {"connection": connection(address)},
        }
        for name, address in (("cp-1", "192.0.2.11"), ("worker-1", "192.0.2.21"))
    ]
    return {"deployment": {"resources": resources}}


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DriftCommand:
    return DriftCommand(tmp_path, monkeypatch)


def run_drift(capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Run `nordmesh drift`: exit status, stdout and stderr."""
    code = nordmesh(PROJECT, "drift", "--stack", STACK)
    return code, *capsys.readouterr()


def test_an_unchanged_stack_has_no_drift(
    command: DriftCommand, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run_drift(capsys)
    assert code == 0, out
    assert out.endswith("**No drift found.**\n")
    assert "read 2 nodes" in err
    login, script = command.tasks["worker-1"]
    assert (login.host, login.port, login.host_key) == ("192.0.2.21", 2222, HOST_KEY)
    assert "PRIVATE KEY" not in script + out + err


def test_differences_are_printed(command: DriftCommand, capsys: pytest.CaptureFixture[str]) -> None:
    facts = healthy(_nodes()["worker-1"])
    facts["sysctl", "net.ipv4.ip_forward"] = "0"
    facts["kubelet", "flags"] += "--max-pods=50\0"
    command.answers["worker-1"] = Answer(text=answer(facts))
    code, out, _ = run_drift(capsys)
    assert code == 1
    check("drift.md", out)


def test_an_unreachable_node_is_inconclusive(
    command: DriftCommand, capsys: pytest.CaptureFixture[str]
) -> None:
    command.answers["worker-1"] = Answer(text="", problem="Connection refused")
    code, out, _ = run_drift(capsys)
    assert code == 3
    assert "- `worker-1`: **inconclusive**: Connection refused\n" in out


def test_unreadable_sshd_settings_are_inconclusive(
    command: DriftCommand, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = healthy(_nodes()["worker-1"])
    del facts["sshd", "effective"]
    command.answers["worker-1"] = Answer(text=answer(facts | {("error", "sshd"): "bad option"}))
    code, out, _ = run_drift(capsys)
    assert code == 3
    assert "- `worker-1`: **inconclusive**: sshd's settings in effect: bad option" in out


def test_an_unreadable_control_plane_is_inconclusive(
    command: DriftCommand, capsys: pytest.CaptureFixture[str]
) -> None:
    command.answers["cp-1"] = Answer(text="half\tan\tans")
    code, out, _ = run_drift(capsys)
    assert code == 3
    for subject in ("cp-1", "objects of kubeadm", "objects of istioctl"):
        assert f"- `{subject}`: **inconclusive**: " in out


def test_nodes_are_checked_without_a_cluster(
    command: DriftCommand, capsys: pytest.CaptureFixture[str]
) -> None:
    command.refuse("error: configured Kubernetes cluster is unreachable")
    code, out, _ = run_drift(capsys)
    assert code == 3
    assert "### Hosts\n\nNo drift: 2 nodes.\n" in out
    assert out.count("**inconclusive**: error: configured Kubernetes cluster") == 2


def test_a_failed_preview_is_inconclusive(
    command: DriftCommand, capsys: pytest.CaptureFixture[str]
) -> None:
    command.events.write_text("")
    command.refuse("error: no stack named 'prod' found")
    code, out, _ = run_drift(capsys)
    assert code == 3
    assert "- `the program`: **inconclusive**" in out
    assert out.endswith("**No drift found; 1 check was inconclusive.**\n")


def test_a_stack_without_an_update_is_drift(
    command: DriftCommand, capsys: pytest.CaptureFixture[str]
) -> None:
    first_events = events([]).replace('"op": "same"', '"op": "create"')
    command.events.write_text(first_events)
    code, out, _ = run_drift(capsys)
    assert code == 1
    assert "found: nothing: it was not created yet\n  - Run `pulumi up --stack prod`" in out


def test_an_unsupported_pulumi_output_is_an_error(
    command: DriftCommand, capsys: pytest.CaptureFixture[str]
) -> None:
    command.events.write_text('{\n  "steps": [],\n  "changeSummary": {}\n}\n')
    code, out, err = run_drift(capsys)
    assert (code, out) == (3, "")
    assert "[pulumi-too-old]" in err


@pytest.mark.usefixtures("command")
def test_a_missing_pulumi_is_an_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    code, out, err = run_drift(capsys)
    assert (code, out) == (3, "")
    assert "there is no pulumi on PATH" in err
