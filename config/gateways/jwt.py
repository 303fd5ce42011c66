"""Tokens (JWT) that clients must send to a gateway."""

import json
import re
from typing import Annotated, ClassVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from config.access import HttpPath
from config.base import Section, Unlimited
from config.scalars.refused import Refused
from config.scalars.releases import HTTPS_URL, is_url
from config.scalars.texts import matching

_PRIVATE = ("d", "p", "q", "dp", "dq", "qi", "oth", "k")  # RFC 7518, 6


def _jwks_uri(value: str) -> str:
    if is_url(value.partition("?")[0], HTTPS_URL):
        return value
    better = re.sub(r"^[a-z]+://([^/@]*@)?", "https://", value)
    raise Refused(
        "jwks-uri-format",
        "this is not an https URL of a host",
        "anyone who can change the keys in transit can sign tokens",
        f"use {better}"
        if is_url(better, HTTPS_URL)
        else "use a URL such as https://login.example.no/.well-known/jwks.json",
    )


def _jwks(value: str) -> str:
    try:
        keys = json.loads(value)["keys"]
        is_set = isinstance(keys, list) and bool(keys) and all("kty" in key for key in keys)
    except (ValueError, TypeError, KeyError):
        is_set = False
    if not is_set:
        raise Refused(
            "jwks-format",
            "this is not a set of JSON web keys",
            "the gateway would refuse every token",
            """use the issuer's answer as it is, which begins with {"keys": [""",
        )
    if any(name in key for key in keys for name in _PRIVATE):
        raise Refused(
            "jwks-private-key",
            "this contains a private or symmetric key",
            "anyone who can read the stack file can sign tokens",
            "use the public keys, and rotate this key, even if you delete it from the file",
        )
    return value


JwksUri = Annotated[str, AfterValidator(_jwks_uri)]
Jwks = Annotated[str, AfterValidator(_jwks)]
Claim = Annotated[
    str,
    matching(
        "jwt-claim-format",
        r"[^\s*]+",
        "the value of a claim",
        "it is compared with the token's as a whole: no spaces, and no wildcards",
        "use the value as in the token, for example https://login.example.no",
    ),
]


class JwtIssuer(Section):
    """A party whose tokens the gateway accepts."""

    example: ClassVar = {
        "issuer": "https://login.example.no",
        "jwksUri": "https://login.example.no/.well-known/jwks.json",
        "audiences": ["shop"],
    }

    issuer: Claim = Field(
        description="the claim iss of its tokens", examples=["https://login.example.no"]
    )
    jwks_uri: JwksUri | None = Field(
        default=None,
        description="the URL of its public keys; its host must be in mesh.egress.hosts",
    )
    jwks: Jwks | None = Field(
        default=None, description="its public keys as JSON, if they are not fetched"
    )
    audiences: Annotated[list[Claim], Unlimited("tokens for any audience are accepted")] = Field(
        description="the claims aud that the gateway accepts: one of them must be in the token",
        examples=[["shop"]],
    )

    @model_validator(mode="after")
    def _one_source(self) -> "JwtIssuer":
        if (self.jwks_uri is None) == (self.jwks is None):
            raise Refused(
                "jwks-count",
                "jwksUri and jwks are both set" if self.jwks else "neither jwksUri nor jwks is set",
                "the gateway verifies tokens with keys from one place",
                "set jwksUri, or jwks for keys that do not change",
            )
        if not self.audiences:
            raise Refused(
                "jwt-audiences-empty",
                "the list of audiences is empty",
                "a token that the issuer made for another application would be accepted",
                "list the audience of your application, for example [shop]",
            )
        return self

    @property
    def jwks_host(self) -> str | None:
        """The host that the public keys are fetched from."""
        return urlsplit(self.jwks_uri).hostname if self.jwks_uri else None

    @property
    def jwks_port(self) -> int:
        """The port that the public keys are fetched from."""
        return (urlsplit(self.jwks_uri).port if self.jwks_uri else None) or 443


class Jwt(Section):
    """The tokens that clients must send; requests without one get 403, with a wrong one 401."""

    issuers: list[JwtIssuer] = Field(
        description="the parties whose tokens are accepted",
        examples=[[JwtIssuer.example]],
    )
    open_paths: list[HttpPath] = Field(
        default=[], description="paths that need no token, for example /healthz or /static/*"
    )

    @model_validator(mode="after")
    def _some_issuer(self) -> "Jwt":
        if not self.issuers:
            raise Refused(
                "jwt-issuers-empty",
                "the list of issuers is empty",
                "no token would be accepted, so the gateway would refuse every request",
                "add an issuer",
            )
        return self
