"""Versions of releases, and the URLs and registries to download from."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

from config.scalars.refused import Refused
from config.scalars.shapes import shaped, text
from config.scalars.texts import matching

_URL = r"https?://(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9._-]+)(:\d+)?(/[^\s@?#]*)?"
HTTPS_URL = _URL.replace("https?", "https")


def is_url(value: str, pattern: str = _URL) -> bool:
    """Whether a text is a URL of a host, without a login and with a port that exists."""
    url = re.fullmatch(pattern, value)
    return url is not None and (url[2] is None or 0 < int(url[2][1:]) < 2**16)


@shaped(text(_URL))
def _http_url(value: str) -> str:
    if is_url(value):
        return value.rstrip("/")
    if "@" in value:
        raise Refused(
            "http-url-login",
            "the URL contains a user or password",
            "the URL is written to files on every node and shown in previews",
            "use the URL without them; allow the nodes' network on the mirror instead",
        )
    raise Refused(
        "http-url-format",
        f"{value!r} is not an http or https URL of a host",
        "nodes download from it; it needs a scheme and a host of ASCII letters, and may have a "
        "port and a path",
        "use a URL such as http://10.66.0.1:8080",
    )


@shaped(text(_URL))
def _proxy_url(value: str) -> str:
    if "@" not in value:
        return _http_url(value)
    raise Refused(
        "proxy-login",
        "the proxy's URL contains a user or a password",
        "nodes have the URL in files that every process can read, and previews show it",
        "let the proxy accept the nodes by their addresses; or run a proxy of your own that "
        "forwards to it with the login (cache_peer in squid), and use its URL. Change the "
        "password, even if you delete it from the file",
    )


@shaped(text(r"\s*v?\d+\.\d+\.\d+\s*"))
def _version(value: Any) -> Any:
    if isinstance(value, float | int) and not isinstance(value, bool):
        raise Refused(
            "version-number",
            f"{value} is a number, not a version",
            "a version has three parts; YAML reads two parts as a number, and 1.20 becomes 1.2",
            "use all three parts of the release's version",
        )
    if isinstance(value, str):
        return value.strip().removeprefix("v")
    return value


def _without_login(value: str) -> str:
    if "@" in value:
        raise Refused(
            "hub-login",
            "this contains a user, a password or a digest",
            "anyone who can read the stack file or its git history has it; nodes pull "
            "without a login",
            "use the registry's host and a path; change the password, even if you delete "
            "it from the file",
        )
    return value


Hub = Annotated[
    str,
    AfterValidator(_without_login),
    matching(
        "hub-format",
        r"[a-z0-9.-]+(:\d+)?(/[a-z0-9._-]+)+",
        "an image registry with a path",
        "Istio appends /pilot and /proxyv2 to it: it is a registry's host and a path, without a "
        "scheme",
        "use docker.io/istio, or remove the key",
    ),
]
ProxyUrl = Annotated[str, AfterValidator(_proxy_url)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
Version = Annotated[str, BeforeValidator(_version)]
