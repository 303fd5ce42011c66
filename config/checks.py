"""All checks that need several values of a stack file; each yields the problems it finds."""

from collections.abc import Callable, Iterator

from config.access import checks as access
from config.backup import checks as backup
from config.data_loss import checks as data_loss
from config.egress import checks as egress
from config.errors import Problem
from config.gateways import checks as gateways
from config.host import checks as host
from config.istio import checks as istio
from config.istio import raw_keys as istio_keys
from config.istio import settings as istio_settings
from config.istio import sizes as istio_sizes
from config.kubernetes import checks as kubernetes
from config.kubernetes import settings as kubernetes_settings
from config.kvm import checks as kvm
from config.machines import addresses, placement, private
from config.machines import checks as machines
from config.mesh import checks as mesh
from config.mesh import network_policy
from config.mtls import checks as mtls
from config.observability import alert_checks as alerts
from config.observability import checks as observability
from config.preflight import checks as preflight
from config.sections import Sections
from config.services import checks as services
from config.workloads import checks as workloads

CHECKS: tuple[Callable[[Sections], Iterator[Problem]], ...] = (
    *machines.CHECKS,
    *addresses.CHECKS,
    *placement.CHECKS,
    *private.CHECKS,
    *data_loss.CHECKS,
    *kvm.CHECKS,
    *host.CHECKS,
    *preflight.CHECKS,
    *kubernetes.CHECKS,
    *kubernetes_settings.CHECKS,
    *backup.CHECKS,
    *istio_settings.CHECKS,
    *istio_keys.CHECKS,
    *istio.CHECKS,
    *istio_sizes.CHECKS,
    *mesh.CHECKS,
    *network_policy.CHECKS,
    *mtls.CHECKS,
    *services.CHECKS,
    *gateways.CHECKS,
    *egress.CHECKS,
    *access.CHECKS,
    *workloads.CHECKS,
    *observability.CHECKS,
    *alerts.CHECKS,
)
