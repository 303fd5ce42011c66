"""A fake node: the commands that its scripts call, and helpers that run the scripts.

A fake service copies the files that it reads at its start.
"""

import base64
import gzip
import hashlib
import io
import tarfile
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from components.encryption_keys import PIPE as KEYS_PIPE
from components.encryption_keys import RETIRE, USE
from components.handover import PIPE
from components.host import table
from components.host.files import from_setting, to_setting
from components.host.templates import render
from components.manifests import kubeadm
from components.membership import INIT
from components.remote.node_command import Script
from config import Artifacts, Database, Host, Role
from tests.support.joining import TOKEN, handing_over
from tests.unit.machine import Machine, Result, prepared_once

_CONSTANT = ("containerd", "kernel", "kubelet", "sysctls")
ENDPOINT, ADDRESS = "api.prod.example.internal", "192.0.2.11"
ENDPOINT_PROGRAM = "/usr/local/lib/nordmesh/endpoint.sh"
PODS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
OF_EARLIER_RELEASE = "kind: ClusterConfiguration\nclusterName: a"
HARDENED = f"""{OF_EARLIER_RELEASE}
apiServer:
  extraArgs:
    profiling: 'false'"""

# /services holds the files that each service read at its start, and the rules that nft loaded.
_SYSTEMCTL = """
unit=${*: -1}
unit=${unit%.service}
start() {
    rm -rf "/services/$1"
    mkdir -p "/services/$1"
    case $1 in
    containerd) cp /etc/containerd/config.toml /usr/local/bin/containerd "/services/$1" ;;
    systemd-timesyncd) cp /etc/systemd/timesyncd.conf.d/* "/services/$1" ;;
    systemd-journald) cp /etc/systemd/journald.conf.d/* "/services/$1" ;;
    ssh) cp /etc/ssh/sshd_config.d/* "/services/$1" ;;
    # Without its servers, the load balancer ends at once.
    nordmesh-endpoint) cp /etc/nordmesh/endpoint{,-servers}.cfg "/services/$1" || return ;;
    esac
    [ "$1" != nordmesh-firewall ] || nft -f /etc/nordmesh/firewall.nft
    cp "/services/units/$1.service" "/services/units/$1.service.d/"* "/services/$1" 2>/dev/null
    # Without its configuration, kubelet ends at once.
    [ "$1" = kubelet ] && [ ! -e /var/lib/kubelet/config.yaml ] || touch "/services/$1/runs"
}
ulimit -S -f unlimited
case $1 in
boot)
    find /services -mindepth 1 ! -name held -delete
    systemctl daemon-reload
    for unit in ssh systemd-journald $(ls /enabled); do start "$unit"; done
    [ ! -e /etc/sysctl.d/99-nordmesh.conf ] || sysctl -p /etc/sysctl.d/99-nordmesh.conf
    ;;
enable) mkdir -p /enabled && touch "/enabled/$unit" ;;
daemon-reload)
    rm -rf /services/units
    mkdir -p /services
    cp -r /etc/systemd/system /services/units
    ;;
is-active) [ -e "/services/$unit/runs" ] || exit 3 ;;
show) echo 7 ;;
try-restart | reload-or-try-restart) [ ! -e "/services/$unit/runs" ] || start "$unit" ;;
start) [ -e "/services/$unit/runs" ] || start "$unit" ;;
restart | reload-or-restart) start "$unit" ;;
stop) rm -rf "/services/$unit" ;;
disable)
    for unit in "${@:4}"; do rm -rf "/services/${unit%.service}" "/enabled/${unit%.service}"; done
    ;;
esac 2>/dev/null
"""
# kubeadm's static pods: each has the annotation of its patch, and settings from the configuration.
KUBEADM_PHASES = r"""
            write_pods() {
                mkdir -p /etc/kubernetes/manifests
                for pod in kube-apiserver kube-controller-manager kube-scheduler; do
                    patch=$(cat "/etc/kubernetes/nordmesh-patches/$pod+merge.json")
                    id=$(sed 's/.*settings":"//; s/".*//' <<<"$patch")
                    printf 'metadata:\n  annotations:\n    nordmesh.io/settings: %s\n' "$id" \
                        >"/etc/kubernetes/manifests/$pod.yaml"
                    sed -n 's/^ *profiling: /  profiling: /p' /run/nordmesh/kubeadm.yaml \
                        >>"/etc/kubernetes/manifests/$pod.yaml"
                done
            }
            case $* in
            *'phase control-plane all'*) write_pods; exit ;;
            *'phase upload-config kubeadm'*) exit ;;
            esac
"""
# kubelet starts a pod from each manifest; one that has a line of /broken does not become Ready.
# /keys holds the keys that API servers started with.
# /planes holds what the pods of other control planes show.
KUBECTL_OF_PODS = r"""
        *'get pod kube-'*)
            pod=$*
            pod=${pod#*get pod }
            file=/etc/kubernetes/manifests/${pod%%-worker-1*}.yaml
            id=$(sed -n 's,.*nordmesh.io/settings: ,,p' "$file")
            ready=True
            [ ! -e /broken ] || ! grep -qf /broken "$file" || ready=False
            keys=${id##* }
            if [[ $file = *apiserver* ]] && [ "$(tail -n 1 /keys 2>/dev/null)" != "$keys" ]; then
                echo "$keys" >>/keys
            fi
            echo "$id $ready"
            ;;
        *'get nodes -l '*) echo worker-1; sed 's/ .*//' /planes 2>/dev/null || true ;;
        *'get pods -l component=kube-apiserver'*)
            file=/etc/kubernetes/manifests/kube-apiserver.yaml
            echo worker-1 $(sed -n "s,.*nordmesh.io/settings: ,,p" $file)
            cat /planes 2>/dev/null || true
            ;;
        *'get secrets '*'-o json') echo hunter2-of-a-secret ;;
        *'get secrets '*) echo secret/db ;;
        *'replace -f -')
            cat >/dev/null
            echo replaced >>/keys
            [ ! -e /refused ] || {
                echo 'Error from server (Forbidden): secrets "db": hunter2-of-a-secret' >&2
                exit 1
            }
            ;;
"""
_FAKES = {
    "systemctl": _SYSTEMCTL,
    # Resolve /proc/PID/exe, unless the program was replaced since the start.
    "readlink": "cmp -s /usr/local/bin/containerd /services/containerd/containerd &&"
    " echo /usr/local/bin/containerd",
    "curl": """while [ "$1" != --output ]; do shift; done
    cat "/served/${3##*/}" >"$2" || exit 23
    printf 200""",
    "df": "printf 'Avail\\n9000M\\n'",
    "dpkg-query": "echo installed",
    "apt-mark": """case $1 in
        showhold) cat /services/held 2>/dev/null || true ;;
        hold) echo "$2" >>/services/held ;;
        unhold)
            [ -e /services/held ] || exit 0
            sed -i "/^$2$/d" /services/held || exit
            [ -s /services/held ] || rm /services/held
            ;;
    esac""",
    "systemd-detect-virt": "exit 1",
    "systemd-run": "cat /var/lib/nordmesh/images >/run/nordmesh/pulled",
    "sysctl": 'mkdir -p /services && cp "${*: -1}" /services/sysctl',
    "sshd": "echo passwordauthentication no; echo maxauthtries 3",
    "nft": """case $* in
        '-f -') cat >/dev/null ;;
        '-f '*) mkdir -p /services && cat "$2" /etc/nordmesh/members.nft >/services/rules ;;
        'list table '*) [ -e /services/rules ] ;;
        'list tables') [ ! -e /services/rules ] || echo table inet nordmesh ;;
        'delete table inet nordmesh') rm -f /services/rules ;;
    esac""",
    "kubectl": f"""case $* in
        *'get node worker-1'*) cat /node 2>/dev/null || true ;;
        *--selector*) echo 192.0.2.11 ;;
        {KUBECTL_OF_PODS}
    esac""",
    "kubeadm": f"""mkdir -p /var/lib/kubelet/pki
    echo config >/var/lib/kubelet/config.yaml
    echo flags >/var/lib/kubelet/kubeadm-flags.env
    {KUBEADM_PHASES}
    case $1 in
        join)
            mkdir -p /etc/kubernetes/pki
            printf '    server: https://{ENDPOINT}:6443\\n' >/etc/kubernetes/kubelet.conf
            echo ca >/etc/kubernetes/pki/ca.crt
            echo node/worker-1 >/node
            systemctl start kubelet
            [[ $(cat "$3") = *certificateKey* ]] || exit 0
            printf '    server: https://{ENDPOINT}:6443\\n' >/etc/kubernetes/admin.conf
            mkdir -p /etc/kubernetes/manifests
            echo pod >/etc/kubernetes/manifests/etcd.yaml
            write_pods
            ;;
        init)
            printf '    server: https://{ENDPOINT}:6443\\n' >/etc/kubernetes/admin.conf
            mkdir -p /etc/kubernetes/manifests
            echo pod >/etc/kubernetes/manifests/etcd.yaml
            write_pods
            systemctl start kubelet
            ;;
    esac""",
    # The keys that it makes are the same in each run.
    "head": """case $* in
        *urandom*) printf %032d 0 ;;
        *) exec /usr/bin/head "$@" ;;
    esac""",
    "modprobe": "",
    "ctr": "",
    "mountpoint": "exit 1",
}
# The sysctls of a kernel with br_netfilter.
_MOUNTS = """
mount -t tmpfs tmpfs "$root/proc/sys/net"
mkdir "$root/proc/sys/net/bridge"
echo 1 >"$root/proc/sys/net/bridge/bridge-nf-call-iptables"
"""


