"""Refuse changes of settings that are fixed once a node is in the cluster, at preview.

The state decides: a hook gets the old inputs of a resource. Those of the script that initialised,
joined or created a machine hold its settings. The node's own resource, which precedes every script
on the node, holds the same settings; they are compared once the node is a member.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pulumi

from components.manifests import kubeadm
from components.remote.node_command import settings_of
from config import AnyNode, ExistingNode, Hypervisor, KvmNode, StackConfig, catalogue
from config.errors import KeyPath, NordmeshError, Problem

Facts = Mapping[str, str]
"""Values that cannot change, by their path in the stack file."""

NODE_TYPE = "nordmesh:node:Node"
_INPUT, _MEMBER = "madeWith", "member"
# Settings that every node has; the others are the control plane's.
_OF_ALL_NODES = ("kubernetes.cgroupDriver", "kubernetes.endpoint", "kubernetes.version")

_PRIVATE = "privateAddress"
_ELSEWHERE = "to use another machine, build a new cluster in a new stack"
_SHOWN_ELSEWHERE = "the errors are shown at another resource"


class Immutable:
    """Compares the state with the stack file.

    hooks: for each node, and for the scripts that create a guest, initialise or join.
    before_first_change: for the first change of a new node: once a change was refused, a run
    starts on no new node.
    """

    hooks: pulumi.ResourceHookBinding
    before_first_change: pulumi.ResourceOptions

    def __init__(self, config: StackConfig) -> None:
        self._config = config
        self._shown: set[str] = set()
        options = pulumi.ResourceHookOptions(on_dry_run=True)
        changed = pulumi.ResourceHook("immutable settings", self._judge, options)
        self.hooks = pulumi.ResourceHookBinding(before_update=[changed])
        new = pulumi.ResourceHook("nothing is refused", self._require_none)
        self.before_first_change = pulumi.ResourceOptions(
            hooks=pulumi.ResourceHookBinding(before_create=[new])
        )

    async def _judge(self, args: pulumi.ResourceHookArgs) -> None:
        node, before = await _recorded(args)
        self.refuse(node, list(judge(self._config, node, before)))

    def refuse(self, name: str, problems: Sequence[Problem]) -> None:
        """Raise NordmeshError if a resource has problems; shows each problem once in a run."""
        if problems:
            news = [problem for problem in problems if problem.key not in self._shown]
            self._shown |= {problem.key for problem in news}
            blocks = "\n\n".join(map(str, news)) or _SHOWN_ELSEWHERE
            raise _refused(name, details=blocks)

    def _require_none(self, args: pulumi.ResourceHookArgs) -> None:
        if self._shown:
            raise _refused(args.name, details=_SHOWN_ELSEWHERE)


def _refused(node: str, *, details: str) -> NordmeshError:
    return NordmeshError(
        f"refused, and {node} was not touched", code="change-refused", details=details
    )


def inputs(made_with: Facts) -> dict[str, dict[str, str]]:
    """The inputs of a node's resource."""
    return {_INPUT: dict(made_with)}


def outputs(member: pulumi.CustomResource) -> dict[str, pulumi.Output[str]]:
    """The outputs of a node's resource. member: the script that initialised or joined it."""
    return {_MEMBER: member.id}


def facts(config: StackConfig, name: str) -> Facts:
    """The settings of a node that are fixed once it is in the cluster."""
    node = config.machines.nodes[name]
    documents = kubeadm.cluster_documents(
        config.kubernetes, catalogue.KUBERNETES[config.kubernetes.version], address=node.address
    )
    cluster = kubeadm.settings_of(documents)
    if node.role == "worker":
        cluster = {path: cluster[path] for path in _OF_ALL_NODES}
    return cluster | _machine(config, name)


def judge(config: StackConfig, name: str, before: Facts) -> Iterator[Problem]:
    """Refuse the changes that cannot be made. before: the known facts that a node was made with."""
    now, own = facts(config, name), f"machines.nodes.{name}"
    role = config.machines.nodes[name].role
    was = before.get(f"{own}.role", role)
    is_worker, is_only = was == "worker", len(config.machines.control_planes) == 1
    if was != role:
        # It would change most other facts, too.
        yield _of_role(name, was, role)
        return
    if _is_replaced(config, name, before, now):
        before = {path: before[path] for path in before.keys() - _machine(config, name).keys()}
    # Only the facts of the control plane include all settings of the cluster.
    paths = before.keys() | (now.keys() if "kubernetes.clusterName" in before else set())
    if f"{own}.address" in before:
        paths |= {f"{own}.{_PRIVATE}"}
    for path in sorted(paths):
        old, new = before.get(path), now.get(path) or _address_of_plane(config, name, path)
        if old == new or _is_rotated(config, path, old):
            continue
        # A key that the new provider does not have: the change of the provider is refused instead.
        is_machine = path.startswith("machines.")
        is_gone = new is None and is_machine and not path.endswith(".address")
        is_new = old is None and is_machine
        if _is_second_address(config, path, now) or not (is_gone or is_new):
            yield problem(name, path, old, new, is_worker=is_worker, is_only=is_only)


