"""Releases, and where they are downloaded from."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

from config.scalars.refused import Refused
from config.scalars.shapes import shaped, text
from config.scalars.texts import matching


@shaped(text(r"https?://[^\s/@?#]+(/[^\s?#]*)?"))
def _http_url(value: str) -> str:
    if re.fullmatch(r"https?://[^\s/@?#]+(/[^\s?#]*)?", value):
        return value.rstrip("/")
    if "@" in value:
        raise Refused(
            "the address has a user or password in it",
            "it is written into files on every node and shown in previews",
            "write the address alone; let the mirror trust the nodes' network",
        )
    raise Refused(
        f"{value!r} is not an http or https address",
        "nodes download from it: scheme, host and, if need be, port and path",
        "write such as http://10.66.0.1:8080",
    )


@shaped(text(r"\s*v?\d+\.\d+\.\d+\s*"))
def _version(value: Any) -> Any:
    if isinstance(value, float | int) and not isinstance(value, bool):
        raise Refused(
            f"{value} is a number, not a version",
            "a version has three parts; with two of them YAML reads a number, and 1.20 becomes 1.2",
            "write all three parts, such as 1.23.17",
        )
    if isinstance(value, str):
        return value.strip().removeprefix("v")
    return value


def _without_login(value: str) -> str:
    if "@" in value:
        raise Refused(
            "there is a user or a password in it, or a digest",
            "whoever reads the stack file, or its history, has it; nodes pull without a login",
            "write the registry's host and a path; replace the password, even if you delete it "
            "from the file",
        )
    return value


Hub = Annotated[
    str,
    AfterValidator(_without_login),
    matching(
        r"[a-z0-9.-]+(:\d+)?(/[a-z0-9._-]+)+",
        "a place of images",
        "Istio puts /pilot and /proxyv2 behind it: a registry's host and a path, without scheme",
        "write docker.io/istio, or remove the key",
    ),
]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
Version = Annotated[str, BeforeValidator(_version)]
