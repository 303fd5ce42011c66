"""What runs is what was reviewed, and somebody still mends it."""

import datetime
import re
from collections.abc import Iterator

from config import catalogue
from policy.rules.residency import images
from policy.rules.rule import Finding, Rule
from policy.stack import Stack

_SOON = datetime.timedelta(days=90)


def _unpinned(stack: Stack) -> Iterator[Finding]:
    for reference, urn in images(stack):
        if "@sha256:" not in reference and not _is_pinned_tag(reference):
            yield Finding(
                subject=f"image:{reference}",
                text=f"the image {reference} can be another one tomorrow: name it by digest "
                "(@sha256:...), or by the tag of one release",
                urn=urn,
            )


def _by_tag(stack: Stack) -> Iterator[Finding]:
    everything = {reference for reference, _ in images(stack)}
    # Nodes pull these by digest before anything asks for them by tag.
    by_digest = {reference.partition("@")[0] for reference in everything if "@" in reference}
    tagged = {reference for reference in everything - by_digest if "@" not in reference}
    pinned = sorted(filter(_is_pinned_tag, tagged))
    if pinned:
        yield Finding(
            subject="images-by-tag",
            text=f"{len(pinned)} images are named by the tag of a release and not by digest; who "
            f"may write to the registry can replace them: {', '.join(pinned)}",
        )


def _guest_images(stack: Stack) -> Iterator[Finding]:
    paths = {
        command.settings.get("IMAGE_PATH", ""): command.urn
        for command in stack.commands
        if command.script == "kvm-create.sh" and not command.settings.get("IMAGE_SHA256")
    }
    for path, urn in sorted(paths.items()):
        yield Finding(
            subject=f"guest-image:{path}",
            text=f"guests are made of {path} as it is found on the hypervisor: write its sha256 "
            "beside the path, so that it is the image that was reviewed",
            urn=urn,
        )


def _is_pinned_tag(reference: str) -> bool:
    """Whether the tag is the one of a release: it has a number with a dot, as 1.16.5 or v0.26."""
    tag = reference.rpartition("/")[2].partition(":")[2]
    return bool(re.search(r"\d+\.\d+", tag))


def _end_of_life(stack: Stack) -> Iterator[Finding]:
    kubernetes = {
        found[1]
        for command in stack.commands
        if (found := re.match(r"v?([\d.]+)$", command.settings.get("KUBERNETES_VERSION", "")))
    }
    istio = {str(operator.get("tag")) for _, operator in stack.operators}
    releases = [
        *(("Kubernetes", version, catalogue.KUBERNETES.get(version)) for version in kubernetes),
        *(("Istio", version, catalogue.ISTIO.get(version)) for version in istio),
    ]
    for name, version, release in releases:
        if release is None:
            text = f"{name} {version} is not in config/catalogue.py: nobody knows how long it lasts"
        elif release.end_of_life < stack.today:
            text = f"{name} {version} has had no security fixes since {release.end_of_life}"
        elif release.end_of_life < stack.today + _SOON:
            text = f"{name} {version} gets security fixes only until {release.end_of_life}"
        else:
            continue
        yield Finding(subject=f"end-of-life:{name} {version}", text=text)


RULES = (
    Rule(
        name="pinned-images",
        description="An image is the one that was reviewed.",
        find=_unpinned,
        is_open=True,
    ),
    Rule(
        name="pinned-guest-images",
        description="A guest's system is the one that was reviewed.",
        find=_guest_images,
        is_open=True,
    ),
    Rule(
        name="images-by-digest",
        description="A digest cannot be moved, a tag can.",
        find=_by_tag,
        is_mandatory=False,
    ),
    Rule(
        name="end-of-life",
        description="What gets no security fixes is to be replaced.",
        find=_end_of_life,
        is_mandatory=False,
    ),
)