def made_with(connection: Mapping[str, Any], settings: Mapping[str, str]) -> Facts:
    """The facts in a script's command: its login and its settings."""
    hypervisor = settings.get("HYPERVISOR")
    if hypervisor is not None:
        path = f"machines.hypervisors.{hypervisor}"
        directory = settings["IMAGES"].rpartition("/")[0]
        return {f"{path}.directory": directory, f"{path}.hostKey": connection["hostKey"]}
    path = f"machines.nodes.{settings['NODE_NAME']}"
    login = {f"{path}.address": connection["host"], f"{path}.hostKey": connection["hostKey"]}
    documents = settings.get("INIT_CONFIG") or settings.get("JOIN_CONFIG", "")
    registered = kubeadm.registered_address(kubeadm.from_yaml(documents))
    if registered not in (None, connection["host"]):
        login[f"{path}.{_PRIVATE}"] = str(registered)
    return login | kubeadm.settings_of(kubeadm.from_yaml(settings.get("CLUSTER_CONFIG", "")))


def _machine(config: StackConfig, name: str) -> dict[str, str]:
    """The facts that identify a node's machine."""
    node, path = config.machines.nodes[name], f"machines.nodes.{name}"
    identity = {f"{path}.{key}": str(getattr(node, key)) for key in ("provider", "role")}
    identity |= _addresses(name, node)
    if isinstance(node, ExistingNode):
        identity[f"{path}.architecture"] = node.architecture
        identity[f"{path}.hostKey"] = node.host_key
    elif isinstance(node, KvmNode):
        hypervisor = f"machines.hypervisors.{node.hypervisor}"
        login = config.machines.hypervisors[node.hypervisor]
        identity[f"{path}.hypervisor"] = node.hypervisor
        identity["machines.kvm.prefix"] = config.machines.kvm.prefix
        identity[f"{hypervisor}.directory"] = login.directory
        identity[f"{hypervisor}.hostKey"] = login.host_key
    elif config.machines.container is not None:
        identity["machines.container.bridge"] = config.machines.container.bridge
    return identity


def _addresses(name: str, node: AnyNode) -> dict[str, str]:
    """The facts about a node's addresses. A second one is a fact only where there is one, so that
    the resources of other nodes stay as they are.
    """
    path, private = f"machines.nodes.{name}", node.cluster_address
    second = {f"{path}.{_PRIVATE}": private} if private != node.address else {}
    return {f"{path}.address": node.address, **second}


def _is_replaced(config: StackConfig, name: str, before: Facts, now: Facts) -> bool:
    """Whether a worker that this program created is recreated with its disks; that is allowed."""
    node, path = config.machines.nodes[name], f"machines.nodes.{name}"
    was_worker = before.get(f"{path}.role", node.role) == "worker"
    if not was_worker or not config.machines.may_lose("disk", name):
        return False
    replacing = {
        "container": ["machines.container.bridge"],
        "kvm": [f"{path}.address", f"{path}.hypervisor", "machines.kvm.prefix"],
    }
    return any(
        path in before and before[path] != now[path] for path in replacing.get(node.provider, [])
    )


def _address_of_plane(config: StackConfig, name: str, path: str) -> str | None:
    """The address of another node that is a control plane.

    Earlier releases recorded the addresses of the only control plane with every node.
    """
    match _keys(path):
        case "machines", "nodes", plane, "address" | "privateAddress" if plane != name:
            node = config.machines.nodes.get(plane)
            if node is not None and node.role == "control-plane":
                return _addresses(plane, node).get(path)
    return None


def _keys(path: str) -> KeyPath:
    """The keys of a fact. A node's name may have dots, and one key follows it."""
    section, _, rest = path.partition("machines.nodes.")
    if section or not rest:
        return tuple(path.split("."))
    return ("machines", "nodes", *rest.rsplit(".", 1))


def _is_second_address(config: StackConfig, path: str, now: Facts) -> bool:
    """Whether a node that still has this role and provider gains or loses a second address."""
    machine, _, key = path.rpartition(".")
    if key != _PRIVATE or f"{machine}.address" not in now:
        return False
    return isinstance(config.machines.nodes.get(_keys(path)[2]), ExistingNode)


def _is_rotated(config: StackConfig, path: str, old: str | None) -> bool:
    """Whether the stack file declares that a machine's host key was rotated."""
    match _keys(path):
        case "machines", "nodes", name, "hostKey":
            machine: object = config.machines.nodes.get(name)
        case "machines", "hypervisors", name, "hostKey":
            machine = config.machines.hypervisors.get(name)
        case _:
            return False
    return isinstance(machine, ExistingNode | Hypervisor) and (
        machine.host_key_rotation is not None and machine.host_key_rotation.previous == old
    )


