"""An edit of each key of a stack file, from one valid value to another, and its effect.

The stacks are those of tests/unit/every_key.yaml. The new value is derived from the old one, or
taken from SAMPLES.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components import immutable
from components.remote import node_command
from config import (
    ALERT_HEARTBEAT_URL,
    ALERT_SECRETS,
    ALERT_SMTP_PASSWORD,
    ALERT_WEBHOOK_URL,
    BACKUP_SECRET_KEY,
    SECRETS,
    SSH_KEY,
    SSH_KEY_PASSWORD,
    StackConfig,
    catalogue,
)
from config.errors import ConfigError, KeyPath
from config.load import load
from config.model_types import ENTRY, ITEM
from tests.support.kvm_stack import PUBLIC_KEY, private_key
from tests.support.mocked import Recorder, run
from tests.unit.config.test_every_key import STACKS

Values = dict[str, Any]

_LOCK, _OTHER_LOCK = "stacks/artifacts.lock.json", "stacks/other.lock.json"
REMOVED = object()
"""The value of a key that an edit removes."""
_NEW_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICvCvNE8Pu3m/HboTtBRHtWBh3dzuzCJpsuBUSDUXlRA"
_LOCKED_KEY = (
    "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n-----END RSA PRIVATE KEY-----"
)
_AGE_KEY = "age1jrst84g7qyqpucrj7fz3ye46pc4hwweal7xemqnr4j4xg8ysccys06ahps"
_HYPERVISOR = {
    "address": "192.0.2.9",
    "hostKey": _NEW_KEY,
    "network": {"type": "bridge", "bridge": "br0", "subnet": "203.0.113.0/24"},
}
_IMAGE = {"url": "https://images.example.no/other.qcow2", "sha256": "b" * 64}
_ALERTS = "observability.alertmanager"
_BOUGHT = {
    "role": "worker",
    "provider": "existing",
    "address": "198.51.100.31",
    "hostKey": _NEW_KEY,
}


def _hooked(*keys: str) -> dict[str, object]:
    """Another webhook, first its key that is edited."""
    host = {"host": "heartbeat.example.no", "port": 443}
    new = {f"{_ALERTS}.webhook.{key}": host[key] for key in keys}
    return {**new, ALERT_WEBHOOK_URL: "https://heartbeat.example.no/hooks/1"}


def _beating(*keys: str) -> dict[str, object]:
    """Another heartbeat, first its key that is edited."""
    host = {"host": "alerts.example.no", "port": 8443}
    new = {f"{_ALERTS}.heartbeat.{key}": host[key] for key in keys}
    return {**new, ALERT_HEARTBEAT_URL: "https://alerts.example.no:8443/ping"}


def _failing_over(*keys: str) -> dict[str, object]:
    """The regions the other way around, first the key that is edited."""
    new = {"from": "bergen", "to": "oslo"}
    return {f"mesh.services.cart.locality.failover.[0].{key}": new[key] for key in keys}


# By key: the stack and the new values, first that of the key itself.
SAMPLES: Mapping[str, tuple[str, Mapping[str, object]]] = {
    "machines.container": (
        "guests",
        {"machines.container": {"bridge": "nordmesh1", "subnet": "10.67.0.0/24"}},
    ),
    "machines.container.subnet": ("lab", {"machines.container.subnet": "10.66.0.0/23"}),
    "machines.kvm.image": ("guests", {"machines.kvm.image": _IMAGE}),
    "machines.kvm.image.path": (
        "guests",
        {"machines.kvm.image.path": "/srv/images/other.qcow2", "machines.kvm.image.url": REMOVED},
    ),
    "machines.kvm.image.sha256": ("guests", {"machines.kvm.image.sha256": "b" * 64}),
    "machines.hypervisors.*": ("guests", {"machines.hypervisors.hv-3": _HYPERVISOR}),
    "machines.hypervisors.*.address": (
        "guests",
        {"machines.hypervisors.hv-1.address": "192.0.2.4"},
    ),
    "machines.hypervisors.*.hostKey": ("guests", {"machines.hypervisors.hv-2.hostKey": _NEW_KEY}),
    "machines.hypervisors.*.hostKeyRotation.previous": (
        "guests",
        {"machines.hypervisors.hv-1.hostKeyRotation.previous": _NEW_KEY},
    ),
    "machines.hypervisors.*.network.subnet": (
        "guests",
        {"machines.hypervisors.hv-2.network.subnet": "198.51.100.0/25"},
    ),
    "machines.hypervisors.*.network.type": (
        "guests",
        {
            "machines.hypervisors.hv-1.network.type": "routed",
            "machines.hypervisors.hv-1.network.gateway": REMOVED,
        },
    ),
    "machines.ssh.bastion.address": ("bought", {"machines.ssh.bastion.address": "192.0.2.7"}),
    "machines.ssh.bastion.hostKey": ("bought", {"machines.ssh.bastion.hostKey": _NEW_KEY}),
    "machines.pools.*": (
        "bought",
        {
            "machines.pools.other": {"labels": {"tier": "bronze"}, "region": "oslo"},
            "machines.pools.planes": REMOVED,
            "machines.nodes.cp-1.pool": "other",
        },
    ),
    "machines.pools.*.taints.[].effect": (
        "bought",
        {"machines.pools.web.taints.[0].effect": "NoExecute"},
    ),
    "machines.pools.*.database.engine": (
        "bought",
        {"machines.pools.web.database.engine": "mariadb"},
    ),
    "machines.pools.*.bastion.address": (
        "bought",
        {"machines.pools.web.bastion.address": "192.0.2.8"},
    ),
    "machines.pools.*.bastion.hostKey": (
        "bought",
        {"machines.pools.web.bastion.hostKey": _NEW_KEY},
    ),
    "machines.pools.*.architecture": ("bought", {"machines.pools.web.architecture": "arm64"}),
    "machines.pools.*.image.url": ("guests", {"machines.pools.large.image": _IMAGE}),
    "machines.nodes.*.taints.[].effect": (
        "lab",
        {"machines.nodes.cp-1.taints.[0].effect": "NoSchedule"},
    ),
    "machines.nodes.*.provider": (
        "guests",
        {"machines.nodes.worker-1": _BOUGHT},
    ),
    "machines.nodes.*.role": (
        "lab",
        {
            "machines.nodes.worker-1.role": "control-plane",
            "machines.nodes.cp-1.role": "worker",
        },
    ),
    "machines.nodes.*.address": ("bought", {"machines.nodes.worker-1.address": "192.0.2.22"}),
    "machines.nodes.*.privateAddress": (
        "bought",
        {"machines.nodes.worker-1.privateAddress": "172.16.0.22"},
    ),
    "machines.nodes.*.database.engine": ("lab", {"machines.nodes.cp-1.database.engine": "mariadb"}),
    "machines.nodes.*.hostKey": ("bought", {"machines.nodes.cp-1.hostKey": _NEW_KEY}),
    "machines.nodes.*.hostKeyRotation.previous": (
        "bought",
        {"machines.nodes.worker-1.hostKeyRotation.previous": _NEW_KEY},
    ),
    "machines.nodes.*.bastion.address": (
        "bought",
        {"machines.nodes.worker-1.bastion.address": "192.0.2.8"},
    ),
    "machines.nodes.*.bastion.hostKey": (
        "bought",
        {"machines.nodes.worker-1.bastion.hostKey": _NEW_KEY},
    ),
    "machines.nodes.*.bastion.user": (
        "bought",
        {"machines.nodes.worker-1.bastion.user": "jump"},
    ),
    "machines.nodes.*.bastion.port": (
        "bought",
        {"machines.nodes.worker-1.bastion.port": 2222},
    ),
    "machines.nodes.*.architecture": (
        "bought",
        {"machines.nodes.worker-1.architecture": "arm64"},
    ),
    "machines.nodes.*.hypervisor": (
        "guests",
        {
            "machines.nodes.worker-1.hypervisor": "hv-1",
            "machines.nodes.worker-1.address": "192.0.2.32",
        },
    ),
    "machines.nodes.*.image.url": ("guests", {"machines.nodes.cp-1.image": _IMAGE}),
    "machines.nodes.*.gone": (
        "bought",
        {"machines.nodes.worker-2.gone": "its disk broke on 2026-11-30"},
    ),
    "host.firewall.enabled": ("guests", {"host": {"firewall": {"enabled": False}}}),
    "host.timeSync": ("bought", {"host.timeSync": False, "host.timeServers": REMOVED}),
    "artifacts.proxy.url": ("bought", {"artifacts.proxy.url": "http://192.0.2.82:3128"}),
    "artifacts.lock": ("bought", {"artifacts.lock": _OTHER_LOCK}),
    "kubernetes.version": ("bought", {"kubernetes.version": "1.23.16"}),
    "kubernetes.podCidr": ("bought", {"kubernetes.podCidr": "10.32.0.0/16"}),
    "kubernetes.serviceCidr": ("bought", {"kubernetes.serviceCidr": "10.112.0.0/12"}),
    "istio.version": ("bought", {"istio.version": "1.17.8"}),
    "istio.profile": ("bought", {"istio.profile": "demo"}),
    **dict.fromkeys(
        ("istio.ingressGateways", "istio.ingressGateways.*"),
        ("bought", {"istio.ingressGateways.third": {"ports": [{"name": "https", "port": 8444}]}}),
    ),
    "istio.ingressGateways.*.expose.type": (
        "bought",
        {
            "istio.ingressGateways.outer.expose.type": "NodePort",
            "istio.ingressGateways.outer.expose.addresses": REMOVED,
        },
    ),
    "istio.ingressGateways.*.expose.addresses": (
        "bought",
        {"istio.ingressGateways.outer.expose.addresses": ["192.0.2.91"]},
    ),
    "istio.egressGateways.*": ("bought", {"istio.egressGateways.other-egressgateway": {}}),
    "istio.outboundTrafficPolicy": ("lab", {"istio.outboundTrafficPolicy": "ALLOW_ANY"}),
    "istio.accessLog.target": ("bought", {"istio.accessLog.target": "stderr"}),
    "istio.tracing.collector": ("bought", {"istio.tracing.collector": "zipkin.monitoring:9411"}),
    "mesh.mtls": ("bought", {"mesh.mtls": "STRICT"}),
    "mesh.namespaces.*": ("bought", {"mesh.namespaces.other": {}}),
    "mesh.namespaces.*.injection": ("bought", {"mesh.namespaces.spare.injection": False}),
    "mesh.namespaces.*.podSecurity.level": (
        "bought",
        {
            "mesh.namespaces.agents.podSecurity.level": "restricted",
            "mesh.namespaces.agents.podSecurity.reason": REMOVED,
        },
    ),
    "mesh.namespaces.*.limitView": ("bought", {"mesh.namespaces.backend.limitView": True}),
    "mesh.services.*.service": ("bought", {"mesh.services.ledger.service": "accounts"}),
    "mesh.services.*.namespace": ("bought", {"mesh.services.search.namespace": "backend"}),
    "mesh.services.*.paths.[].cors.origins": (
        "bought",
        {"mesh.services.pages.paths.[0].cors.origins": ["https://www.example.com"]},
    ),
    "mesh.gateways.*.jwt.issuers": (
        "bought",
        {
            "mesh.gateways.public.jwt.issuers": [
                {
                    "issuer": "https://login.example.no",
                    "jwksUri": "https://login.example.no/jwks.json",
                    "audiences": ["shop"],
                }
            ]
        },
    ),
    "mesh.gateways.*.jwt.issuers.[].audiences": (
        "bought",
        {"mesh.gateways.public.jwt.issuers.[0].audiences": ["shop", "web"]},
    ),
    "mesh.gateways.*.jwt.issuers.[].jwksUri": (
        "bought",
        {"mesh.gateways.public.jwt.issuers.[0].jwksUri": "https://login.example.no/keys.json"},
    ),
    "mesh.gateways.*.jwt.issuers.[].jwks": (
        "bought",
        {"mesh.gateways.public.jwt.issuers.[1].jwks": '{"keys": [{"kty": "RSA", "n": "AQ"}]}'},
    ),
    "mesh.services.*.versions": ("bought", {"mesh.services.pages.versions": ["v3", "v4"]}),
    "mesh.services.*.ports": (
        "bought",
        {"mesh.services.ledger.ports": {"http": 8080, "admin": 9091}},
    ),
    "mesh.services.*.split": ("bought", {"mesh.services.ledger.split": "admin"}),
    "mesh.services.*.protocols": (
        "bought",
        {"mesh.services.ledger.protocols": {"admin": "tcp"}},
    ),
    "mesh.services.*.protocol": ("bought", {"mesh.services.search.protocol": "tcp"}),
    "mesh.services.*.hosts": (
        "bought",
        {"mesh.services.checkout.hosts": ["shop.example.com", "www.example.com"]},
    ),
    "mesh.services.*.testers.[].subset": (
        "bought",
        {"mesh.services.checkout.testers.[0].subset": "v1"},
    ),
    "mesh.services.*.mirror.subset": (
        "bought",
        {
            "mesh.services.checkout.mirror.subset": "v3",
            "mesh.services.checkout.canary.subset": "v3",
            "mesh.services.checkout.testers": REMOVED,
        },
    ),
    "mesh.services.*.affinity.cookie": (
        "bought",
        {"mesh.services.checkout.affinity": {"header": "x-user"}},
    ),
    "mesh.services.*.affinity.sourceIp": (
        "bought",
        {"mesh.services.catalog.affinity": {"header": "x-user"}},
    ),
    "mesh.services.*.locality.enabled": (
        "bought",
        {"mesh.services.checkout.locality": {"enabled": False}},
    ),
    "mesh.services.*.locality.distribute.[].from": (
        "bought",
        {"mesh.services.checkout.locality.distribute.[0].from": "bergen/*"},
    ),
    "mesh.services.*.locality.distribute.[].to": (
        "bought",
        {"mesh.services.checkout.locality.distribute.[0].to": {"oslo/*": 50, "bergen/*": 50}},
    ),
    # A locality must be one of the nodes', and those of the stack are in two regions.
    "mesh.services.*.locality.failover.[].from": ("bought", _failing_over("from", "to")),
    "mesh.services.*.locality.failover.[].to": ("bought", _failing_over("to", "from")),
    "mesh.services.*.callers.[].service": (
        "bought",
        {"mesh.services.checkout.callers.[0].service": "catalog"},
    ),
    "mesh.services.*.callers.[].gateway": (
        "bought",
        {
            "mesh.services.checkout.callers": [
                {"gateway": name} for name in ("istio-ingressgateway", "inner")
            ]
        },
    ),
    "mesh.egress.gateway": ("bought", {"mesh.egress.gateway": "spare-egressgateway"}),
    "mesh.egress.hosts.*.ports.[].protocol": (
        "bought",
        {"mesh.egress.hosts.ledger.ports.[0].protocol": "TLS"},
    ),
    "mesh.egress.hosts.*.country": ("bought", {"mesh.egress.hosts.bank.country": "SE"}),
    "mesh.egress.hosts.*.namespaces": (
        "bought",
        {"mesh.egress.hosts.bank.namespaces": ["backend", "shop"]},
    ),
    "mesh.egress.hosts.*.through": (
        "bought",
        {"mesh.egress.hosts.bank.through": "direct", "mesh.egress.hosts.bank.caSecret": REMOVED},
    ),
    "mesh.egress.hosts.*.tls": (
        "bought",
        {
            "mesh.egress.hosts.bank.tls": "passthrough",
            "mesh.egress.hosts.bank.caSecret": REMOVED,
        },
    ),
    "mesh.egress.hosts.*.addresses": (
        "bought",
        {"mesh.egress.hosts.ledger.addresses": ["203.0.113.51"]},
    ),
    "mesh.workloads.*.namespace": ("bought", {"mesh.workloads.cart-v1.namespace": "backend"}),
    "mesh.gateways.*": (
        "bought",
        {
            "mesh.gateways.other": {
                "ingressGateway": "inner",
                "hosts": ["a.example.com"],
                "httpPort": 8443,
            }
        },
    ),
    "mesh.gateways.*.ingressGateway": (
        "bought",
        {
            "mesh.gateways.public.ingressGateway": "inner",
            "mesh.services.checkout.callers.[2].gateway": "inner",
            "mesh.gateways.public.httpPort": 8443,
            "mesh.gateways.public.httpsPort": REMOVED,
            "mesh.gateways.public.tls": REMOVED,
        },
    ),
    "mesh.gateways.*.namespace": ("lab", {"mesh.gateways.web.namespace": "shop"}),
    "mesh.gateways.*.hosts": (
        "bought",
        {
            "mesh.gateways.public.hosts": ["shop.example.com", "pages.example.com"],
            "mesh.gateways.public.anyHost": REMOVED,
        },
    ),
    "mesh.gateways.*.httpPort": ("bought", {"mesh.gateways.public.httpPort": 8081}),
    "mesh.gateways.*.httpsPort": ("bought", {"mesh.gateways.public.httpsPort": 8081}),
    "mesh.gateways.*.tls.mode": ("bought", {"mesh.gateways.public.tls.mode": "MUTUAL"}),
    "mesh.gateways.*.tls.httpsRedirect": (
        "bought",
        {
            "mesh.gateways.public.tls.httpsRedirect": False,
            "mesh.gateways.public.tls.acme": REMOVED,
        },
    ),
    "mesh.gateways.*.tls.plainHttp": (
        "bought",
        {
            "mesh.gateways.public.tls.plainHttp": True,
            "mesh.gateways.public.tls.httpsRedirect": False,
            "mesh.gateways.public.tls.acme": REMOVED,
        },
    ),
    "observability.prometheus.enabled": (
        "lab",
        {"observability": {"prometheus": {"enabled": True}}},
    ),
    "observability.alertmanager.enabled": (
        "lab",
        {
            "observability": {
                "prometheus": {"enabled": True},
                "alertmanager": {
                    "enabled": True,
                    "webhook": {"host": "receiver.shop.svc.cluster.local"},
                },
            },
            ALERT_WEBHOOK_URL: "https://receiver.shop.svc.cluster.local/",
        },
    ),
    "demo.enabled": ("lab", {"demo.enabled": True}),
    "kubernetes.cgroupDriver": ("bought", {"kubernetes.cgroupDriver": "cgroupfs"}),
    "istio.egressGateways.*.ports": (
        "bought",
        {"istio.egressGateways.spare-egressgateway.ports": REMOVED},
    ),
    "istio.egressGateways.*.ports.[].targetPort": (
        "bought",
        {"istio.egressGateways.spare-egressgateway.ports.[2].targetPort": 9445},
    ),
    "mesh.egress.hosts.*.ports": (
        "bought",
        {"mesh.egress.hosts.ledger.ports": [{"number": 5433, "protocol": "TCP"}]},
    ),
    "istio.allowUnsupported": ("lab", {"istio.allowUnsupported": "a trial of the next release"}),
    "observability.alertmanager.webhook": (
        "bought",
        {f"{_ALERTS}.webhook": REMOVED, ALERT_WEBHOOK_URL: REMOVED},
    ),
    "observability.alertmanager.webhook.host": ("bought", _hooked("host", "port")),
    "observability.alertmanager.webhook.port": ("bought", _hooked("port", "host")),
    "observability.alertmanager.heartbeat": (
        "bought",
        {f"{_ALERTS}.heartbeat": REMOVED, ALERT_HEARTBEAT_URL: REMOVED},
    ),
    "observability.alertmanager.heartbeat.host": ("bought", _beating("host", "port")),
    "observability.alertmanager.heartbeat.port": ("bought", _beating("port", "host")),
    "observability.alertmanager.email": (
        "bought",
        {f"{_ALERTS}.email": REMOVED, ALERT_SMTP_PASSWORD: REMOVED},
    ),
    "observability.alertmanager.email.to": (
        "bought",
        {f"{_ALERTS}.email.to": ["on-call@example.no", "deputy@example.no"]},
    ),
    "observability.alertmanager.email.sender": (
        "bought",
        {f"{_ALERTS}.email.sender": "cluster@example.no"},
    ),
    "observability.alertmanager.email.host": (
        "bought",
        {f"{_ALERTS}.email.host": "alerts.example.no", f"{_ALERTS}.email.port": 8443},
    ),
    "observability.alertmanager.email.port": (
        "bought",
        {f"{_ALERTS}.email.port": 8443, f"{_ALERTS}.email.host": "alerts.example.no"},
    ),
    "observability.alertmanager.email.username": (
        "bought",
        {f"{_ALERTS}.email.username": REMOVED, ALERT_SMTP_PASSWORD: REMOVED},
    ),
    # Without the provider, nobody can have a role by the names in its tokens.
    "access.oidc": ("bought", {"access.oidc": REMOVED, "access.roles": {}}),
    "access.oidc.usernamePrefix": ("bought", {"access.oidc.usernamePrefix": "staff:"}),
    "access.oidc.groupsPrefix": ("bought", {"access.oidc.groupsPrefix": "staff:"}),
    "access.oidc.signingAlgorithms": ("bought", {"access.oidc.signingAlgorithms": ["ES256"]}),
    **{
        f"access.roles.{role}.[].namespaces": (
            "bought",
            {f"access.roles.{role}.[0].namespaces": ["shop", "backend"]},
        )
        for role in ("viewer", "deployer", "operator")
    },
    "backup": ("bought", {"backup": REMOVED, BACKUP_SECRET_KEY: REMOVED}),
    "backup.every": ("bought", {"backup.every": "30m"}),
    "backup.keys": ("bought", {"backup.keys": [_AGE_KEY]}),
    "backup.s3": (
        "bought",
        {"backup.s3": REMOVED, "backup.directory": "/srv/backup", BACKUP_SECRET_KEY: REMOVED},
    ),
    "backup.s3.host": ("bought", {"backup.s3.host": "s3.bergen.example.no"}),
    "backup.s3.region": ("bought", {"backup.s3.region": "no-bergen-1"}),
    "backup.s3.bucket": ("bought", {"backup.s3.bucket": "other-snapshots"}),
    "backup.s3.accessKeyId": ("bought", {"backup.s3.accessKeyId": "another-writer"}),
    "backup.directory": ("lab", {"backup.directory": "/srv/other"}),
    "storage.local": ("bought", {"storage.local": REMOVED}),
    "storage.local.path": ("bought", {"storage.local.path": "/srv/volumes"}),
    "storage.local.reclaimPolicy": ("bought", {"storage.local.reclaimPolicy": "Retain"}),
    BACKUP_SECRET_KEY: ("bought", {BACKUP_SECRET_KEY: "another-secret-key"}),
    ALERT_WEBHOOK_URL: ("bought", {ALERT_WEBHOOK_URL: "https://alerts.example.no:8443/hooks/2"}),
    ALERT_HEARTBEAT_URL: ("bought", {ALERT_HEARTBEAT_URL: "https://heartbeat.example.no/ping/2"}),
    ALERT_SMTP_PASSWORD: ("bought", {ALERT_SMTP_PASSWORD: "another mail password"}),
    SSH_KEY: ("bought", {SSH_KEY: private_key(PUBLIC_KEY) + "\n"}),
    SSH_KEY_PASSWORD: ("bought", {SSH_KEY_PASSWORD: "passphrase", SSH_KEY: _LOCKED_KEY}),
}

# Keys of the models that no stack may set.
NEVER = {"istio.egressGateways.*.ports.[].nodePort"}


NO_SCRIPT = "no script"
"""What goes from the state with nothing to run: the machine stays as it is."""

_PROVIDER = "pulumi:providers:"


@dataclass(frozen=True, kw_only=True)
class Edit:
    """A valid stack with another value for one occurrence of a key, and required other edits."""

    key: str
    stack: str
    values: Values
    config: StackConfig


@dataclass(frozen=True, kw_only=True)
class Effect:
    """Effect of an edit. steps: (operation, kind or script, resource). refused: paths."""

    steps: Sequence[tuple[str, str, str]]
    refused: Sequence[str]

    @property
    def resources(self) -> set[str]:
        """Kinds of objects, and scripts, that change."""
        return {kind for _, kind, _ in self.steps} - {NO_SCRIPT}


class Edits:
    """Edits of all keys. project: a directory for the lock files of the stacks."""

    def __init__(self, project: Path) -> None:
        self._project = project
        self._unedited: dict[str, tuple[StackConfig, Recorder]] = {}
        (project / "stacks").mkdir()
        keys = [download.key for download in catalogue.all_downloads()]
        for file, digit in ((_LOCK, "0"), (_OTHER_LOCK, "1")):
            (project / file).write_text(json.dumps({"binaries": dict.fromkeys(keys, digit * 64)}))

    def of(self, key: str) -> Edit | None:
        """Return the first valid edit of a key that has an effect, or None."""
        for stack, new in self._candidates(key):
            values = deepcopy(STACKS[stack])
            for path, value in new.items():
                _put(values, tuple(path.split(".")), value)
            try:
                config = self._load(values)
            except ConfigError:
                continue
            if key in SECRETS or config != self._before(stack)[0]:
                return Edit(key=key, stack=stack, values=values, config=config)
        return None

    def effect(self, edit: Edit) -> Effect:
        """Return the effect of the edit on a stack in the state before it."""
        config, before = self._before(edit.stack)
        after = self._run(edit.values, edit.config)
        refused = {
            problem.key.removeprefix("nordmesh:")
            for name in edit.config.machines.nodes
            if name in config.machines.nodes
            for problem in immutable.judge(edit.config, name, immutable.facts(config, name))
        }
        return Effect(steps=sorted(_steps(before, after)), refused=sorted(refused))

    def unedited(self, stack: str) -> Recorder:
        """Return the resources of a stack as it is."""
        return self._before(stack)[1]

    def _candidates(self, key: str) -> Iterator[tuple[str, Mapping[str, object]]]:
        if key in SAMPLES:
            yield SAMPLES[key]
            return
        for stack, values in STACKS.items():
            for path, value in changed(values, key):
                yield stack, {".".join(path): value}

    def _before(self, stack: str) -> tuple[StackConfig, Recorder]:
        if stack not in self._unedited:
            config = self._load(STACKS[stack])
            self._unedited[stack] = config, self._run(STACKS[stack], config)
        return self._unedited[stack]

    def _load(self, values: Values) -> StackConfig:
        texts = {
            key: value if isinstance(value, str) else json.dumps(value)
            for key, value in values.items()
        }
        return load(texts, project_dir=self._project)

    def _run(self, values: Values, config: StackConfig) -> Recorder:
        recorded, _ = run(
            config,
            ssh_key=values.get(SSH_KEY, ""),
            ssh_key_password=values.get(SSH_KEY_PASSWORD),
            alert_secrets={key: values[key] for key in ALERT_SECRETS if key in values},
            backup_secret_key=values.get(BACKUP_SECRET_KEY),
            lock=catalogue.read_lock(self._project / config.artifacts.lock),
        )
        return recorded


def changed(values: Values, key: str) -> Iterator[tuple[KeyPath, object]]:
    """Yield the places of a key in a stack, with other values that may be valid there."""
    for path in _places(values, tuple(key.split("."))):
        for value in _others(_at(values, path)):
            yield path, value


def examples(key: str) -> Iterator[tuple[KeyPath, object]]:
    """Yield the places of a key in the stacks, with the values there."""
    for values in STACKS.values():
        for path in _places(values, tuple(key.split("."))):
            yield path, _at(values, path)


def with_value(values: Values, path: KeyPath, value: object) -> Values:
    """Return a stack with a value; sections above it that do not exist are made."""
    edited = deepcopy(values)
    parent: Any = edited
    for key in path[:-1]:
        is_item = isinstance(parent, list)
        parent = parent[int(key.strip("[]"))] if is_item else parent.setdefault(key, {})
    _put({"parent": parent}, ("parent", path[-1]), value)
    return edited


def _places(value: object, keys: Sequence[str]) -> Iterator[KeyPath]:
    """Return the paths in a value that match a pattern."""
    if not keys:
        yield ()
        return
    first, *rest = keys
    inner: dict[str, object] = {}
    if isinstance(value, dict):
        inner = value if first == ENTRY else {k: v for k, v in value.items() if k == first}
    elif isinstance(value, list) and first == ITEM:
        inner = {f"[{index}]": item for index, item in enumerate(value)}
    for key, below in inner.items():
        yield from ((key, *path) for path in _places(below, rest))


def _at(values: Any, path: KeyPath) -> Any:
    for key in path:
        values = values[int(key.strip("[]"))] if isinstance(values, list) else values[key]
    return values


def _put(values: Values, path: KeyPath, value: object) -> None:
    parent = _at(values, path[:-1])
    if value is REMOVED:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value


def _others(value: object) -> Iterator[object]:
    """Yield other values that may be valid instead of this one."""
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        yield from (value + 1, value * 2, value - 1)
    elif isinstance(value, str):
        amount = re.fullmatch(r"(\d+)([A-Za-z]*)", value)
        if amount:
            yield from (f"{int(amount[1]) * 2}{amount[2]}", f"{int(amount[1]) + 1}{amount[2]}")
        yield from (f"{value}-b", f"{value}b")
    yield REMOVED


def _steps(before: Recorder, after: Recorder) -> Iterator[tuple[str, str, str]]:
    for key in before.resources.keys() | after.resources.keys():
        kind, name = key
        if kind.startswith(("nordmesh:", "pulumi:")) and not kind.startswith(_PROVIDER):
            continue
        old, new = (
            recorder.resources[key].inputs if key in recorder.resources else None
            for recorder in (before, after)
        )
        if old == new:
            continue
        operation = "create" if old is None else "delete" if new is None else "update"
        yield operation, kind_of(kind, (old if new is None else new) or {}, operation), name


def kind_of(kind: str, inputs: Mapping[str, Any], operation: str) -> str:
    """Return the kind of an object, or the script that an operation runs.

    Of a provider, its whole type, as a preview shows it.
    """
    if kind.startswith(_PROVIDER):
        return kind
    if kind.startswith("command:remote:"):
        commands = {"delete": ["delete"], "update": ["update", "create"]}
        command = next(
            (inputs[name] for name in commands.get(operation, ["create"]) if inputs.get(name)), ""
        )
        return node_command.file(command) or NO_SCRIPT
    if kind.startswith("command:local:") and "environment" in inputs:
        return "container-delete.sh" if operation == "delete" else "container-create.sh"
    return kind.rpartition(":")[2]
