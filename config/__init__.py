"""The models of `Pulumi.<stack>.yaml`: frozen, without unknown keys. One package a section.

A model checks its own values. config.checks runs the checks that need several sections or a file;
config.load loads a stack.
"""

from collections.abc import Mapping

from pydantic import model_validator

from config.access import Caller
from config.backup import Backup
from config.base import Section
from config.data_loss import things
from config.demo import DEMO_NAMESPACE, DEMO_SERVICE, OUTSIDE_NAMESPACE, Demo
from config.egress import Egress, EgressHost
from config.gateways import Gateway
from config.host import Host
from config.istio import EGRESS_GATEWAY, INGRESS_GATEWAY, Istio
from config.istio.gateways import (
    ExternalIpsExposure,
    GatewayDeployment,
    HostPortExposure,
    IngressGateway,
    NodePortExposure,
    selector,
)
from config.kubernetes import Artifacts, Kubernetes
from config.kvm import BridgedNetwork, Hypervisor, Image, Kvm, RoutedNetwork
from config.machines import (
    AnyNode,
    ContainerNode,
    ExistingNode,
    KvmNode,
    Machines,
    Node,
    Role,
    Ssh,
)
from config.machines.settings import Bastion, Database, Taint
from config.mesh import Mesh, Namespace
from config.mtls import MtlsGate, ServiceMtls
from config.observability import Observability
from config.people import Access, Oidc
from config.preflight import Preflight
from config.scalars.names import ROOT_NAMESPACE
from config.scalars.ssh import EXAMPLE_HOST_KEY
from config.services import Service, account, entry_of
from config.services.canary import Canary, CanaryGate
from config.storage import STORAGE_CLASS, LocalStorage, Storage
from config.workloads import Workload

__all__ = [
    "ALERT_HEARTBEAT_URL",
    "ALERT_SECRETS",
    "ALERT_SMTP_PASSWORD",
    "ALERT_WEBHOOK_URL",
    "BACKUP_SECRET_KEY",
    "DEMO_NAMESPACE",
    "DEMO_SERVICE",
    "EGRESS_GATEWAY",
    "EXAMPLE",
    "EXAMPLE_HOST_KEY",
    "INGRESS_GATEWAY",
    "OUTSIDE_NAMESPACE",
    "ROOT_NAMESPACE",
    "SECRETS",
    "SSH_KEY",
    "SSH_KEY_PASSWORD",
    "STORAGE_CLASS",
    "Access",
    "AnyNode",
    "Artifacts",
    "Backup",
    "Bastion",
    "BridgedNetwork",
    "Caller",
    "Canary",
    "CanaryGate",
    "ContainerNode",
    "Database",
    "Demo",
    "Egress",
    "EgressHost",
    "ExistingNode",
    "ExternalIpsExposure",
    "Gateway",
    "GatewayDeployment",
    "Host",
    "HostPortExposure",
    "Hypervisor",
    "Image",
    "IngressGateway",
    "Istio",
    "Kubernetes",
    "Kvm",
    "KvmNode",
    "LocalStorage",
    "Machines",
    "Mesh",
    "MtlsGate",
    "Namespace",
    "Node",
    "NodePortExposure",
    "Observability",
    "Oidc",
    "Preflight",
    "Role",
    "RoutedNetwork",
    "Section",
    "Service",
    "ServiceMtls",
    "Ssh",
    "StackConfig",
    "Storage",
    "Taint",
    "Workload",
    "account",
    "entry_of",
    "selector",
]

EXAMPLE = "nordmesh-ci:example"
"""The key that marks a stack file as an example, which no pipeline deploys."""
SSH_KEY = "sshPrivateKey"
"""The private key that logs in to bought nodes: a secret that only a Pulumi program can decrypt."""
SSH_KEY_PASSWORD = "sshPrivateKeyPassword"  # noqa: S105 (a key's name)
"""The passphrase of that key, if it has one: also a secret."""
ALERT_WEBHOOK_URL = "alertWebhookUrl"
ALERT_HEARTBEAT_URL = "alertHeartbeatUrl"
ALERT_SMTP_PASSWORD = "alertSmtpPassword"  # noqa: S105 (a key's name)
BACKUP_SECRET_KEY = "backupSecretKey"  # noqa: S105 (a key's name)
ALERT_SECRETS = (ALERT_WEBHOOK_URL, ALERT_HEARTBEAT_URL, ALERT_SMTP_PASSWORD)
SECRETS: Mapping[str, str] = {
    SSH_KEY: "the private key that logs in to nodes with provider existing",
    SSH_KEY_PASSWORD: "the passphrase of that key, if it has one",
    ALERT_WEBHOOK_URL: "the URL at observability.alertmanager.webhook.host",
    ALERT_HEARTBEAT_URL: "the URL at observability.alertmanager.heartbeat.host",
    ALERT_SMTP_PASSWORD: "the password of observability.alertmanager.email.username",
    BACKUP_SECRET_KEY: "the secret key of backup.s3.accessKeyId",
}
"""The keys whose values must be encrypted, and what each is."""


class StackConfig(Section):
    """The settings of one environment."""

    machines: Machines
    host: Host = Host()
    preflight: Preflight = Preflight()
    artifacts: Artifacts = Artifacts()
    kubernetes: Kubernetes
    access: Access | None = None
    backup: Backup | None = None
    storage: Storage = Storage()
    istio: Istio | None = None
    mesh: Mesh = Mesh()
    observability: Observability = Observability()
    demo: Demo = Demo()

    @model_validator(mode="after")
    def _without_switch(self) -> "StackConfig":
        """List each thing that the old switch `allowDataLoss: true` stands for."""
        machines = things.listed(self)
        return self if machines is self.machines else self.model_copy(update={"machines": machines})
