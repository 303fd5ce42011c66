"""The callers of a service of the section `mesh`: who may call it, and what of it."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from config.base import Section, Unlimited
from config.scalars.names import DNS_LABEL, Label, as_label
from config.scalars.numbers import Port
from config.scalars.refused import Refused

_METHODS = ("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE")


def _reference(value: str) -> str:
    if re.fullmatch(rf"{DNS_LABEL}(/{DNS_LABEL})?", value):
        return value
    host = re.fullmatch(rf"({DNS_LABEL})\.({DNS_LABEL})(\.svc(\.cluster\.local)?)?", value)
    proposal = f"{host[3]}/{host[1]}" if host else "/".join(map(as_label, value.split("/")[:2]))
    raise Refused(
        f"{value!r} does not name a service",
        "a service is named by its name, or by its namespace and its name",
        f"write {proposal}",
    )


def _full_reference(value: str) -> str:
    if re.fullmatch(rf"{DNS_LABEL}/{DNS_LABEL}", value):
        return value
    proposal = f"shop/{as_label(value)}" if "/" not in value else "such as shop/client"
    raise Refused(
        f"{value!r} is not a namespace and a name",
        "service accounts and services of the same name are in many namespaces",
        f"write {proposal}",
    )


def _method(value: str) -> str:
    if value in _METHODS:
        return value
    raise Refused(
        f"{value!r} is not an HTTP method",
        "a request whose method is not on the list is refused, so a misspelt one refuses all",
        f"write {value.upper()}"
        if value.upper() in _METHODS
        else f"write one of {', '.join(_METHODS)}",
    )


def _path(value: str) -> str:
    if not value.startswith("/"):
        raise Refused(
            f"{value!r} does not begin with /",
            "it is compared with the whole path of a request, so nothing would match",
            f"write /{value.lstrip('*/')}" if value.strip("*/") else "write / or /*",
        )
    if "*" in value[:-1] or "?" in value or "#" in value:
        raise Refused(
            f"{value!r} is not a path that can be compared",
            "a path is compared as a whole, or by its beginning, with one * at the end; what "
            "follows a ? is not looked at",
            f"write {re.split('[*?#]', value)[0]}*",
        )
    return value


ServiceReference = Annotated[str, AfterValidator(_reference)]
AccountReference = Annotated[str, AfterValidator(_full_reference)]
Method = Annotated[str, AfterValidator(_method)]
HttpPath = Annotated[str, AfterValidator(_path)]


class Caller(Section):
    """Somebody who may call a service: named in one of three ways."""

    service: ServiceReference | None = Field(
        default=None, description="a service of mesh.services, by name or namespace/name"
    )
    service_account: AccountReference | None = Field(
        default=None, description="a service account, by namespace/name"
    )
    gateway: Label | None = Field(
        default=None, description="a gateway of the mesh, such as istio-ingressgateway"
    )
    methods: Annotated[list[Method], Unlimited("it may use every method")] = Field(
        default=[], description="the HTTP methods that it may use; none named means all"
    )
    paths: Annotated[list[HttpPath], Unlimited("it may ask for every path")] = Field(
        default=[], description="the paths that it may ask for; none named means all"
    )
    ports: Annotated[list[Port], Unlimited("it may use every port")] = Field(
        default=[], description="the pods' ports that it may use; none named means all"
    )

    @model_validator(mode="after")
    def _one_name(self) -> "Caller":
        named = [x for x in (self.service, self.service_account, self.gateway) if x is not None]
        if len(named) == 1:
            return self
        raise Refused(
            f"the caller is named {len(named)} times" if named else "the caller has no name",
            "a caller is one service, one service account or one gateway; its limits are its own",
            "write service: cart, serviceAccount: shop/client or gateway: istio-ingressgateway; "
            "for two callers, two entries",
        )
