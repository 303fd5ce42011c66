"""Who of a service's clients gets which version, and what happens to requests on the way."""

from typing import Annotated

from pydantic import Field, model_validator

from config.base import Section
from config.scalars.durations import Duration
from config.scalars.http import (
    CookieName,
    CookieValue,
    HeaderName,
    MatchText,
    Path,
    PathPattern,
    PathPrefix,
    Pattern,
    RetryOn,
)
from config.scalars.names import Label
from config.scalars.numbers import Attempts, ErrorStatus, RequestShare
from config.scalars.refused import Refused
from config.scalars.texts import reason

FaultReason = Annotated[
    str, reason("whoever reviews this must learn why requests are to fail; each preview shows it")
]

# Istio's own, in pilot/pkg/networking/core/v1alpha3/route/retry.
DEFAULT_RETRY_ON = "connect-failure,refused-stream,unavailable,cancelled,503"


def _one_of_three(match: "HeaderMatch | UriMatch") -> None:
    given = [name for name in ("exact", "prefix", "regex") if getattr(match, name) is not None]
    if len(given) != 1:
        raise Refused(
            f"{' and '.join(given)} are here" if given else "there is no text to match",
            "a text is matched in one way: as a whole, by its beginning or by a pattern",
            "write one of exact, prefix and regex",
        )


class HeaderMatch(Section):
    """A header that testers send."""

    name: HeaderName = Field(description="the header's name", examples=["x-tester"])
    exact: MatchText | None = Field(default=None, description="the header's whole value")
    prefix: MatchText | None = Field(default=None, description="how the header's value begins")
    regex: Pattern | None = Field(
        default=None, description="a pattern (RE2) of the header's whole value"
    )

    @model_validator(mode="after")
    def _one_way(self) -> "HeaderMatch":
        _one_of_three(self)
        return self


class UriMatch(Section):
    """A path that testers ask for."""

    exact: Path | None = Field(default=None, description="the whole path")
    prefix: PathPrefix | None = Field(default=None, description="how the path begins")
    regex: PathPattern | None = Field(default=None, description="a pattern (RE2) of the whole path")

    @model_validator(mode="after")
    def _one_way(self) -> "UriMatch":
        _one_of_three(self)
        return self


class CookieMatch(Section):
    """A cookie that testers have."""

    name: CookieName = Field(description="the cookie's name", examples=["tester"])
    value: CookieValue = Field(description="the cookie's value", examples=["yes"])


class Testers(Section):
    """Requests that get one subset whatever the weight; all conditions given must hold."""

    header: HeaderMatch | None = Field(default=None, description="a header that they send")
    cookie: CookieMatch | None = Field(default=None, description="a cookie that they have")
    uri: UriMatch | None = Field(default=None, description="a path that they ask for")
    subset: Label = Field(description="the version label that they get", examples=["v2"])

    @model_validator(mode="after")
    def _told_by_something(self) -> "Testers":
        if self.header is None and self.cookie is None and self.uri is None:
            raise Refused(
                "nothing says who the testers are",
                f"every request would go to {self.subset}, whatever the weight",
                "write header, cookie or uri; to move everybody, write the canary's weight",
            )
        if self.cookie is not None and self.header is not None and self.header.name == "cookie":
            raise Refused(
                "cookie and the header cookie are both here",
                "cookies are sent in that header, and a header is matched once",
                "remove one of them",
            )
        return self


class Mirror(Section):
    """Copies of requests for the version on trial; their answers are thrown away."""

    subset: Label = Field(description="the version label that gets copies", examples=["v2"])
    percent: RequestShare = Field(
        default=100.0, description="how many of 100 requests are copied; fractions are allowed"
    )


class Retries(Section):
    """How often, and when, a failed request is sent again by the caller's proxy."""

    attempts: Attempts = Field(
        default=2, description="how often a request is sent again at most; 0 switches retries off"
    )
    per_try_timeout: Duration | None = Field(
        default=None, description="how long one try may take; the service's timeout spans them all"
    )
    retry_on: RetryOn = Field(
        default=DEFAULT_RETRY_ON, description="what is retried, with commas between"
    )


class Delay(Section):
    """A wait put before some requests."""

    percent: RequestShare = Field(description="how many of 100 requests wait", examples=[10])
    fixed_delay: Duration = Field(description="how long they wait", examples=["2s"])


class Abort(Section):
    """An error in place of some answers."""

    percent: RequestShare = Field(description="how many of 100 requests fail", examples=[10])
    http_status: ErrorStatus = Field(description="the status that they get", examples=[503])


class FaultInjection(Section):
    """Faults made on purpose, to see what callers do; every preview tells of them."""

    reason: FaultReason = Field(
        description="why requests are made to fail", examples=["drill of 2027-01, ends at noon"]
    )
    delay: Delay | None = Field(default=None, description="a wait put before some requests")
    abort: Abort | None = Field(default=None, description="an error in place of some answers")

    @model_validator(mode="after")
    def _some_fault(self) -> "FaultInjection":
        if self.delay is None and self.abort is None:
            raise Refused(
                "there is no fault here",
                "without delay and abort nothing would be injected",
                "write delay, abort or both, or remove fault",
            )
        return self
