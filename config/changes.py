"""The class of change of every key; config.changes_page renders docs/changes.md from it.

A class says what an edit of a key does to a running stack. The table below names every key of the
models; a unit test fails for a key without a class, and for a class without a key.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from config import (
    ALERT_SECRETS,
    BACKUP_SECRET_KEY,
    SECRETS,
    SSH_KEY,
    SSH_KEY_PASSWORD,
    StackConfig,
)
from config.errors import KeyPath
from config.model_types import ENTRY, ITEM, paths


class Kind(Enum):
    """What an edit means for a running stack."""

    CHECKED = "checked"
    LIVE = "live"
    NODES = "nodes"
    RESTARTS = "restarts"
    REBUILDS = "rebuilds"
    IMMUTABLE = "immutable"


MEANINGS: Mapping[Kind, str] = {
    Kind.CHECKED: "No resource changes. Checks, gates and reports read the value.",
    Kind.LIVE: "Objects of the cluster or the mesh change in place. No setting of a node changes.",
    Kind.NODES: "Scripts run again on the machines that the key concerns, node by node: workers "
    "first, control planes last; an error stops the change. Pods keep running, so nothing is "
    "drained.",
    Kind.RESTARTS: "The guest shuts down and starts again, one guest after another. A worker is "
    "drained first, if another worker can run its pods, and accepts pods again when it is Ready.",
    Kind.REBUILDS: "The edit, or its removal, destroys something. What holds data is protected: a "
    "preview refuses it until an entry of `machines.allowDataLoss` has named it at an earlier "
    "`pulumi up`.",
    Kind.IMMUTABLE: "Refused at preview, before any node is touched.",
}


@dataclass(frozen=True, kw_only=True)
class Change:
    """What an edit of a key does.

    resources: what it may change: kinds of objects of the cluster, and scripts by their file.
    note: what else to know before the edit; empty where the class says it all.
    """

    kind: Kind
    resources: tuple[str, ...] = ()
    note: str = ""


_PREPARE, _INIT, _JOIN = "node-prepare.sh", "kubeadm-init.sh", "kubeadm-join.sh"
_READY, _RESET, _REMOVE = "node-ready.sh", "node-reset.sh", "node-remove.sh"
_LABELS = "label-node.sh"
_LEAVE, _ETCD, _BACKUP = "plane-leave.sh", "etcd-ready.sh", "backup-install.sh"
_ENCRYPTION = ("encryption-use.sh", "encryption-retire.sh")
_PLANE = (_INIT, *_ENCRYPTION, "admin-credentials.sh", _ETCD, _LEAVE)
_INSTALL, _ROLLOUT, _UNINSTALL = "istio-install.sh", "istio-rollout.sh", "istio-uninstall.sh"
_GUEST, _CONTAINER = "kvm-create.sh", "container-create.sh"
_NEW_NODE = (_PREPARE, _JOIN, _LABELS, _READY)
_EACH_NODE = (*_PLANE, *_NEW_NODE, _INSTALL, _ROLLOUT)
_POOL = (_GUEST, *_EACH_NODE, "DeploymentPatch")
_ROUTE, _RULE = "VirtualService", "DestinationRule"
_PEERS, _CALLERS = "PeerAuthentication", "AuthorizationPolicy"
_POLICY = "NetworkPolicy"
_EGRESS_OBJECTS = (
    _ROUTE, _RULE, "Gateway", "ServiceEntry", "Sidecar", _CALLERS, "Telemetry", _POLICY,
)  # fmt: skip
_PROMETHEUS = "StatefulSet"
_PARTS = (
    "Namespace",
    "ConfigMap",
    "Service",
    "ServiceAccount",
    "ClusterRole",
    "ClusterRoleBinding",
    _POLICY,
)
_ROLES = ("ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")


def _checked(note: str = "") -> Change:
    return Change(kind=Kind.CHECKED, note=note)


def _live(*resources: str, note: str = "") -> Change:
    return Change(kind=Kind.LIVE, resources=resources, note=note)


def _nodes(*resources: str, note: str = "") -> Change:
    return Change(kind=Kind.NODES, resources=resources, note=note)


def _restarts(*resources: str, note: str = "") -> Change:
    return Change(kind=Kind.RESTARTS, resources=resources, note=note)


def _rebuilds(*resources: str, note: str) -> Change:
    return Change(kind=Kind.REBUILDS, resources=resources, note=note)


def _immutable(note: str = "") -> Change:
    return Change(kind=Kind.IMMUTABLE, note=note)


_NAMED = "the scripts of the named node, which have nothing to change"
_LOGIN = _nodes(
    *_EACH_NODE,
    _BACKUP,
    note="the login; the scripts have nothing else to change",
)
_HYPERVISOR_LOGIN = _nodes(_GUEST, note="the login; the script has nothing else to change")
_NEW_GUESTS = _nodes(_GUEST, note="for new guests only; it changes nothing for a guest that exists")
_ROTATION = _checked("accepts one new host key of the same machine")
_OF_MACHINE = _immutable(
    "a kvm worker is rebuilt instead, with its disks, where allowDataLoss names its disk"
)
_SIZE = _restarts(_GUEST)
_DISK = _restarts(_GUEST, note="a disk only grows; a preview refuses a smaller one")
_HOST = _nodes(_PREPARE)
_SCHEDULING = _live(_LABELS, note="it applies to new pods")
_TAINTS = _live(
    _LABELS,
    "DeploymentPatch",
    note="it applies to new pods; NoExecute also evicts pods at once. CoreDNS is on two nodes "
    "while two have no such taint",
)
_DOWNLOADS = _nodes(_PREPARE, _INSTALL, note="where the next download comes from")
_MESH = _live(_INSTALL, _ROLLOUT, note="istioctl applies it from the control plane")
_PROXIES = _live(
    _INSTALL,
    _ROLLOUT,
    "DeploymentPatch",
    note="istioctl applies it from the control plane; a running proxy has it once its pod restarts",
)
_SERVICE_ROUTE, _SERVICE_RULE = _live(_ROUTE), _live(_RULE)
_INJECTION = _live("Namespace", "NamespacePatch", _ROLLOUT, note="it applies to new pods")
_SUBSETS = _live(_ROUTE, _RULE)
_OUTSIDE = _live(*_EGRESS_OBJECTS)
_WORKLOAD = _live("DeploymentPatch", note="the Deployment's pods restart where apply is patch")
_SNAPSHOTS = _nodes(
    _BACKUP,
    note="only on control planes; snapshots that are stored stay where they are",
)
_BINDINGS = _live("ClusterRoleBinding", "RoleBinding")
_PROVIDER_OF_TOKENS = _nodes(_INIT, note="the API servers restart, one control plane after another")
_PREFIX = _nodes(
    _INIT,
    "ClusterRoleBinding",
    "RoleBinding",
    note="the API servers restart, one control plane after another; people have their roles under "
    "the new names",
)
_GRANT = ". [].users [].groups [].oidcUsers [].oidcGroups [].namespaces"
_VOLUMES = _live("ConfigMap", note="for new volumes; those that exist stay where they are")
_RECEIVER = _live("ConfigMap", "Secret", "Deployment", note="Alertmanager restarts")
_ALERT_SECRET = _live("Secret", note="Alertmanager uses the new value within two minutes")
_METRICS_POD = _live(_PROMETHEUS, note="Prometheus restarts")
_KEPT_METRICS = _rebuilds(
    _PROMETHEUS,
    "Namespace",
    note="with a storageClass, Prometheus is replaced and keeps its claim, with the size and class "
    "of the day that it was made; without one, the metrics are lost. To remove the class needs the "
    "entry namespace: monitoring in allowDataLoss",
)

# The prefix, the keys below it, and what an edit of each does. A dot alone is the prefix itself.
_TABLE: tuple[tuple[str, str, Change], ...] = (
    (
        "machines",
        "allowDataLoss",
        _nodes(_JOIN, _READY, _GUEST, _CONTAINER, note=f"an entry for volumes or a disk; {_NAMED}"),
    ),
    ("machines", "allowDataLoss.[].volumes", _nodes(_JOIN, _READY, note=_NAMED)),
    ("machines", "allowDataLoss.[].disk", _nodes(_GUEST, _CONTAINER, note=_NAMED)),
    (
        "machines",
        "allowDataLoss.[].etcd allowDataLoss.[].namespace",
        _checked("Pulumi no longer protects the resource"),
    ),
    ("machines", "allowDataLoss.[].identities", _checked("read when istio.trustDomain changes")),
    ("machines", "allowDataLoss.[].reason", _checked()),
    (
        "machines.container",
        ".",
        _checked("the network of container nodes; without such nodes nothing uses it"),
    ),
    (
        "machines.container",
        "bridge",
        _immutable("the control plane is on the same bridge"),
    ),
    ("machines.container", "subnet", _nodes(_CONTAINER)),
    ("machines.kvm", "image image.url image.path image.sha256 clone authorizedKeys", _NEW_GUESTS),
    ("machines.kvm", "prefix", _OF_MACHINE),
    ("machines.hypervisors.*", ".", _checked("a hypervisor with guests cannot be removed")),
    ("machines.hypervisors.*", "address user port", _HYPERVISOR_LOGIN),
    ("machines.hypervisors.*", "hostKey", _immutable("except with hostKeyRotation")),
    (
        "machines.hypervisors.*",
        "hostKeyRotation hostKeyRotation.previous hostKeyRotation.reason",
        _ROTATION,
    ),
    ("machines.hypervisors.*", "directory", _immutable()),
    (
        "machines.hypervisors.*",
        "network.bridge network.type",
        _restarts(_GUEST, note="a preview refuses another routed network for guests that exist"),
    ),
    (
        "machines.hypervisors.*",
        "network.subnet network.nameservers network.gateway",
        _nodes(
            _GUEST,
            note="for new guests; a preview refuses another routed network for guests that exist",
        ),
    ),
    (
        "machines.hypervisors.*",
        "emulated",
        _restarts(
            _GUEST,
            *_EACH_NODE,
            note="all of its guests restart; the scripts on them get another time limit",
        ),
    ),
    (
        "machines.ssh",
        "user port bastion bastion.address bastion.hostKey bastion.user bastion.port",
        _LOGIN,
    ),
    (
        "machines.pools.*",
        ".",
        _restarts(*_POOL, note="as each of its keys, on the nodes of the pool"),
    ),
    ("machines.pools.*", "labels region zone", _SCHEDULING),
    ("machines.pools.*", "taints taints.[].key taints.[].value taints.[].effect", _TAINTS),
    ("machines.pools.*", "capacity capacity.cpu capacity.memory", _checked()),
    ("machines.pools.*", "database database.engine database.bufferPool", _HOST),
    (
        "machines.pools.*",
        "user port bastion bastion.address bastion.hostKey bastion.user bastion.port",
        _LOGIN,
    ),
    ("machines.pools.*", "architecture", _immutable()),
    ("machines.pools.*", "cpus memory", _SIZE),
    ("machines.pools.*", "disk", _DISK),
    ("machines.pools.*", "image image.url image.path image.sha256", _NEW_GUESTS),
    (
        "machines.nodes.*",
        ".",
        _rebuilds(
            *_NEW_NODE,
            _REMOVE,
            _RESET,
            _GUEST,
            "kvm-delete.sh",
            _CONTAINER,
            "container-delete.sh",
            *_PLANE,
            "DeploymentPatch",
            _POLICY,
            note="a new node joins; a removed one is drained, leaves the cluster and is reset. "
            "Local volumes need an entry volumes in allowDataLoss first, the disk of a guest or "
            "container an entry disk",
        ),
    ),
    ("machines.nodes.*", "provider role", _immutable()),
    ("machines.nodes.*", "address hypervisor", _OF_MACHINE),
    (
        "machines.nodes.*",
        "privateAddress",
        _immutable("remove a worker and add it again with another"),
    ),
    ("machines.nodes.*", "hostKey", _immutable("except with hostKeyRotation")),
    (
        "machines.nodes.*",
        "hostKeyRotation hostKeyRotation.previous hostKeyRotation.reason",
        _ROTATION,
    ),
    ("machines.nodes.*", "architecture", _immutable()),
    (
        "machines.nodes.*",
        "user port bastion bastion.address bastion.hostKey bastion.user bastion.port",
        _LOGIN,
    ),
    (
        "machines.nodes.*",
        "pool",
        _restarts(*_POOL, note="as each key of the pools that the node then has another value of"),
    ),
    ("machines.nodes.*", "labels region zone", _SCHEDULING),
    ("machines.nodes.*", "taints taints.[].key taints.[].value taints.[].effect", _TAINTS),
    ("machines.nodes.*", "capacity capacity.cpu capacity.memory", _checked()),
    (
        "machines.nodes.*",
        "etcdMount",
        _checked("read before the machine joins the cluster; nordmesh moves no data"),
    ),
    (
        "machines.nodes.*",
        "gone",
        _rebuilds(
            _LEAVE,
            "DeploymentPatch",
            note="the node and its member of etcd leave the cluster; its pods start elsewhere. "
            "Nothing runs on the machine",
        ),
    ),
    ("machines.nodes.*", "adopt", _checked("read before the first change of the machine")),
    ("machines.nodes.*", "database database.engine database.bufferPool", _HOST),
    ("machines.nodes.*", "cpus pinnedCpus memory", _SIZE),
    ("machines.nodes.*", "disk", _DISK),
    (
        "machines.nodes.*",
        "etcdDisk",
        _restarts(
            _GUEST,
            note="it only grows; a preview refuses a new one for a guest that exists",
        ),
    ),
    ("machines.nodes.*", "image image.url image.path image.sha256", _NEW_GUESTS),
    (
        "host",
        "firewall.enabled",
        _nodes(
            _PREPARE,
            _INIT,
            note="etcd keeps its address for metrics: without the firewall, everyone who reaches "
            "port 2381 of a control plane can read them",
        ),
    ),
    (
        "host",
        "firewall.sshFrom firewall.apiFrom ssh.hardened timeSync timeServers journalSize "
        "holdPackages",
        _HOST,
    ),
    (
        "preflight",
        "window limits.steal limits.cores limits.memory limits.diskSpace limits.syncLatency "
        "limits.latency limits.latencyWarning limits.clockSkew",
        _checked("for new nodes"),
    ),
    ("preflight.override.*", ". reason nodes", _checked("for new nodes")),
    ("artifacts", "mirror fallback proxy proxy.url proxy.direct", _DOWNLOADS),
    ("artifacts", "registry", _nodes(_PREPARE, note="where the next image comes from")),
    (
        "artifacts",
        "lock",
        _nodes(
            _PREPARE,
            _INSTALL,
            note="programs whose checksum differs are replaced, and what runs them restarts",
        ),
    ),
    (
        "kubernetes",
        "clusterName version endpoint podCidr serviceCidr cgroupDriver kubelet kubeProxy",
        _immutable(),
    ),
    (
        "kubernetes",
        "publicEndpoint",
        _live(
            "pulumi:providers:kubernetes",
            note="the program's connection to the cluster and the output `kubeconfig` change; no "
            "certificate does",
        ),
    ),
    (
        "kubernetes",
        "encryptionKey",
        _nodes(
            _INIT,
            *_ENCRYPTION,
            note="each API server restarts three times, one control plane after another, and every "
            "Secret is written again; the old key is removed at the end",
        ),
    ),
    (
        "kubernetes",
        "restrictOomScoreAdj",
        _nodes(_PREPARE, note="containerd restarts; containers keep running"),
    ),
    (
        "access",
        ".",
        _nodes(
            _INIT,
            "pulumi:providers:kubernetes",
            "ClusterRole",
            "ClusterRoleBinding",
            "RoleBinding",
            note="where oidc is set, the API servers restart, one control plane after another; the "
            "program acts in its own role",
        ),
    ),
    (
        "access.oidc",
        "issuerUrl clientId usernameClaim groupsClaim signingAlgorithms ca",
        _PROVIDER_OF_TOKENS,
    ),
    ("access.oidc", ". usernamePrefix groupsPrefix", _PREFIX),
    *((f"access.roles.{role}", _GRANT, _BINDINGS) for role in ("viewer", "deployer", "operator")),
    (
        "istio",
        ".",
        _rebuilds(
            _INSTALL,
            _ROLLOUT,
            _UNINSTALL,
            _PREPARE,
            _PEERS,
            note="without the section the mesh is uninstalled; it needs the entry "
            "namespace: istio-system first",
        ),
    ),
    (
        "istio",
        "version",
        _nodes(
            _INSTALL,
            _ROLLOUT,
            _PREPARE,
            *_PARTS,
            "Deployment",
            note="the nodes pull the images; the new revision runs beside the old one until each "
            "workload has restarted",
        ),
    ),
    (
        "istio",
        "hub",
        _nodes(_INSTALL, _ROLLOUT, _PREPARE, note="the nodes pull the images; istiod restarts"),
    ),
    ("istio", "allowUnsupported", _live(_INSTALL)),
    (
        "istio",
        "profile pilot.replicas.min pilot.replicas.max pilot.requests pilot.requests.cpu "
        "pilot.requests.memory pilot.limits pilot.limits.cpu pilot.limits.memory "
        "pilot.debounceAfter pathNormalization http10 accessLog "
        "accessLog.target accessLog.format tracing.enabled tracing.sampling tracing.collector "
        "values overlay ingressGateways",
        _MESH,
    ),
    (
        "istio",
        "outboundTrafficPolicy",
        _live(_INSTALL, _ROLLOUT, _POLICY, note="istioctl applies it from the control plane"),
    ),
    (
        "istio",
        "trustDomain",
        _rebuilds(
            _INSTALL,
            _ROLLOUT,
            _CALLERS,
            note="every identity changes, and old ones stay in use until each pod has restarted; "
            "refused without an entry identities for the old trust domain",
        ),
    ),
    ("istio", "readinessTimeout", _live(_INSTALL)),
    *(
        (
            f"istio.{gateways}.*",
            ". replicas replicas.min replicas.max targetCpu requests.cpu requests.memory "
            "limits.cpu limits.memory ports ports.[].name ports.[].port ports.[].targetPort "
            "ports.[].nodePort",
            _MESH,
        )
        for gateways in ("ingressGateways", "egressGateways")
    ),
    ("istio.ingressGateways.*", "expose expose.type expose.nodes expose.addresses", _MESH),
    (
        "istio.proxy",
        "requests.cpu requests.memory limits.cpu limits.memory concurrency "
        "holdApplicationUntilProxyStarts drainDuration certificateLifetime",
        _PROXIES,
    ),
    ("mesh", "mtls", _live(_PEERS, note="the gate looks for plaintext before STRICT")),
    (
        "mesh",
        "networkPolicy",
        _nodes(
            _PREPARE,
            "DaemonSet",
            "ServiceAccount",
            "ClusterRole",
            "ClusterRoleBinding",
            _POLICY,
            note="new connections that the stack file does not allow are refused at once; nodes "
            "first load rules that refuse nothing until kube-router filters their pods",
        ),
    ),
    ("mesh.mtlsGate", "window override", _checked()),
    (
        "mesh.namespaces.*",
        ".",
        _rebuilds(
            "Namespace",
            "NamespacePatch",
            _PEERS,
            "Sidecar",
            _POLICY,
            _ROLLOUT,
            note="a removed namespace is deleted with all that is in it; it needs an entry "
            "namespace first; the namespace default stays, and its pods leave the mesh",
        ),
    ),
    ("mesh.namespaces.*", "injection", _INJECTION),
    ("mesh.namespaces.*", "mtls", _live(_PEERS, note="the gate looks for plaintext before STRICT")),
    ("mesh.namespaces.*", "limitView calls", _live("Sidecar", _POLICY)),
    ("mesh.namespaces.*", "pods useDefault podSecurity.reason", _checked()),
    (
        "mesh.namespaces.*",
        "podSecurity podSecurity.level",
        _live(
            "Namespace",
            "NamespacePatch",
            note="it applies to new pods; a level that would refuse a running pod is refused at "
            "preview",
        ),
    ),
    ("mesh.services.*", ".", _live(_ROUTE, _RULE, _CALLERS, _PEERS, "Sidecar", _POLICY)),
    (
        "mesh.services.*",
        "namespace service",
        _live(_ROUTE, _RULE, _CALLERS, _PEERS, "Sidecar", _POLICY),
    ),
    ("mesh.services.*", "port ports split stable protocol protocols", _SUBSETS),
    ("mesh.services.*", "canary canary.subset mirror.subset versions", _SUBSETS),
    ("mesh.services.*", "versionLabel", _SERVICE_RULE),
    (
        "mesh.services.*",
        "canary.weight",
        _live(_ROUTE, note="the gate measures before a share is raised"),
    ),
    (
        "mesh.services.*",
        "canary.steps canary.gate canary.gate.minSuccessRate canary.gate.maxP99 "
        "canary.gate.minRequests canary.gate.window personalData fault.reason "
        "testers.[].fault.reason",
        _checked(),
    ),
    (
        "mesh.services.*",
        "paths.[].prefix paths.[].exact paths.[].port paths.[].rewrite paths.[].redirect "
        "paths.[].redirect.host paths.[].redirect.scheme paths.[].redirect.path "
        "paths.[].redirect.status paths.[].headers paths.[].headers.request.set "
        "paths.[].headers.request.add paths.[].headers.request.remove "
        "paths.[].headers.response.set paths.[].headers.response.add "
        "paths.[].headers.response.remove paths.[].cors.origins "
        "paths.[].cors.methods paths.[].cors.headers paths.[].cors.exposeHeaders "
        "paths.[].cors.maxAge paths.[].cors.credentials paths.[].timeout paths.[].retries "
        "paths.[].retries.attempts paths.[].retries.perTryTimeout paths.[].retries.retryOn",
        _SERVICE_ROUTE,
    ),
    (
        "mesh.services.*",
        "paths paths.[].cors",
        _live(
            _ROUTE,
            _CALLERS,
            note="the first and the last path of a host move its routes to other objects; with "
            "cors, preflight requests need no token",
        ),
    ),
    (
        "mesh.services.*",
        "hosts gateway inMesh testers testers.[].header testers.[].header.name "
        "testers.[].header.exact testers.[].header.prefix testers.[].header.regex "
        "testers.[].cookie testers.[].cookie.name testers.[].cookie.value testers.[].uri "
        "testers.[].uri.exact testers.[].uri.prefix testers.[].uri.regex testers.[].subset "
        "testers.[].fault testers.[].fault.delay testers.[].fault.delay.percent "
        "testers.[].fault.delay.fixedDelay testers.[].fault.abort testers.[].fault.abort.percent "
        "testers.[].fault.abort.httpStatus mirror mirror.percent timeout retries retries.attempts "
        "retries.perTryTimeout retries.retryOn fault fault.delay fault.delay.percent "
        "fault.delay.fixedDelay fault.abort fault.abort.percent fault.abort.httpStatus",
        _SERVICE_ROUTE,
    ),
    ("mesh.services.*", "exportTo", _SUBSETS),
    (
        "mesh.services.*",
        "loadBalancer affinity affinity.cookie affinity.cookie.name affinity.cookie.ttl "
        "affinity.header affinity.sourceIp connectionPool connectionPool.tcp "
        "connectionPool.tcp.maxConnections connectionPool.tcp.connectTimeout connectionPool.http "
        "connectionPool.http.http1MaxPendingRequests connectionPool.http.http2MaxRequests "
        "connectionPool.http.maxRequestsPerConnection connectionPool.http.maxRetries "
        "connectionPool.http.idleTimeout outlierDetection outlierDetection.consecutive5xxErrors "
        "outlierDetection.consecutiveGatewayErrors outlierDetection.interval "
        "outlierDetection.baseEjectionTime outlierDetection.maxEjectionPercent "
        "outlierDetection.minHealthPercent locality locality.enabled locality.distribute "
        "locality.distribute.[].from locality.distribute.[].to locality.failover "
        "locality.failover.[].from locality.failover.[].to locality.failoverPriority",
        _SERVICE_RULE,
    ),
    ("mesh.services.*", "selector", _live(_CALLERS, _PEERS, _POLICY)),
    ("mesh.services.*", "serviceAccount", _live(_CALLERS)),
    (
        "mesh.services.*",
        "callers callers.[].service callers.[].serviceAccount callers.[].gateway "
        "callers.[].methods callers.[].paths callers.[].ports",
        _live(_CALLERS, "Sidecar", _POLICY),
    ),
    (
        "mesh.services.*",
        "mtls mtls.mode mtls.ports mtls.selector",
        _live(_PEERS, note="the gate looks for plaintext before STRICT"),
    ),
    ("mesh.egress", "gateway", _OUTSIDE),
    ("mesh.egress.gate", "window override trial", _checked()),
    (
        "mesh.egress.hosts.*",
        ". host ports ports.[].number ports.[].protocol namespaces through tls caSecret addresses",
        _OUTSIDE,
    ),
    (
        "mesh.egress.hosts.*",
        "owner purpose legalBasis country transferBasis wildcardReason",
        _live("ServiceEntry", note="its annotations"),
    ),
    (
        "mesh.workloads.*",
        ". namespace deployment requests.cpu requests.memory limits.cpu limits.memory concurrency "
        "holdApplicationUntilProxyStarts drainDuration apply",
        _WORKLOAD,
    ),
    ("mesh.workloads.*", "pods", _checked()),
    (
        "mesh.gateways.*",
        ". ingressGateway namespace",
        _live("Gateway", _ROUTE, "RequestAuthentication", _CALLERS, _POLICY),
    ),
    ("mesh.gateways.*", "httpPort httpsPort tls.mode", _live("Gateway", _ROUTE)),
    ("mesh.gateways.*", "tls.secret tls.minVersion", _live("Gateway")),
    (
        "mesh.gateways.*",
        "hosts tls tls.acme tls.httpsRedirect tls.plainHttp",
        _live("Gateway", _ROUTE, _CALLERS),
    ),
    ("mesh.gateways.*", "tls.acme.service tls.acme.port", _live("Gateway", _ROUTE)),
    ("mesh.gateways.*", "anyHost", _checked()),
    (
        "mesh.gateways.*",
        "jwt jwt.issuers jwt.issuers.[].issuer jwt.issuers.[].jwksUri jwt.issuers.[].jwks "
        "jwt.issuers.[].audiences jwt.openPaths",
        _live("RequestAuthentication", _CALLERS),
    ),
    (
        "observability",
        "prometheus.enabled",
        _rebuilds(
            _PROMETHEUS,
            *_PARTS,
            _PREPARE,
            note="off deletes Prometheus and its namespace; metrics without a storageClass are "
            "lost, those with one need the entry namespace: monitoring first",
        ),
    ),
    (
        "observability.prometheus",
        "retention resources.cpu resources.memory resources.memoryLimit",
        _METRICS_POD,
    ),
    (
        "observability.prometheus",
        "scrapeInterval",
        _live(_PROMETHEUS, "ConfigMap", note="Prometheus restarts"),
    ),
    ("observability.prometheus", "storage.size storage.storageClass", _KEPT_METRICS),
    (
        "observability",
        "alertmanager.enabled",
        _nodes(
            "Deployment",
            "Secret",
            _PROMETHEUS,
            *_PARTS,
            _PREPARE,
            note="Prometheus restarts, and the nodes get the registry of the image",
        ),
    ),
    (
        "observability.alertmanager",
        "webhook webhook.host webhook.port heartbeat heartbeat.host heartbeat.port email email.to "
        "email.sender email.host email.port email.username",
        _RECEIVER,
    ),
    (
        "observability",
        "grafana.enabled kiali.enabled",
        _nodes("Deployment", *_PARTS, _PREPARE, note="the nodes get the registry of its image"),
    ),
    (
        "backup",
        ". every",
        _nodes(
            _BACKUP,
            "ConfigMap",
            _PROMETHEUS,
            note="only on control planes; snapshots that are stored stay where they are. The alert "
            "for an old snapshot follows, and Prometheus restarts",
        ),
    ),
    ("backup", "keys s3 directory", _SNAPSHOTS),
    ("backup.s3", "host port region bucket accessKeyId", _SNAPSHOTS),
    (BACKUP_SECRET_KEY, ".", _SNAPSHOTS),
    (
        "storage",
        "local",
        _live(
            "Deployment",
            "ConfigMap",
            "ServiceAccount",
            "StorageClass",
            *_ROLES,
            note="without it, volumes stay and pods use them; no new ones are created, and none is "
            "deleted with its claim",
        ),
    ),
    ("storage.local", "path", _VOLUMES),
    ("storage.local", "default", _live("StorageClass", note="for new claims")),
    (
        "storage.local",
        "reclaimPolicy",
        _live("StorageClass", note="for new volumes; `kubectl patch pv` changes one that exists"),
    ),
    (
        "demo",
        "enabled",
        _nodes("Deployment", *_PARTS, _PREPARE, note="the nodes get the registry of its image"),
    ),
    (SSH_KEY, ".", _LOGIN),
    (SSH_KEY_PASSWORD, ".", _LOGIN),
    *((key, ".", _ALERT_SECRET) for key in ALERT_SECRETS),
)


def every_key() -> list[str]:
    """Every key of a stack file, as a pattern, in the order of the models."""
    keys = [".".join(path) for path in paths(StackConfig)]
    return [*dict.fromkeys(keys), *SECRETS]


def rows() -> Iterator[tuple[str, Change]]:
    """The table, key by key."""
    for prefix, names, change in _TABLE:
        for name in names.split():
            yield prefix if name == "." else f"{prefix}.{name}", change


CHANGES: Mapping[str, Change] = dict(rows())
"""What an edit does, by the key's pattern."""


