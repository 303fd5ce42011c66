"""The parts that the programs of observability share: their namespace, and hardened pods."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from components import manifests
from components.manifests import CONTAINER_SECURITY, Manifest
from components.manifests.pod_security import ENFORCE
from config.observability import MONITORING_NAMESPACE, MonitoringResources

PROMETHEUS_URL = f"http://prometheus.{MONITORING_NAMESPACE}.svc.cluster.local:9090"


VOLUME_ANNOTATION = "nordmesh.io/metrics-volume"
"""On the namespace: the storage class of the metrics' volume, which is deleted with it."""


def namespace(*, storage_class: str | None = None) -> Manifest:
    """The namespace, outside the mesh: its monitoring must not depend on it.

    storage_class: of the metrics' volume, None without one.
    """
    annotations = {VOLUME_ANNOTATION: storage_class} if storage_class else None
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": MONITORING_NAMESPACE,
            **({"annotations": annotations} if annotations else {}),
            "labels": {
                "istio-injection": "disabled",
                ENFORCE: "restricted",
            },
        },
    }


def metadata(name: str) -> Manifest:
    """Name, namespace and label of an object of a program."""
    return {"name": name, "namespace": MONITORING_NAMESPACE, "labels": {"app": name}}


def service(name: str, port: int) -> Manifest:
    """A program's Service, inside the cluster only."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(name),
        "spec": {
            "type": "ClusterIP",
            "selector": {"app": name},
            "ports": [{"name": "http", "port": port, "targetPort": "http"}],
        },
    }


def service_account(name: str) -> Manifest:
    """The service account of a program."""
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata(name)}


def cluster_role(name: str, rules: list[Manifest]) -> list[Manifest]:
    """A ClusterRole with its binding to the account of a program."""
    full = f"nordmesh-{name}"
    return [
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": full},
            "rules": rules,
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": full},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "ClusterRole",
                "name": full,
            },
            "subjects": [
                {"kind": "ServiceAccount", "name": name, "namespace": MONITORING_NAMESPACE}
            ],
        },
    ]


def config_map(name: str, files: Mapping[str, str]) -> Manifest:
    """Files in a program's pod."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(name),
        "data": dict(files),
    }


@dataclass(frozen=True, kw_only=True)
class Pod:
    """A hardened pod of one container.

    configs: ConfigMaps by the directory that they are mounted at; a change in one makes a new pod.
    secrets: names of Secrets by the directory; kubelet refreshes their files within two minutes, so
    a change in one makes no new pod. writable: volumes by the directory that they are mounted at;
    one with a name alone is a claim's. user: the image's own. probe: how kubelet asks whether it is
    well.
    """

    name: str
    image: str
    port: int
    user: int
    probe: Manifest | None
    resources: MonitoringResources
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    configs: Mapping[str, Manifest] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    writable: Mapping[str, Manifest] = field(default_factory=dict)
    needs_api: bool = False
    stop_seconds: int = 30

    def template(self) -> Manifest:
        """The pod as a template of a Deployment or a StatefulSet."""
        return {
            "metadata": {
                "labels": {"app": self.name},
                "annotations": {"nordmesh/config-sha256": self._config_hash()},
            },
            "spec": {
                "serviceAccountName": self.name,
                "automountServiceAccountToken": self.needs_api,
                "enableServiceLinks": False,
                "terminationGracePeriodSeconds": self.stop_seconds,
                "securityContext": {
                    "runAsNonRoot": True,
                    "runAsUser": self.user,
                    "runAsGroup": self.user,
                    "fsGroup": self.user,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [self._container()],
                "volumes": [
                    *(
                        {
                            "name": config["metadata"]["name"],
                            "configMap": {"name": config["metadata"]["name"]},
                        }
                        for config in self.configs.values()
                    ),
                    *(
                        {"name": name, "secret": {"secretName": name}}
                        for name in self.secrets.values()
                    ),
                    *(volume for volume in self.writable.values() if len(volume) > 1),
                ],
            },
        }

    def _container(self) -> Manifest:
        probes = (
            {
                "readinessProbe": {**self.probe, "periodSeconds": 5, "timeoutSeconds": 5},
                "livenessProbe": {**self.probe, "initialDelaySeconds": 60, "failureThreshold": 6},
            }
            if self.probe
            else {}
        )
        return {
            "name": self.name,
            "image": self.image,
            **({"args": list(self.args)} if self.args else {}),
            **({"env": [{"name": k, "value": v} for k, v in self.env.items()]} if self.env else {}),
            "ports": [{"name": "http", "containerPort": self.port}],
            **probes,
            "resources": {
                "requests": {"cpu": self.resources.cpu, "memory": self.resources.memory},
                "limits": {"memory": self.resources.memory_limit},
            },
            "securityContext": CONTAINER_SECURITY,
            "volumeMounts": [
                *(
                    {"name": config["metadata"]["name"], "mountPath": place, "readOnly": True}
                    for place, config in self.configs.items()
                ),
                *(
                    {"name": name, "mountPath": place, "readOnly": True}
                    for place, name in self.secrets.items()
                ),
                *(
                    {"name": volume["name"], "mountPath": place}
                    for place, volume in self.writable.items()
                ),
            ],
        }

    def _config_hash(self) -> str:
        texts = json.dumps([config["data"] for config in self.configs.values()], sort_keys=True)
        return hashlib.sha256(texts.encode()).hexdigest()[:16]


def deployment(pod: Pod) -> Manifest:
    """A program without storage: one pod, which an update replaces."""
    return manifests.deployment(metadata(pod.name), pod.template())
