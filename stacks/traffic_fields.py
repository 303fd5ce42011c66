"""Scalar types of routes, gateways and resilience; each refuses with what, why and the remedy."""

import math
import re
from collections.abc import Callable
from decimal import Decimal
from difflib import get_close_matches
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

from stacks.fields import Refused

# --- numbers -------------------------------------------------------------------------------------


def _whole(low: int, high: int | None, why: str, example: int) -> Callable[[Any], Any]:
    """Takes whole numbers in a range, also as text, which is what `pulumi config set` writes."""
    span = f"from {low} to {high}" if high is not None else f"from {low}"

    def check(value: Any) -> int:
        number = value
        if isinstance(value, str) and re.fullmatch(r"-?\d+", value.strip()):
            number = int(value)
        instead = f"write a whole number {span}, such as {example}"
        if not isinstance(number, int) or isinstance(number, bool):
            raise Refused(f"{value!r} is not a whole number", why, instead)
        if number < low or (high is not None and number > high):
            raise Refused(f"{number} is not {span}", why, instead)
        return number

    return check


def _percent(value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if 0 <= number <= 100:
        return number
    raise Refused(
        f"{value!r} is not a share in percent",
        "it is how many of 100 requests are meant; Istio takes fractions too",
        "write a number from 0 to 100, such as 5 or 0.5",
    )


# --- durations -----------------------------------------------------------------------------------

_DURATION = re.compile(r"(?P<number>\d+(\.\d+)?)(?P<unit>ms|s|m|h)")
_SECONDS = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600)}


def seconds(duration: str) -> Decimal:
    """The length of a checked duration, such as 500ms or 1.5s, in seconds."""
    match = _DURATION.fullmatch(duration)
    if match is None:
        raise ValueError(f"not a duration: {duration!r}")
    return Decimal(match["number"]) * _SECONDS[match["unit"]]


