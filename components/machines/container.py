"""A systemd-nspawn machine on the host that runs Pulumi: the lab's nodes."""

import json
from dataclasses import dataclass

import pulumi
from pulumi_command import local

from components.machines.provider import Guards
from components.manifests import container as manifests
from components.remote.node_command import local_text
from components.remote.script import Connection, PrivateKey
from config import Machines


@dataclass(frozen=True, kw_only=True)
class ContainerMachineArgs:
    """address, gateway: IPv4; the gateway is this host on the bridge. prefix: length in bits."""

    address: str
    bridge: str
    gateway: str
    prefix: int
    allow_data_loss: bool


class ContainerMachine(pulumi.ComponentResource):
    """A machine with its own root, systemd, sshd, and an address on the bridge.

    Deliberately does not create the bridge, which belongs to the host and is shared.
    """

    connection: Connection

    def __init__(
        self,
        name: str,
        args: ContainerMachineArgs,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("nordmesh:machine:Container", name, None, opts)
        made = local.Command(
            f"{name}-machine",
            create=local_text("container-create.sh"),
            delete=local_text("container-delete.sh"),
            environment={
                "NAME": name,
                "BRIDGE": args.bridge,
                "ALLOW_DATA_LOSS": str(args.allow_data_loss).lower(),
                **manifests.settings(
                    address=args.address, prefix=args.prefix, gateway=args.gateway
                ),
            },
            interpreter=["/bin/bash", "-c"],
            logging=local.Logging.NONE,
            add_previous_output_in_env=False,
            opts=pulumi.ResourceOptions(
                parent=self,
                additional_secret_outputs=["stdout"],
                protect=not args.allow_data_loss,
                # On another bridge it is a different machine; everything else changes in place.
                replace_on_changes=["environment.BRIDGE"],
                delete_before_replace=True,
            ),
        )
        # The script prints {"hostKey": ..., "privateKey": ...}; the first is public.
        keys = made.stdout.apply(json.loads)
        self.connection = Connection(
            host=args.address,
            user="root",
            port=22,
            private_key=PrivateKey(
                text=pulumi.Output.secret(keys.apply(lambda both: str(both["privateKey"])))
            ),
            host_key=pulumi.Output.unsecret(keys.apply(lambda both: str(both["hostKey"]))),
            owner=made,
        )
        self.register_outputs({})


def container(
    machines: Machines,
    name: str,
    private_key: PrivateKey | None,
    guards: Guards,
) -> Connection:
    """Create the container machine, and return its login with the key of the lab.

    Raises ValueError without machines.container; the checks of the config require it.
    """
    del private_key, guards
    network = machines.container
    if network is None:
        raise ValueError(f"{name} needs nordmesh:machines.container")
    machine = ContainerMachine(
        name,
        ContainerMachineArgs(
            address=machines.nodes[name].address,
            bridge=network.bridge,
            gateway=network.gateway,
            prefix=network.prefix_length,
            allow_data_loss=machines.may_lose("disk", name),
        ),
    )
    return machine.connection
