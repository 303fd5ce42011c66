"""When the certificates of a cluster end: read through its API server, and shown.

A kubelet's end comes from its metrics, a control plane's from the report on its node. Only the
certificates of Secrets are kept, never a key.
"""

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import TYPE_CHECKING, Any

import yaml

from cli.output import print_table
from components import certificates
from components.gates import credentials, stats
from config import ROOT_NAMESPACE, StackConfig

if TYPE_CHECKING:
    from components.gates.api import Api

REVIEW_DAYS = 60
"""`nordmesh review` names a certificate from this many days before its end."""
PROBLEM_DAYS = 14
"""From here on, a certificate is a problem: whatever renews it has failed."""

_KUBELET_DAYS = 30  # a kubelet renews its certificate with 36 to 109 of 365 days left
_CHECKED_DAYS = 3  # the timer reports every night
_CLIENT_TTL = "kubelet_certificate_manager_client_ttl_seconds"
_RENEWED = "by a timer on its machine: see `journalctl -u nordmesh-certificates` there"


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """name: what it is for. owner: its node or namespace. renewed: by what; see docs."""

    name: str
    owner: str
    ends: datetime
    renewed: str
    review_days: int = REVIEW_DAYS

    def ends_within(self, days: int, now: datetime) -> bool:
        return self.ends - now < timedelta(days=days)

    @property
    def text(self) -> str:
        return f"{self.name} of {self.owner}"


@dataclass(frozen=True, kw_only=True)
class Certificates:
    """read: the certificates, the first end first. unread: what is not known, one sentence each."""

    read: Sequence[Certificate]
    unread: Sequence[str]

    def problems(self, now: datetime) -> Iterator[str]:
        """The certificates that end soon or have ended, and what is not known."""
        for one in self.read:
            if one.ends_within(PROBLEM_DAYS, now):
                yield f"the certificate {one.text} {ends(one, now)}; it is renewed {one.renewed}"
        yield from self.unread

    def soon(self, now: datetime) -> list[Certificate]:
        """The certificates that a review names."""
        return [one for one in self.read if one.ends_within(one.review_days, now)]


def read(
    api: "Api", config: StackConfig, kubeconfig: str, nodes: Sequence[Mapping[str, Any]]
) -> Certificates:
    """Read all certificates of a cluster. kubeconfig: the stack's output."""
    from components.gates.api import REPORT_SECONDS

    now = datetime.now(UTC)
    found, unread = list(of_kubeconfig(kubeconfig)), list[str]()
    for node in nodes:
        if "node-role.kubernetes.io/control-plane" in (node["metadata"].get("labels") or {}):
            found += _of_control_plane(node)
            unread += _not_reported(node, now)
    names = [str(node["metadata"]["name"]) for node in nodes]
    paths = {name: f"/api/v1/nodes/{name}/proxy/metrics" for name in names}
    metrics = api.texts(paths, limit=REPORT_SECONDS)
    for name in names:
        kubelet = [] if name not in metrics else list(_of_kubelet(name, metrics[name], now))
        found += kubelet
        if not kubelet:
            unread.append(f"the kubelet of {name} does not report when its certificate ends")
    if config.istio is not None:
        found += _of_istio(api)
        found += _of_secrets(api, credentials.needs(config.mesh))
    return Certificates(read=sorted(found, key=lambda one: (one.ends, one.text)), unread=unread)


def of_kubeconfig(text: str) -> Iterator[Certificate]:
    """The administrator's certificate in a kubeconfig."""
    data = yaml.safe_load(text)["users"][0]["user"]["client-certificate-data"]
    for end in _ends(base64.b64decode(data)):
        renewed = "by `pulumi up`: run it, as a preview shows"
        yield Certificate(name="kubeconfig", owner="the stack", ends=end, renewed=renewed)


