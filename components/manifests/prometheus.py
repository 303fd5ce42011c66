"""Prometheus: metrics of the mesh, the nodes and the control plane; recorded rates and alerts."""

from pathlib import Path
from typing import Any

from components.manifests import Manifest, alertmanager, monitoring
from components.manifests.kubeadm import to_yaml
from config import ROOT_NAMESPACE, ports
from config.observability import MONITORING_NAMESPACE, Prometheus
from config.scalars.quantities import quantity

NAME = "prometheus"
RULES = {
    "mesh.yaml": Path(__file__).with_name("prometheus-rules.yaml"),
    "cluster.yaml": Path(__file__).with_name("prometheus-rules-cluster.yaml"),
}
_SNAPSHOTS = "snapshots"
_SNAPSHOT_RULES = Path(__file__).with_name("prometheus-rules-backup.yaml")
_SNAPSHOT = "__meta_kubernetes_node_annotation_nordmesh_io_snapshot"
_OVERDUE = 4  # intervals without a snapshot

_DATA = "/prometheus"
_CONFIG, _RULES = "/etc/prometheus/config", "/etc/prometheus/rules"
_PORT = 9090
_NOBODY = 65534  # the official image's user
_TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount/token"  # noqa: S105 (a path)

_CA = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"
_CONTROL_PLANE = "__meta_kubernetes_node_labelpresent_node_role_kubernetes_io_control_plane"

# What alerts use; an API server exports 40,000 series in all.
_API_FIGURES = ("apiserver_client_certificate_expiration_seconds_bucket",)
_ETCD_FIGURES = (
    "etcd_disk_backend_commit_duration_seconds_bucket",
    "etcd_disk_wal_fsync_duration_seconds_bucket",
    "etcd_mvcc_db_total_size_in_bytes",
    "etcd_server_has_leader",
    "etcd_server_leader_changes_seen_total",
    "etcd_server_quota_backend_bytes",
)
_ETCD_REFUSALS = "grpc_server_handled_total;ResourceExhausted"
_KUBELET_FIGURES = ("kubelet_certificate_manager_client_ttl_seconds",)

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


def prometheus(
    settings: Prometheus, *, image: str, sends_alerts: bool, snapshots: int | None = None
) -> list[Manifest]:
    """Every object of Prometheus but the namespace.

    sends_alerts: whether there is an Alertmanager. snapshots: the seconds between two snapshots of
    the cluster, None without backups. Metrics are kept until `retention` has passed or four
    fifths of the storage are used.
    """
    own = _config(settings, sends_alerts)
    texts = {name: path.read_text() for name, path in RULES.items()}
    if snapshots is not None:
        own["scrape_configs"].append(_snapshots())
        texts["backup.yaml"] = snapshot_rules(snapshots)
    config = monitoring.config_map("prometheus-config", {"prometheus.yaml": to_yaml([own])})
    rules = monitoring.config_map("prometheus-rules", texts)
    return [
        monitoring.service_account(NAME),
        *monitoring.cluster_role(NAME, _rules_of_access()),
        config,
        rules,
        monitoring.service(NAME, _PORT),
        _stateful_set(settings, image, config, rules),
    ]


def snapshot_rules(seconds: int) -> str:
    """Render the alerts about snapshots, which are this many seconds apart."""
    return _SNAPSHOT_RULES.read_text().replace("WINDOW", f"{seconds * _OVERDUE}s")


