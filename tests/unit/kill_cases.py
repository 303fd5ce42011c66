"""The scripts to interrupt, each on the machines that it meets.

Kubernetes, Istio and libvirt are fakes with a state; files, processes and memory are the machine's.
"""

from collections.abc import Iterator

from components.encryption_keys import RETIRE, USE
from tests.support.joining import TOKEN
from tests.unit import libvirt, node, on_plane, restored
from tests.unit.boundaries import How
from tests.unit.components.scripts import test_istio as mesh
from tests.unit.kills import Case
from tests.unit.libvirt import FIRST, FOLDER
from tests.unit.machine import Machine, Result

NODE_SECRETS = (TOKEN.encode(),)
PLANE_SECRETS = (*NODE_SECRETS, node.CERTIFICATE_KEY.encode())
# Written by libvirt and the tools for disks, or different before the first start.
_GUESTS = r"/var/lib/guests/[^/]+/(console\.log|root\.qcow2|etcd\.raw|seed\.iso)$"

# --- node-remove.sh and node-ready.sh -------------------------------------------------------------

# The cluster has the node as long as /cluster/node exists.
_API = """
ulimit -S -f unlimited
case $* in
*'get node '*unschedulable*) cat /cluster/unschedulable 2>/dev/null || true ;;
*'get node '*conditions*) printf True ;;
*'get node '*) cat /cluster/node 2>/dev/null || true ;;
*' persistentvolumes '*) cat /cluster/volumes 2>/dev/null || true ;;
'drain '*) printf true >/cluster/unschedulable ;;
*'uncordon '*) rm -f /cluster/unschedulable ;;
'delete node '*) rm -f /cluster/* ;;
esac
"""


def _cluster(machine: Machine) -> None:
    machine.fake("kubectl", _API)
    machine.write("/etc/kubernetes/admin.conf", "")
    machine.write("/cluster/node", "node/worker-2\n")
    machine.write("/var/lib/nordmesh/host-files", "")


def _remove(machine: Machine) -> Result:
    return machine.run("node-remove.sh", {"JOINED_NODE": "worker-2", "ALLOW_DATA_LOSS": "false"})


def _ready(machine: Machine) -> Result:
    return machine.run("node-ready.sh", {"JOINED_NODE": "worker-2"})


def _cluster_with_volume(machine: Machine) -> None:
    _cluster(machine)
    machine.write("/cluster/volumes", "data|Bound|/srv/data|worker-2 \n")


def _accepts_pods(machine: Machine, how: How) -> Iterator[str]:
    """A script that could still act does not leave a node that stays and accepts no pods."""
    is_cordoned = machine.exists("/cluster/unschedulable")
    if how not in (How.KILL, How.REBOOT) and machine.exists("/cluster/node") and is_cordoned:
        yield "the node stays cordoned"


# --- plane-leave.sh -------------------------------------------------------------------------------

# The cluster has the node cp-2 and its member of etcd as long as these files exist. The API server
# of cp-2 stops with its etcd.
_PLANES_API = """
ulimit -S -f unlimited
[[ $* == *--server* || -e /cluster/member ]] || exit 1
case $* in
*--selector*) printf 'cp-1 192.0.2.11\\ncp-2 192.0.2.12\\ncp-3 192.0.2.13\\n' ;;
*'get node '*unschedulable*) cat /cluster/unschedulable 2>/dev/null || true ;;
*'get node '*) cat /cluster/node 2>/dev/null || true ;;
*'uncordon '*) rm -f /cluster/unschedulable ;;
*'drain '*) printf true >/cluster/unschedulable ;;
*'delete node '*) rm -f /cluster/node /cluster/unschedulable ;;
esac
"""
_ETCD = """
ulimit -S -f unlimited
member() {
    printf '{"ID":"%s","name":"%s","clientURLs":["https://192.0.2.1%s:2379"]}' "$1" "$2" "$1"
}
case ${!#} in
*/member/list)
    printf '{"members":[%s,%s' "$(member 1 cp-1)" "$(member 3 cp-3)"
    [ ! -e /cluster/member ] || printf ',%s' "$(member 2 cp-2)"
    printf ']}' ;;
*/member/remove) rm -f /cluster/member; printf '{"members":[]}' ;;
*/health) printf '{"health":"true"}' ;;
esac
"""


def _planes(machine: Machine) -> None:
    machine.fake("kubectl", _PLANES_API)
    machine.fake("curl", _ETCD)
    machine.write("/etc/kubernetes/admin.conf", "    server: https://api.example:6443\n")
    machine.write("/cluster/node", "node/cp-2\n")
    machine.write("/cluster/member", "")
    machine.write("/var/lib/nordmesh/host-files", "")


