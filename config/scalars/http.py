"""Hosts, paths, headers, cookies and retry conditions of HTTP requests."""

import posixpath
import re
from difflib import get_close_matches
from http import HTTPStatus
from typing import Annotated, Any
from urllib.parse import quote

from pydantic import AfterValidator, BeforeValidator

from config.scalars.names import DNS_NAME, as_host
from config.scalars.refused import Refused
from config.scalars.shapes import shaped, text
from config.scalars.texts import matching

_FIELD_NAME = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"  # RFC 9110, 5.6.2
_COOKIE_VALUE = r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*"  # RFC 6265, 4.1.1
_RESERVED = "/%-._~!$&'()*+,;=:@\\"  # RFC 3986, 3.3, and the backslash, which is normalized
_URL_PATH = rf"([A-Za-z0-9{re.escape(_RESERVED.replace('%', ''))}]|%[0-9A-Fa-f]{{2}})*"
_HOST = rf"(\*\.)?{DNS_NAME}"
_HOST_WHY = "clients send the host in their requests: lower-case labels separated by dots"
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

# Istio also accepts a status that Go's net/http has a text for; Python knows the same ones.
_RETRY_STATUSES = tuple(str(status.value) for status in HTTPStatus if status >= 400)
_CONDITION = rf"\s*({'|'.join((*_RETRY_ON, *_RETRY_STATUSES))})\s*"
_CONDITIONS = f"^{_CONDITION}(,{_CONDITION})*$"


@shaped(text(_FIELD_NAME))
def _header_name(value: str) -> str:
    if re.fullmatch(_FIELD_NAME, value):
        return value.lower()  # as in HTTP/2, and as Istio requires
    raise Refused(
        "header-name-format",
        f"{value!r} is not a header name",
        "a header name consists of letters, digits and hyphens; pseudo-headers, which "
        "begin with a colon, cannot be matched",
        "use a name such as x-tester, or use uri to match the path",
    )


