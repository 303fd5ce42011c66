"""Data stays in the EEA: policy/places.yaml classifies every host that the stack uses."""

import re
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

from config import annotations, image_references
from config.scalars.names import SYSTEM_NAMESPACES
from policy.places import Location, locate
from policy.rules.rule import ACCEPT, Finding, Rule
from policy.stack import Resource, Stack, items, mapping, texts

_URL = re.compile(r"\b(?:https?|grpcs?|s3|gs|azblob|postgres(?:ql)?)://[^\s\"'<>|,;)\]}]+")
_FIX = f"use a host in the EEA or your own mirror, or write a reason at {ACCEPT}"
_OUTSIDE = "data may leave the EEA without a legal basis"


def _find(stack: Stack) -> Iterator[Finding]:
    namespaces = _namespaces(stack)
    for host, use, urn in _hosts(stack):
        location = locate(host)
        if host.partition(".")[2] in namespaces:
            continue  # a Service, by its short name
        if location is None:
            yield Finding(
                subject=host,
                what=f"{use} {host} is not in policy/places.yaml",
                why="its country is unknown",
                fix=f"add it there with its country, {_FIX}",
                urn=urn,
            )
        elif not location.is_in_eea:
            yield Finding(
                subject=host,
                what=f"{use} {host} is outside the EEA ({location.country_in_words})",
                why=_OUTSIDE,
                fix=_FIX,
                urn=urn,
            )
    yield from _egress(stack)


def _namespaces(stack: Stack) -> set[str]:
    own = {namespace.name.rpartition("/")[2] for namespace in stack.of_kind("Namespace")}
    return {*own, *SYSTEM_NAMESPACES}


def _unseen_state(stack: Stack) -> Iterator[Finding]:
    if stack.backend is None:
        yield Finding(
            subject="state",
            what="the state backend is unknown",
            why="the state has every secret of the cluster",
            fix="set it in Pulumi.yaml (backend: {url: ...}) or in PULUMI_BACKEND_URL",
        )


def _foreign_law(stack: Stack) -> Iterator[Finding]:
    egress = [(host, "the egress host", entry.urn) for entry, host, _ in _outside_hosts(stack)]
    for host, use, urn in [*_hosts(stack), *egress]:
        location = locate(host)
        if location is not None and location.is_in_eea and location.law:
            yield Finding(
                subject=host,
                what=f"{use} {host} is in {location.country}, but its operator is under the law of "
                f"{location.law}",
                why="that law may give authorities outside the EEA access to the data",
                fix="explain in the transfer impact assessment why the protection suffices",
                urn=urn,
            )


# --- downloads, images, state and endpoints -------------------------------------------------------


def _hosts(stack: Stack) -> Iterator[tuple[str, str, str | None]]:
    yield from _state(stack)
    yield from _key_service(stack)
    for command in stack.commands:
        # The storage of snapshots is judged by its own key.
        settings = {**command.settings, "RCLONE": ""}
        for text in settings.values():
            yield from ((host, "the download host", command.urn) for host in _urls(text))
    artifacts = stack.section("artifacts")
    if not artifacts.get("registry") or artifacts.get("fallback"):
        for reference, urn in images(stack):
            yield registry_host(reference), "the registry", urn
    for kind in ("artifacts", "istio", "observability"):
        for host in _urls(*(text for _, text in texts(stack.section(kind)))):
            yield host, f"the host in nordmesh:{kind}", None
    bucket = mapping(stack.section("backup").get("s3"))
    if "host" in bucket:
        yield str(bucket["host"]), "the storage of snapshots", None
    oidc = mapping(stack.section("access").get("oidc"))
    if issuer := urlsplit(str(oidc.get("issuerUrl", ""))).hostname:
        yield issuer, "the identity provider", None
    for host in items(stack.section("host").get("timeServers")):
        yield str(host), "the time server", None
    for resource in stack.of_kind("ConfigMap", "Deployment", "DaemonSet", "StatefulSet", "CronJob"):
        for host in _urls(*(text for key, text in _settings_of(resource))):
            yield host, f"the endpoint in {resource.kind} {resource.name}", resource.urn
    for command, operator in stack.operators:
        for key, text in texts(operator):
            if key in ("address", "service") and ":" in text:
                yield text.partition(":")[0], "the endpoint in IstioOperator", command.urn


def _state(stack: Stack) -> Iterator[tuple[str, str, str | None]]:
    """The host of the state backend; a local directory has none."""
    if stack.backend is None or stack.backend.startswith("file:"):
        return
    url = urlsplit(stack.backend)
    query = {key: values[0] for key, values in parse_qs(url.query).items()}
    if url.scheme == "s3":
        endpoint = query.get("endpoint", f"s3.{query.get('region', 'unknown')}.amazonaws.com")
        yield endpoint.rpartition("://")[2].partition(":")[0], "the state backend", None
    elif url.scheme in ("gs", "azblob"):
        host = "storage.googleapis.com" if url.scheme == "gs" else "blob.core.windows.net"
        yield host, "the state backend", None
    elif url.hostname:
        yield url.hostname, "the state backend", None


