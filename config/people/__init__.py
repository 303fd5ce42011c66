"""The section `access`: the people who use the cluster, and what each may do."""

import re
import ssl
from typing import Annotated, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from config.base import Section, Unlimited
from config.scalars.names import Label
from config.scalars.refused import Refused
from config.scalars.releases import HTTPS_URL, is_url
from config.scalars.shapes import shaped, text
from config.scalars.texts import matching

OWN_PREFIX = "nordmesh:"
"""How the names begin that only nordmesh puts into certificates, for example of an emergency."""

_PREFIX = r"[A-Za-z0-9][A-Za-z0-9._/-]*:"
_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)

SigningAlgorithm = Literal[
    "RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512"
]


@shaped(text(HTTPS_URL))
def _issuer(value: str) -> str:
    if is_url(value, HTTPS_URL):
        return value
    raise Refused(
        "oidc-issuer-format",
        f"{value!r} is not the URL of an issuer",
        "the API server fetches the issuer's keys from it over HTTPS, and compares it with the "
        "claim iss of each token, so there is no login, query or fragment in it",
        "use the value of `issuer` in the provider's /.well-known/openid-configuration",
    )


@shaped(text(_PREFIX))
def _prefix(value: str) -> str:
    if value.startswith(("system:", OWN_PREFIX)):
        raise Refused(
            "oidc-prefix-reserved",
            f"{value!r} is the prefix of names that Kubernetes or nordmesh gives",
            "the provider could name a token's owner an administrator of the cluster",
            'use a prefix such as "oidc:"',
        )
    if re.fullmatch(_PREFIX, value):
        return value
    raise Refused(
        "oidc-prefix-format",
        f"{value!r} is not a prefix of letters, digits and ._/- that ends with a colon",
        "without it, a name in a token could be that of a certificate, or of a part of the cluster",
        'use a prefix such as "oidc:"',
    )


@shaped({"type": "string"})
def _authorities(value: str) -> str:
    blocks = list(_BLOCK.finditer(value))
    if "PRIVATE KEY-----" in value:
        raise Refused(
            "oidc-ca-private",
            "this contains a private key",
            "anyone who can read the stack file or its git history can sign certificates with it",
            "use the certificate only, and replace the key, even if you delete it from the file",
        )
    if not blocks or {block[1] for block in blocks} != {"CERTIFICATE"}:
        raise _not_certificates()
    try:
        for block in blocks:
            ssl.PEM_cert_to_DER_cert(block[0])
    except ValueError:
        raise _not_certificates() from None
    return "\n".join(block[0] for block in blocks)


def _not_certificates() -> Refused:
    return Refused(
        "oidc-ca-format",
        "this is not one or more certificates in PEM",
        "the API server does not start with a file of CA certificates that it cannot read",
        "use the CA's certificate, from -----BEGIN CERTIFICATE----- to -----END CERTIFICATE-----, "
        "below `ca: |`",
    )


@shaped({"minItems": 1})
def _some_algorithm(value: list[str]) -> list[str]:
    if value:
        return value
    raise Refused(
        "oidc-algorithms-empty",
        "the list of algorithms is empty",
        "no token would be accepted",
        "use [RS256], which every provider supports, or remove the key",
    )


@shaped({"minItems": 1})
def _some_namespace(value: list[str]) -> list[str]:
    if value:
        return value
    raise Refused(
        "access-namespaces-empty",
        "the list of namespaces is empty",
        "a deployer may start pods, and with those use every Secret of their namespace, so the "
        "namespaces are always listed",
        "list the namespaces of this team, or remove the entry",
    )


Issuer = Annotated[str, AfterValidator(_issuer)]
Prefix = Annotated[str, AfterValidator(_prefix)]
Authorities = Annotated[str, AfterValidator(_authorities)]
OidcWord = Annotated[
    str,
    matching(
        "oidc-word-format",
        r"[^\s,=\"'\\]+",
        "one word",
        "it becomes a flag of the API server, and must be written as in the tokens",
        "copy it from the page of your identity provider",
        longest=253,
    ),
]
CertificateName = Annotated[
    str,
    matching(
        "access-name-format",
        # A certificate holds 64 characters, and that of an emergency has more than the name. Names
        # with a colon are those of Kubernetes, of nordmesh, and of OIDC with its prefix.
        r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,39}",
        "a name of at most 40 letters, digits and ._@+-",
        "it is the name in a client certificate, and must not look like a name of the cluster's "
        "own parts or of your identity provider",
        "use a name such as kari.nordmann; names of tokens go into oidcUsers or oidcGroups",
    ),
]
OidcName = Annotated[
    str,
    matching(
        "access-oidc-name-format",
        r"[^\s\x00-\x1f](.*[^\s\x00-\x1f])?",
        "the name of a user or a group in tokens",
        "it is compared with the token's as a whole",
        "use the value as in the token, for example kari@example.no, without nordmesh's prefix",
        longest=256,
    ),
]


