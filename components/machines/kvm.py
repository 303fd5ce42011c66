"""A guest on a libvirt hypervisor, created over SSH with a pinned host key."""

import functools
import json
from dataclasses import dataclass
from typing import Literal

import pulumi
from pulumi_command import local

from components.machines import growth
from components.machines.drains import Drain
from components.machines.provider import Guards, login, through
from components.manifests import guest as manifests
from components.manifests.guest import Guest
from components.remote.node_command import Script, text_alone
from components.remote.script import Connection, PrivateKey, RemoteScript
from components.rollout import Stage
from config import Image, KvmNode, Machines, RoutedNetwork
from config.scalars.ssh import public_half

# An emulated guest is several times slower than a real one.
_PATIENCE = 5
_BOOT_SECONDS, _STOP_SECONDS = 180, 90
_IMAGE_SECONDS = 3600


@dataclass(frozen=True, kw_only=True)
class GuestArgs:
    """user: logs in to the guest, with private_key. hypervisor: the login of the hypervisor.

    drain: before a restart; None if no other node could run its pods.
    """

    guest: Guest
    hypervisor: Connection
    hypervisor_name: str
    image: Image
    clone: str
    user: str
    private_key: PrivateKey
    bastion: Connection | None
    authorized_keys: list[str]
    guards: Guards
    drain: Drain | None
    allow_data_loss: bool


