"""The callers of a service in `mesh.services`, and what each may request."""

import posixpath
import re
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from config.base import Section, Unlimited
from config.errors import one_of
from config.scalars.http import encoded, normal_path
from config.scalars.names import DNS_LABEL, Label, as_label
from config.scalars.numbers import IS_PORT
from config.scalars.refused import Refused
from config.scalars.shapes import shaped, text

_REFUSED = "remove the caller to refuse it"
_METHODS = ("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE")


@shaped(text(rf"{DNS_LABEL}(/{DNS_LABEL})?"))
def _reference(value: str) -> str:
    if re.fullmatch(rf"{DNS_LABEL}(/{DNS_LABEL})?", value):
        return value
    host = re.fullmatch(rf"({DNS_LABEL})\.({DNS_LABEL})(\.svc(\.cluster\.local)?)?", value)
    proposal = f"{host[3]}/{host[1]}" if host else "/".join(map(as_label, value.split("/")[:2]))
    raise Refused(
        "service-reference-format",
        f"{value!r} does not name a service",
        "a reference to a service is its name, or its namespace and name",
        f"use {proposal}" if proposal != "x" else "use a value such as shop/cart",
    )


@shaped(text(rf"{DNS_LABEL}/{DNS_LABEL}"))
def _full_reference(value: str) -> str:
    if re.fullmatch(rf"{DNS_LABEL}/{DNS_LABEL}", value):
        return value
    proposal = f"shop/{as_label(value)}" if "/" not in value else "a value such as shop/client"
    raise Refused(
        "full-reference-format",
        f"{value!r} is not a namespace and a name",
        "several namespaces can have a service account or service of the same name",
        f"use {proposal}",
    )


@shaped({"enum": list(_METHODS)})
def _method(value: str) -> str:
    if value in _METHODS:
        return value
    raise Refused(
        "http-method-unknown",
        f"{value!r} is not an HTTP method",
        "requests with any other method are refused, so a misspelt method refuses all of them",
        f"use {value.upper()}" if value.upper() in _METHODS else one_of(_METHODS),
    )


@shaped(text(r"/[^\s*?#{}]*\*?"))
def _path(value: str) -> str:
    if not value.startswith("/"):
        raise Refused(
            "caller-path-start",
            f"{value!r} does not begin with /",
            "it is compared with the whole path of a request, so it would never match",
            f"use {_proposed(value)}" if value.strip("*/") else "use / or /*",
        )
    plain = re.split("[?#]", value)[0]
    if "*" in value[:-1] or plain != value:
        prefix = plain.split("*")[0]
        raise Refused(
            "caller-path-pattern",
            f"{value!r} is not a path or a path prefix",
            "a path matches as a whole, or as a prefix with one * at the end; anything "
            "after a ? is ignored",
            f"list each path, or use {prefix}*, which allows every path that begins like this"
            if "*" in plain[:-1]
            else f"use {plain}",
        )
    if re.search(r"\{.*\}", value):
        raise Refused(
            "caller-path-template",
            f"{value!r} has a placeholder",
            "a path is compared as it is, so no request would match and all would be refused",
            f"use {value.split('{')[0]}*, which allows every path that begins like this",
        )
    return normal_path(value)


@shaped({"anyOf": [{"type": "integer", "minimum": 1, "maximum": 65535}, text(DNS_LABEL)]})
def _pod_port(value: Any) -> Any:
    """A port's number, also as text, or its name."""
    is_name = isinstance(value, str) and re.fullmatch(DNS_LABEL, value) and not value.isdigit()
    return value if is_name else IS_PORT.func(value)  # type: ignore[call-arg]


def _proposed(value: str) -> str:
    """The path that a value without a slash in front probably means."""
    path = re.sub(r"^[a-z]+://[^/]*", "", value)
    return encoded(posixpath.normpath(f"/{path.lstrip('*/')}"))


ServiceReference = Annotated[str, AfterValidator(_reference)]
AccountReference = Annotated[str, AfterValidator(_full_reference)]
Method = Annotated[str, AfterValidator(_method)]
HttpPath = Annotated[str, AfterValidator(_path)]
PodPort = Annotated[int | str, BeforeValidator(_pod_port)]


class Caller(Section):
    """A caller of a service: another service, a service account or a gateway."""

    example: ClassVar = {"service": "cart"}

    service: ServiceReference | None = Field(
        default=None,
        description="a service of mesh.services, by its name there, or by the namespace/name of "
        "its Service",
    )
    service_account: AccountReference | None = Field(
        default=None, description="a service account, by namespace/name"
    )
    gateway: Label | None = Field(
        default=None, description="a gateway of the mesh, for example istio-ingressgateway"
    )
    methods: Annotated[list[Method], Unlimited("it may use every method", _REFUSED)] = Field(
        default=[], description="the HTTP methods that it may use; none means all"
    )
    paths: Annotated[list[HttpPath], Unlimited("it may request every path", _REFUSED)] = Field(
        default=[], description="the paths that it may request; none means all"
    )
    ports: Annotated[list[PodPort], Unlimited("it may use every port", _REFUSED)] = Field(
        default=[],
        description="the pods' ports that it may use, by number or by name in ports; none means "
        "all",
    )

    @model_validator(mode="after")
    def _one_name(self) -> "Caller":
        named = [x for x in (self.service, self.service_account, self.gateway) if x is not None]
        if len(named) == 1:
            return self
        raise Refused(
            "caller-name-count",
            f"the caller is named {len(named)} times" if named else "the caller has no name",
            "a caller is one service, one service account or one gateway, with its own limits",
            "set one of service: cart, serviceAccount: shop/client and gateway: "
            "istio-ingressgateway; for two callers, add two entries",
        )
