"""A machine with a proxy in its environment: downloads use it, calls of the cluster do not."""

from pathlib import Path

import pytest

from cli import drift
from components import join_token
from components.handover import PIPE
from components.host.templates import render
from components.manifests import kubeadm
from components.membership import INIT
from components.node import proxy_settings
from components.remote.node_command import Script, text_alone
from config import Artifacts
from tests.support.joining import handing_over
from tests.unit import node
from tests.unit.components.host.test_files import contents, host_args
from tests.unit.machine import Machine

PASSWORD = "s3cr3t"  # noqa: S105
PROXIES = {
    "https_proxy": f"http://user:{PASSWORD}@proxy.example.com:3128",
    "HTTP_PROXY": "http://proxy.example.com:3128",
    "no_proxy": "localhost,.example.internal",
}
EXPORTS = "".join(f"export {name}='{value}'; " for name, value in PROXIES.items())
# Each fake records the proxies that it would use.
_RECORD = 'env | grep -iE "^(https?|ftp|all|no)_proxy=" | sort | sed "s/^/{command} /" >>/proxies\n'
CLUSTER = ("kubectl", "kubeadm", "istioctl")
MEMBERS = "/usr/local/lib/nordmesh/members.sh"


@pytest.fixture
def proxied(machine: Machine) -> Machine:
    node.make(machine)
    node.with_endpoint_program(machine)
    machine.fake("istioctl")
    for command in (*CLUSTER, "curl", "systemd-run", "apt-get"):
        path = machine.path(f"/usr/local/bin/{command}")
        body = path.read_text() if path.exists() else "#!/bin/bash\n"
        first, _, rest = body.partition("\n")
        path.write_text(f"{first}\n{_RECORD.format(command=command)}{rest}")
        path.chmod(0o755)
    return machine


def recorded(machine: Machine, *commands: str) -> list[str]:
    lines = machine.read("/proxies").splitlines() if machine.exists("/proxies") else []
    return [line for line in lines if line.split()[0] in commands]


def of(command: str) -> list[str]:
    """What a command records that gets all of the machine's proxies."""
    return sorted(f"{command} {name}={value}" for name, value in PROXIES.items())


def test_downloads_use_the_proxy_of_the_machine(proxied: Machine) -> None:
    proxied.fake("dpkg-query", "exit 1")
    result = proxied.shell(EXPORTS + node.prepare_command(proxied, "1", node.stack("1Gi")))
    assert result.status == 0, result.stderr
    for command in ("curl", "apt-get"):
        assert set(recorded(proxied, command)) == set(of(command))
    (pull,) = proxied.calls("systemd-run")
    assert "--property=EnvironmentFile=/run/nordmesh/pull-proxy" in pull
    file = proxied.path("/run/nordmesh/pull-proxy")
    assert file.stat().st_mode & 0o777 == 0o600
    assert sorted(file.read_text().splitlines()) == sorted(
        f"{name}='{value}'" for name, value in PROXIES.items()
    )
    assert recorded(proxied, "kubectl", "kubeadm") == []


def test_the_login_of_a_proxy_is_on_no_command_line(proxied: Machine) -> None:
    """Every user of the machine can read those, and the properties of a unit."""
    proxied.fake("dpkg-query", "exit 1")
    for command in ("curl", "apt-get", "systemd-run"):
        path = proxied.path(f"/usr/local/bin/{command}")
        first, _, rest = path.read_text().partition("\n")
        path.write_text(f"{first}\ncat /proc/$$/cmdline /proc/$PPID/cmdline >>/arguments\n{rest}")
    result = proxied.shell(EXPORTS + node.prepare_command(proxied, "1", node.stack("1Gi")))
    assert result.status == 0, result.stderr
    assert all(name in proxied.read("/arguments") for name in ("curl", "apt-get", "systemd-run"))
    for text in (*proxied.calls(), proxied.read("/arguments"), result.stdout, result.stderr):
        assert PASSWORD not in text


def test_an_image_is_pulled_directly_without_a_proxy(proxied: Machine) -> None:
    assert node.prepare(proxied, "1", node.stack("1Gi")).status == 0
    assert proxied.calls("systemd-run")
    assert proxied.read("/run/nordmesh/pull-proxy") == ""


