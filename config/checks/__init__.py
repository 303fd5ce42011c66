"""Checks that take more than one value of a stack file; each gives the problems that it finds."""

from collections.abc import Callable, Iterator

from config.checks import (
    access,
    capacity,
    egress,
    gateways,
    host,
    istio,
    kvm,
    machines,
    mesh,
    mtls,
    observability,
    preflight,
    services,
    settings,
    versions,
)
from config.errors import Problem
from config.sections import Sections

CHECKS: tuple[Callable[[Sections], Iterator[Problem]], ...] = (
    *machines.CHECKS,
    *kvm.CHECKS,
    *host.CHECKS,
    *preflight.CHECKS,
    *versions.CHECKS,
    *settings.CHECKS,
    *istio.CHECKS,
    *mesh.CHECKS,
    *mtls.CHECKS,
    *services.CHECKS,
    *gateways.CHECKS,
    *egress.CHECKS,
    *access.CHECKS,
    *capacity.CHECKS,
    *observability.CHECKS,
)
