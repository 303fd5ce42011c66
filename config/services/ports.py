"""The ports of a service: their names in the Service, numbers and protocols."""

from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator

from config.scalars.names import Label
from config.scalars.numbers import Port
from config.scalars.refused import Refused

Protocol = Literal["http", "grpc", "tcp"]

# Istio 1.16, pkg/config/protocol: a port's name begins with its protocol, up to a hyphen.
_BY_PREFIX: dict[str, Protocol] = {
    "http": "http",
    "http2": "http",
    "grpc": "grpc",
    "https": "tcp",
    "mongo": "tcp",
    "mysql": "tcp",
    "redis": "tcp",
    "tcp": "tcp",
    "tls": "tcp",
}


class ServicePort(NamedTuple):
    """A port of a Service. name: as in `ports`; None for the only `port`."""

    name: str | None
    number: int
    protocol: Protocol

    @property
    def has_requests(self) -> bool:
        """Whether proxies see requests on it, and not only connections."""
        return self.protocol != "tcp"


def protocol_of(name: str, default: Protocol) -> Protocol:
    """The protocol that a port's name in the Service declares; default if it declares none."""
    return _BY_PREFIX.get(name.partition("-")[0], default)


def _each_once(ports: dict[str, int]) -> dict[str, int]:
    names: dict[int, str] = {}
    for name, number in sorted(ports.items()):
        other = names.setdefault(number, name)
        if other != name:
            raise Refused(
                "service-port-duplicate",
                f"{other} and {name} are both port {number}",
                "a Service has each port once, and a request to it has one route",
                f"remove one of them, or use the port that the Service has for {name}",
            )
    return ports


PortNames = Annotated[dict[Label, Port], AfterValidator(_each_once)]
