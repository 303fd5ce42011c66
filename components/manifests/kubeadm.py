"""The configuration of kubeadm and kubelet (kubeadm API v1beta3, Kubernetes 1.22 and later)."""

import base64
import json
import re
from collections.abc import Mapping, Sequence, Set

import yaml

from components.manifests import Manifest, hardening
from components.manifests.oidc import flags as oidc_flags
from config import Kubernetes, Oidc, ports
from config import kubelet as kubelet_defaults
from config.catalogue import KubernetesRelease
from config.errors import NordmeshError

CRI_SOCKET = "unix:///run/containerd/containerd.sock"
# How the results of kubeadm-init.sh and admin-credentials.sh begin.
_RESULT = re.compile(r'\{"(?:ca|clientCertificate)": ?"')
JOINING: Mapping[str, str] = {"key": "nordmesh.io/joining", "effect": "NoSchedule"}
"""The taint that a worker registers with: no pod starts there before the node has its labels and
taints. node-ready.sh removes it.
"""
TOKEN_PLACE = "@TOKEN@"  # noqa: S105 (a place, not a token)
"""Where the join script puts the bootstrap token."""
KEY_PLACE = "@KEY@"
"""Where it puts the key of the control plane's certificates."""

# What kubeadm writes on a node, and where the scripts keep copies of it (lib.sh, keep_generated).
KUBELET_CONFIG = "/var/lib/kubelet/config.yaml"
KUBELET_FLAGS = "/var/lib/kubelet/kubeadm-flags.env"
STATIC_PODS = "/etc/kubernetes/manifests"
MADE = "/etc/kubernetes/nordmesh-made"
PATCHES = "/etc/kubernetes/nordmesh-patches"
"""What kubeadm adds to each static pod that it renders; static-pods.sh writes it."""
_CONTROL_PLANE_PODS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")


def written_files(*, is_control_plane: bool) -> list[str]:
    """The paths of the files that kubeadm writes on a node."""
    pods = _CONTROL_PLANE_PODS if is_control_plane else ()
    return [KUBELET_CONFIG, KUBELET_FLAGS, *(f"{STATIC_PODS}/{name}.yaml" for name in pods)]


def init_document(*, name: str, address: str, is_private: bool = False) -> Manifest:
    """The InitConfiguration of `kubeadm init`: the settings of the node that runs it.

    address: for the other nodes; etcd listens on it and on the loopback interface. is_private:
    whether the node has another one, on which kubelet must not listen. Preflight is skipped because
    it needs crictl; nordmesh has its own.
    """
    return {
        "apiVersion": "kubeadm.k8s.io/v1beta3",
        "kind": "InitConfiguration",
        "localAPIEndpoint": {"advertiseAddress": address, "bindPort": ports.API},
        "nodeRegistration": _registration(name, address, is_private=is_private),
        # kubeadm always creates a token; a joining node gets its own, so this one expires at once.
        "bootstrapTokens": [{"ttl": "1m0s"}],
        "patches": {"directory": PATCHES},
        "skipPhases": ["preflight"],
    }


def cluster_documents(
    kubernetes: Kubernetes,
    release: KubernetesRelease,
    *,
    address: str,
    etcd_metrics: bool = False,
    oidc: Oidc | None = None,
) -> list[Manifest]:
    """The settings of the whole cluster: for kubeadm, kubelet and kube-proxy.

    address: the control plane's for people, which its certificate holds beside the endpoint's name.
    kubeadm adds the one for the other nodes. etcd_metrics: whether etcd serves its metrics to other
    machines, without authentication; by default only to its own. oidc: the identity provider.
    """
    etcd: Manifest = {"imageTag": release.etcd}
    if etcd_metrics:
        # The same on every control plane, so no address of one.
        etcd["extraArgs"] = {"listen-metrics-urls": f"http://0.0.0.0:{ports.ETCD_METRICS}"}
    cluster = {
        "apiVersion": "kubeadm.k8s.io/v1beta3",
        "kind": "ClusterConfiguration",
        "clusterName": kubernetes.cluster_name,
        "kubernetesVersion": f"v{kubernetes.version}",
        "controlPlaneEndpoint": f"{kubernetes.endpoint}:{ports.API}",
        "networking": {
            "podSubnet": kubernetes.pod_cidr,
            "serviceSubnet": kubernetes.service_cidr,
        },
        "apiServer": _api_server([kubernetes.endpoint, address], oidc),
        "controllerManager": {"extraArgs": dict(hardening.NO_PROFILING)},
        "scheduler": {"extraArgs": dict(hardening.NO_PROFILING)},
        "dns": {"imageTag": release.coredns},
        "etcd": {"local": etcd},
    }
    kubelet = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "cgroupDriver": kubernetes.cgroup_driver,
        "rotateCertificates": True,
        **kubelet_defaults.settings(kubernetes),
    }
    kube_proxy = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clusterCIDR": kubernetes.pod_cidr,
        **kubernetes.kube_proxy,
    }
    return [cluster, kubelet, kube_proxy]


