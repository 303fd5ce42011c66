"""Hosts, paths, headers, cookies and retry conditions of HTTP requests."""

import posixpath
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

# What Python's expressions have and RE2 does not: github.com/google/re2/wiki/Syntax.
_NOT_RE2 = (
    (r"\(\?(=|!|<=|<!)", "a lookahead or a lookbehind"),
    (r"\(\?P=", "a backreference"),
    (r"\(\?\(", "a condition"),
    (r"\(\?#", "a comment"),
    (r"\(\?>|[*+?}]\+", "an atomic group or a possessive repetition"),
    (r"\(\?[a-zA-Z]*[aLux]", "a flag other than i, m and s"),
    (r"\{,\d", "a repetition without a lower bound"),
)
_ESCAPE = re.compile(r"\\.", re.S)
_CLASS = re.compile(r"\[\^?\]?[^\]]*\]")
_MOST_REPEATS = 1000


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


def _match_text(value: str) -> str:
    if value and value == value.strip():
        return value
    raise Refused(
        "match-text-format",
        f"{value!r} is empty, or begins or ends with a space",
        "an empty text would also match requests without the header",
        "use the text that testers send",
    )


def normal_path(value: str) -> str:
    """Refuse a path that no request has once a proxy has normalized it."""
    if not re.search(r"//|\\|/\.\.?(/|$)|%(2f|5c|2e)", value, re.I):
        return value
    plain = re.sub(r"/+", "/", re.sub(r"%2f|%5c|\\", "/", value, flags=re.I))
    raise Refused(
        "path-not-normal",
        f"{value!r} is not a normalized path",
        "proxies resolve dots, decode and merge slashes before they match, so it would never match",
        f"use {posixpath.normpath(re.sub('%2e', '.', plain, flags=re.I))}",
    )


def _path(value: str) -> str:
    if re.fullmatch(r"/[^\s?#]*", value):
        return normal_path(value)
    raise Refused(
        "request-path-format",
        f"{value!r} is not a request path",
        "a path begins with / and contains no host, query or spaces",
        "use a path such as /beta",
    )


def _path_prefix(value: str) -> str:
    if _path(value) != "/":
        return value
    raise Refused(
        "path-prefix-all",
        "/ matches every path",
        "every request would count as a tester's, whatever the weight",
        "use a longer prefix, for example /beta",
    )


def _pattern(value: str) -> str:
    try:
        compiled = re.compile(value)
    except re.error as error:
        raise Refused(
            "regex-syntax",
            f"{value!r} is not a regular expression: {error}",
            "Envoy uses RE2 syntax, and refuses the whole route if the expression is invalid",
            "fix the expression, or use exact or prefix",
        ) from None
    if unsupported := _only_python(value):
        raise Refused(
            "regex-not-re2",
            f"{value!r} uses {unsupported}",
            "Envoy uses RE2 syntax, which does not support it or reads it differently, and Istio "
            "does not look: proxies refuse the whole route, or requests match something else",
            "rewrite it without that, or use exact or prefix",
        )
    if any(count > _MOST_REPEATS for count in _repeats(value)):
        raise Refused(
            "regex-repeats",
            f"{value!r} repeats something more than {_MOST_REPEATS} times",
            "RE2 refuses such a pattern, and with it the whole route",
            f"repeat at most {_MOST_REPEATS} times, or use * or +",
        )
    if compiled.fullmatch("") is not None:
        raise Refused(
            "regex-matches-empty",
            f"{value!r} matches an empty text",
            "every request could count as a tester's, whatever the weight",
            "match something that only testers' requests contain",
        )
    return value


def _only_python(pattern: str) -> str | None:
    """What a pattern uses that Python accepts and RE2 does not; None if it is valid for both."""
    for escape in _ESCAPE.findall(pattern):
        if escape[1] in "123456789":
            return "a backreference"
        if escape[1] in "ZNuU":
            return f"{escape}, which only Python knows"
    plain = _plain(pattern)
    return next((what for form, what in _NOT_RE2 if re.search(form, plain)), None)


def _repeats(pattern: str) -> list[int]:
    """The bounds of all repetitions in a pattern."""
    bounds = re.findall(r"\{(\d+)(?:,(\d+))?", _plain(pattern))
    return [int(number) for pair in bounds for number in pair if number]


def _plain(pattern: str) -> str:
    """A pattern with a letter for each escape and for each class of characters."""
    return _CLASS.sub("c", _ESCAPE.sub("e", pattern))


def _path_pattern(value: str) -> str:
    if re.fullmatch(_pattern(value), "/") is None:
        return value
    raise Refused(
        "path-regex-all",
        f"{value!r} matches the path /",
        "every request could count as a tester's, whatever the weight",
        "use a pattern of longer paths, for example /beta/.*",
    )


def _host(value: str) -> str:
    if re.fullmatch(r"[0-9.]+", value) or value.count(":") > 1:
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
        f"use {name}" if re.fullmatch(_HOST, name) else "use a name such as shop.example.com",
    )


def _gateway_host(value: str) -> str:
    return value if value == "*" else _host(value)


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
                "retry-condition-unknown",
                f"{condition!r} is not a retry condition",
                "Istio refuses a route with a condition that Envoy does not know",
                f"use {close[0]}"
                if close
                else f"use some of {', '.join(_RETRY_ON)}, or a status from 400 to 599, "
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
Pattern = Annotated[str, AfterValidator(_pattern)]
PathPattern = Annotated[str, AfterValidator(_path_pattern)]
Host = Annotated[str, AfterValidator(_host)]
GatewayHost = Annotated[str, AfterValidator(_gateway_host)]
GatewayHosts = Annotated[list[GatewayHost], AfterValidator(_some_hosts)]
RetryOn = Annotated[str, BeforeValidator(_retry_on)]