class GuestMachine(pulumi.ComponentResource):
    """A guest whose SSH host key is generated before it, so that no unknown key is ever trusted.

    The private key is in the state, encrypted, and on the hypervisor until the guest has it.
    Deliberately ignores later changes of the image, the network's settings and the authorized keys:
    cloud-init applies those at the first start only.
    """

    connection: Connection

    def __init__(
        self, name: str, args: GuestArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("nordmesh:machine:Guest", name, None, opts)
        guest = args.guest
        # On another hypervisor, or with another address, it is another machine with its own key.
        identity = [guest.uuid, args.hypervisor_name]
        key = self._make_host_key(name, identity)
        made = RemoteScript(
            f"{name}-guest",
            args.hypervisor,
            _create_script(args, guest="new"),
            update=_create_script(args, guest="exists"),
            delete=_script("kvm-delete.sh", args, {}),
            stdin=_first_user_data(args, key),
            triggers=identity,
            turn=args.guards.rollout.turn(name, Stage.GUEST),
            opts=pulumi.ResourceOptions(
                parent=self, protect=not args.allow_data_loss, hooks=_hooks(name, args)
            ),
        )
        args.guards.rollout.add_last(name, Stage.GUEST, made)
        self.connection = Connection(
            host=guest.node.address,
            user=args.user,
            port=22,
            private_key=args.private_key,
            bastion=args.bastion,
            # Wait for the guest: anyone who needs its key needs the guest.
            host_key=pulumi.Output.all(made.id, pulumi.Output.unsecret(key["public"])).apply(
                lambda both: str(both[1])
            ),
            pinned=pulumi.Output.unsecret(key["public"]),
            owner=made,
            patience=_patience(guest),
        )
        self.register_outputs({})

    def _make_host_key(self, name: str, identity: list[str]) -> "pulumi.Output[dict[str, str]]":
        made = local.Command(
            f"{name}-host-key",
            create=text_alone("kvm-host-key.sh"),
            interpreter=["/bin/bash", "-c"],
            logging=local.Logging.NONE,
            add_previous_output_in_env=False,
            triggers=identity,
            opts=pulumi.ResourceOptions(
                parent=self,
                additional_secret_outputs=["stdout"],
                # A changed script must not generate another key.
                ignore_changes=["create"],
            ),
        )
        return made.stdout.apply(json.loads)


def kvm(
    machines: Machines,
    name: str,
    private_key: PrivateKey | None,
    guards: Guards,
) -> Connection:
    """Create the guest, and return its login.

    Raises ValueError without a key, an image or a hypervisor; the config's checks require them.
    """
    node = machines.nodes[name]
    if not isinstance(node, KvmNode) or private_key is None:
        raise ValueError(f"{name} is not a kvm node, or nordmesh:sshPrivateKey is missing")
    hypervisor, image = machines.hypervisors[node.hypervisor], node.image or machines.kvm.image
    if image is None:
        raise ValueError(f"{name} needs nordmesh:machines.kvm.image")
    domain, guest_login = f"{machines.kvm.prefix}{name}", machines.login(node)
    guest = Guest(
        name=name,
        domain=domain,
        folder=f"{hypervisor.directory}/{domain}",
        node=node,
        hypervisor=hypervisor,
    )
    machine = GuestMachine(
        name,
        GuestArgs(
            guest=guest,
            hypervisor=login(hypervisor, private_key),
            hypervisor_name=node.hypervisor,
            image=image,
            clone=machines.kvm.clone,
            user=guest_login.user,
            private_key=private_key,
            bastion=through(guest_login.bastion, private_key),
            authorized_keys=machines.kvm.authorized_keys,
            guards=guards,
            drain=_drain(machines, guest, guards),
            allow_data_loss=machines.may_lose("disk", name),
        ),
    )
    return machine.connection


def _drain(machines: Machines, guest: Guest, guards: Guards) -> Drain | None:
    """The drain of a worker among others; a control plane is not drained."""
    if guest.node.role != "worker" or len(machines.workers) == 1:
        return None
    return Drain(
        node=guest.name,
        planes=guards.control_planes,
        restart_seconds=_patience(guest) * (_BOOT_SECONDS + _STOP_SECONDS),
        report_stop=lambda: guards.rollout.report_stop(guest.name, Stage.GUEST),
    )


def _hooks(name: str, args: GuestArgs) -> pulumi.ResourceHookBinding:
    return functools.reduce(
        pulumi.ResourceHookBinding.merge,
        (
            args.guards.immutable,
            growth.hooks(name, drained=args.drain is not None),
            args.drain.hooks() if args.drain else None,
            args.guards.rollout.of_scripts,
        ),
        pulumi.ResourceHookBinding(),
    )


def _create_script(args: GuestArgs, *, guest: Literal["new", "exists"]) -> Script:
    """The script that creates the guest, or changes an existing one."""
    settings = {**_settings(args), **_times(args.guest), "GUEST": guest}
    return _script("kvm-create.sh", args, settings)


def _script(file: str, args: GuestArgs, settings: dict[str, str]) -> Script:
    guest = args.guest
    directory = guest.hypervisor.directory
    common = {
        "BRIDGE": guest.hypervisor.network.bridge,
        "DOMAIN": guest.domain,
        "FOLDER": guest.folder,
        "HYPERVISOR": args.hypervisor_name,
        "IMAGES": f"{directory}/.images",
        "UUID": guest.uuid,
    }
    if file == "kvm-delete.sh":
        common["ALLOW_DATA_LOSS"] = str(args.allow_data_loss).lower()
    timeout = _IMAGE_SECONDS + _patience(guest) * (_BOOT_SECONDS + _STOP_SECONDS)
    return Script(file=file, node=guest.name, settings=common | settings, timeout=timeout)


def _settings(args: GuestArgs) -> dict[str, str]:
    """The settings that only kvm-create.sh reads, and kvm-delete.sh does not."""
    guest, image = args.guest, args.image
    node, network = guest.node, guest.hypervisor.network
    routed = network if isinstance(network, RoutedNetwork) else None
    return {
        "CLONE": "full" if args.clone == "full" else "copy-on-write",
        "CPUS": str(node.cpus),
        "DISK_MIB": str(manifests.mebibytes(node.disk)),
        "DOMAIN_XML": manifests.domain(guest),
        "EMULATED": str(guest.hypervisor.emulated).lower(),
        "ETCD_DISK_MIB": str(manifests.mebibytes(node.etcd_disk) if node.etcd_disk else 0),
        "IMAGE_PATH": image.path or "",
        "IMAGE_SHA256": image.sha256 or "",
        "IMAGE_URL": image.url or "",
        "MEMORY_MIB": str(manifests.mebibytes(node.memory)),
        "META_DATA": manifests.meta_data(guest),
        "NETWORK_CONFIG": manifests.network_config(guest),
        "NETWORK_XML": manifests.routed_network(routed) if routed else "",
        "READY": manifests.READY,
        # This stays on the hypervisor, so it has no key, and no login that the guest does not have.
        "USER_DATA": manifests.user_data(
            guest, user=args.user, authorized_keys=args.authorized_keys, host_key=None
        ),
    }


def _times(guest: Guest) -> dict[str, str]:
    patience = _patience(guest)
    return {
        "BOOT_SECONDS": str(patience * _BOOT_SECONDS),
        "STOP_SECONDS": str(patience * _STOP_SECONDS),
    }


def _patience(guest: Guest) -> int:
    return _PATIENCE if guest.hypervisor.emulated else 1


def _first_user_data(args: GuestArgs, key: "pulumi.Output[dict[str, str]]") -> pulumi.Output[str]:
    """The user-data with the host key and all authorized keys; a secret."""

    def render(values: list[object]) -> str:
        made, private_key = values
        own = public_half(str(private_key))
        host_key = dict(made) if isinstance(made, dict) else {}
        return manifests.user_data(
            args.guest,
            user=args.user,
            authorized_keys=[*([own] if own else []), *args.authorized_keys],
            host_key=(str(host_key["private"]), str(host_key["public"])),
        )

    return pulumi.Output.secret(pulumi.Output.all(key, args.private_key.text).apply(render))
