"""What the mesh's proxies request from its nodes, computed from the stack file alone."""

from collections.abc import Iterator, Mapping
from decimal import Decimal

from config import StackConfig, capacity
from config.scalars.quantities import quantity

_PODS = (1, 10, 50)


def plan(config: StackConfig) -> Iterator[str]:
    """Render the requests of the sidecars, with the reserve, and the resources of the nodes."""
    injected = config.mesh.injected
    if config.istio is None or not injected:
        yield "no namespace has sidecars"
        return
    yield f"pods with a sidecar run in {', '.join(sorted(injected))}; their proxies request"
    requests = config.istio.proxy.requests
    for pods in _PODS:
        cpu = capacity.shown("cpu", quantity(requests.cpu) * pods * capacity.RESERVE)
        memory = capacity.shown("memory", quantity(requests.memory) * pods * capacity.RESERVE)
        yield f"  {pods:>3} pod{'s' if pods > 1 else ' '}  {cpu:>10}  {memory:>7}"
    needed, available = capacity.needed(config), capacity.allocatable(config)
    if any(needed.values()):
        yield f"the pods that are declared: {_amounts(needed)}"
    if available is not None:
        yield f"what the nodes have for all pods: {_amounts(available)}"
    yield "with 20% on top of what the proxies request; `nordmesh report capacity` says more"


def _amounts(amounts: Mapping[str, Decimal]) -> str:
    return ", ".join(capacity.shown(kind, amount) for kind, amount in amounts.items())
