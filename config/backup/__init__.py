"""The section `backup`: where snapshots of the cluster go, how often, and who can read them."""

from typing import Annotated

from pydantic import AfterValidator, Field

from config.base import Section
from config.scalars.age import AgeKey
from config.scalars.durations import duration
from config.scalars.names import HostName
from config.scalars.numbers import Port
from config.scalars.refused import Refused
from config.scalars.shapes import shaped
from config.scalars.texts import matching

_EXAMPLE_KEY = "age1tlfdsyt7vk7ru5fdq4fqnphq434xr8pz3wpmkuhra0jjrjzg5qnqmv6wa4"

Interval = Annotated[
    str,
    duration(
        "backup-interval-range",
        "5m",
        "24h",
        "each snapshot is the whole database, and everything since the last one is lost with the "
        "control planes",
        "15m",
    ),
]
Directory = Annotated[
    str,
    matching(
        "backup-directory-format",
        r"(/[A-Za-z0-9][A-Za-z0-9._-]*)+",
        "an absolute path of letters, digits and ._-",
        "control planes write the snapshots there",
        "use a path such as /srv/backup",
    ),
]
Bucket = Annotated[
    str,
    matching(
        "backup-bucket-format",
        r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]",
        "the name of a bucket",
        "S3 allows 3 to 63 lower-case letters, digits, dots and hyphens",
        "use the name of a bucket that exists, for example prod-snapshots",
    ),
]
Word = Annotated[
    str,
    matching(
        "backup-word-format",
        r"[A-Za-z0-9._/+=-]+",
        "one word of letters, digits and ._/+=-",
        "it is a value in the configuration of rclone",
        "copy it from the page of your provider",
    ),
]


@shaped({"minItems": 1})
def _some(value: list[str]) -> list[str]:
    if value:
        return value
    raise Refused(
        "backup-keys-empty",
        "the list of keys is empty",
        "snapshots are always encrypted, because they contain every Secret of the cluster",
        "run `age-keygen -o key.txt` on a machine of the team, and add the public key that it "
        "prints",
    )


class S3(Section):
    """A bucket of S3-compatible storage, over HTTPS."""

    host: HostName = Field(description="the host of the storage", examples=["s3.example.no"])
    port: Port = Field(default=443, description="the port of the storage")
    region: Word = Field(description="the region of the bucket", examples=["no-oslo-1"])
    bucket: Bucket = Field(
        description="a bucket that exists, with versioning or object lock",
        examples=["prod-snapshots"],
    )
    access_key_id: Word = Field(
        description="the public half of a login that may only write; the other half is the secret "
        "nordmesh:backupSecretKey",
        examples=["nordmesh-prod-writer"],
    )


class Backup(Section):
    """Snapshots of etcd and the cluster's PKI, encrypted to keys that only the team has."""

    every: Interval = Field(default="15m", description="the time between two snapshots")
    keys: Annotated[list[AgeKey], AfterValidator(_some)] = Field(
        description="the public keys of age that can decrypt snapshots", examples=[[_EXAMPLE_KEY]]
    )
    s3: S3 | None = Field(default=None, description="a bucket for the snapshots")
    directory: Directory | None = Field(
        default=None,
        description="a directory that exists on each control plane, for example a mounted one",
        examples=["/srv/backup"],
    )
