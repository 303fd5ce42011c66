"""Which version a client gets, and how requests are mirrored, retried and failed on purpose."""

from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from config.base import Section
from config.scalars.durations import Duration
from config.scalars.http import (
    CookieName,
    CookieValue,
    HeaderName,
    MatchText,
    Path,
    PathPrefix,
    RetryOn,
)
from config.scalars.names import Version
from config.scalars.numbers import Attempts, ErrorStatus, RequestShare
from config.scalars.patterns import PathPattern, Pattern
from config.scalars.refused import Refused
from config.scalars.texts import reason

FaultReason = Annotated[
    str,
    reason(
        "fault-reason",
        "reviewers must learn why requests should fail; every preview shows the reason",
    ),
]

# Istio's default, in pilot/pkg/networking/core/v1alpha3/route/retry.
DEFAULT_RETRY_ON = "connect-failure,refused-stream,unavailable,cancelled,503"


def _one_of_three(match: "HeaderMatch | UriMatch") -> None:
    given = [name for name in ("exact", "prefix", "regex") if getattr(match, name) is not None]
    if len(given) != 1:
        raise Refused(
            "match-count",
            f"{' and '.join(given)} are set together" if given else "there is no text to match",
            "a text matches in one way: exactly, by its prefix, or by a pattern",
            "set one of exact, prefix and regex",
        )


class HeaderMatch(Section):
    """A header that testers send."""

    example: ClassVar = {"name": "x-tester", "exact": "beta"}

    name: HeaderName = Field(description="the header's name", examples=["x-tester"])
    exact: MatchText | None = Field(default=None, description="the header's whole value")
    prefix: MatchText | None = Field(
        default=None, description="the beginning of the header's value"
    )
    regex: Pattern | None = Field(
        default=None, description="a pattern (RE2) of the header's whole value"
    )

    @model_validator(mode="after")
    def _one_way(self) -> "HeaderMatch":
        _one_of_three(self)
        return self


class UriMatch(Section):
    """A path that testers request."""

    example: ClassVar = {"prefix": "/beta"}

    exact: Path | None = Field(default=None, description="the whole path")
    prefix: PathPrefix | None = Field(default=None, description="the beginning of the path")
    regex: PathPattern | None = Field(default=None, description="a pattern (RE2) of the whole path")

    @model_validator(mode="after")
    def _one_way(self) -> "UriMatch":
        _one_of_three(self)
        return self


class CookieMatch(Section):
    """A cookie that testers have."""

    name: CookieName = Field(description="the cookie's name", examples=["tester"])
    value: CookieValue = Field(description="the cookie's value", examples=["yes"])


class Delay(Section):
    """A delay before some requests."""

    percent: RequestShare = Field(
        description="the percentage of requests that are delayed", examples=[10]
    )
    fixed_delay: Duration = Field(description="how long they are delayed", examples=["2s"])


class Abort(Section):
    """An error instead of some answers."""

    percent: RequestShare = Field(description="the percentage of requests that fail", examples=[10])
    http_status: ErrorStatus = Field(description="the status of their answer", examples=[503])


class FaultInjection(Section):
    """Faults that are injected on purpose, to test callers; every preview reports them."""

    reason: FaultReason = Field(
        description="why requests should fail", examples=["drill of 2027-01, ends at noon"]
    )
    delay: Delay | None = Field(default=None, description="a delay before some requests")
    abort: Abort | None = Field(default=None, description="an error instead of some answers")

    @model_validator(mode="after")
    def _some_fault(self) -> "FaultInjection":
        if self.delay is None and self.abort is None:
            raise Refused(
                "fault-empty",
                "fault injects nothing",
                "neither delay nor abort is set",
                "set delay, abort or both, or remove fault",
            )
        return self


class Testers(Section):
    """Requests that get one subset, whatever the weight; they must meet all conditions."""

    example: ClassVar = {"subset": "v2", "header": {"name": "x-tester", "exact": "beta"}}

    header: HeaderMatch | None = Field(default=None, description="a header that they send")
    cookie: CookieMatch | None = Field(default=None, description="a cookie that they have")
    uri: UriMatch | None = Field(default=None, description="a path that they request")
    subset: Version = Field(description="the version that they get", examples=["v2"])
    fault: FaultInjection | None = Field(
        default=None,
        description="faults that are injected into their requests only, instead of the service's",
    )

    @model_validator(mode="after")
    def _has_condition(self) -> "Testers":
        if self.header is None and self.cookie is None and self.uri is None:
            raise Refused(
                "testers-condition-missing",
                "the testers have no condition",
                f"every request would go to {self.subset}, whatever the weight",
                "set header, cookie or uri; to move all users, use the canary's weight",
            )
        if self.cookie is not None and self.header is not None and self.header.name == "cookie":
            raise Refused(
                "testers-cookie-twice",
                "both cookie and the header cookie are set",
                "cookies are sent in that header, and a header can be matched only once",
                "remove one of them",
            )
        return self


class Mirror(Section):
    """Copies of requests for the canary; the answers are discarded."""

    subset: Version = Field(description="the version that gets copies", examples=["v2"])
    percent: RequestShare = Field(
        default=100.0,
        description="the percentage of requests that are copied; fractions are allowed",
    )


class Retries(Section):
    """When, and how often, the caller's proxy retries a failed request."""

    attempts: Attempts = Field(
        default=2, description="the highest number of retries; 0 disables them"
    )
    per_try_timeout: Duration | None = Field(
        default=None,
        description="how long one try may take; the service's timeout covers all tries",
    )
    retry_on: RetryOn = Field(
        default=DEFAULT_RETRY_ON, description="the conditions to retry on, separated by commas"
    )
