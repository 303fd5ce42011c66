"""The Secrets that gateways read: without one, a gateway resets every TLS connection."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from config import ROOT_NAMESPACE, Mesh
from config.errors import NAMESPACE

if TYPE_CHECKING:
    from components.gates.api import Api

# The keys of a Secret that Istio reads, each with its older name.
_CERTIFICATE = (("tls.crt", "cert"), ("tls.key", "key"))
_CA = ("ca.crt", "cacert")


@dataclass(frozen=True, kw_only=True)
class Need:
    """A Secret that a gateway reads. path: its key in the stack file. keys: names of each key.

    The CA of clients may also be in the Secret <name>-cacert. effect: without it.
    """

    path: str
    namespace: str
    name: str
    keys: Sequence[tuple[str, str]]
    effect: str


def needs(mesh: Mesh) -> Iterator[Need]:
    """The Secrets of all gateways of the stack file."""
    for name, gateway in mesh.gateways.items():
        if gateway.tls is not None and gateway.tls.secret is not None:
            yield Need(
                path=f"{NAMESPACE}:mesh.gateways.{name}.tls.secret",
                namespace=gateway.namespace,
                name=gateway.tls.secret,
                keys=[*_CERTIFICATE, *([_CA] if gateway.tls.mode == "MUTUAL" else [])],
                effect="the gateway resets every TLS connection for its hosts",
            )
    for name, host in mesh.egress.hosts.items():
        if host.ca_secret is not None:
            yield Need(
                path=f"{NAMESPACE}:mesh.egress.hosts.{name}.caSecret",
                namespace=ROOT_NAMESPACE,
                name=host.ca_secret,
                keys=[_CA],
                effect="the egress gateway cannot verify the host, and every call to it gets 503",
            )


def missing(api: "Api", wanted: Sequence[Need]) -> list[str]:
    """What is missing in the cluster, one sentence each."""
    return [line for need in wanted if (line := _missing(api, need)) is not None]


def _missing(api: "Api", need: Need) -> str | None:
    secrets = _secrets(api, need.name)
    place = f"the Secret {need.namespace}/{need.name}"
    if need.namespace not in secrets:
        others = f"; it is in {', '.join(sorted(secrets))}, which the gateway does not read"
        what = f"{place} does not exist{others if secrets else ''}"
    else:
        has = secrets[need.namespace]
        if not any(name in has for name in _CA):
            has = has | _secrets(api, f"{need.name}-cacert").get(need.namespace, set())
        lacks = [names[0] for names in need.keys if not has.intersection(names)]
        if not lacks:
            return None
        what = f"{place} has no {' and no '.join(lacks)}"
    return f"{need.path}: {what}: {need.effect}"


def _secrets(api: "Api", name: str) -> dict[str, set[str]]:
    """The keys with a value of the Secrets of a name, by namespace."""
    items = api.items("/api/v1/secrets", fieldSelector=f"metadata.name={name}")
    return {item["metadata"]["namespace"]: _keys(item.get("data") or {}) for item in items}


def _keys(data: Mapping[str, Any]) -> set[str]:
    return {key for key, value in data.items() if value}
