"""What the proxies of a mesh ask of its nodes, as far as the stack file tells."""

from collections.abc import Iterator
from decimal import Decimal

from stacks.config import StackConfig
from stacks.fields import quantity

_HEADROOM = Decimal("1.2")  # the guides: plan 20% more CPU for a mesh
_PODS = (1, 10, 50)
_MEBIBYTE = 1024 * 1024


def plan(config: StackConfig) -> Iterator[str]:
    """Lines that say what sidecars request: one, ten and fifty of them, with 20% on top."""
    injected = [name for name, space in config.mesh.namespaces.items() if space.injection]
    if not injected:
        yield "no namespace has sidecars"
        return
    requests = config.istio.proxy.requests
    yield f"pods with a sidecar run in {', '.join(sorted(injected))}; their proxies request"
    for pods in _PODS:
        cpu = quantity(requests.cpu) * pods * _HEADROOM
        memory = quantity(requests.memory) * pods * _HEADROOM / _MEBIBYTE
        cores = f"{cpu.normalize():f}"
        yield f"  {pods:>3} pod{'s' if pods > 1 else ' '}  {cores:>5} cores  {memory:>6.0f}Mi"
    yield "which is their number times the request of one, and 20% more"