def make(machine: Machine) -> None:
    """Prepare a machine on which every script succeeds."""
    for command, body in _FAKES.items():
        machine.fake(command, body)
    machine.mount(_MOUNTS)
    machine.path("/etc/systemd/system").mkdir(parents=True)
    for unit in ("ssh", "systemd-journald"):
        machine.write(f"/services/{unit}/runs", "")
    machine.write("/etc/hosts", "127.0.0.1 localhost\n192.0.2.99 own.example.org\n")
    machine.write("/etc/ssh/sshd_config", "")


# --- node-prepare.sh ------------------------------------------------------------------------------


def archive(members: Mapping[str, str]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, text in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    return gzip.compress(file.getvalue(), mtime=0)


def served(machine: Machine, release: str) -> dict[str, str]:
    """Serve a release's programs to the fake curl, and return the settings that name them."""
    lines: dict[str, str] = {}
    for setting, name, directory, content in (
        ("RUNTIME", "containerd", "/usr/local/bin", {"bin/containerd": release, "bin/shim": "s"}),
        ("RUNTIME", "cni-plugins", "/opt/cni/bin", {"bridge": release}),
        ("BINARIES", "kubelet", "/usr/local/bin", None),
    ):
        data = archive(content) if content else release.encode()
        path = machine.path(f"/served/{name}-{release}")
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            path.write_bytes(data)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        members = ",".join(content or ()) or "-"
        line = f"{name} {sha256} {directory} {members} http://mirror/{path.name}"
        lines[setting] = f"{lines[setting]}\n{line}" if setting in lines else line
    return lines


def prepare(
    machine: Machine,
    release: str,
    stack: Host,
    *,
    database: bool = False,
    swap: bool = True,
    role: Role = "worker",
) -> Result:
    """Run node-prepare.sh. All of its settings depend on the release, except for swap."""
    return machine.shell(
        prepare_command(machine, release, stack, database=database, swap=swap, role=role)
    )


def prepare_command(
    machine: Machine,
    release: str,
    stack: Host,
    *,
    database: bool = False,
    swap: bool = True,
    role: Role = "worker",
) -> str:
    """The command that `prepare` runs."""
    settings = {
        "ALLOW_SWAP": str(swap).lower(),
        "CGROUP_DRIVER": "systemd",
        "DISK_MIB": "2048",
        "IMAGES": f"registry.k8s.io/pause:{release} sha256:0",
        "KUBERNETES_VERSION": "1.23.17",
        **served(machine, release),
        **table.settings(
            table.HostArgs(
                host=stack,
                role=role,
                ssh_port=22,
                address="192.0.2.21",
                endpoint=ENDPOINT,
                service_cidr="10.96.0.0/12",
                own_resolver=False,
                kubelet_flags={},
                artifacts=Artifacts(),
                database=Database(engine="mariadb") if database else None,
                pause_image=f"registry.k8s.io/pause:{release}",
                cgroup_driver="systemd",
                restrict_oom_score_adj=False,
                registry_hosts=table.registry_hosts(
                    registry=f"http://r.example.com/{release}", images=["quay.io/a/b:1"]
                ),
            )
        ),
    }
    settings["FILES"] = to_setting(
        # These files are the same in every stack: edit them so that they differ by release.
        replace(file, text=f"{file.text}\n# {release}") if file.reader in _CONSTANT else file
        for file in from_setting(settings["FILES"])
    )
    return machine.command(Script(file="node-prepare.sh", node=machine.name, settings=settings))


def stack(size: str, **settings: Any) -> Host:
    defaults = {"journalSize": size, "timeServers": [f"ntp-{size.lower()}.example.com"], **settings}
    return Host.model_validate(defaults)


def first(machine: Machine) -> Result:
    return prepare(
        machine, "1", stack("1Gi", firewall={"sshFrom": ["192.0.2.0/24"]}), database=True
    )


def changed(machine: Machine) -> Result:
    return prepare(machine, "2", stack("2Gi"))


def plain(machine: Machine) -> Result:
    off = stack("1Gi", firewall={"enabled": False}, ssh={"hardened": False}, holdPackages=False)
    return prepare(machine, "1", off)


@prepared_once
def prepared(machine: Machine) -> None:
    """Prepare a node whose kubelet runs. It has no links of a cluster's network."""
    make(machine)
    machine.fake("ip")
    result = first(machine)
    assert result.status == 0, result.stderr
    machine.shell("systemctl start kubelet")


# --- kubeadm-join.sh and kubeadm-init.sh ----------------------------------------------------------


def discovery() -> str:
    """The kubeconfig by which a worker finds the cluster."""
    credentials = {"ca": base64.b64encode(b"ca\n").decode()}
    return kubeadm.discovery_kubeconfig(credentials, endpoint=ENDPOINT)


def with_endpoint_program(machine: Machine) -> None:
    """Write what node-prepare.sh writes, for the scripts after it."""
    machine.write(ENDPOINT_PROGRAM, render(ENDPOINT_PROGRAM.lstrip("/")))
    machine.write("/etc/nordmesh/endpoint.cfg", "")


def join(machine: Machine) -> Result:
    document = kubeadm.join_document(name="worker-1", address="192.0.2.21")
    settings = {
        "ENDPOINT": ENDPOINT,
        "JOIN_CONFIG": kubeadm.to_yaml([document]),
        "API_SECONDS": "1",
    }
    with handing_over(machine.path(PIPE)):
        return machine.run("kubeadm-join.sh", settings, stdin=discovery())


def not_joined(machine: Machine) -> None:
    """Prepare a machine with what the scripts of kubeadm need; its kubelet starts at boot."""
    future_control_plane(machine)
    with_endpoint_program(machine)
    machine.write("/etc/nordmesh/endpoint-servers.cfg", "")
    machine.write("/enabled/nordmesh-endpoint", "")


def future_control_plane(machine: Machine) -> None:
    """Like not_joined, without the load balancer of a worker."""
    make(machine)
    machine.write("/enabled/kubelet", "")


@prepared_once
def forgotten(machine: Machine) -> None:
    """Join a node, then delete it from the cluster."""
    not_joined(machine)
    result = join(machine)
    assert result.status == 0, result.stderr
    machine.path("/node").unlink()
    machine.write("/var/lib/kubelet/config.yaml", "earlier config\n")
    machine.write("/etc/kubernetes/nordmesh-made/config.yaml", "earlier config\n")


@prepared_once
def member(machine: Machine) -> None:
    """Prepare and join a worker."""
    prepared(machine)
    result = join(machine)
    assert result.status == 0, result.stderr


@prepared_once
def left(machine: Machine) -> None:
    """Prepare and join a worker, then delete it from the cluster."""
    member(machine)
    machine.path("/node").unlink()


def reset(machine: Machine, *, allow: bool = False, stdin: str | None = None) -> Result:
    settings = {
        "ENDPOINT": ENDPOINT,
        "ALLOW_DATA_LOSS": str(allow).lower(),
        "API_SECONDS": "1",
    }
    stdin = discovery() if stdin is None else stdin
    return machine.run("node-reset.sh", settings, stdin=stdin)


@prepared_once
def control_plane(machine: Machine) -> None:
    """Prepare and initialise a control plane."""
    prepared(machine)
    result = init(machine)
    assert result.status == 0, result.stderr
    machine.write("/var/lib/etcd/member/wal", "data")


@prepared_once
def of_earlier_release(machine: Machine) -> None:
    """Initialise a control plane as a release without encryption did."""
    future_control_plane(machine)
    result = init(machine, CLUSTER_CONFIG=OF_EARLIER_RELEASE)
    assert result.status == 0, result.stderr
    for path in ("pki/encryption.yaml", "audit/policy.yaml", "nordmesh-settings"):
        machine.path(f"/etc/kubernetes/{path}").unlink()
    for pod in PODS:
        machine.path(f"/etc/kubernetes/nordmesh-patches/{pod}+merge.json").unlink()
        for folder in ("manifests", "nordmesh-made"):
            machine.write(f"/etc/kubernetes/{folder}/{pod}.yaml", f"of an earlier release: {pod}\n")
    machine.path("/calls").unlink()
    machine.path("/keys").unlink(missing_ok=True)


def harden(machine: Machine, *, keys: str = "keys", **own: str) -> Result:
    """Run the script of a release that hardens the control plane, or adds a key. keys: what is
    handed over from other control planes.
    """
    with handing_over(machine.path(KEYS_PIPE), keys):
        return init(machine, CLUSTER="exists", CLUSTER_CONFIG=HARDENED, **own)


@prepared_once
def with_two_keys(machine: Machine) -> None:
    """A control plane that reads with a second key, as every other one does."""
    future_control_plane(machine)
    assert init(machine, CLUSTER_CONFIG=HARDENED).status == 0
    result = harden(machine, ENCRYPTION_KEY="2")
    assert result.status == 0, result.stderr
    machine.path("/calls").unlink()


@prepared_once
def with_a_used_key(machine: Machine) -> None:
    """The same after it has begun to write with the second key."""
    with_two_keys(machine)
    result = key_step(machine, USE, 2)
    assert result.status == 0, result.stderr
    machine.path("/calls").unlink()


def key_step(machine: Machine, file: str, number: int) -> Result:
    """Run one of the last two steps of a rotation."""
    settings = {"ENCRYPTION_KEY": str(number), "ENDPOINT": ENDPOINT}
    return machine.run(file, settings)


def rotate(machine: Machine, number: int = 1) -> Result:
    """Run every step of a rotation; return the first that fails, or the last."""
    result = harden(machine, ENCRYPTION_KEY=str(number))
    for file in (USE, RETIRE):
        if result.status == 0:
            result = key_step(machine, file, number)
    return result


def reset_control_plane(machine: Machine) -> Result:
    return reset(machine, allow=True, stdin="")


INIT_SETTINGS = {
    "AUDIT_POLICY": "kind: Policy",
    "OIDC_CA": "",
    "CLUSTER": "new",
    "CLUSTER_CONFIG": "kind: ClusterConfiguration",
    "ENCRYPTION_KEY": "1",
    "ENDPOINT": ENDPOINT,
    "INIT_CONFIG": "kind: InitConfiguration",
    "JOIN_CONFIG": "token: @TOKEN@, certificateKey: @KEY@",
    "SCHEDULABLE": "false",
}


def init(machine: Machine, *, handed: str = INIT, **own: str) -> Result:
    with handing_over(machine.path(PIPE), handed):
        return machine.run("kubeadm-init.sh", {**INIT_SETTINGS, **own})


CERTIFICATE_KEY = "0123456789abcdef" * 4


def key_file(**keys: str) -> str:
    """The file of keys of a control plane: names and their secrets in base64, in order."""
    lines = [f"      - name: {name}\n        secret: {secret}\n" for name, secret in keys.items()]
    return (
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n"
        "- resources:\n  - secrets\n  providers:\n  - secretbox:\n      keys:\n" + "".join(lines)
    )


KEYS = key_file(key1="b2YtYW5vdGhlci1jb250cm9sLXBsYW5lLWtleTEtMTI=")
"""The keys that another control plane hands over."""


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def join_control_plane(machine: Machine) -> Result:
    found, keys = encoded(discovery()), encoded(KEYS)
    return init(machine, handed=f"join 192.0.2.12 {TOKEN} {CERTIFICATE_KEY} {found} {keys}")


def boot(machine: Machine) -> None:
    """Start what is enabled; the rules and sysctls of the earlier boot are gone."""
    booted = machine.shell("systemctl boot")
    assert booted.status == 0, booted.stderr