def _rules_of_access() -> list[Manifest]:
    """To list pods and nodes, and to read metrics of kubelets and API servers; nothing else."""
    return [
        {"apiGroups": [""], "resources": ["pods", "nodes"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["nodes/metrics"], "verbs": ["get"]},
        {"nonResourceURLs": ["/metrics"], "verbs": ["get"]},
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


def _config(settings: Prometheus, sends_alerts: bool) -> Manifest:
    alerting = {"alerting": {"alertmanagers": [_alertmanager_pod()]}} if sends_alerts else {}
    return {
        "global": {
            "scrape_interval": settings.scrape_interval,
            "scrape_timeout": "5s",
            "evaluation_interval": settings.scrape_interval,
        },
        "rule_files": [f"{_RULES}/*.yaml"],
        **alerting,
        "scrape_configs": [
            _istiod(),
            _proxies(),
            _kubelets(),
            _kubelet_own(),
            _api_servers(),
            _etcd(),
            _itself(),
            *([_alertmanager()] if sends_alerts else []),
        ],
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
            _address(ports.AGENT_STATS),
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
        "metrics_path": "/metrics/cadvisor",
        **_kubelet(),
        "metric_relabel_configs": [
            _keep("__name__", "|".join(_CONTAINER_FIGURES)),
            _keep("container", "istio-proxy|discovery"),
        ],
    }


def _kubelet_own() -> Manifest:
    """The kubelets' metrics of themselves."""
    return {
        "job_name": "kubelets-own",
        **_kubelet(),
        "metric_relabel_configs": [_keep("__name__", "|".join(_KUBELET_FIGURES))],
    }


def _kubelet() -> Manifest:
    return {
        "scheme": "https",
        "authorization": {"credentials_file": _TOKEN},
        # A kubelet's certificate is signed by itself (kubeadm's default), so it proves nothing;
        # its token may list pods and nodes and read metrics.
        "tls_config": {"insecure_skip_verify": True},
        "kubernetes_sd_configs": [{"role": "node"}],
        "relabel_configs": [_node_name()],
    }


def _api_servers() -> Manifest:
    return {
        "job_name": "api-servers",
        "scheme": "https",
        "authorization": {"credentials_file": _TOKEN},
        # Each one by its address; all have a certificate for this name.
        "tls_config": {"ca_file": _CA, "server_name": "kubernetes.default.svc"},
        "kubernetes_sd_configs": [{"role": "node"}],
        "relabel_configs": _of_control_planes(ports.API),
        "metric_relabel_configs": [_keep("__name__", "|".join(_API_FIGURES))],
    }


def _etcd() -> Manifest:
    """The members of etcd, at the port that has only metrics and health."""
    return {
        "job_name": "etcd",
        "kubernetes_sd_configs": [{"role": "node"}],
        "relabel_configs": _of_control_planes(ports.ETCD_METRICS),
        "metric_relabel_configs": [
            {
                "source_labels": ["__name__", "grpc_code"],
                "regex": f"({'|'.join(_ETCD_FIGURES)});|{_ETCD_REFUSALS}",
                "action": "keep",
            }
        ],
    }


def _snapshots() -> Manifest:
    """The control planes that have noted a snapshot; what counts is the label with its name.

    A small page of the kubelet, because the series of a target change with each label.
    """
    noted = {"source_labels": [_SNAPSHOT], "target_label": "snapshot"}
    return {
        "job_name": _SNAPSHOTS,
        "metrics_path": "/metrics/probes",
        **_kubelet(),
        "relabel_configs": [_keep(_SNAPSHOT, ".+"), _node_name(), noted],
        "metric_relabel_configs": [_keep("__name__", "none")],
    }


def _of_control_planes(port: int) -> list[dict[str, Any]]:
    address = "__meta_kubernetes_node_address_InternalIP"
    return [_keep(_CONTROL_PLANE, "true"), _node_name(), _address(port, of=address)]


def _node_name() -> dict[str, Any]:
    return {"source_labels": ["__meta_kubernetes_node_name"], "target_label": "node"}


def _alertmanager() -> Manifest:
    return {
        "job_name": alertmanager.NAME,
        "static_configs": [{"targets": [alertmanager.ADDRESS]}],
    }


def _alertmanager_pod() -> Manifest:
    """Where alerts go: the pod itself. Its Service needs CoreDNS, and loses the pod when kubelet
    stops, which is what an alert is about.
    """
    return {
        "kubernetes_sd_configs": [{"role": "pod", "namespaces": {"names": [MONITORING_NAMESPACE]}}],
        "relabel_configs": [
            _keep("__meta_kubernetes_pod_label_app", alertmanager.NAME),
            _keep("__meta_kubernetes_pod_phase", "Running"),
            _address(alertmanager.PORT),
        ],
    }


def _itself() -> Manifest:
    target = f"localhost:{_PORT}"
    return {"job_name": NAME, "static_configs": [{"targets": [target]}]}


def _keep(label: str, pattern: str) -> dict[str, Any]:
    return {"source_labels": [label], "regex": pattern, "action": "keep"}


def _address(port: int, of: str = "__meta_kubernetes_pod_ip") -> dict[str, Any]:
    return {
        "source_labels": [of],
        "target_label": "__address__",
        "replacement": f"$1:{port}",
    }


def _pod_labels() -> list[dict[str, Any]]:
    return [{"source_labels": [label], "target_label": name} for label, name in _POD_LABELS.items()]
