"""A control plane whose scripts change the cluster: labels, drains, backups, restores, logins.

Each fake of kubectl keeps its cluster in files below /cluster.
"""

from collections.abc import Iterator

from components.admin_credentials import FILE as CREDENTIALS
from components.backup import FILE as BACKUP
from components.host import backup
from components.node_labels import FILE as LABELS
from components.node_labels import settings as label_settings
from components.remote.node_command import Script
from config import Backup, Taint
from tests.unit import node, restored
from tests.unit.boundaries import How
from tests.unit.machine import Machine, Result, prepared_once

NODE, PLANE = "worker-2", "cp-1"
LOGIN = "the-key-of-an-administrator"
STORED = "/srv/backup"


def _admin(machine: Machine) -> None:
    machine.write("/etc/kubernetes/admin.conf", f"    server: https://{node.ENDPOINT}:6443\n")


# --- label-node.sh --------------------------------------------------------------------------------

# The version of the node, its two records and one taint of Kubernetes; then the last write to it.
_LABELS_API = """
ulimit -S -f unlimited
case $* in
*' get node '*) printf '7\\nold\\n\\nnode.kubernetes.io/not-ready||NoSchedule|\\n' ;;
*' patch node '*) printf '%s\\n' "${*: -1}" >/cluster/patch ;;
esac
"""


def labelled(machine: Machine) -> None:
    """Prepare a cluster with a node that has a label of an earlier edit."""
    machine.fake("kubectl", _LABELS_API)
    machine.write("/cluster/patch", "none\n")


def label(machine: Machine) -> Result:
    taint = Taint(key="dedicated", value="db", effect="NoSchedule")
    settings = label_settings(NODE, {"pool": "db"}, [taint])
    return machine.run(LABELS, settings, node=PLANE)


# --- node-drain.sh and node-uncordon.sh -----------------------------------------------------------

_DRAIN_API = """
ulimit -S -f unlimited
case $* in
*renewTime*) date -u +%Y-%m-%dT%H:%M:%S.999999Z ;;
*unschedulable*) cat /cluster/unschedulable 2>/dev/null || true ;;
*status.conditions*) printf True ;;
*metadata.name*) printf worker-2 ;;
'drain '*) printf true >/cluster/unschedulable ;;
*'uncordon '*) rm -f /cluster/unschedulable ;;
esac
"""
# A timer that stays behind undoes nothing: it looks for the mark.
_TIMER = "/run/timer"


def drainable(machine: Machine) -> None:
    """Prepare a cluster with a node that accepts pods."""
    machine.fake("kubectl", _DRAIN_API)
    machine.fake("systemd-run", f"ulimit -S -f unlimited; echo >{_TIMER}")
    machine.fake("systemctl", f"rm -f {_TIMER}")
    machine.write("/cluster/pods", "")


def drained(machine: Machine) -> None:
    """Prepare a cluster with a node that was drained for its restart."""
    drainable(machine)
    result = drain(machine)
    assert result.status == 0, result.stderr


def drain(machine: Machine) -> Result:
    settings = {"JOINED_NODE": NODE, "UNCORDON": "undo", "UNDO_SECONDS": "900"}
    return machine.run("node-drain.sh", settings, node=PLANE)


def uncordon(machine: Machine) -> Result:
    settings = {"ANYWAY": "false", "JOINED_NODE": NODE, "READY_SECONDS": "300"}
    return machine.run("node-uncordon.sh", settings, node=PLANE)


def is_undone(machine: Machine, how: How) -> Iterator[str]:
    """A node that nobody drains any more accepts pods again: at once, or when the timer ends."""
    del how
    if machine.exists("/cluster/unschedulable") and not machine.exists(_TIMER):
        yield "the node stays cordoned, and no timer undoes it"


# --- restore-mark.sh and restore-forget.sh --------------------------------------------------------

_FORGET_API = """
ulimit -S -f unlimited
case $* in
*'get nodes'*) ls /cluster/nodes ;;
*'delete node '*) set -- "${@:1:$#-1}"; rm -f "/cluster/nodes/${*: -1}" ;;
*'delete pods '*) node=${*: -4:1}; rm -f "/cluster/pods/${node#*=}" ;;
esac
"""


def with_nodes_of_the_lost(machine: Machine) -> None:
    """Prepare a restored control plane whose cluster has the nodes of empty machines."""
    _admin(machine)
    machine.fake("kubectl", _FORGET_API)
    for name in ("worker-1", "cp-2", "cp-3"):
        machine.write(f"/cluster/nodes/{name}", "")
        machine.write(f"/cluster/pods/{name}", "")


def forget(machine: Machine) -> Result:
    return restored.run(machine, "restore-forget.sh")


def unmark(machine: Machine) -> Result:
    """Record the end of a restore."""
    return restored.mark(machine, "")


# --- backup-install.sh ----------------------------------------------------------------------------

_KEY = "age1tlfdsyt7vk7ru5fdq4fqnphq434xr8pz3wpmkuhra0jjrjzg5qnqmv6wa4"
_BACKUP = Backup.model_validate({"keys": [_KEY], "directory": STORED})


def without_backup(machine: Machine) -> None:
    """Prepare a control plane that stores no snapshots."""
    node.make(machine)
    machine.path(STORED).mkdir(parents=True)


@prepared_once
def with_backup(machine: Machine) -> None:
    """Prepare a control plane that stores snapshots."""
    without_backup(machine)
    result = install_backup(machine)
    assert result.status == 0, result.stderr


def install_backup(machine: Machine) -> Result:
    settings = backup.settings(PLANE, _BACKUP, cluster="prod")
    return machine.run(BACKUP, settings, node=PLANE)


def remove_backup(machine: Machine) -> Result:
    settings = {"DIRECTORY": "", "FILES": "", "RCLONE": ""}
    return machine.run(BACKUP, settings, node=PLANE)


# --- admin-credentials.sh -------------------------------------------------------------------------

_KUBEADM = f"""
case $* in
version*) echo v1.23.17 ;;
*) printf '    client-certificate-data: Y2VydA==\\n    client-key-data: {LOGIN}\\n' ;;
esac
"""


def issuing(machine: Machine) -> None:
    """Prepare a control plane whose kubeadm issues certificates."""
    _admin(machine)
    machine.fake("kubeadm", _KUBEADM)


def issue(machine: Machine) -> Result:
    settings = {"ENDPOINT": node.ENDPOINT, "SINCE": "2027-09-01"}
    script = Script(file=CREDENTIALS, node=machine.name, settings=settings)
    return machine.shell(machine.command(script))