def _key_service(stack: Stack) -> Iterator[tuple[str, str, str | None]]:
    """The host that decrypts the state's secrets."""
    if stack.key_service is None:
        return
    url = urlsplit(stack.key_service)
    if url.scheme == "awskms":
        arn = re.search(r"\barn:aws[\w-]*:kms:([\w-]+):", stack.key_service)
        region = arn[1] if arn else parse_qs(url.query).get("region", ["unknown"])[0]
        yield f"kms.{region}.amazonaws.com", "the key service", None
    elif url.scheme == "gcpkms":
        yield "cloudkms.googleapis.com", "the key service", None
    elif url.hostname:
        yield url.hostname, "the key service", None


def _settings_of(resource: Resource) -> Iterator[tuple[str, str]]:
    """The texts of an object that configure it, without its metadata."""
    yield from texts(resource.props.get("data"))
    template = mapping(mapping(resource.props.get("spec")).get("template"))
    yield from texts(template.get("spec"))


def _urls(*values: str) -> Iterator[str]:
    for value in values:
        for match in _URL.finditer(value):
            try:
                host = urlsplit(match[0]).hostname
            except ValueError:
                continue  # a pattern or a template, not an address
            if host and re.fullmatch(r"[\w.:-]+", host):
                yield host


# --- images --------------------------------------------------------------------------------------


def images(stack: Stack) -> Iterator[tuple[str, str]]:
    """The references of all images that nodes and pods pull, with the URN of the resource."""
    for command in stack.commands:
        for line in command.settings.get("IMAGES", "").splitlines():
            yield _image(line), command.urn
    for command, operator in stack.operators:
        hub, tag = operator.get("hub"), operator.get("tag")
        if hub and tag:
            yield from ((f"{hub}/{name}:{tag}", command.urn) for name in ("pilot", "proxyv2"))
    for resource in stack.of_kind("Deployment", "DaemonSet", "StatefulSet", "CronJob", "Pod"):
        for key, text in texts(resource.props.get("spec")):
            if key == "image" and text:
                yield text, resource.urn


def _image(line: str) -> str:
    """Parse a line of a node's setting IMAGES, `reference digest`, where the digest may be `-`."""
    reference, _, digest = line.partition(" ")
    return f"{reference}@{digest}" if digest.startswith("sha256:") else reference


def registry_host(reference: str) -> str:
    """The host that an image comes from, without a port."""
    return image_references.registry(reference).partition(":")[0]


# --- egress --------------------------------------------------------------------------------------


def _egress(stack: Stack) -> Iterator[Finding]:
    """Hosts that pods may call. The table decides; for other hosts, the declared country does."""
    for entry, host, declared in _outside_hosts(stack):
        location = locate(host) or Location(country=declared.get(annotations.COUNTRY))
        country = declared.get(annotations.COUNTRY)
        if country and location.country and not location.is_inside and country != location.country:
            what = f"the stack file declares the egress host {host} in {country}, but "
            what += f"policy/places.yaml has it in {location.country}"
            why, fix = "one of them is wrong", "correct the wrong one"
        elif location.is_in_eea or declared.get(annotations.TRANSFER_BASIS):
            continue
        elif location.country is None and locate(host) is None:
            what = f"the country of the egress host {host} is unknown"
            why, fix = _OUTSIDE, f"declare its country in the stack file, {_FIX}"
        else:
            what = f"the egress host {host} is outside the EEA ({location.country_in_words})"
            why, fix = _OUTSIDE, f"declare the transfer's legal basis in the stack file, {_FIX}"
        yield Finding(subject=host, what=what, why=why, fix=fix, urn=entry.urn)


def _outside_hosts(stack: Stack) -> Iterator[tuple[Resource, str, dict[str, str]]]:
    for entry in stack.of_kind("ServiceEntry"):
        spec = mapping(entry.props.get("spec"))
        # MESH_EXTERNAL is Istio's default.
        if spec.get("location", "MESH_EXTERNAL") != "MESH_EXTERNAL":
            continue
        declared = mapping(mapping(entry.props.get("metadata")).get("annotations"))
        for host in items(spec.get("hosts")):
            yield entry, str(host), {str(key): str(value) for key, value in declared.items()}


RULES = (
    Rule(
        name="eea-residency",
        description="Data, keys and logs stay in the EEA.",
        find=_find,
        is_open=True,
    ),
    Rule(
        name="visible-state",
        description="The state has every secret of the cluster, so its backend must be known.",
        find=_unseen_state,
        is_mandatory=False,
    ),
    Rule(
        name="foreign-law",
        description="The operator of a host in the EEA may be under another law.",
        find=_foreign_law,
        is_mandatory=False,
    ),
)