def _duration_text(value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise Refused(
            f"{value} has no unit",
            "a time without a unit can be read as seconds or as milliseconds",
            f"write {value}s or {value}ms",
        )
    return value


def _any_duration(value: str) -> str:
    if _DURATION.fullmatch(value):
        return value
    raise Refused(
        f"{value!r} is not a length of time",
        "it is a number and its unit: ms, s, m or h",
        "write such as 500ms, 2s or 1m",
    )


def _duration(value: str) -> str:
    # Istio refuses less, and Envoy counts in milliseconds.
    if seconds(_any_duration(value)) >= Decimal("0.001"):
        return value
    raise Refused(
        f"{value} is shorter than a millisecond",
        "Istio counts in milliseconds and refuses less",
        "write 1ms or more, or remove the key",
    )


# --- what requests are told by -------------------------------------------------------------------

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110, 5.6.2
_COOKIE_VALUE = re.compile(r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*")  # RFC 6265, 4.1.1


def _header_name(value: str) -> str:
    if _TOKEN.fullmatch(value):
        return value.lower()  # as HTTP/2 sends it, and Istio wants it
    raise Refused(
        f"{value!r} is not the name of a header",
        "a name is letters, digits and hyphens; what begins with a colon is no header",
        "write such as x-tester, or use uri for the path",
    )


def _cookie_name(value: str) -> str:
    if _TOKEN.fullmatch(value):
        return value
    raise Refused(
        f"{value!r} is not the name of a cookie",
        "a name has no spaces and none of = ; and ,",
        "write such as session",
    )


def _cookie_value(value: str) -> str:
    if value and _COOKIE_VALUE.fullmatch(value):
        return value
    raise Refused(
        f"{value!r} is not the value of a cookie",
        "a value has at least one character, no spaces and none of ; , and quotes",
        "write such as beta; to match by pattern, use header with name cookie and regex",
    )


def _match_text(value: str) -> str:
    if value and value == value.strip():
        return value
    raise Refused(
        f"{value!r} is empty, or begins or ends with a space",
        "an empty text would match requests without the header too",
        "write the text that testers send",
    )


def _path(value: str) -> str:
    if re.fullmatch(r"/[^\s?#]*", value):
        return value
    raise Refused(
        f"{value!r} is not the path of a request",
        "a path begins with / and has no host, query or spaces",
        "write such as /beta",
    )


def _path_prefix(value: str) -> str:
    if _path(value) != "/":
        return value
    raise Refused(
        "/ is the beginning of every path",
        "every request would be a tester's, whatever the weight",
        "write a longer beginning, such as /beta",
    )


def _pattern(value: str) -> str:
    try:
        compiled = re.compile(value)
    except re.error as error:
        raise Refused(
            f"{value!r} is not a regular expression: {error}",
            "Envoy reads it in the syntax RE2, and refuses the whole route otherwise",
            "mend it, or use exact or prefix",
        ) from None
    if re.search(r"\(\?(=|!|<=|<!|>|P=|\()|\\[1-9]|[*+?}]\+", value):
        raise Refused(
            f"{value!r} looks ahead, looks behind or refers back",
            "Envoy reads the syntax RE2, which has none of these",
            "write it without, or use exact or prefix",
        )
    if compiled.fullmatch("") is not None:
        raise Refused(
            f"{value!r} matches an empty text",
            "every request could be a tester's, whatever the weight",
            "write what testers' requests have and others do not",
        )
    return value


def _path_pattern(value: str) -> str:
    if re.fullmatch(_pattern(value), "/") is None:
        return value
    raise Refused(
        f"{value!r} matches the path /",
        "every request could be a tester's, whatever the weight",
        "write a pattern of longer paths, such as /beta/.*",
    )


# --- hosts ---------------------------------------------------------------------------------------

_HOST_PART = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_HOST = re.compile(rf"(\*\.)?{_HOST_PART}(\.{_HOST_PART})*")
_HOST_WHY = "clients name the host in their requests: lower-case labels joined by dots"


def _host(value: str) -> str:
    if re.fullmatch(r"[0-9.]+", value) or value.count(":") > 1:
        raise Refused(
            f"{value} is an address, not a host name",
            _HOST_WHY,
            "write the name that clients use, such as shop.example.com",
        )
    name = re.sub(r"^[a-z]+://", "", value.lower()).split("/")[0].split(":")[0]
    if len(value) <= 253 and _HOST.fullmatch(value):
        return value
    raise Refused(
        f"{value!r} is not a host name",
        f"{_HOST_WHY}, without scheme, port or path",
        f"write {name}" if _HOST.fullmatch(name) else "write such as shop.example.com",
    )


def _gateway_host(value: str) -> str:
    return value if value == "*" else _host(value)


def _some_hosts(value: list[str]) -> list[str]:
    if value:
        return value
    raise Refused(
        "there is no host here",
        "a gateway answers to the hosts that it is given, and to no other",
        "write the names that clients use, such as shop.example.com, or remove the gateway",
    )


def covers(gateway_host: str, host: str) -> bool:
    """Whether a gateway that takes gateway_host takes requests for host."""
    if gateway_host.startswith("*"):
        return host.endswith(gateway_host[1:])
    return gateway_host == host


# --- the rest ------------------------------------------------------------------------------------

# Istio 1.16, pkg/config/validation: supportedRetryOnPolicies.
_RETRY_ON = (
    "5xx",
    "gateway-error",
    "reset",
    "connect-failure",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "retriable-headers",
    "envoy-ratelimited",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
)


def _retry_on(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        return value
    conditions = [part.strip() for part in value.split(",")]
    for condition in conditions:
        if condition not in _RETRY_ON and not re.fullmatch(r"[45]\d\d", condition):
            close = get_close_matches(condition, _RETRY_ON, n=1)
            raise Refused(
                f"{condition!r} is not a condition to retry on",
                "Istio refuses a route with a condition that Envoy does not know",
                f"write {close[0]}"
                if close
                else f"write some of {', '.join(_RETRY_ON)}, or a status "
                "from 400 to 599, with commas between them",
            )
    return ",".join(conditions)


def _secret_name(value: str) -> str:
    if "-----BEGIN" in value or "\n" in value.strip():
        raise Refused(
            "the content of a secret is here, not its name",
            "the stack file is in git: a key in it has to be replaced, also when it is removed",
            "make a Secret of type kubernetes.io/tls in the cluster and write its name; replace "
            "this key",
        )
    if len(value) <= 253 and re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", value):
        return value
    raise Refused(
        f"{value!r} is not the name of a Secret",
        "a name has lower-case letters, digits, hyphens and dots; there is no namespace in it, the "
        "Secret is beside the gateway's pods",
        "write such as shop-tls",
    )


def _locality(value: str) -> str:
    name = r"[A-Za-z0-9]([-_.A-Za-z0-9]*[A-Za-z0-9])?"
    if re.fullmatch(rf"\*|{name}(/{name}){{0,2}}|{name}(/{name})?/\*", value):
        return value
    raise Refused(
        f"{value!r} is not a locality",
        "it is region, region/zone or region/zone/subzone, by the labels topology.kubernetes.io/"
        "region and zone of the nodes; * at the end stands for all",
        "write such as no-oslo, no-oslo/a or no-oslo/*",
    )


def _region(value: str) -> str:
    name, region = r"[A-Za-z0-9]([-_.A-Za-z0-9]*[A-Za-z0-9])?", value.split("/")[0]
    if re.fullmatch(name, value):
        return value
    raise Refused(
        f"{value!r} is not a region",
        "failover goes from region to region, by the nodes' label topology.kubernetes.io/region; "
        "zones of one region stand in for each other by themselves",
        f"write {region}" if re.fullmatch(name, region) else "write such as oslo",
    )


def _label_key(value: str) -> str:
    key = r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-_.A-Za-z0-9]*[A-Za-z0-9])?"
    if re.fullmatch(key, value.partition("=")[0]):
        return value
    raise Refused(
        f"{value!r} is not a label's name",
        "pods are near the caller whose values of these labels are the caller's",
        "write such as topology.kubernetes.io/zone",
    )


def _traffic_reason(value: str) -> str:
    if len(value.strip()) >= 10:
        return value.strip()
    raise Refused(
        f"{value!r} is not a reason that a reader could judge",
        "whoever reviews this must learn why it is wanted; each preview shows it",
        "write a sentence of at least 10 characters, or remove what it is the reason of",
    )


Attempts = Annotated[
    int,
    BeforeValidator(
        _whole(0, 10, "it is how often a failed request is sent again; each adds to the load", 2)
    ),
]
ErrorStatus = Annotated[
    int, BeforeValidator(_whole(400, 599, "it is the status that clients get as an error", 503))
]
Count = Annotated[
    int, BeforeValidator(_whole(1, 2**31 - 1, "Envoy counts with it, and takes 0 as not set", 100))
]
Share = Annotated[
    int, BeforeValidator(_whole(1, 100, "it is a whole share of the pods in percent", 50))
]
LocalityWeight = Annotated[
    int, BeforeValidator(_whole(1, 100, "it is a whole share of the requests in percent", 80))
]
MinHealth = Annotated[
    int, BeforeValidator(_whole(0, 100, "it is a whole share of the pods in percent", 1))
]
Percent = Annotated[float, BeforeValidator(_percent)]
Duration = Annotated[str, BeforeValidator(_duration_text), AfterValidator(_duration)]
CookieTtl = Annotated[str, BeforeValidator(_duration_text), AfterValidator(_any_duration)]
HeaderName = Annotated[str, AfterValidator(_header_name)]
CookieName = Annotated[str, AfterValidator(_cookie_name)]
CookieValue = Annotated[str, AfterValidator(_cookie_value)]
MatchText = Annotated[str, AfterValidator(_match_text)]
Path = Annotated[str, AfterValidator(_path)]
PathPrefix = Annotated[str, AfterValidator(_path_prefix)]
Pattern = Annotated[str, AfterValidator(_pattern)]
PathPattern = Annotated[str, AfterValidator(_path_pattern)]
Host = Annotated[str, AfterValidator(_host)]
GatewayHost = Annotated[str, AfterValidator(_gateway_host)]
GatewayHosts = Annotated[list[GatewayHost], AfterValidator(_some_hosts)]
RetryOn = Annotated[str, BeforeValidator(_retry_on)]
SecretName = Annotated[str, AfterValidator(_secret_name)]
Locality = Annotated[str, AfterValidator(_locality)]
LabelKey = Annotated[str, AfterValidator(_label_key)]
Region = Annotated[str, AfterValidator(_region)]
TrafficReason = Annotated[str, AfterValidator(_traffic_reason)]