@shaped(text(r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]+"))
def _cookie_value(value: str) -> str:
    if value and re.fullmatch(_COOKIE_VALUE, value):
        return value
    raise Refused(
        "cookie-value-format",
        f"{value!r} is not a cookie value",
        "a cookie value has at least one character, and contains no spaces, quotes, "
        "commas or semicolons",
        "use a value such as beta; to match a pattern, use header with name: cookie and regex",
    )


@shaped(text(r"\S(.*\S)?"))
def _match_text(value: str) -> str:
    if value and value == value.strip():
        return value
    raise Refused(
        "match-text-format",
        f"{value!r} is empty, or begins or ends with a space",
        "an empty text would also match requests without the header",
        "use the text that testers send",
    )


def encoded(path: str) -> str:
    """The path as clients send it."""
    return quote(re.sub("%(?![0-9A-Fa-f]{2})", "%25", path), safe=_RESERVED)


def normal_path(value: str) -> str:
    """Refuse a path that no request has once a proxy has normalized it."""
    if not re.fullmatch(_URL_PATH, value):
        raise Refused(
            "path-encoding",
            f"{value!r} has characters that a URL encodes",
            "clients send them as % and two hexadecimal digits, so it would never match",
            f"use {encoded(value)}",
        )
    if not re.search(r"//|\\|/\.\.?(/|$)|%(2f|5c|2e)", value, re.I):
        return value
    plain = re.sub(r"/+", "/", re.sub(r"%2f|%5c|\\", "/", value, flags=re.I))
    raise Refused(
        "path-not-normal",
        f"{value!r} is not a normalized path",
        "proxies resolve dots, decode and merge slashes before they match, so it would never match",
        f"use {posixpath.normpath(re.sub('%2e', '.', plain, flags=re.I))}",
    )


@shaped(text(r"/[^\s?#{}]*"))
def _path(value: str) -> str:
    if re.search(r"\{.*\}", value):
        prefix = value.partition("{")[0].rstrip("/") or "/"
        raise Refused(
            "path-template",
            f"{value!r} has a placeholder",
            "a path is compared as it is, so no request would match",
            f"use a prefix of all these paths, for example {prefix}",
        )
    if re.fullmatch(r"/[^\s?#]*", value):
        return normal_path(value)
    raise Refused(
        "request-path-format",
        f"{value!r} is not a request path",
        "a path begins with / and contains no host, query or spaces",
        "use a path such as /beta",
    )


@shaped(text(r"/[^\s?#]+"))
def _path_prefix(value: str) -> str:
    if _path(value) != "/":
        return value
    raise Refused(
        "path-prefix-all",
        "/ matches every path",
        "every request would count as a tester's, whatever the weight",
        "use a longer prefix, for example /beta",
    )


@shaped(text(rf"(?![0-9.]+$){_HOST}", maxLength=253))
def _host(value: str) -> str:
    if re.fullmatch(r"[0-9.]+", value) or ("/" not in value and value.count(":") > 1):
        raise Refused(
            "http-host-address",
            f"{value} is an address, not a host name",
            _HOST_WHY,
            "use the name that clients request, for example shop.example.com",
        )
    name = re.sub(r"^[a-z]+://", "", value.lower()).split("/")[0].split(":")[0]
    if len(value) <= 253 and re.fullmatch(_HOST, value):
        return value
    raise Refused(
        "http-host-format",
        f"{value!r} is not a host name",
        f"{_HOST_WHY}, without scheme, port or path",
        f"use {host}" if (host := as_host(name)) else "use a name such as shop.example.com",
    )


@shaped(text(rf"\*|(?![0-9.]+$){_HOST}", maxLength=253))
def _gateway_host(value: str) -> str:
    return value if value == "*" else _host(value)


@shaped({"minItems": 1})
def _some_hosts(value: list[str]) -> list[str]:
    if value:
        return value
    raise Refused(
        "gateway-hosts-empty",
        "the list of hosts is empty",
        "a gateway accepts only requests for the hosts that it lists",
        "add the names that clients request, for example shop.example.com, or remove the gateway",
    )


def covers(gateway_host: str, host: str) -> bool:
    """Whether a gateway that accepts gateway_host accepts requests for host."""
    if gateway_host.startswith("*"):
        return host.endswith(gateway_host[1:])
    return gateway_host == host


@shaped({"type": ["string", "integer"], "pattern": _CONDITIONS, "minimum": 400, "maximum": 511})
def _retry_on(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        return value
    conditions = [part.strip() for part in value.split(",")]
    for condition in conditions:
        if condition not in (*_RETRY_ON, *_RETRY_STATUSES):
            close = get_close_matches(condition.lower(), _RETRY_ON, n=1)
            raise Refused(
                "retry-condition-unknown",
                f"{condition!r} is not a retry condition",
                "Istio refuses a route with a condition that Envoy does not know",
                f"use {close[0]}"
                if close
                else f"use some of {', '.join(_RETRY_ON)}, or an error status of HTTP such as 503, "
                "separated by commas",
            )
    return ",".join(conditions)


HeaderName = Annotated[str, AfterValidator(_header_name)]
CookieName = Annotated[
    str,
    matching(
        "cookie-name-format",
        _FIELD_NAME,
        "a cookie name",
        "a cookie name contains no spaces, = signs, commas or semicolons",
        "use a name such as session",
    ),
]
CookieValue = Annotated[str, AfterValidator(_cookie_value)]
MatchText = Annotated[str, AfterValidator(_match_text)]
Path = Annotated[str, AfterValidator(_path)]
PathPrefix = Annotated[str, AfterValidator(_path_prefix)]
Host = Annotated[str, AfterValidator(_host)]
GatewayHost = Annotated[str, AfterValidator(_gateway_host)]
GatewayHosts = Annotated[list[GatewayHost], AfterValidator(_some_hosts)]
RetryOn = Annotated[str, BeforeValidator(_retry_on)]