def problem(
    name: str, path: str, old: str | None, new: str | None, *, is_worker: bool, is_only: bool
) -> Problem:
    """Describe one refused change.

    is_worker: whether the node was a worker. is_only: whether the cluster has one control plane.
    """
    keys, what = _keys(path), f"it changes from {old or 'nothing'} to {new or 'nothing'}"
    match keys:
        case "kubernetes", *_:
            why, fix = _of_cluster(old)
        case "machines", "nodes", plane, "address" if new is None:
            keys, what = keys[:-1], f"{plane} is no longer the control plane"
            why = f"etcd on {plane} holds the cluster's data, and {name} is in that cluster"
            fix = f"restore {plane} with role: control-plane; `pulumi destroy` deletes the cluster"
        case "machines", "hypervisors", hypervisor, key:
            why, fix = _of_hypervisor(name, hypervisor, key, old)
        case "machines", "nodes", node, "privateAddress":
            is_worker = is_worker and node == name
            why, fix = _of_private_address(node, old, is_worker=is_worker, is_only=is_only)
        case "machines", "nodes", other, "address" if other != name:
            why = f"etcd with the cluster's data is at {old}, where {name} reaches the API server"
            fix = f"set it back to {old}; {_ELSEWHERE}"
        case _:
            why, fix = _of_machine(name, keys[-1], old, is_worker=is_worker, is_only=is_only)
    return Problem(code="setting-immutable", path=keys, what=what, why=why, fix=fix)


def _of_cluster(old: str | None) -> tuple[str, str]:
    back = "set it to null" if old is None else f"set it back to {old}"
    return (
        "kubeadm created the cluster with the old value, and this release cannot change it",
        f"{back}; for another value, build a new cluster in a new stack",
    )


def _of_hypervisor(name: str, hypervisor: str, key: str, old: str | None) -> tuple[str, str]:
    if key == "hostKey":
        return (
            f"the disks of {name} are on the machine with the old key; on another machine, {name} "
            "would start with empty disks",
            f"set it back; {_rotation(hypervisor, old)}",
        )
    return (
        f"the disks of {name} are in {old}; elsewhere, {name} would start with empty disks",
        f"set it back to {old}; to use another directory, first remove the guests on {hypervisor} "
        "from the file and run `pulumi up`",
    )


def _of_role(name: str, old: str, new: str) -> Problem:
    return Problem(
        code="setting-immutable",
        path=("machines", "nodes", name, "role"),
        what=f"it changes from {old} to {new}",
        why=f"{name} is set up as a {old}, and stays one until the machine is reset",
        fix=f"set it back to {old}; for the other role, remove {name} from the file, run "
        "`pulumi up`, which resets the machine, and add it again",
    )


def _of_machine(
    name: str, key: str, old: str | None, *, is_worker: bool, is_only: bool
) -> tuple[str, str]:
    why = (
        f"{name} joined the cluster as it was; another machine would take over its name while the "
        "old one still runs its pods"
        if is_worker
        else "etcd with the cluster's data is on the old machine; on another machine, kubeadm "
        "would create an empty cluster"
    )
    if key == "hostKey":
        return why, f"set it back; {_rotation(name, old)}"
    again = (
        f"to use another machine, remove {name} from the file, run `pulumi up`, and add it again"
    )
    return why, f"set it back to {old}; {again if is_worker else _elsewhere(name, is_only=is_only)}"


def _elsewhere(name: str, *, is_only: bool) -> str:
    """How to use another machine instead of a control plane."""
    if is_only:
        return _ELSEWHERE
    return f"to use another machine, remove {name} and add that one under another name"


def _of_private_address(
    name: str, old: str | None, *, is_worker: bool, is_only: bool
) -> tuple[str, str]:
    back = "remove it" if old is None else f"set it back to {old}"
    if is_worker:
        return (
            f"{name} joined the cluster as it was: its kubelet, the pod network and the other "
            "nodes' firewalls have the old address",
            f"{back}; for another address, remove {name} from the file, run `pulumi up`, and add "
            "it again",
        )
    return (
        f"etcd and the API server on {name} were created as it was: their certificates and all "
        "nodes have the old address",
        f"{back}; for another address, build a new cluster in a new stack"
        if is_only
        else f"{back}; for another address, remove {name}, and add a control plane with another "
        "name",
    )


def _rotation(machine: str, old: str | None) -> str:
    return (
        f"if {machine} is the same machine and its host keys were rotated, compare the new key on "
        f'its console and add hostKeyRotation: {{previous: "{old}", reason: ...}} next to it'
    )


async def _recorded(args: pulumi.ResourceHookArgs) -> tuple[str, Facts]:
    """The node of a resource, and the facts that are recorded in it."""
    old = args.old_inputs or {}
    if args.type == NODE_TYPE:
        is_member = _MEMBER in (args.old_outputs or {})
        return args.name, (old.get(_INPUT) or {}) if is_member else {}
    of_script = settings_of(old)
    # The private key makes the whole connection a secret.
    connection = await pulumi.Output.from_input(old["connection"]).future()
    return of_script["NODE_NAME"], made_with(connection or {}, of_script)