def _api_server(names: Sequence[str], oidc: Oidc | None) -> Manifest:
    """names: those in its certificate."""
    settings = hardening.api_server()
    flags = {**settings["extraArgs"], **oidc_flags(oidc)}
    return {"certSANs": list(names), **settings, "extraArgs": flags}


def settings_of(documents: Sequence[Manifest]) -> dict[str, str]:
    """The values of cluster_documents by their path in the stack file; as JSON if not text."""
    by_kind = {document["kind"]: document for document in documents}
    if not by_kind:
        return {}
    cluster, kubelet = by_kind["ClusterConfiguration"], by_kind["KubeletConfiguration"]
    return {
        "kubernetes.clusterName": cluster["clusterName"],
        "kubernetes.version": cluster["kubernetesVersion"].removeprefix("v"),
        "kubernetes.endpoint": cluster["controlPlaneEndpoint"].rpartition(":")[0],
        "kubernetes.podCidr": cluster["networking"]["podSubnet"],
        "kubernetes.serviceCidr": cluster["networking"]["serviceSubnet"],
        "kubernetes.cgroupDriver": kubelet["cgroupDriver"],
        **_settings("kubernetes.kubelet", kubelet, {"cgroupDriver"}),
        **_settings("kubernetes.kubeProxy", by_kind["KubeProxyConfiguration"], {"clusterCIDR"}),
    }


def registered_address(documents: Sequence[Manifest]) -> str | None:
    """The address for the other nodes in init_document or join_document; None without one."""
    for document in documents:
        if "nodeRegistration" in document:
            return str(document["nodeRegistration"]["kubeletExtraArgs"]["node-ip"])
    return None


def _settings(path: str, document: Manifest, others: Set[str]) -> dict[str, str]:
    return {
        f"{path}.{key}": json.dumps(value, sort_keys=True)
        for key, value in document.items()
        if key not in {"apiVersion", "kind", *others}
    }


def join_document(*, name: str, address: str, is_private: bool = False) -> Manifest:
    """The document of `kubeadm join --config`, with TOKEN_PLACE for the token.

    address, is_private: as in init_document.

    The cluster's CA comes from the discovery file, which the join script writes.
    """
    return {
        "apiVersion": "kubeadm.k8s.io/v1beta3",
        "kind": "JoinConfiguration",
        "discovery": {
            "file": {"kubeConfigPath": "/run/nordmesh/discovery.kubeconfig"},
            "tlsBootstrapToken": TOKEN_PLACE,
        },
        "nodeRegistration": _registration(name, address, is_private=is_private),
        "skipPhases": ["preflight"],
    }


def control_plane_join_document(*, name: str, address: str, is_private: bool = False) -> Manifest:
    """The document of `kubeadm join --config` for a control plane, with places for two secrets.

    address, is_private: as in init_document. The settings of the cluster, which hold the names in
    the API server's certificate, come from the cluster; kubeadm adds the address.

    etcd is not checked before kubelet has started: the firewalls of the other members accept this
    machine's connections to etcd only once its node is in the cluster. etcd itself refuses a new
    member while another one is unhealthy.
    """
    document = join_document(name=name, address=address, is_private=is_private)
    return {
        **document,
        "controlPlane": {
            "certificateKey": KEY_PLACE,
            "localAPIEndpoint": {"advertiseAddress": address, "bindPort": ports.API},
        },
        "patches": {"directory": PATCHES},
        "skipPhases": [*document["skipPhases"], "check-etcd"],
    }


def worker_join_document(*, name: str, address: str, is_private: bool = False) -> Manifest:
    """The document of a worker, which registers with the taint JOINING.

    A control plane registers with the taint of kubeadm instead.
    """
    document = join_document(name=name, address=address, is_private=is_private)
    registration = {**document["nodeRegistration"], "taints": [dict(JOINING)]}
    return {**document, "nodeRegistration": registration}


