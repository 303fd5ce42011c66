"""Pods without a sidecar where a mode becomes STRICT: they accept plaintext whatever the mode."""

from components.gates import readings
from components.gates.inventory import Inventory
from components.gates.scope import UNCHANGED, Change, Scope
from config.errors import NordmeshError


def refuse(change: Change, scope: Scope, inventory: Inventory) -> str:
    """Fail for pods without a sidecar, unless their owner wrote that they shall have none.

    Returns the end of the report: those pods.
    """
    pods = [pod for pod in inventory.bare if scope.has_bare(pod)]
    if forgotten := [pod for pod in pods if not pod.opted_out]:
        on_host = [pod for pod in forgotten if pod.on_host]
        reason = f" ({readings.workloads(on_host)}: hostNetwork)" if on_host else ""
        raise NordmeshError(
            f"{readings.workloads(forgotten)} have no sidecar{reason}",
            unchanged=UNCHANGED,
            code="gate-pods-without-sidecar",
            path=change.path,
            why="only a sidecar refuses plaintext: with STRICT in the file, these pods would still "
            "accept it from anyone",
            fix="restart the workloads (kubectl rollout restart), then run `pulumi up` again. A "
            "pod with hostNetwork never gets a sidecar: remove hostNetwork, or move it to a "
            "namespace outside the mesh. If it is meant to accept plaintext, label it "
            'sidecar.istio.io/inject: "false"',
        )
    if not pods:
        return ""
    return (
        f"; {readings.workloads(pods)} still accept plaintext, because their label is "
        "sidecar.istio.io/inject: false"
    )