def of(path: KeyPath) -> tuple[str, Change] | None:
    """The key that a place of a stack file is about, and what an edit of it does.

    A place below a value belongs to that value: kubernetes.kubelet.maxPods to kubernetes.kubelet.
    None for a place that is not a key, and for a model that only groups its keys.
    """
    fitting = [pattern for pattern in _PATTERNS if _fits(pattern, path)]
    longest = max(fitting, key=len, default=())
    if not longest or (len(longest) < len(path) and longest in _GROUPS):
        return None
    key = ".".join(longest)
    return key, CHANGES[key]


def edited(before: object, after: object, path: KeyPath = ()) -> Iterator[KeyPath]:
    """The places of keys that differ between two readings of a stack file.

    before, after: its settings, sections by name; None for what is not there.
    """
    if before == after:
        return
    if isinstance(before, Mapping) or isinstance(after, Mapping):
        old, new = (value if isinstance(value, Mapping) else {} for value in (before, after))
        if (before is None or after is None) and of(path):
            yield path
            return
        for name in dict.fromkeys([*old, *new]):
            yield from edited(old.get(name), new.get(name), (*path, str(name)))
    elif of(path):
        yield path


def _fits(pattern: KeyPath, path: KeyPath) -> bool:
    return len(pattern) <= len(path) and all(
        key in (ENTRY, name) or (key == ITEM and name.startswith("["))
        for key, name in zip(pattern, path, strict=False)
    )


_PATTERNS = [tuple(key.split(".")) for key in CHANGES]
_GROUPS = {pattern[:length] for pattern in _PATTERNS for length in range(1, len(pattern))}