def show(found: Certificates, now: datetime) -> None:
    """Print a table; the certificates of one node that end on one day share a row."""
    rows = []
    for (owner, day, kind), group in groupby(
        sorted(found.read, key=lambda one: (one.ends.date(), one.owner, one.renewed, one.name)),
        key=lambda one: (one.owner, one.ends.date(), one.renewed),
    ):
        together = list(group)
        names = ", ".join(one.name for one in together)
        left = min(one.ends for one in together) - now
        rows.append((names, owner, str(day), str(left.days), kind.partition(":")[0]))
    print_table(("Certificate", "Of", "Ends", "Days", "Renewed"), rows)


def ends(one: Certificate, now: datetime) -> str:
    """When a certificate ends, in words."""
    if one.ends <= now:
        return f"ended on {one.ends:%Y-%m-%d}"
    return f"ends on {one.ends:%Y-%m-%d}, in {(one.ends - now).days} days"


def _of_control_plane(node: Mapping[str, Any]) -> Iterator[Certificate]:
    if report := certificates.report(node):
        for name, end in report.ends.items():
            is_authority = name in certificates.AUTHORITIES
            yield Certificate(
                name=name,
                owner=str(node["metadata"]["name"]),
                ends=end,
                renewed="by nobody: see docs/certificates.md" if is_authority else _RENEWED,
            )


def _not_reported(node: Mapping[str, Any], now: datetime) -> Iterator[str]:
    name, report = node["metadata"]["name"], certificates.report(node)
    see = f"see `journalctl -u nordmesh-certificates` on {name}"
    if report is None:
        yield f"{name} has not reported its certificates yet; {see}"
    elif now - report.checked > timedelta(days=_CHECKED_DAYS):
        yield f"{name} last checked its certificates on {report.checked:%Y-%m-%d}; {see}"


def _of_kubelet(node: str, metrics: str, now: datetime) -> Iterator[Certificate]:
    for sample in stats.parse(metrics):
        if sample.name == _CLIENT_TTL:
            yield Certificate(
                name="kubelet",
                owner=node,
                ends=(now + timedelta(seconds=sample.value)).replace(microsecond=0),
                renewed="by the kubelet: see `journalctl -u kubelet` there",
                review_days=_KUBELET_DAYS,
            )


def _of_istio(api: "Api") -> Iterator[Certificate]:
    texts = (
        ("root", "configmaps", "istio-ca-root-cert", "root-cert.pem"),
        ("intermediate", "secrets", "cacerts", "ca-cert.pem"),
    )
    for name, kind, of, key in texts:
        for value in _values(api, kind, ROOT_NAMESPACE, of, (key,)):
            pem = value.encode() if kind == "configmaps" else base64.b64decode(value)
            for end in _ends(pem):
                renewed = "by its owner" if name == "intermediate" else "by istiod"
                yield Certificate(name=f"Istio {name}", owner="the mesh", ends=end, renewed=renewed)


def _of_secrets(api: "Api", needs: Iterable[credentials.Need]) -> Iterator[Certificate]:
    for namespace, name in dict.fromkeys((need.namespace, need.name) for need in needs):
        for value in _values(api, "secrets", namespace, name, ("tls.crt", "cert", "ca.crt")):
            for end in _ends(base64.b64decode(value)):
                yield Certificate(
                    name=f"Secret {name}", owner=namespace, ends=end, renewed="by its owner"
                )


def _values(api: "Api", kind: str, namespace: str, name: str, keys: Sequence[str]) -> Iterator[str]:
    path = f"/api/v1/namespaces/{namespace}/{kind}"
    for item in api.items(path, fieldSelector=f"metadata.name={name}"):
        data = item.get("data") or {}
        yield from (data[key] for key in keys if data.get(key))


def _ends(pem: bytes) -> Iterator[datetime]:
    """The first end among the certificates of a text; a chain is valid until then."""
    from cryptography import x509  # 0.1 s, which no other command needs

    try:
        chain = x509.load_pem_x509_certificates(pem)
    except ValueError:
        return
    yield min(one.not_valid_after_utc for one in chain)
