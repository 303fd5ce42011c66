"""Refuse another trust domain at preview: it replaces the identity of every workload."""

from collections.abc import Mapping

import pulumi

from components.manifests import istio_operator
from components.remote.node_command import settings_of
from config import Machines
from config.errors import NAMESPACE, NordmeshError

Inputs = Mapping[str, object] | None


def hooks(machines: Machines) -> pulumi.ResourceHookBinding:
    """The hook of the script that installs the mesh; it runs in previews, too."""

    def before_update(args: pulumi.ResourceHookArgs) -> None:
        old, new = trust_domain(args.old_inputs), trust_domain(args.new_inputs)
        if old not in (None, new) and not machines.may_lose("identities", str(old)):
            raise _would_change(str(old), str(new))

    options = pulumi.ResourceHookOptions(on_dry_run=True)
    hook = pulumi.ResourceHook("trust domain", before_update, options)
    return pulumi.ResourceHookBinding(before_update=[hook])


def trust_domain(inputs: Inputs) -> str | None:
    """The trust domain that a script installs; None if it is not known."""
    document = settings_of(inputs).get("CONTROL_PLANE")
    return istio_operator.trust_domain(document) if document else None


def _would_change(old: str, new: str) -> NordmeshError:
    return NordmeshError(
        f"it changes from {old} to {new}",
        code="identities-change",
        path=f"{NAMESPACE}:istio.trustDomain",
        why=f"every identity becomes spiffe://{new}/...; until each pod has restarted, proxies "
        "with old and new identities refuse each other where callers are declared",
        fix=f"set it back to {old}; to accept that, add {{identities: {old}, reason: WHY}} to "
        "nordmesh:machines.allowDataLoss",
    )
