"""What every preview warns of: let through, but to be known."""

import datetime
from collections.abc import Iterator

from config import StackConfig, catalogue
from config.checks import access, capacity, host, kvm, mtls, preflight, services


def warnings(config: StackConfig) -> Iterator[str]:
    """One line for each."""
    yield from catalogue.warnings(config, datetime.datetime.now(datetime.UTC).date())
    yield from kvm.warnings(config)
    yield from host.warnings(config)
    yield from preflight.warnings(config)
    yield from mtls.warnings(config.mesh)
    yield from services.warnings(config.mesh)
    yield from access.warnings(config)
    yield from capacity.warnings(config)
