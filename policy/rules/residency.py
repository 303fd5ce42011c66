"""Data stays in the EEA: every host that the stack talks to is classed by policy/places.yaml."""

import re
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

from config import annotations
from config.scalars.names import SYSTEM_NAMESPACES
from policy.places import Place, place
from policy.rules.rule import Finding, Rule
from policy.stack import Resource, Stack, items, mapping, texts

_URL = re.compile(r"\b(?:https?|grpcs?|s3|gs|azblob|postgres(?:ql)?)://[^\s\"'<>|,;)\]}]+")
_HUB = "docker.io"  # of a reference without a host
_REMEDY = (
    "use a host in the EEA or a mirror of your own; or write why it has to be under "
    "nordmesh-policy:accept"
)


def _find(stack: Stack) -> Iterator[Finding]:
    namespaces = _namespaces(stack)
    for host, use, urn in _hosts(stack):
        where = place(host)
        if host.partition(".")[2] in namespaces:
            continue  # a Service, by its short name
        if where is None:
            yield Finding(
                subject=host,
                text=f"{use} {host} is not in policy/places.yaml, so nobody has looked at where it "
                f"is; add it there, with its country, or {_REMEDY}",
                urn=urn,
            )
        elif not where.is_in_eea:
            yield Finding(
                subject=host,
                text=f"{use} {host} is outside the EEA ({where.where}): {_REMEDY}",
                urn=urn,
            )
    yield from _egress(stack)


def _namespaces(stack: Stack) -> set[str]:
    made = {namespace.name.rpartition("/")[2] for namespace in stack.of_kind("Namespace")}
    return {*made, *SYSTEM_NAMESPACES}


def _unseen_state(stack: Stack) -> Iterator[Finding]:
    if stack.backend is None:
        yield Finding(
            subject="state",
            text="where the state is kept cannot be seen from here: say it in Pulumi.yaml "
            "(backend: {url: ...}) or in PULUMI_BACKEND_URL",
        )


def _foreign_law(stack: Stack) -> Iterator[Finding]:
    egress = [(host, "the egress host", entry.urn) for entry, host, _ in _outside_hosts(stack)]
    for host, use, urn in [*_hosts(stack), *egress]:
        where = place(host)
        if where is not None and where.is_in_eea and where.law:
            yield Finding(
                subject=host,
                text=f"{use} {host} is in {where.country}, but run by a company under the law of "
                f"{where.law}; the transfer's assessment has to say why that is enough",
                urn=urn,
            )


# --- what nodes and pods fetch, and where the stack keeps and sends things ------------------------


def _hosts(stack: Stack) -> Iterator[tuple[str, str, str | None]]:
    yield from _state(stack)
    yield from _key_service(stack)
    for command in stack.commands:
        for text in command.settings.values():
            yield from ((host, "the download host", command.urn) for host in _urls(text))
    artifacts = stack.section("artifacts")
    if not artifacts.get("registry") or artifacts.get("fallback"):
        for reference, urn in images(stack):
            yield registry(reference), "the registry", urn
    for kind in ("artifacts", "istio", "observability"):
        for host in _urls(*(text for _, text in texts(stack.section(kind)))):
            yield host, f"the host in nordmesh:{kind}", None
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
    """The host of the state backend; a directory of this machine has none."""
    if stack.backend is None or stack.backend.startswith("file:"):
        return
    url = urlsplit(stack.backend)
    asked = {key: values[0] for key, values in parse_qs(url.query).items()}
    if url.scheme == "s3":
        endpoint = asked.get("endpoint", f"s3.{asked.get('region', 'unknown')}.amazonaws.com")
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
        asked = arn[1] if arn else parse_qs(url.query).get("region", ["unknown"])[0]
        yield f"kms.{asked}.amazonaws.com", "the key service", None
    elif url.scheme == "gcpkms":
        yield "cloudkms.googleapis.com", "the key service", None
    elif url.hostname:
        yield url.hostname, "the key service", None


def _settings_of(resource: Resource) -> Iterator[tuple[str, str]]:
    """The texts of an object that say what it does, and not what people wrote about it."""
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
    """The references of all images that nodes and pods pull, with who does."""
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
    """An image of a node's setting, `reference digest`, with the digest if there is one."""
    reference, _, digest = line.partition(" ")
    return f"{reference}@{digest}" if digest.startswith("sha256:") else reference


def registry(reference: str) -> str:
    """The host that an image comes from."""
    first, slash, _ = reference.partition("/")
    is_host = slash and ("." in first or ":" in first or first == "localhost")
    return first.partition(":")[0] if is_host else _HUB


# --- egress --------------------------------------------------------------------------------------


def _egress(stack: Stack) -> Iterator[Finding]:
    """Hosts that pods may call: the table decides, and where it does not know, what is declared."""
    for entry, host, declared in _outside_hosts(stack):
        where = place(host) or Place(country=declared.get(annotations.COUNTRY))
        country = declared.get(annotations.COUNTRY)
        if country and where.country and not where.is_inside and country != where.country:
            text = (
                f"the egress host {host} is declared to be in {country}, but "
                f"policy/places.yaml has it in {where.country}; correct the one that is wrong"
            )
        elif where.is_in_eea or declared.get(annotations.TRANSFER_BASIS):
            continue
        elif where.country is None and place(host) is None:
            text = (
                f"the egress host {host} is nowhere said to be in the EEA: declare its country in "
                f"the stack file, or {_REMEDY}"
            )
        else:
            text = (
                f"the egress host {host} is outside the EEA ({where.where}), and no basis of "
                f"the transfer is declared: {_REMEDY}"
            )
        yield Finding(subject=host, text=text, urn=entry.urn)


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
        description="The state has every secret of the cluster in it.",
        find=_unseen_state,
        is_mandatory=False,
    ),
    Rule(
        name="foreign-law",
        description="Who runs a host in the EEA may be bound by another law.",
        find=_foreign_law,
        is_mandatory=False,
    ),
)
