"""Prometheus: metrics of istiod, every proxy and the kubelets; recorded rates and alerts."""

from pathlib import Path
from typing import Any

from components.manifests import Manifest, monitoring
from components.manifests.kubeadm import to_yaml
from config import ROOT_NAMESPACE
from config.observability import Prometheus
from config.scalars.quantities import quantity

NAME = "prometheus"
RULES = Path(__file__).with_name("prometheus-rules.yaml")

_DATA = "/prometheus"
_CONFIG, _RULES = "/etc/prometheus/config", "/etc/prometheus/rules"
_PORT = 9090
_NOBODY = 65534  # the official image's user
_TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount/token"  # noqa: S105 (a path)

# The kubelet's container metrics that alerts and dashboards use, for containers of the mesh.
_CONTAINER_FIGURES = (
    "container_cpu_usage_seconds_total",
    "container_memory_working_set_bytes",
    "container_spec_memory_limit_bytes",
)
_POD_LABELS = {
    "__meta_kubernetes_namespace": "namespace",
    "__meta_kubernetes_pod_name": "pod",
    "__meta_kubernetes_pod_label_app": "app",
    "__meta_kubernetes_pod_label_version": "version",
}


def prometheus(settings: Prometheus, *, image: str) -> list[Manifest]:
    """Every object of Prometheus but the namespace.

    It keeps figures until `retention` is over or four fifths of the storage are used.
    """
    config = monitoring.config_map(
        "prometheus-config", {"prometheus.yaml": to_yaml([_config(settings)])}
    )
    rules = monitoring.config_map("prometheus-rules", {"mesh.yaml": RULES.read_text()})
    return [
        monitoring.service_account(NAME),
        *monitoring.cluster_role(NAME, _rules_of_access()),
        config,
        rules,
        monitoring.service(NAME, _PORT),
        _stateful_set(settings, image, config, rules),
    ]


def _rules_of_access() -> list[Manifest]:
    """To list pods and nodes, and to read a kubelet's metrics; nothing else."""
    return [
        {"apiGroups": [""], "resources": ["pods", "nodes"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["nodes/metrics"], "verbs": ["get"]},
    ]


def _stateful_set(settings: Prometheus, image: str, config: Manifest, rules: Manifest) -> Manifest:
    storage = settings.storage
    data: Manifest = {"name": "data"}
    if storage.storage_class is None:
        data["emptyDir"] = {"sizeLimit": storage.size}
    # Prometheus does not count the write-ahead log and unfinished blocks.
    kept_mebibytes = int(quantity(storage.size) * 4 / 5 / 2**20)
    pod = monitoring.Pod(
        name=NAME,
        image=image,
        port=_PORT,
        user=_NOBODY,
        probe={"httpGet": {"path": "/-/ready", "port": "http"}},
        resources=settings.resources,
        args=(
            f"--config.file={_CONFIG}/prometheus.yaml",
            f"--storage.tsdb.path={_DATA}",
            f"--storage.tsdb.retention.time={settings.retention}",
            f"--storage.tsdb.retention.size={kept_mebibytes}MB",
        ),
        configs={_CONFIG: config, _RULES: rules},
        writable={_DATA: data},
        needs_api=True,
        stop_seconds=120,  # it writes what it has in memory
    )
    claim = {
        "metadata": {"name": "data"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": storage.storage_class,
            "resources": {"requests": {"storage": storage.size}},
        },
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": monitoring.metadata(NAME),
        "spec": {
            "replicas": 1,
            "serviceName": NAME,
            "selector": {"matchLabels": {"app": NAME}},
            "template": pod.template(),
            **({"volumeClaimTemplates": [claim]} if storage.storage_class else {}),
        },
    }


# --- Prometheus' own configuration ---------------------------------------------------------------


def _config(settings: Prometheus) -> Manifest:
    return {
        "global": {
            "scrape_interval": settings.scrape_interval,
            "scrape_timeout": "5s",
            "evaluation_interval": settings.scrape_interval,
        },
        "rule_files": [f"{_RULES}/*.yaml"],
        "scrape_configs": [_istiod(), _proxies(), _kubelets(), _itself()],
    }


def _istiod() -> Manifest:
    return {
        "job_name": "istiod",
        "kubernetes_sd_configs": [{"role": "pod", "namespaces": {"names": [ROOT_NAMESPACE]}}],
        "relabel_configs": [
            _keep("__meta_kubernetes_pod_label_app", "istiod"),
            # Discovery returns a pod once for each of its ports.
            _keep("__meta_kubernetes_pod_container_port_number", "15017"),
            _address(15014),
            *_pod_labels(),
        ],
    }


def _proxies() -> Manifest:
    """Sidecars and gateways: metrics of Envoy, its agent and, if it has any, the application.

    Port 15020 is not intercepted, so plain HTTP works under STRICT too.
    """
    return {
        "job_name": "proxies",
        "metrics_path": "/stats/prometheus",
        "kubernetes_sd_configs": [{"role": "pod"}],
        "relabel_configs": [
            _keep("__meta_kubernetes_pod_container_port_name", "http-envoy-prom"),
            _keep("__meta_kubernetes_pod_phase", "Running"),
            _address(15020),
            *_pod_labels(),
        ],
        "metric_relabel_configs": [
            # The agent's libraries export many metrics about themselves.
            {
                "source_labels": ["__name__"],
                "regex": "istio_agent_(go|pilot|endpoint)_.*|envoy_cluster_external_upstream_rq.*",
                "action": "drop",
            }
        ],
    }


def _kubelets() -> Manifest:
    return {
        "job_name": "kubelets",
        "scheme": "https",
        "metrics_path": "/metrics/cadvisor",
        "authorization": {"credentials_file": _TOKEN},
        # A kubelet's certificate is signed by itself (kubeadm's default), so it proves nothing;
        # its token may list pods and nodes and read metrics.
        "tls_config": {"insecure_skip_verify": True},
        "kubernetes_sd_configs": [{"role": "node"}],
        "relabel_configs": [
            {"source_labels": ["__meta_kubernetes_node_name"], "target_label": "node"}
        ],
        "metric_relabel_configs": [
            _keep("__name__", "|".join(_CONTAINER_FIGURES)),
            _keep("container", "istio-proxy|discovery"),
        ],
    }


def _itself() -> Manifest:
    target = f"localhost:{_PORT}"
    return {"job_name": NAME, "static_configs": [{"targets": [target]}]}


def _keep(label: str, pattern: str) -> dict[str, Any]:
    return {"source_labels": [label], "regex": pattern, "action": "keep"}


def _address(port: int) -> dict[str, Any]:
    return {
        "source_labels": ["__meta_kubernetes_pod_ip"],
        "target_label": "__address__",
        "replacement": f"$1:{port}",
    }


def _pod_labels() -> list[dict[str, Any]]:
    return [{"source_labels": [label], "target_label": name} for label, name in _POD_LABELS.items()]
