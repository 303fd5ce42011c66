"""The observability of the mesh: Prometheus, Alertmanager, Grafana and Kiali."""

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pulumi

from components.manifests import Manifest, alertmanager, grafana, kiali, monitoring, prometheus
from components.objects import Cluster
from components.pod_firewall import PodFirewall
from config import Machines
from config import Observability as ObservabilityConfig
from config.data_loss.things import keeps_metrics
from config.errors import NAMESPACE, NordmeshError
from config.observability import MONITORING_NAMESPACE


@dataclass(frozen=True, kw_only=True)
class ObservabilityArgs:
    """images: of the enabled programs, by name. revision: that of the control plane.

    machines: whose allowDataLoss may name the namespace with its metrics. alert_secrets: those of
    the receiver of alerts, by their key in the stack file. snapshots: the seconds between two
    snapshots of the cluster, None without backups. policy: what the pods may call, where
    something enforces it.
    """

    cluster: Cluster
    settings: ObservabilityConfig
    images: Mapping[str, str]
    revision: str
    machines: Machines
    alert_secrets: Mapping[str, pulumi.Output[str]]
    policy: Manifest
    pod_firewall: PodFirewall | None
    snapshots: int | None = None


class Observability(pulumi.ComponentResource):
    """Prometheus, Alertmanager, Grafana and Kiali in their own namespace, outside the mesh.

    Not reachable from outside the cluster: `nordmesh dashboard` opens a port-forward.
    Does not wait for Istio: Prometheus discovers istiod and the proxies when they start.
    """

    def __init__(
        self, name: str, args: ObservabilityArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("nordmesh:observability:Observability", name, None, opts)
        may_lose = args.machines.may_lose("namespace", MONITORING_NAMESPACE)
        storage = args.settings.prometheus.storage
        # The volume outlives Prometheus, and is deleted with its namespace.
        namespace = args.cluster.apply(
            monitoring.namespace(storage_class=storage.storage_class),
            parent=self,
            protect=keeps_metrics(args.settings) and not may_lose,
            hooks=None if may_lose else _hooks(),
        )
        for manifest in _manifests(args):
            args.cluster.apply(manifest, parent=self, after=[namespace])
        if args.pod_firewall is not None:
            args.cluster.apply(args.policy, parent=self, after=[namespace, args.pod_firewall])
        self.register_outputs({})


def _hooks() -> pulumi.ResourceHookBinding:
    """The hook that refuses to leave a volume behind that nothing protects; previews run it too."""

    options = pulumi.ResourceHookOptions(on_dry_run=True)
    hook = pulumi.ResourceHook("metrics volume", refuse_leftover, options)
    return pulumi.ResourceHookBinding(before_update=[hook])


def refuse_leftover(args: pulumi.ResourceHookArgs) -> None:
    """Raise NordmeshError if the metrics no longer have the volume that they had."""
    old, new = (_volume(inputs) for inputs in (args.old_inputs, args.new_inputs))
    if old is not None and new is None:
        raise _would_leave(old)


def _volume(inputs: Mapping[str, Any] | None) -> str | None:
    """The storage class that a namespace is annotated with."""
    annotations = ((inputs or {}).get("metadata") or {}).get("annotations") or {}
    return annotations.get(monitoring.VOLUME_ANNOTATION)


def _would_leave(storage_class: str) -> NordmeshError:
    return NordmeshError(
        f"it changes from {storage_class} to nothing",
        code="metrics-volume-unprotected",
        path=f"{NAMESPACE}:observability.prometheus.storage.storageClass",
        why="the metrics stay on a volume that Prometheus no longer uses, and that nothing "
        "protects from the deletion of its namespace",
        fix=f"set it back to {storage_class}; to lose the metrics, add {{namespace: "
        f"{MONITORING_NAMESPACE}, reason: WHY}} to nordmesh:machines.allowDataLoss",
    )


def _in_base64(text: str) -> str:
    return b64encode(text.encode()).decode()


def _manifests(args: ObservabilityArgs) -> list[Manifest]:
    found: list[Manifest] = []
    if image := args.images.get(prometheus.NAME):
        sends_alerts = alertmanager.NAME in args.images
        found += prometheus.prometheus(
            args.settings.prometheus,
            image=image,
            sends_alerts=sends_alerts,
            snapshots=args.snapshots,
        )
    if image := args.images.get(alertmanager.NAME):
        secrets = {key: text.apply(_in_base64) for key, text in args.alert_secrets.items()}
        found += alertmanager.alertmanager(args.settings.alertmanager, image=image, secrets=secrets)
    if image := args.images.get(grafana.NAME):
        found += grafana.grafana(image=image)
    if image := args.images.get(kiali.NAME):
        found += kiali.kiali(image=image, revision=args.revision)
    return found
