"""What requests are told by, and what is done with them: hosts, paths, headers, cookies."""

import re
from difflib import get_close_matches
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

from config.scalars.names import DNS_NAME
from config.scalars.refused import Refused
from config.scalars.texts import matching

_FIELD_NAME = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"  # RFC 9110, 5.6.2
_COOKIE_VALUE = r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*"  # RFC 6265, 4.1.1
_HOST = rf"(\*\.)?{DNS_NAME}"
_HOST_WHY = "clients name the host in their requests: lower-case labels joined by dots"
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


def _header_name(value: str) -> str:
    if re.fullmatch(_FIELD_NAME, value):
        return value.lower()  # as HTTP/2 sends it, and Istio wants it
    raise Refused(
        f"{value!r} is not the name of a header",
        "a name is letters, digits and hyphens; what begins with a colon is no header",
        "write such as x-tester, or use uri for the path",
    )


def _cookie_value(value: str) -> str:
    if value and re.fullmatch(_COOKIE_VALUE, value):
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


def _host(value: str) -> str:
    if re.fullmatch(r"[0-9.]+", value) or value.count(":") > 1:
        raise Refused(
            f"{value} is an address, not a host name",
            _HOST_WHY,
            "write the name that clients use, such as shop.example.com",
        )
    name = re.sub(r"^[a-z]+://", "", value.lower()).split("/")[0].split(":")[0]
    if len(value) <= 253 and re.fullmatch(_HOST, value):
        return value
    raise Refused(
        f"{value!r} is not a host name",
        f"{_HOST_WHY}, without scheme, port or path",
        f"write {name}" if re.fullmatch(_HOST, name) else "write such as shop.example.com",
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


HeaderName = Annotated[str, AfterValidator(_header_name)]
CookieName = Annotated[
    str,
    matching(
        _FIELD_NAME,
        "the name of a cookie",
        "a name has no spaces and none of = ; and ,",
        "write such as session",
    ),
]
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
