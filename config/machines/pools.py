"""Node pools: settings that several nodes share.

A node has every setting of its pool that it does not set itself. Labels are combined, name by name;
any other value of the node, a list included, replaces that of the pool. A pool never holds what
identifies a machine: its provider, role, address or host key.
"""

from collections.abc import Mapping

from pydantic import Field

from config.base import Section
from config.errors import KeyPath
from config.kvm import Image
from config.machines.settings import Architecture, Bastion, NodeSettings
from config.model_types import aliases
from config.scalars.guests import CpuCount, DiskSize, GuestMemory
from config.scalars.names import UserName
from config.scalars.numbers import Port


class Pool(NodeSettings):
    """Settings of all nodes of a pool; a node's own value wins."""

    user: UserName | None = Field(default=None, description="the SSH user of bought machines")
    port: Port | None = Field(default=None, description="the SSH port of bought machines")
    bastion: Bastion | None = Field(default=None, description="the jump host of bought machines")
    architecture: Architecture | None = Field(
        default=None, description="the architecture of bought machines; arm64 is not tested"
    )
    cpus: CpuCount | None = Field(
        default=None, description="the number of virtual processors of each guest", examples=[4]
    )
    memory: GuestMemory | None = Field(
        default=None, description="the memory of each guest", examples=["8Gi"]
    )
    disk: DiskSize | None = Field(
        default=None, description="the size of the disk of each guest", examples=["40Gi"]
    )
    image: Image | None = Field(
        default=None, description="the image of guests, if it differs from machines.kvm.image"
    )


KEYS = tuple(aliases(Pool))


def applied(values: object, models: Mapping[str, type[Section]]) -> object:
    """The section `machines` of a file, with the settings of its pools in the nodes.

    models: the model of a node by its provider. Anything but a pool or a node
    is left unchanged, for the models to refuse.
    """
    if not isinstance(values, dict):
        return values
    pools, nodes = values.get("pools"), values.get("nodes")
    if not isinstance(pools, dict) or not isinstance(nodes, dict):
        return values
    return {**values, "nodes": {name: _node(node, pools, models) for name, node in nodes.items()}}


def source(machines: object, path: KeyPath) -> KeyPath | None:
    """The path in a pool that a setting of a node comes from; None for its own setting.

    machines: the section as in the file. path: below the section.
    """
    if len(path) < 3 or path[0] != "nodes":
        return None
    _, name, key, *below = path
    node = _mapping(_mapping(machines, "nodes"), name)
    pool = str(node.get("pool"))
    shared, own = _mapping(_mapping(machines, "pools"), pool), node
    if key == "labels" and below:
        key = below[0]
        shared, own = _mapping(shared, "labels"), _mapping(own, "labels")
    return ("pools", pool, *path[2:]) if key in shared and key not in own else None


def is_expected(machines: object, path: KeyPath) -> bool:
    """Whether a node lacks a setting that its pool may have, and names a pool that is missing."""
    if len(path) != 3 or path[0] != "nodes" or path[2] not in KEYS:
        return False
    node, known = _mapping(_mapping(machines, "nodes"), path[1]), _mapping(machines, "pools")
    return "pool" in node and str(node["pool"]) not in known


def _mapping(values: object, key: str) -> Mapping[str, object]:
    """The mapping below a key; empty without one."""
    below = values.get(key) if isinstance(values, Mapping) else None
    return below if isinstance(below, Mapping) else {}


def _node(node: object, pools: Mapping[str, object], models: Mapping[str, type[Section]]) -> object:
    if not isinstance(node, dict):
        return node
    pool, model = pools.get(str(node.get("pool"))), models.get(str(node.get("provider")))
    if not isinstance(pool, dict) or model is None:
        return node
    keys = set(KEYS) & set(aliases(model))
    shared = {key: value for key, value in pool.items() if key in keys and value is not None}
    merged = {**shared, **node}
    if isinstance(shared.get("labels"), dict) and isinstance(node.get("labels"), dict):
        merged["labels"] = {**shared["labels"], **node["labels"]}
    return merged
