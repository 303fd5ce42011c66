"""The parts of a guest on a hypervisor: cores, memory, disks, image and keys."""

from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

from config.scalars.numbers import whole
from config.scalars.quantities import quantity
from config.scalars.refused import Refused
from config.scalars.shapes import shaped, text
from config.scalars.ssh import is_public_key
from config.scalars.texts import matching

_AMOUNT = r"\d+(\.\d+)?([kMGTPE]|[KMGTPE]i)?"


def _at_least(code: str, least: str, what: str, why: str) -> BeforeValidator:
    """Accept sizes of at least `least` bytes. what: what a smaller one is too small for."""

    def check(value: Any) -> str:
        is_scalar = isinstance(value, str | int | float) and not isinstance(value, bool)
        try:
            size = quantity(str(value)) if is_scalar else Decimal(0)
        except ValueError:
            size = Decimal(0)
        if size <= 0:
            raise Refused(
                "size-format",
                f"{value!r} is not a size",
                "a size is in bytes, with a unit such as Gi (1024 x 1024 x 1024 bytes)",
                f"use a value such as {least}",
            )
        if size < quantity(least):
            raise Refused(code, f"{value} is too small for {what}", why, f"use at least {least}")
        if size % quantity("1Mi"):
            raise Refused(
                "size-whole-mebibytes",
                f"{value} is not a whole number of mebibytes",
                "the hypervisor sizes memory and disks in mebibytes",
                "use Mi or Gi, for example 8Gi",
            )
        return str(value)

    shape = {"type": ["string", "integer"], "pattern": f"^{_AMOUNT}$"}
    return BeforeValidator(shaped({**shape, "minimum": int(quantity(least))})(check))


@shaped(text(r"https?://[^\s/@?#]+/[^\s?#]*[^\s?#/]"))
def _image_url(value: str) -> str:
    scheme, _, rest = value.partition("://")
    host, slash, path = rest.partition("/")
    if scheme in ("http", "https") and host and slash and path and not set("@?# ") & set(rest):
        return value
    raise Refused(
        "image-url-format",
        f"{value!r} is not the http or https URL of a file",
        "the hypervisor downloads the image from it; previews show the URL, so it must "
        "not contain a password",
        "use a URL such as "
        "https://mirror.example.internal/images/debian-12-genericcloud-amd64.qcow2",
    )


@shaped(text(r"(ssh|ecdsa)-[a-z0-9-]+\s+[A-Za-z0-9+/]+={0,2}(\s.*)?"))
def _public_key(value: str) -> str:
    if is_public_key(value):
        return " ".join(value.split())
    raise Refused(
        "public-key-format",
        "this is not a public SSH key",
        "the guest accepts logins from anyone who holds the matching private key",
        "use the line of a .pub file, for example of ~/.ssh/id_ed25519.pub",
    )


GuestMemory = Annotated[
    str,
    _at_least(
        "guest-memory-minimum",
        "1Gi",
        "a node",
        "containerd, the kubelet and the system pods alone need more than half a gibibyte",
    ),
]
DiskSize = Annotated[
    str,
    _at_least(
        "guest-disk-minimum",
        "4Gi",
        "a node's disk",
        "the system and a node's images need several gibibytes",
    ),
]
EtcdDiskSize = Annotated[
    str,
    _at_least(
        "etcd-disk-minimum",
        "1Gi",
        "etcd's disk",
        "etcd may store 2 GiB of data by default, plus its log",
    ),
]
CpuCount = Annotated[
    int,
    whole(
        "cpu-count-range",
        1,
        512,
        "it is the number of the guest's virtual processors",
        4,
        what="a count",
    ),
]
CpuNumber = Annotated[
    int,
    whole(
        "cpu-number-range",
        0,
        4095,
        "it is a processor of the hypervisor, numbered as in lscpu",
        4,
        what="a CPU",
    ),
]
ImageUrl = Annotated[str, AfterValidator(_image_url)]
PublicKey = Annotated[str, AfterValidator(_public_key)]
Sha256 = Annotated[
    str,
    matching(
        "sha256-format",
        r"[0-9a-f]{64}",
        "a sha256",
        "the image is the guest's whole system; only the image that you reviewed may be used",
        "use the 64 hexadecimal digits that `sha256sum FILE` prints, in lower case",
    ),
]
Directory = Annotated[
    str,
    matching(
        "absolute-path",
        r"(/[A-Za-z0-9][A-Za-z0-9._-]*)+",
        "an absolute path",
        "it is a path on the hypervisor; a relative path would depend on the user who logs in",
        "use a path such as /var/lib/libvirt/images/nordmesh",
    ),
]
DomainPrefix = Annotated[
    str,
    matching(
        "domain-prefix-format",
        r"([a-z0-9]([-a-z0-9]{0,30}))?",
        "a prefix for guest names",
        "libvirt names a guest by this prefix and the node's name",
        "use lower-case letters, digits and hyphens, for example prod-",
    ),
]
