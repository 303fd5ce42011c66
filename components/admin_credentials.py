"""The administrator's certificate in the stack's kubeconfig, renewed by `pulumi up`."""

import base64
import re
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pulumi

from components.manifests import kubeadm
from components.remote.node_command import Script
from components.remote.script import Connection, RemoteScript

FILE = "admin-credentials.sh"
SINCE = "SINCE"
"""The script's setting: the day from which a new certificate is due; empty before the first."""

RENEWED_AFTER = timedelta(days=275)
"""The time between two certificates; kubeadm's last a year, so 90 days are left for a `pulumi up`.
"""

# A certificate's validity in DER (RFC 5280): a sequence of two times, each with the tag of UTCTime
# (a year of two digits, until 2049) or of GeneralizedTime.
_VALIDITY = re.compile(
    rb"\x30[\x1e-\x22](?:\x17\x0d(\d{12})|\x18\x0f(\d{14}))Z[\x17\x18][\x0d\x0f]"
)


class AdminCredentials:
    """The credentials in the kubeconfig: those of kubeadm-init.sh for the first 275 days, and then
    new ones every 275 days.

    first: what kubeadm-init.sh printed. The due day depends on the first certificate and the
    clock alone, so a preview knows it, and nothing connects to the node before it has come. A stack
    without `pulumi up` for 90 days after it needs `pulumi up` before kubectl works again.
    """

    values: pulumi.Output[Mapping[str, str]]

    def __init__(
        self,
        node: str,
        connection: Connection,
        *,
        endpoint: str,
        first: pulumi.Output[dict[str, str]],
        parent: pulumi.Resource,
    ) -> None:
        # A day is no secret, although it comes from one.
        since = pulumi.Output.unsecret(first.apply(_due_now, run_with_unknowns=True))
        issued = RemoteScript(
            f"{node}-credentials",
            connection,
            since.apply(
                lambda day: Script(
                    file=FILE, node=node, settings={"ENDPOINT": endpoint, SINCE: day}
                )
            ),
            secret_output=True,
            renewed_by=SINCE,
            opts=pulumi.ResourceOptions(parent=parent),
        )
        # Until the first renewal, the kubeconfig does not wait for this script.
        self.values = since.apply(
            lambda day: (
                pulumi.Output.all(first, issued.read(kubeadm.credentials)).apply(
                    lambda both: {**both[0], **both[1]}
                )
                if day
                else first
            )
        )


def _due_now(first: object) -> str:
    """first: unknown in a preview that creates the cluster; then nothing is due."""
    return due(first, datetime.now(UTC)) if isinstance(first, Mapping) else ""


def valid_from(pem: str) -> datetime:
    """The start of a certificate; raises ValueError if the text is not one.

    Not with a library for certificates: its import takes 0.1 s of every preview.
    """
    match = _VALIDITY.search(ssl.PEM_cert_to_DER_cert(pem))
    if match is None:
        raise ValueError("not a certificate")
    utc_time, generalized_time = match.groups()
    text = (utc_time and b"20" + utc_time) or generalized_time
    return datetime.strptime(text.decode(), "%Y%m%d%H%M%S").replace(tzinfo=UTC)


def due(first: Mapping[str, str], now: datetime) -> str:
    """The last day on which a new certificate was due; empty before the first such day.

    first: what kubeadm-init.sh printed. Also empty if its certificate cannot be read.
    """
    try:
        start = valid_from(base64.b64decode(first["clientCertificate"]).decode())
    except (LookupError, ValueError):
        return ""
    times = (now - start) // RENEWED_AFTER
    return f"{start + times * RENEWED_AFTER:%Y-%m-%d}" if times > 0 else ""
