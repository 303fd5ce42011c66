"""The key `observability.alertmanager`: who gets the alerts, and by which way."""

from typing import Annotated

from pydantic import AfterValidator, Field

from config.base import Section
from config.scalars.names import HostName
from config.scalars.numbers import Port
from config.scalars.refused import Refused
from config.scalars.shapes import shaped
from config.scalars.texts import matching

CLUSTER_DOMAIN = ".svc.cluster.local"
"""The end of the names of Services in the cluster."""

SMTPS = 465

MailAddress = Annotated[
    str,
    matching(
        "mail-address-format",
        r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+",
        "a mail address",
        "Alertmanager sends mail to exactly this text",
        "use a value such as on-call@example.no",
    ),
]
MailUser = Annotated[
    str,
    matching(
        "mail-user-format",
        r"\S+",
        "a user name",
        "the mail server expects one word",
        "use the name that you got with the password, for example nordmesh@example.no",
    ),
]


@shaped({"minItems": 1})
def _someone(value: list[str]) -> list[str]:
    if value:
        return value
    raise Refused(
        "mail-recipients-empty",
        "the list of recipients is empty",
        "the mail would reach nobody",
        "add an address that someone reads at night, or remove email",
    )


class AlertHost(Section):
    """A host that gets HTTP requests from Alertmanager; the rest of the URL is a secret."""

    host: HostName = Field(
        description="the host of the URL: one that mesh.egress.hosts lists for the namespace "
        "monitoring, or a Service of this cluster",
        examples=["alerts.example.no"],
    )
    port: Port = Field(default=443, description="the port of the URL")

    @property
    def in_cluster(self) -> bool:
        """Whether it is a Service of this cluster."""
        return self.host.endswith(CLUSTER_DOMAIN)


class Email(Section):
    """Mail to a person, always over TLS."""

    to: Annotated[list[MailAddress], AfterValidator(_someone)] = Field(
        description="the addresses that get each alert", examples=[["on-call@example.no"]]
    )
    sender: MailAddress = Field(
        description="the address that the mail is from", examples=["nordmesh@example.no"]
    )
    host: HostName = Field(
        description="the mail server: one that mesh.egress.hosts lists for the namespace "
        "monitoring, or a Service of this cluster",
        examples=["smtp.example.no"],
    )
    port: Port = Field(
        default=SMTPS, description="465 for TLS from the start, any other port for STARTTLS"
    )
    username: MailUser | None = Field(
        default=None,
        description="the user that logs in with the secret nordmesh:alertSmtpPassword; without "
        "one, Alertmanager does not log in",
    )

    @property
    def in_cluster(self) -> bool:
        """Whether the mail server is a Service of this cluster."""
        return self.host.endswith(CLUSTER_DOMAIN)


class Alertmanager(Section):
    """Sends alerts to one receiver: a webhook, mail, or both."""

    enabled: bool = Field(default=False, description="whether Alertmanager runs in the cluster")
    webhook: AlertHost | None = Field(
        default=None,
        description="the host that gets each alert as JSON, at the secret nordmesh:alertWebhookUrl",
    )
    email: Email | None = Field(default=None, description="mail with each alert")
    heartbeat: AlertHost | None = Field(
        default=None,
        description="the host that gets a request every minute, at the secret "
        "nordmesh:alertHeartbeatUrl, and that must tell a person when the requests stop",
    )