def _leave(machine: Machine) -> Result:
    settings = {
        "ADDRESS": "192.0.2.12",
        "ALLOW_DATA_LOSS": "false",
        "ENDPOINT": "api.example",
        "GONE": "false",
        "JOINED_NODE": "cp-2",
    }
    return machine.run("plane-leave.sh", settings, node="cp-2")


def _stays_or_leaves(machine: Machine, how: How) -> Iterator[str]:
    """A control plane that is still a member accepts pods; without its member, it must go on."""
    if machine.exists("/cluster/member"):
        yield from _accepts_pods(machine, how)
        if not machine.exists("/cluster/node"):
            yield "a member of etcd has no node"


# --- the mesh -------------------------------------------------------------------------------------


def _mesh(machine: Machine) -> None:
    mesh.Cluster(machine).reset()


def _two_revisions(machine: Machine) -> None:
    cluster = mesh.Cluster(machine)
    cluster.reset()
    cluster.add_new_revision()


def _install(machine: Machine) -> Result:
    return machine.run("istio-install.sh", mesh.SETTINGS)


def _rollout(machine: Machine) -> Result:
    return machine.run("istio-rollout.sh", mesh.SETTINGS)


def _uninstall(machine: Machine) -> Result:
    return machine.run("istio-uninstall.sh", mesh.SETTINGS)


def _rollout_elsewhere(machine: Machine) -> Result:
    return machine.run("istio-rollout.sh", mesh.SETTINGS | {"NAMESPACES": "other"})


def _remaining_guest(machine: Machine) -> None:
    """Prepare a hypervisor whose guest of this name is another stack's."""
    libvirt.created(machine)
    machine.write("/domains/shop-worker-1/uuid", "of-another")
    machine.path(f"{FOLDER}/uuid").unlink()
    machine.write("/sys/class/net/nm-test/brif/vnet0", "")


