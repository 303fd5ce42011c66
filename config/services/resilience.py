"""How a service's pods are chosen and protected: load balancing, circuit breaking, locality."""

from typing import Literal

from pydantic import Field, model_validator

from config.base import Section
from config.scalars.durations import CookieTtl, Duration
from config.scalars.http import CookieName, HeaderName
from config.scalars.localities import Locality, Region
from config.scalars.names import LabelKey
from config.scalars.numbers import Count, EjectionShare, HealthShare, LocalityShare
from config.scalars.refused import Refused

LoadBalancer = Literal["LEAST_REQUEST", "ROUND_ROBIN", "RANDOM"]


class AffinityCookie(Section):
    """A cookie that the proxy sets, and by which it finds the same pod again."""

    name: CookieName = Field(description="the cookie's name", examples=["nordmesh-session"])
    ttl: CookieTtl = Field(
        default="0s", description="how long clients keep it; 0s is until the client is closed"
    )


class Affinity(Section):
    """What requests have in common that shall reach the same pod of a subset."""

    cookie: AffinityCookie | None = Field(default=None, description="a cookie that the proxy sets")
    header: HeaderName | None = Field(default=None, description="a header by name")
    source_ip: bool = Field(default=False, description="whether it is the client's address")

    @model_validator(mode="after")
    def _one_mark(self) -> "Affinity":
        marks = (self.cookie is not None, self.header is not None, self.source_ip)
        if sum(marks) != 1:
            raise Refused(
                f"{sum(marks) or 'none'} of cookie, header and sourceIp is here",
                "a request's pod follows from one mark of the request",
                "write one of cookie, header and sourceIp: true",
            )
        return self


class TcpPool(Section):
    """Limits of connections, of each proxy to each subset."""

    max_connections: Count | None = Field(
        default=None, description="how many connections may be open"
    )
    connect_timeout: Duration | None = Field(
        default=None, description="how long a connection may take to be made"
    )


class HttpPool(Section):
    """Limits of requests, of each proxy to each subset."""

    http1_max_pending_requests: Count | None = Field(
        default=None,
        alias="http1MaxPendingRequests",
        description="how many requests may wait for a connection",
    )
    http2_max_requests: Count | None = Field(
        default=None,
        alias="http2MaxRequests",
        description="how many requests may be under way, in HTTP/1 and HTTP/2 alike",
    )
    max_requests_per_connection: Count | None = Field(
        default=None, description="how many requests a connection carries before it is closed"
    )
    max_retries: Count | None = Field(default=None, description="how many retries may be under way")
    idle_timeout: Duration | None = Field(
        default=None, description="how long a connection without requests stays open"
    )


class ConnectionPool(Section):
    """The circuit breaker: what is above these limits is answered with 503 at once."""

    tcp: TcpPool | None = Field(default=None, description="limits of connections")
    http: HttpPool | None = Field(default=None, description="limits of requests")

    @model_validator(mode="after")
    def _some_limit(self) -> "ConnectionPool":
        if not any(pool and pool.model_dump(exclude_none=True) for pool in (self.tcp, self.http)):
            raise Refused(
                "there is no limit here",
                "a circuit breaker without limits never opens",
                "write such as http: {http1MaxPendingRequests: 100}, or remove connectionPool",
            )
        return self


class OutlierDetection(Section):
    """When a failing pod is left out for a while; the defaults differ from Istio's where said."""

    consecutive_5xx_errors: Count = Field(
        default=5,
        alias="consecutive5xxErrors",
        description="how many errors in a row, connection failures included, take a pod out",
    )
    consecutive_gateway_errors: Count | None = Field(
        default=None, description="how many of 502, 503 and 504 in a row take a pod out"
    )
    interval: Duration = Field(default="10s", description="how often pods are looked at")
    base_ejection_time: Duration = Field(
        default="30s", description="how long a pod is out the first time; longer each time"
    )
    max_ejection_percent: EjectionShare = Field(
        default=50,
        description="how many of 100 pods may be out; of Istio's 10 nothing is left at few pods",
    )
    min_health_percent: HealthShare = Field(
        default=1,
        description="below how many healthy of 100 pods all are asked again; at Istio's 0 requests "
        "fail when every pod is out",
    )

    @model_validator(mode="after")
    def _can_eject(self) -> "OutlierDetection":
        if self.max_ejection_percent + self.min_health_percent > 101:
            raise Refused(
                f"maxEjectionPercent {self.max_ejection_percent} and minHealthPercent "
                f"{self.min_health_percent} contradict each other",
                "detection stops below minHealthPercent, so that many pods can never be out",
                f"write maxEjectionPercent: {max(1, 100 - self.min_health_percent)} or less",
            )
        return self


class Distribute(Section):
    """Where the requests that come from one locality go."""

    source: Locality = Field(
        alias="from", description="where the requests come from", examples=["oslo/*"]
    )
    to: dict[Locality, LocalityShare] = Field(
        description="percent of the requests by locality; they add to 100",
        examples=[{"oslo/*": 80, "bergen/*": 20}],
    )

    @model_validator(mode="after")
    def _adds_to_100(self) -> "Distribute":
        total = sum(self.to.values())
        if total != 100:
            raise Refused(
                f"the shares from {self.source} add to {total}",
                "Istio refuses a distribution that does not add to 100",
                "write shares that add to 100",
            )
        return self


class Failover(Section):
    """Which region stands in for another whose pods fail."""

    source: Region = Field(alias="from", description="the region that fails", examples=["oslo"])
    to: Region = Field(description="the region that stands in for it", examples=["bergen"])

    @model_validator(mode="after")
    def _elsewhere(self) -> "Failover":
        if self.source == self.to:
            raise Refused(
                f"{self.to} is to stand in for itself",
                "Istio refuses it: when its pods fail there is nobody else",
                "write another region at to, or remove this entry",
            )
        return self


class LocalitySettings(Section):
    """Which of the pods are near, by the nodes' topology labels; one of three ways, or off."""

    enabled: bool = Field(
        default=True, description="whether pods near the caller are preferred at all"
    )
    distribute: list[Distribute] = Field(
        default=[], description="shares of the requests by locality"
    )
    failover: list[Failover] = Field(
        default=[], description="which region stands in for which, when its pods fail"
    )
    failover_priority: list[LabelKey] = Field(
        default=[], description="labels by which pods like the caller's come first"
    )

    @model_validator(mode="after")
    def _one_way(self) -> "LocalitySettings":
        ways = {
            "distribute": self.distribute,
            "failover": self.failover,
            "failoverPriority": self.failover_priority,
        }
        given = [name for name, value in ways.items() if value]
        if len(given) > 1:
            raise Refused(
                f"{' and '.join(given)} are here",
                "Istio takes one way of looking at localities for a service",
                "write one of distribute, failover and failoverPriority",
            )
        if given and not self.enabled:
            raise Refused(
                f"enabled is false, and {given[0]} is here",
                "it would have no effect",
                f"write enabled: true, or remove {given[0]}",
            )
        return self
