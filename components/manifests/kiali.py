"""Kiali: the mesh's topology, read-only."""

from components.manifests import Manifest, monitoring
from components.manifests.kubeadm import to_yaml
from config import ROOT_NAMESPACE
from config.observability import MonitoringResources

NAME = "kiali"
PORT = 20001

_USER = 1000  # the official image's
_CONFIG = "/kiali-configuration"
_RESOURCES = MonitoringResources(cpu="20m", memory="128Mi", memory_limit="512Mi")


def kiali(*, image: str, revision: str) -> list[Manifest]:
    """Every object of Kiali but the namespace. revision: of the control plane that it watches.

    Deliberately without rights to write, to read logs or secrets, or to reach into pods.
    """
    config = monitoring.config_map("kiali", {"config.yaml": to_yaml([_config(revision)])})
    pod = monitoring.Pod(
        name=NAME,
        image=image,
        port=PORT,
        user=_USER,
        probe=None,  # it listens on the pod's loopback, and its image has nothing to ask it with
        resources=_RESOURCES,
        args=("-config", f"{_CONFIG}/config.yaml"),
        env={"LOG_FORMAT": "json", "LOG_LEVEL": "info"},
        configs={_CONFIG: config},
        needs_api=True,
    )
    return [
        monitoring.service_account(NAME),
        *monitoring.cluster_role(NAME, _rules_of_access()),
        config,
        monitoring.deployment(pod),
    ]


def _config(revision: str) -> Manifest:
    return {
        # Only a port-forward reaches the pod's loopback, and Kubernetes authenticates it.
        "auth": {"strategy": "anonymous"},
        "server": {
            "address": "127.0.0.1",
            "port": PORT,
            "web_root": "/kiali",
            "observability": {"metrics": {"enabled": False}, "tracing": {"enabled": False}},
        },
        "deployment": {"accessible_namespaces": ["**"], "view_only_mode": True},
        "istio_namespace": ROOT_NAMESPACE,
        "external_services": {
            "prometheus": {"url": monitoring.PROMETHEUS_URL},
            "grafana": {"enabled": False},
            "tracing": {"enabled": False},
            "custom_dashboards": {"enabled": False},
            "istio": {
                "root_namespace": ROOT_NAMESPACE,
                "config_map_name": f"istio-{revision}",
                "istiod_deployment_name": f"istiod-{revision}",
                "istio_sidecar_injector_config_map_name": f"istio-sidecar-injector-{revision}",
                "url_service_version": f"http://istiod-{revision}.istio-system:15014/version",
                # It would need port-forwards to istiod's pod.
                "istio_api_enabled": False,
            },
        },
        "kiali_feature_flags": {
            "certificates_information_indicators": {"enabled": False},  # reads secrets
            "clustering": {"enabled": False},
        },
    }


def _rules_of_access() -> list[Manifest]:
    read = ["get", "list", "watch"]
    return [
        {"apiGroups": [group], "resources": resources, "verbs": read}
        for group, resources in (
            ("", ["configmaps", "endpoints", "namespaces", "nodes", "pods", "services"]),
            ("", ["replicationcontrollers"]),
            ("apps", ["daemonsets", "deployments", "replicasets", "statefulsets"]),
            ("batch", ["cronjobs", "jobs"]),
            ("autoscaling", ["horizontalpodautoscalers"]),
            ("networking.istio.io", ["*"]),
            ("security.istio.io", ["*"]),
            ("telemetry.istio.io", ["*"]),
            ("extensions.istio.io", ["*"]),
        )
    ]