class Oidc(Section):
    """The identity provider whose tokens the API server accepts."""

    issuer_url: Issuer = Field(
        description="the URL of the issuer, exactly as in its tokens",
        examples=["https://login.example.no/realms/platform"],
    )
    client_id: OidcWord = Field(
        description="the client that tokens must be for: the claim aud", examples=["nordmesh-prod"]
    )
    username_claim: OidcWord = Field(
        default="sub", description="the claim that has the name of a token's owner"
    )
    groups_claim: OidcWord = Field(
        default="groups", description="the claim that has the groups of a token's owner"
    )
    username_prefix: Prefix = Field(
        default="oidc:", description="what the API server puts before the name of a token's owner"
    )
    groups_prefix: Prefix = Field(
        default="oidc:", description="what the API server puts before each group of a token"
    )
    signing_algorithms: Annotated[list[SigningAlgorithm], AfterValidator(_some_algorithm)] = Field(
        default=["RS256"], description="the algorithms that may sign a token"
    )
    ca: Authorities | None = Field(
        default=None,
        description="the CA certificates of the issuer in PEM, if no public CA has signed its own",
    )

    @property
    def host(self) -> str:
        """The host that every control plane connects to."""
        return urlsplit(self.issuer_url).hostname or ""


class Subjects(Section):
    """People and groups: by the names in their certificates, and by those in tokens."""

    example: ClassVar = {"groups": ["platform"]}

    users: list[CertificateName] = Field(
        default=[], description="people, by the name in their client certificate"
    )
    groups: list[CertificateName] = Field(
        default=[], description="groups, by the name in client certificates"
    )
    oidc_users: list[OidcName] = Field(default=[], description="people, by the name in their token")
    oidc_groups: list[OidcName] = Field(
        default=[], description="groups, by the name in tokens; nordmesh adds the prefix"
    )

    @model_validator(mode="after")
    def _someone(self) -> "Subjects":
        if self.users or self.groups or self.oidc_users or self.oidc_groups:
            return self
        raise Refused(
            "access-nobody",
            "the entry names nobody",
            "a role without people has no effect, although a reader would think it does",
            "add users, groups, oidcUsers or oidcGroups, or remove the entry",
        )


class Grant(Subjects):
    """People and groups that have a role in every namespace, or in some."""

    example: ClassVar = {"groups": ["platform"], "namespaces": ["shop"]}

    namespaces: Annotated[
        list[Label], Unlimited("the role applies to the whole cluster", "remove the entry")
    ] = Field(default=[], description="the namespaces of mesh.namespaces that the role is for")


class NamespaceGrant(Subjects):
    """People and groups that have a role in some namespaces."""

    example: ClassVar = {"groups": ["shop-team"], "namespaces": ["shop"]}

    namespaces: Annotated[list[Label], AfterValidator(_some_namespace)] = Field(
        description="the namespaces of mesh.namespaces that the role is for",
        examples=[["shop"]],
    )


Entry = Grant | NamespaceGrant


class Roles(Section):
    """Who has which role."""

    example: ClassVar = {"viewer": [Grant.example]}

    viewer: list[Grant] = Field(
        default=[], description="who may read everything except Secrets, and logs of pods"
    )
    deployer: list[NamespaceGrant] = Field(
        default=[], description="who may change workloads and routes of some namespaces"
    )
    operator: list[Grant] = Field(
        default=[],
        description="who may operate nodes, and change everything except roles in the namespaces "
        "of the mesh",
    )

    def all(self) -> list[tuple[str, int, Entry]]:
        """Each entry with its role and its position."""
        return [
            (role, index, entry)
            for role in type(self).model_fields
            for index, entry in enumerate(getattr(self, role))
        ]


class Access(Section):
    """The people who use the cluster, each with a name and a role."""

    example: ClassVar = {"roles": Roles.example}

    oidc: Oidc | None = Field(
        default=None, description="the identity provider whose tokens the API server accepts"
    )
    roles: Roles = Field(default=Roles(), description="who has which role")