def test_the_cluster_is_never_asked_through_a_proxy(proxied: Machine) -> None:
    document = kubeadm.join_document(name="worker-1", address="192.0.2.21")
    join = Script(
        file="kubeadm-join.sh",
        node="worker-1",
        settings={
            "ENDPOINT": node.ENDPOINT,
            "JOIN_CONFIG": kubeadm.to_yaml([document]),
            "API_SECONDS": "1",
        },
    )
    init = Script(
        file="kubeadm-init.sh",
        node="worker-1",
        settings={
            "AUDIT_POLICY": "kind: Policy",
            "OIDC_CA": "",
            "CLUSTER": "new",
            "CLUSTER_CONFIG": "kind: ClusterConfiguration",
            "ENCRYPTION_KEY": "1",
            "ENDPOINT": node.ENDPOINT,
            "INIT_CONFIG": "kind: InitConfiguration",
            "JOIN_CONFIG": "kind: JoinConfiguration",
            "SCHEDULABLE": "false",
        },
    )
    stdin = kubeadm.discovery_kubeconfig({"ca": "Y2EK"}, endpoint=node.ENDPOINT)
    with handing_over(proxied.path(PIPE)):
        joined = proxied.shell(EXPORTS + proxied.command(join), stdin=stdin)
    proxied.path("/etc/kubernetes/kubelet.conf").unlink()
    with handing_over(proxied.path(PIPE), INIT):
        initialised = proxied.shell(EXPORTS + proxied.command(init))
    assert (joined.status, initialised.status) == (0, 0), (joined, initialised)
    assert {call.split()[0] for call in proxied.calls()} >= {"kubectl", "kubeadm"}
    assert recorded(proxied, *CLUSTER) == []


def test_a_token_is_not_requested_through_the_proxy(proxied: Machine) -> None:
    assert proxied.shell(EXPORTS + join_token._MAKE).status == 0
    assert proxied.calls("kubeadm token create")
    assert recorded(proxied, "kubeadm") == []


def test_the_member_list_and_drift_do_not_use_the_proxy(proxied: Machine) -> None:
    proxied.write("/etc/kubernetes/kubelet.conf", "")
    proxied.write("/etc/kubernetes/admin.conf", "")
    proxied.write("/members.sh", render(MEMBERS.lstrip("/")))
    proxied.shell(f"{EXPORTS}bash /members.sh once")
    assert proxied.calls("kubectl")
    look = (Path(drift.__file__).parent / "look.sh").read_text()
    names = ("FILES", "DIRECTORIES", "COMMANDS", "ARCHIVES", "SYSCTLS", "PACKAGES", "UNITS")
    settings = "".join(f"{name}=\n" for name in names)
    before = len(proxied.calls("kubectl"))
    proxied.write("/look.sh", f"{settings}CONFIG_MAPS=kubeadm-config\n{look}")
    proxied.shell(f"{EXPORTS}bash /look.sh")
    assert len(proxied.calls("kubectl")) > before
    assert recorded(proxied, *CLUSTER) == []


PROXY = {"url": "http://own.example.com:3128", "direct": ["registry.example.internal"]}
ARTIFACTS = Artifacts.model_validate(
    {"proxy": PROXY, "mirror": "http://192.0.2.80:8080", "registry": "https://r.example.com/a"}
)
DIRECT = "localhost,127.0.0.1,192.0.2.80,r.example.com,registry.example.internal"


def test_the_stack_files_proxy_replaces_the_machines(proxied: Machine) -> None:
    settings = proxy_settings(ARTIFACTS)
    proxied.write("/fetch.sh", "".join(text_alone(name) for name in ("lib.sh", "fetch.sh")))
    exports = "".join(f"export {name}='{value}'; " for name, value in settings.items())
    proxied.shell(f"{EXPORTS}{exports}NODE_NAME=a; . /fetch.sh; request /file http://a/b")
    assert recorded(proxied, "curl") == [
        "curl http_proxy=http://own.example.com:3128",
        "curl https_proxy=http://own.example.com:3128",
        f"curl no_proxy={DIRECT}",
    ]


def test_containerd_pulls_through_the_stack_files_proxy() -> None:
    unit = "/etc/systemd/system/containerd.service"
    line = (
        "Environment=HTTP_PROXY=http://own.example.com:3128 "
        f"HTTPS_PROXY=http://own.example.com:3128 NO_PROXY={DIRECT}"
    )
    assert line in contents(host_args(artifacts=ARTIFACTS), "containerd")[unit].splitlines()
    assert "PROXY" not in contents(host_args(), "containerd")[unit]


def test_scripts_get_a_proxy_only_if_the_stack_file_has_one() -> None:
    assert proxy_settings(Artifacts()) == {}


def test_kubelet_does_not_inherit_a_proxy_of_systemd() -> None:
    unit = contents(host_args(), "kubelet")["/etc/systemd/system/kubelet.service"]
    (line,) = (line for line in unit.splitlines() if line.startswith("UnsetEnvironment="))
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "HTTP_PROXY"):
        assert name in line.partition("=")[2].split()
