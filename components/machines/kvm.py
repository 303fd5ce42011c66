"""A guest that this program makes on a libvirt hypervisor, over SSH with a pinned host key."""

import json
from dataclasses import dataclass
from typing import Literal

import pulumi
from pulumi_command import local

from components.machines import growth
from components.machines.provider import login, through
from components.manifests import guest as manifests
from components.manifests.guest import Guest
from components.node_command import Script, text_alone
from components.remote import Connection, PrivateKey, RemoteScript
from config import Image, KvmNode, Machines, RoutedNetwork
from config.scalars.ssh import public_half

# What takes a real guest a second takes an emulated one several.
_PATIENCE = 5
_BOOT_SECONDS, _STOP_SECONDS = 180, 90
_IMAGE_SECONDS = 3600


@dataclass(frozen=True, kw_only=True)
class GuestArgs:
    """user: who logs in to the guest, with private_key. hypervisor: the login there."""

    guest: Guest
    hypervisor: Connection
    hypervisor_name: str
    image: Image
    clone: str
    user: str
    private_key: PrivateKey
    bastion: Connection | None
    authorized_keys: list[str]
    immutable: pulumi.ResourceHookBinding
    allow_data_loss: bool


class GuestMachine(pulumi.ComponentResource):
    """One guest with an SSH host key that was made before it, so that none is trusted unseen.

    The key's private half is in state, encrypted, and on the hypervisor until the guest has it.
    Deliberately does not follow its image, its network's settings or who may log in once it is
    made: those are cloud-init's, at the first start.
    """

    connection: Connection

    def __init__(
        self, name: str, args: GuestArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("nordmesh:machine:Guest", name, None, opts)
        guest = args.guest
        # On another hypervisor, or at another address, it is another machine with another key.
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
            opts=pulumi.ResourceOptions(
                parent=self,
                protect=not args.allow_data_loss,
                hooks=pulumi.ResourceHookBinding.merge(args.immutable, growth.hooks(name)),
            ),
        )
        self.connection = Connection(
            host=guest.node.address,
            user=args.user,
            port=22,
            private_key=args.private_key,
            bastion=args.bastion,
            # The guest is waited for: whoever needs its key needs the guest.
            host_key=pulumi.Output.all(made.id, pulumi.Output.unsecret(key["public"])).apply(
                lambda both: str(both[1])
            ),
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
                # Made once: another script must not mean another key.
                ignore_changes=["create"],
            ),
        )
        return made.stdout.apply(json.loads)


def kvm(
    machines: Machines,
    name: str,
    private_key: PrivateKey | None,
    immutable: pulumi.ResourceHookBinding,
) -> Connection:
    """Makes the guest and gives its login.

    Raises ValueError without a key, an image or a hypervisor, which the config's checks have asked
    for by then.
    """
    node = machines.nodes[name]
    if not isinstance(node, KvmNode) or private_key is None:
        raise ValueError(f"{name} is no kvm node, or nordmesh:sshPrivateKey is missing")
    hypervisor, image = machines.hypervisors[node.hypervisor], node.image or machines.kvm.image
    if image is None:
        raise ValueError(f"{name} needs nordmesh:machines.kvm.image")
    domain, guest_login = f"{machines.kvm.prefix}{name}", machines.login(node)
    machine = GuestMachine(
        name,
        GuestArgs(
            guest=Guest(
                name=name,
                domain=domain,
                folder=f"{hypervisor.directory}/{domain}",
                node=node,
                hypervisor=hypervisor,
            ),
            hypervisor=login(hypervisor, private_key),
            hypervisor_name=node.hypervisor,
            image=image,
            clone=machines.kvm.clone,
            user=guest_login.user,
            private_key=private_key,
            bastion=through(guest_login.bastion, private_key),
            authorized_keys=machines.kvm.authorized_keys,
            immutable=immutable,
            allow_data_loss=machines.allow_data_loss,
        ),
    )
    return machine.connection


def _create_script(args: GuestArgs, *, guest: Literal["new", "exists"]) -> Script:
    """Make the guest, or make one that exists as it is described now."""
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
    """What kvm-create.sh reads from its environment, but for what its removal reads as well."""
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
        # What stays on the hypervisor: no key, and nobody's login that is not in the guest.
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
    """The user-data with the host key and all who may log in; a secret."""

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
