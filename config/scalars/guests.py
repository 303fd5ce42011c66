"""What a guest on a hypervisor is made of: cores, memory, disks, an image, keys."""

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


def _at_least(least: str, what: str, why: str) -> BeforeValidator:
    """Takes amounts of bytes from `least` on. what: what one that is too small is short of."""

    def check(value: Any) -> str:
        is_scalar = isinstance(value, str | int | float) and not isinstance(value, bool)
        try:
            size = quantity(str(value)) if is_scalar else Decimal(0)
        except ValueError:
            size = Decimal(0)
        if size <= 0:
            raise Refused(
                f"{value!r} is not an amount of bytes",
                "sizes are counted in bytes, with a unit such as Gi (1024 x 1024 x 1024 bytes)",
                f"write such as {least}",
            )
        if size < quantity(least):
            raise Refused(f"{value} is too small for {what}", why, f"write at least {least}")
        if size % quantity("1Mi"):
            raise Refused(
                f"{value} is no whole number of mebibytes",
                "the hypervisor counts memory and disks in larger pieces than bytes",
                "write it in Mi or Gi, such as 8Gi",
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
        f"{value!r} is not the http or https address of a file",
        "the hypervisor downloads the image from there; the address is shown in previews, so it "
        "may hold no password",
        "write such as https://mirror.example.internal/images/debian-12-genericcloud-amd64.qcow2",
    )


@shaped(text(r"(ssh|ecdsa)-[a-z0-9-]+\s+[A-Za-z0-9+/]+={0,2}(\s.*)?"))
def _public_key(value: str) -> str:
    if is_public_key(value):
        return " ".join(value.split())
    raise Refused(
        "this is no public SSH key",
        "it is put into the guest, to let the holder of its private half log in",
        "write the line of a .pub file, such as that of ~/.ssh/id_ed25519.pub",
    )


GuestMemory = Annotated[
    str,
    _at_least(
        "1Gi",
        "a node",
        "containerd, kubelet and the system's pods alone take more than half a gibibyte",
    ),
]
DiskSize = Annotated[
    str,
    _at_least("4Gi", "a node's disk", "the system and the images of a node take some gibibytes"),
]
EtcdDiskSize = Annotated[
    str,
    _at_least(
        "1Gi", "etcd's disk", "etcd may keep 2 GiB of data by default, and its log comes on top"
    ),
]
CpuCount = Annotated[
    int, whole(1, 512, "it is the number of the guest's virtual processors", 4, what="a count")
]
CpuNumber = Annotated[
    int,
    whole(0, 4095, "it is a processor of the hypervisor, as lscpu counts them", 4, what="a CPU"),
]
ImageUrl = Annotated[str, AfterValidator(_image_url)]
PublicKey = Annotated[str, AfterValidator(_public_key)]
Sha256 = Annotated[
    str,
    matching(
        r"[0-9a-f]{64}",
        "a sha256",
        "the image is the guest's whole system; only one that was reviewed may be used",
        "write the 64 hexadecimal digits that `sha256sum FILE` prints, in lower case",
    ),
]
Directory = Annotated[
    str,
    matching(
        r"(/[A-Za-z0-9][A-Za-z0-9._-]*)+",
        "an absolute path",
        "it is a place on the hypervisor; a relative one would depend on who logs in",
        "write such as /var/lib/libvirt/images/nordmesh",
    ),
]
DomainPrefix = Annotated[
    str,
    matching(
        r"([a-z0-9]([-a-z0-9]{0,30}))?",
        "the beginning of a guest's name",
        "libvirt knows the guest by this and the node's name",
        "write lower-case letters, digits and hyphens, such as prod-",
    ),
]