def credentials(stdout: str) -> dict[str, str]:
    """Find the result of kubeadm-init.sh or admin-credentials.sh in its output, whatever a login
    shell prints beside it.

    An error never quotes the output: it holds the administrator's key.
    """
    starts = [match.start() for match in _RESULT.finditer(stdout)]
    try:
        result: dict[str, str] = json.JSONDecoder().raw_decode(stdout, max(starts))[0]
    except ValueError:
        raise NordmeshError(
            "kubeadm-init.sh printed no result that can be read",
            code="no-cluster-credentials",
            why="it holds the cluster's credentials, without which no node can join",
            fix="restore the stack's state from before this update, and run `pulumi up` again: the "
            "script prints the result again",
        ) from None
    return result


def discovery_kubeconfig(credentials: Mapping[str, str], *, endpoint: str) -> str:
    """The address and the CA of the cluster, for nodes that join; it has no credential.

    credentials: what kubeadm-init.sh prints; of it `ca` (PEM in base64).
    """
    return _kubeconfig(
        cluster={
            "certificate-authority-data": credentials["ca"],
            "server": f"https://{endpoint}:{ports.API}",
        },
        user={},
    )


def admin_kubeconfig(credentials: Mapping[str, str], *, endpoint: str, address: str) -> str:
    """The administrator's kubeconfig, for use from outside the nodes.

    Connects to the address and verifies the endpoint's name, so that no DNS entry is needed.
    credentials: what kubeadm-init.sh prints; of it `ca`, `clientCertificate` and `clientKey` (PEM
    in base64).
    """
    return _kubeconfig(
        cluster={
            "certificate-authority-data": credentials["ca"],
            "server": f"https://{address}:{ports.API}",
            "tls-server-name": endpoint,
        },
        user={
            "client-certificate-data": credentials["clientCertificate"],
            "client-key-data": credentials["clientKey"],
        },
    )


def address_in(kubeconfig: str) -> str:
    """The address, or the name, that a text of admin_kubeconfig connects to."""
    server = yaml.safe_load(kubeconfig)["clusters"][0]["cluster"]["server"]
    return str(server).removeprefix("https://").rpartition(":")[0]


def with_address(kubeconfig: str, address: str) -> str:
    """A text of admin_kubeconfig that connects to another address."""
    content = yaml.safe_load(kubeconfig)
    content["clusters"][0]["cluster"]["server"] = f"https://{address}:{ports.API}"
    return _dump(content)


def acting_as(kubeconfig: str, user: str) -> str:
    """A text of admin_kubeconfig whose requests have the rights of another user."""
    content = yaml.safe_load(kubeconfig)
    content["users"][0]["user"]["as"] = user
    return _dump(content)


def personal_kubeconfig(
    administrator: str, *, user: str, cluster: str, certificate: bytes, key: bytes
) -> str:
    """A person's kubeconfig. administrator: a text of admin_kubeconfig, with the API server.

    user, cluster: names, so that a person can merge the kubeconfigs of several clusters.
    certificate, key: PEM.
    """
    server = yaml.safe_load(administrator)["clusters"][0]["cluster"]
    login = {
        "client-certificate-data": base64.b64encode(certificate).decode(),
        "client-key-data": base64.b64encode(key).decode(),
    }
    return _kubeconfig(cluster=server, user=login, names=(cluster, f"{user}@{cluster}"))


def _kubeconfig(
    *, cluster: Manifest, user: Manifest, names: tuple[str, str] = ("nordmesh", "nordmesh")
) -> str:
    """names: of the cluster, and of the user and the context."""
    place, name = names
    return _dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": place, "cluster": cluster}],
            "users": [{"name": name, "user": user}],
            "contexts": [{"name": name, "context": {"cluster": place, "user": name}}],
            "current-context": name,
        }
    )


def to_yaml(documents: list[Manifest]) -> str:
    """The documents as one YAML text, without a newline at the end."""
    return "---\n".join(_dump(document) for document in documents).rstrip("\n")


def from_yaml(text: str) -> list[Manifest]:
    """The documents in a text of to_yaml; none in an empty one."""
    return list(yaml.safe_load_all(text)) if text else []


def _dump(document: Manifest) -> str:
    return yaml.safe_dump(document, sort_keys=False, width=10_000)


def _registration(name: str, address: str, *, is_private: bool) -> Manifest:
    # A flag, because the cluster's nodes share one KubeletConfiguration.
    listen = {"address": address} if is_private else {}
    return {
        "name": name,
        "criSocket": CRI_SOCKET,
        "kubeletExtraArgs": {"node-ip": address, **listen},
    }
