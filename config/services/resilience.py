"""How a service's pods are selected and protected: load balancing, circuit breaking, locality."""

from typing import ClassVar, Literal

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
    """A cookie that the proxy sets to select the same pod again."""

    name: CookieName = Field(description="the cookie's name", examples=["nordmesh-session"])
    ttl: CookieTtl = Field(
        default="0s", description="how long clients keep it; 0s means until the client is closed"
    )


class Affinity(Section):
    """Session affinity: the request attribute that selects a pod of a subset."""

    example: ClassVar = {"header": "x-user"}

    cookie: AffinityCookie | None = Field(default=None, description="a cookie that the proxy sets")
    header: HeaderName | None = Field(default=None, description="the name of a header")
    source_ip: bool = Field(default=False, description="whether to use the client's address")

    @model_validator(mode="after")
    def _one_mark(self) -> "Affinity":
        marks = (self.cookie is not None, self.header is not None, self.source_ip)
        if sum(marks) != 1:
            raise Refused(
                "affinity-count",
                f"{sum(marks)} of cookie, header and sourceIp are set, not 1",
                "affinity uses one attribute of the request to select the pod",
                "set one of cookie, header and sourceIp: true",
            )
        return self


class TcpPool(Section):
    """Connection limits, for each proxy and subset."""

    example: ClassVar = {"maxConnections": 100}

    max_connections: Count | None = Field(
        default=None, description="the highest number of open connections"
    )
    connect_timeout: Duration | None = Field(
        default=None, description="how long it may take to open a connection"
    )


class HttpPool(Section):
    """Request limits, for each proxy and subset."""

    example: ClassVar = {"http1MaxPendingRequests": 100}

    http1_max_pending_requests: Count | None = Field(
        default=None,
        alias="http1MaxPendingRequests",
        description="the highest number of requests that wait for a connection",
    )
    http2_max_requests: Count | None = Field(
        default=None,
        alias="http2MaxRequests",
        description="the highest number of active requests, for both HTTP/1 and HTTP/2",
    )
    max_requests_per_connection: Count | None = Field(
        default=None, description="the number of requests after which a connection is closed"
    )
    max_retries: Count | None = Field(
        default=None, description="the highest number of active retries"
    )
    idle_timeout: Duration | None = Field(
        default=None, description="how long a connection without requests stays open"
    )


class ConnectionPool(Section):
    """The circuit breaker: requests above these limits get 503 immediately."""

    example: ClassVar = {"http": {"http1MaxPendingRequests": 100}}

    tcp: TcpPool | None = Field(default=None, description="connection limits")
    http: HttpPool | None = Field(default=None, description="request limits")

    @model_validator(mode="after")
    def _some_limit(self) -> "ConnectionPool":
        if not any(pool and pool.model_dump(exclude_none=True) for pool in (self.tcp, self.http)):
            raise Refused(
                "connection-pool-empty",
                "connectionPool sets no limit",
                "a circuit breaker without limits never opens",
                "set a limit, for example http: {http1MaxPendingRequests: 100}, or "
                "remove connectionPool: nothing is limited without it",
            )
        return self


class OutlierDetection(Section):
    """When a failing pod is ejected from load balancing; some defaults differ from Istio's."""

    consecutive_5xx_errors: Count = Field(
        default=5,
        alias="consecutive5xxErrors",
        description="the number of consecutive errors, including connection failures, that eject "
        "a pod",
    )
    consecutive_gateway_errors: Count | None = Field(
        default=None,
        description="the number of consecutive 502, 503 and 504 answers that eject a pod",
    )
    interval: Duration = Field(default="10s", description="how often pods are evaluated")
    base_ejection_time: Duration = Field(
        default="30s", description="how long a pod is ejected the first time; longer each time"
    )
    max_ejection_percent: EjectionShare = Field(
        default=50,
        description="the highest percentage of ejected pods; Istio's default of 10 ejects none "
        "of a few",
    )
    min_health_percent: HealthShare = Field(
        default=1,
        description="the percentage of healthy pods below which all pods get requests again; with "
        "Istio's default of 0, requests fail when every pod is ejected",
    )

    @model_validator(mode="after")
    def _can_eject(self) -> "OutlierDetection":
        if self.max_ejection_percent + self.min_health_percent > 101:
            raise Refused(
                "outlier-shares-conflict",
                f"maxEjectionPercent {self.max_ejection_percent} and minHealthPercent "
                f"{self.min_health_percent} contradict each other",
                "detection stops below minHealthPercent, so that many pods can never be ejected",
                f"set maxEjectionPercent: {max(1, 100 - self.min_health_percent)} or less",
            )
        return self


class Distribute(Section):
    """The distribution of the requests that come from one locality."""

    source: Locality = Field(
        alias="from", description="the locality that the requests come from", examples=["oslo/*"]
    )
    to: dict[Locality, LocalityShare] = Field(
        description="the percentage of requests for each locality; they add up to 100",
        examples=[{"oslo/*": 80, "bergen/*": 20}],
    )

    @model_validator(mode="after")
    def _adds_to_100(self) -> "Distribute":
        total = sum(self.to.values())
        if total != 100:
            raise Refused(
                "distribute-sum",
                f"the shares from {self.source} add up to {total}",
                "Istio refuses a distribution that does not add up to 100",
                "use shares that add up to 100",
            )
        return self


class Failover(Section):
    """The region that takes over when the pods of another region fail."""

    source: Region = Field(alias="from", description="the region that fails", examples=["oslo"])
    to: Region = Field(description="the region that takes over", examples=["bergen"])

    @model_validator(mode="after")
    def _elsewhere(self) -> "Failover":
        if self.source == self.to:
            raise Refused(
                "failover-same-region",
                f"{self.to} cannot fail over to itself",
                "Istio refuses it: when its pods fail, no other region takes over",
                "use another region for to, or remove this entry",
            )
        return self


class LocalitySettings(Section):
    """Which pods are preferred, by the nodes' topology labels: one of three ways, or off."""

    example: ClassVar = {"failoverPriority": ["topology.kubernetes.io/zone"]}

    enabled: bool = Field(
        default=True, description="whether pods close to the caller are preferred"
    )
    distribute: list[Distribute] = Field(
        default=[], description="the percentage of requests for each locality"
    )
    failover: list[Failover] = Field(
        default=[], description="which region takes over when the pods of another fail"
    )
    failover_priority: list[LabelKey] = Field(
        default=[], description="labels whose pods come first if they have the caller's values"
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
                "locality-ways-count",
                f"{' and '.join(given)} are set together",
                "Istio accepts only one locality setting for a service",
                "keep one of distribute, failover and failoverPriority",
            )
        if given and not self.enabled:
            raise Refused(
                "locality-disabled",
                f"enabled is false, but {given[0]} is set",
                "it would have no effect",
                f"set enabled: true, or remove {given[0]}",
            )
        return self
