"""The warnings of every preview: settings that are allowed but risky."""

import datetime
from collections.abc import Iterator

from config import StackConfig, capacity
from config.access import checks as access
from config.backup import checks as backup
from config.data_loss import checks as data_loss
from config.egress import warnings as egress
from config.host import checks as host
from config.istio import checks as istio
from config.kubernetes import checks as kubernetes
from config.kvm import checks as kvm
from config.machines import checks as machines
from config.machines import placement, private
from config.mesh import checks as mesh
from config.mesh import network_policy
from config.mtls import checks as mtls
from config.preflight import checks as preflight
from config.services import checks as services


def warnings(config: StackConfig) -> Iterator[str]:
    """One line for each warning."""
    yield from kubernetes.warnings(config, datetime.datetime.now(datetime.UTC).date())
    yield from data_loss.warnings(config)
    yield from machines.warnings(config)
    yield from kvm.warnings(config)
    yield from placement.warnings(config)
    yield from host.warnings(config)
    yield from private.warnings(config)
    yield from preflight.warnings(config)
    yield from backup.warnings(config)
    yield from istio.warnings(config.istio)
    yield from mtls.warnings(config.mesh)
    yield from mesh.warnings(config.mesh)
    yield from services.warnings(config.mesh)
    yield from access.warnings(config)
    yield from egress.warnings(config)
    yield from network_policy.warnings(config)
    yield from capacity.warnings(config)
