"""The paths of a host that are a service's own at a gateway, and how each is handled."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from config.base import Section
from config.scalars.durations import Duration, MaxAge
from config.scalars.http import HeaderName, Host, Path
from config.scalars.names import DNS_NAME, Label
from config.scalars.refused import Refused
from config.scalars.texts import matching
from config.services.routes import Retries

Scheme = Literal["http", "https"]
RedirectStatus = Literal[301, 302, 303, 307, 308]
CorsMethod = Literal["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"]

_ORIGIN = rf"[a-z][a-z0-9+.-]*://(\*\.)?{DNS_NAME}(:\d+)?"
_DEFAULT_PORT = r"^(http://[^:]*(?=:80$)|https://[^:]*(?=:443$)):\d+$"


def _no_wildcard(value: str) -> str:
    if "*" not in value:
        return value
    raise Refused(
        "path-wildcard",
        f"{value!r} contains a *",
        "a path is compared as it is, so no request would match",
        f"use prefix: {value.split('*')[0].rstrip('/') or '/'}",
    )


def _origin(value: str) -> str:
    if value == "*" or (re.fullmatch(_ORIGIN, value) and not re.search(_DEFAULT_PORT, value)):
        return value
    before, _, after = f"https://{value}".lower().rpartition("://")
    scheme, host = before.rpartition("/")[2], after.split("/")[0]
    plain = re.sub(_DEFAULT_PORT, r"\1", f"{scheme}://{host}")
    raise Refused(
        "cors-origin-format",
        f"{value!r} is not an origin",
        "a browser sends the scheme and host of the page that makes the request, in lower case, "
        "without a path, and with a port only if it is not that of the scheme",
        f"use {plain}"
        if "." in host and re.fullmatch(_ORIGIN, plain)
        else "use an origin such as https://shop.example.com",
    )


OwnPath = Annotated[Path, AfterValidator(_no_wildcard)]
Origin = Annotated[str, AfterValidator(_origin)]
HeaderText = Annotated[
    str,
    matching(
        "header-value-format",
        r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?",
        "a header value",
        "a header value is one line of ASCII, and has no space at either end",
        "use a value such as no-store",
    ),
]


class Redirect(Section):
    """The answer that sends the client to another URL."""

    host: Host | None = Field(default=None, description="the host of the new URL")
    scheme: Scheme | None = Field(default=None, description="the scheme of the new URL")
    path: OwnPath | None = Field(
        default=None, description="the path of the new URL, instead of the whole requested path"
    )
    status: RedirectStatus = Field(default=301, description="the status of the answer")

    @model_validator(mode="after")
    def _changes_something(self) -> "Redirect":
        if self.host is None and self.scheme is None and self.path is None:
            raise Refused(
                "redirect-empty",
                "the redirect changes nothing",
                "the client would be sent to the same URL for ever",
                "set host, scheme or path",
            )
        return self


class HeaderEdits(Section):
    """Edits of the headers of requests or responses."""

    set: dict[HeaderName, HeaderText] = Field(
        default={}, description="headers to write, instead of those of the same name"
    )
    add: dict[HeaderName, HeaderText] = Field(
        default={}, description="headers to add to those of the same name"
    )
    remove: list[HeaderName] = Field(default=[], description="headers to remove")


class Headers(Section):
    """Headers that the gateway edits."""

    request: HeaderEdits = Field(
        default=HeaderEdits(), description="headers of requests to the service"
    )
    response: HeaderEdits = Field(
        default=HeaderEdits(), description="headers of responses to the client"
    )


class Cors(Section):
    """The pages of other origins that may use the service from a browser."""

    origins: list[Origin] = Field(
        description="the origins, for example https://shop.example.com or https://*.example.com",
        examples=[["https://shop.example.com"]],
    )
    methods: list[CorsMethod] = Field(
        default=["GET", "HEAD", "POST"], description="the methods that they may use"
    )
    headers: list[HeaderName] = Field(
        default=[], description="the request headers that they may set"
    )
    expose_headers: list[HeaderName] = Field(
        default=[], description="the response headers that they may read"
    )
    max_age: MaxAge | None = Field(
        default=None, description="how long a browser remembers the answer to its preflight request"
    )
    credentials: bool = Field(
        default=False, description="whether browsers send cookies and other credentials"
    )

    @model_validator(mode="after")
    def _not_every_origin_with_credentials(self) -> "Cors":
        if self.credentials and "*" in self.origins:
            raise Refused(
                "cors-any-origin-with-credentials",
                "credentials are allowed for every origin",
                "any web page could act as the user who is logged in",
                "list the origins that you own, or remove credentials",
            )
        if not self.origins:
            raise Refused(
                "cors-origins-empty",
                "no origin is listed",
                "browsers would refuse the responses to every other page",
                "list the origins of your pages, or remove cors",
            )
        return self


class PathRoute(Section):
    """A path of the service's hosts at its gateway. The most specific path wins."""

    prefix: OwnPath | None = Field(
        default=None, description="the path and all paths below it; / for all"
    )
    exact: OwnPath | None = Field(default=None, description="the whole path")
    port: Label | None = Field(
        default=None,
        description="the name in ports of the port that gets the requests; by default the split "
        "one",
    )
    rewrite: OwnPath | None = Field(
        default=None, description="the path that the service gets instead of prefix or exact"
    )
    redirect: Redirect | None = Field(
        default=None, description="the URL that the gateway sends clients to"
    )
    headers: Headers | None = Field(default=None, description="headers that the gateway edits")
    cors: Cors | None = Field(
        default=None, description="the pages of other origins that may use it from a browser"
    )
    timeout: Duration | None = Field(
        default=None, description="the timeout of these requests, instead of the service's"
    )
    retries: Retries | None = Field(
        default=None, description="the retries of these requests, instead of the service's"
    )

    @model_validator(mode="after")
    def _one_path_and_one_answer(self) -> "PathRoute":
        if (self.prefix is None) == (self.exact is None):
            raise Refused(
                "path-match-count",
                "prefix and exact are both set" if self.prefix else "the path is missing",
                "an entry is about one path",
                "set prefix: /api for a path and all below it, or exact: /api for one path",
            )
        unused = [
            name
            for name in ("port", "rewrite", "cors", "timeout", "retries")
            if self.redirect is not None and getattr(self, name) is not None
        ]
        if unused:
            raise Refused(
                "redirect-with-route",
                f"{' and '.join(unused)} is set together with redirect",
                "the gateway answers these requests itself, so the service never gets them",
                f"remove redirect, or remove {' and '.join(unused)}",
            )
        return self

    @property
    def is_exact(self) -> bool:
        """Whether the entry is about one path only."""
        return self.exact is not None

    @property
    def base(self) -> str:
        """The exact path, or the prefix without a slash at its end; empty for all paths."""
        return self.exact if self.exact is not None else str(self.prefix).rstrip("/")

    def includes(self, path: str) -> bool:
        """Whether a path, without a query, is the entry's."""
        return path == self.base or (not self.is_exact and path.startswith(f"{self.base}/"))

    def specific_first(self) -> tuple[int, bool]:
        """The entry's place among those of a host."""
        return -len(self.base), not self.is_exact

    def __str__(self) -> str:
        """The entry in an error."""
        return f"exact: {self.exact}" if self.is_exact else f"prefix: {self.base or '/'}"


EVERY_PATH = PathRoute(prefix="/")
"""The path of a service at a gateway that names none."""