_CORDONED = r"/var/lib/nordmesh/cordoned\."
_OF_PODS = r"/etc/kubernetes/nordmesh-(before|made|patches)/"
_IN_USE = f"/cluster/objects/{mesh.FOREIGN}"
CASES = {
    "prepare": Case(prepare=node.make, run=node.first, boot=node.boot),
    "prepare-again": Case(
        prepare=node.prepared,
        run=node.changed,
        boot=node.boot,
        always=('step "start containerd"', "logged kubelet-restart"),
    ),
    "prepare-and-undo": Case(
        prepare=node.prepared,
        run=node.changed,
        then=node.first,
        boot=node.boot,
        always=('rm -rf "$work" "$file"',),
    ),
    "prepare-and-switch-off": Case(
        prepare=node.make,
        run=node.first,
        then=node.plain,
        boot=node.boot,
        always=('write_file "$HOST_FILES"',),
    ),
    "switch-off": Case(prepare=node.prepared, run=node.plain, boot=node.boot),
    "join": Case(prepare=node.not_joined, run=node.join, boot=node.boot, secrets=NODE_SECRETS),
    "join-again": Case(prepare=node.forgotten, run=node.join, boot=node.boot, secrets=NODE_SECRETS),
    "join-control-plane": Case(
        prepare=node.future_control_plane,
        run=node.join_control_plane,
        boot=node.boot,
        secrets=PLANE_SECRETS,
        # They change for the time of the join only.
        rewrites=r"/etc/kubernetes/nordmesh-joining$|/etc/hosts$",
    ),
    "init": Case(prepare=node.future_control_plane, run=node.init, boot=node.boot),
    "harden": Case(
        prepare=node.of_earlier_release,
        run=node.harden,
        boot=node.boot,
        rewrites=_OF_PODS,
        always=('mv -f "$NEXT', "use_keys", 'rm -rf "$BEFORE"'),
    ),
    "use-key": Case(
        prepare=node.with_two_keys,
        run=lambda machine: node.key_step(machine, USE, 2),
        boot=node.boot,
        rewrites=_OF_PODS,
        always=('sed -i "s/', 'rm -rf "$BEFORE"'),
    ),
    "retire-key": Case(
        prepare=node.with_a_used_key,
        run=lambda machine: node.key_step(machine, RETIRE, 2),
        boot=node.boot,
        rewrites=_OF_PODS,
        always=('sed -i "s/', "rewrite_secrets", 'rm -rf "$BEFORE"'),
    ),
    "ready": Case(prepare=_cluster, run=_ready, changes_nothing=True),
    "remove": Case(
        prepare=_cluster,
        run=_remove,
        stopped=_accepts_pods,
        rewrites=_CORDONED,
    ),
    "leave-control-plane": Case(
        prepare=_planes,
        run=_leave,
        stopped=_stays_or_leaves,
        rewrites=r"/var/lib/nordmesh/cordoned\.|/etc/kubernetes/nordmesh-leaving$",
    ),
    "reset": Case(prepare=node.left, run=node.reset, boot=node.boot, secrets=NODE_SECRETS),
    "reset-control-plane": Case(
        prepare=node.control_plane, run=node.reset_control_plane, boot=node.boot
    ),
    "restore": Case(
        prepare=restored.prepared,
        run=restored.restore,
        boot=node.boot,
        # The upload of each run, and what an interrupted one has placed.
        rewrites=r"/var/lib/nordmesh/restore\.tar\.gz$",
        always=('mv -T "$NEW_PKI"', 'touch "$STARTED"'),
    ),
    "restore-mark": Case(prepare=node.future_control_plane, run=restored.mark, boot=node.boot),
    "restore-unmark": Case(prepare=restored.prepared, run=on_plane.unmark, boot=node.boot),
    "restore-forget": Case(
        prepare=on_plane.with_nodes_of_the_lost,
        run=on_plane.forget,
        always=("logged pods-delete",),
    ),
    "backup": Case(prepare=on_plane.without_backup, run=on_plane.install_backup, boot=node.boot),
    "backup-off": Case(prepare=on_plane.with_backup, run=on_plane.remove_backup, boot=node.boot),
    "credentials": Case(
        prepare=on_plane.issuing,
        run=on_plane.issue,
        secrets=(on_plane.LOGIN.encode(),),
        changes_nothing=True,
    ),
    "label": Case(prepare=on_plane.labelled, run=on_plane.label),
    "drain": Case(
        prepare=on_plane.drainable,
        run=on_plane.drain,
        stopped=on_plane.is_undone,
        rewrites=_CORDONED,
    ),
    "uncordon": Case(prepare=on_plane.drained, run=on_plane.uncordon, rewrites=_CORDONED),
    "istio-install": Case(prepare=_mesh, run=_install),
    "istio-rollout": Case(prepare=_two_revisions, run=_rollout),
    "istio-uninstall": Case(prepare=_mesh, run=_uninstall, keeps=(_IN_USE,)),
    "kvm-create": Case(
        prepare=libvirt.make,
        run=libvirt.create,
        boot=libvirt.boot,
        erased=(FIRST.encode(),),
        rewrites=_GUESTS,
    ),
    "kvm-change": Case(
        prepare=libvirt.created, run=libvirt.change, boot=libvirt.boot, rewrites=_GUESTS
    ),
    "kvm-change-then-delete": Case(
        prepare=libvirt.created,
        run=libvirt.change,
        then=libvirt.delete,
        boot=libvirt.boot,
        rewrites=_GUESTS,
    ),
    "kvm-delete": Case(prepare=libvirt.created, run=libvirt.delete, boot=libvirt.boot),
}
# Scripts without a case, and why.
NOT_INTERRUPTED = {
    "cluster-member.sh": "changes nothing",
    "cluster-offer.sh": "makes a token and a key of the certificates, which end by themselves",
    "container-create.sh": "lab machines only; tests/live/test_killed.py",
    "container-delete.sh": "lab machines only; tests/live/test_killed.py",
    "encryption-offer.sh": "changes nothing",
    "etcd-keys.sh": "changes nothing",
    "etcd-ready.sh": "changes nothing",
    "kvm-host-key.sh": "prints a key; runs on the machine that runs Pulumi",
    "restore-look.sh": "changes nothing",
}
# Scripts that must change nothing, whatever fails.
GUARDS = {
    "join-of-member": Case(prepare=node.member, run=node.join, changes_nothing=True),
    "reset-of-member": Case(
        prepare=node.member, run=node.reset, changes_nothing=True, is_refused=True
    ),
    "remove-with-volume": Case(
        prepare=_cluster_with_volume, run=_remove, changes_nothing=True, is_refused=True
    ),
    "kvm-delete-of-another": Case(
        prepare=_remaining_guest, run=libvirt.delete, changes_nothing=True
    ),
    "rollout-of-workloads-elsewhere": Case(
        prepare=_two_revisions,
        run=_rollout_elsewhere,
        is_refused=True,
        keeps=("/cluster/revisions", "/cluster/workloads"),
    ),
}
