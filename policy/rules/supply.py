"""Everything that runs was reviewed, and still gets security fixes."""

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
                what=f"the image {reference} is not pinned",
                why="its tag may name another image tomorrow",
                fix="use a digest (@sha256:...), or the tag of a release",
                urn=urn,
            )


def _by_tag(stack: Stack) -> Iterator[Finding]:
    references = {reference for reference, _ in images(stack)}
    # Nodes pull these by digest before a pod needs them by tag.
    by_digest = {reference.partition("@")[0] for reference in references if "@" in reference}
    tagged = {reference for reference in references - by_digest if "@" not in reference}
    pinned = sorted(filter(_is_pinned_tag, tagged))
    if pinned:
        yield Finding(
            subject="images-by-tag",
            what=f"{len(pinned)} images have the tag of a release, but no digest: "
            f"{', '.join(pinned)}",
            why="anyone who can write to the registry can replace them",
            fix="use digests (nordmesh lock)",
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
            what=f"the guest image {path} has no sha256",
            why="the file on the hypervisor may not be the image that was reviewed",
            fix="write its sha256 beside the path",
            urn=urn,
        )


def _is_pinned_tag(reference: str) -> bool:
    """Whether the tag names a release: it has a number with a dot, as 1.16.5 or v0.26."""
    tag = reference.rpartition("/")[2].partition(":")[2]
    return bool(re.search(r"\d+\.\d+", tag))


def _end_of_life(stack: Stack) -> Iterator[Finding]:
    kubernetes = {
        match[1]
        for command in stack.commands
        if (match := re.match(r"v?([\d.]+)$", command.settings.get("KUBERNETES_VERSION", "")))
    }
    istio = {str(operator.get("tag")) for _, operator in stack.operators}
    releases = [
        *(("Kubernetes", version, catalogue.KUBERNETES.get(version)) for version in kubernetes),
        *(("Istio", version, catalogue.ISTIO.get(version)) for version in istio),
    ]
    for name, version, release in releases:
        if release is None:
            what = f"the end of life of {name} {version} is unknown"
            fix = "add the release to config/catalogue.py"
        elif release.end_of_life < stack.today:
            what = f"{name} {version} has had no security fixes since {release.end_of_life}"
            fix = "upgrade to a supported release"
        elif release.end_of_life < stack.today + _SOON:
            what = f"{name} {version} gets security fixes only until {release.end_of_life}"
            fix = "plan the upgrade to a later release"
        else:
            continue
        yield Finding(subject=f"end-of-life:{name} {version}", what=what, fix=fix)


RULES = (
    Rule(
        name="pinned-images",
        description="Every image is the one that was reviewed.",
        find=_unpinned,
        is_open=True,
    ),
    Rule(
        name="pinned-guest-images",
        description="Every guest's image is the one that was reviewed.",
        find=_guest_images,
        is_open=True,
    ),
    Rule(
        name="images-by-digest",
        description="A tag can move, a digest cannot.",
        find=_by_tag,
        is_mandatory=False,
    ),
    Rule(
        name="end-of-life",
        description="Every release gets security fixes.",
        find=_end_of_life,
        is_mandatory=False,
    ),
)
