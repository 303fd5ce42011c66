"""Checks of the receiver of alerts: it can be reached, and it is on the egress list."""

from collections.abc import Iterator
from urllib.parse import urlsplit

from config import ALERT_HEARTBEAT_URL, ALERT_SMTP_PASSWORD, ALERT_WEBHOOK_URL
from config.errors import NAMESPACE, KeyPath, Problem
from config.observability import MONITORING_NAMESPACE
from config.observability.alertmanager import AlertHost, Alertmanager, Email
from config.sections import Sections

_BASE = ("observability", "alertmanager")
_LISTED = ("mesh", "egress", "hosts")
URLS = {"webhook": ALERT_WEBHOOK_URL, "heartbeat": ALERT_HEARTBEAT_URL}
"""The secrets with the URLs of the hosts, by the key of the host."""


def _settings(sections: Sections) -> Alertmanager | None:
    return sections.observability.alertmanager if sections.observability is not None else None


def _check_prometheus(sections: Sections) -> Iterator[Problem]:
    settings = _settings(sections)
    if sections.observability is None or settings is None or not settings.enabled:
        return
    if not sections.observability.prometheus.enabled:
        yield Problem(
            code="alertmanager-without-prometheus",
            path=(*_BASE, "enabled"),
            what="Alertmanager is enabled, but Prometheus is not",
            why="Prometheus evaluates the alerts, so nobody would get any",
            fix="set observability.prometheus.enabled to true, or this to false",
            about=(("observability", "prometheus", "enabled"),),
        )
    if settings.webhook is None and settings.email is None:
        yield Problem(
            code="alert-receiver-missing",
            path=_BASE,
            what="there is no receiver: neither webhook nor email is set",
            why="every alert would end in Alertmanager, where nobody looks at night",
            fix="set webhook.host or email, or set enabled to false",
        )


def _hosts(sections: Sections) -> Iterator[tuple[KeyPath, AlertHost | Email]]:
    settings = _settings(sections)
    if settings is None or not settings.enabled:
        return
    for name in ("webhook", "email", "heartbeat"):
        if (host := getattr(settings, name)) is not None:
            yield (*_BASE, name), host


def _check_listed(sections: Sections) -> Iterator[Problem]:
    if sections.mesh is None:
        return
    listed = {
        (host.host, port.number)
        for host in sections.mesh.egress.hosts.values()
        for port in host.ports
        if MONITORING_NAMESPACE in host.namespaces
    }
    for path, host in _hosts(sections):
        if not host.in_cluster and (host.host, host.port) not in listed:
            yield Problem(
                code="alert-host-not-listed",
                path=(*path, "host"),
                what=f"{host.host}, port {host.port}, is not in mesh.egress.hosts with "
                f"namespaces: [{MONITORING_NAMESPACE}]",
                why="alerts name services, nodes and namespaces; the list says who gets them and "
                "in which country, and the policy pack judges that",
                fix=f"add it to mesh.egress.hosts with namespaces: [{MONITORING_NAMESPACE}] and "
                "through: direct",
                about=(_LISTED,),
            )


def _check_urls(sections: Sections) -> Iterator[Problem]:
    settings = _settings(sections)
    if settings is None:
        return
    for name, key in URLS.items():
        host, url = getattr(settings, name), sections.secret(key)
        if host is None or not settings.enabled:
            if url and host is None:
                yield _unneeded(key, f"{name}.host")
        elif not url:
            yield _missing(key, f"the URL at {host.host}", (*_BASE, name))
        elif (problem := _flaw(key, (*_BASE, name), host, url)) is not None:
            yield problem


def _flaw(key: str, path: KeyPath, host: AlertHost, url: str) -> Problem | None:
    """The problem of a URL, without its text: it may contain a token."""
    schemes = ("https", "http") if host.in_cluster else ("https",)
    try:
        parts = urlsplit(url.strip())
        port = parts.port or (80 if parts.scheme == "http" else 443)
    except ValueError:
        return _not_a_url(key, host)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return _not_a_url(key, host)
    if parts.scheme not in schemes:
        return Problem(
            code="alert-url-plaintext",
            path=(key,),
            what="the URL begins with http://",
            why="anyone on the way could read the alerts and the token in the URL",
            fix=_set(key, "a URL that begins with https://"),
        )
    if (parts.hostname, port) != (host.host, host.port):
        return Problem(
            code="alert-url-host",
            path=(key,),
            what=f"the URL does not lead to {host.host}:{host.port}",
            why="a reviewer sees only the host in the stack file, and alerts must go there",
            fix=_set(key, f"a URL at {host.host}:{host.port}") + f"; or correct {'.'.join(path)}",
            about=((*path, "host"), (*path, "port")),
        )
    return None


def _check_password(sections: Sections) -> Iterator[Problem]:
    settings = _settings(sections)
    if settings is None:
        return
    user = settings.email.username if settings.email is not None else None
    password = sections.secret(ALERT_SMTP_PASSWORD)
    if user is not None and settings.enabled and not password:
        yield _missing(ALERT_SMTP_PASSWORD, f"the password of {user}", (*_BASE, "email"))
    if user is None and password:
        yield _unneeded(ALERT_SMTP_PASSWORD, "email.username")


def _missing(key: str, what: str, path: KeyPath) -> Problem:
    return Problem(
        code="alert-secret-missing",
        path=(key,),
        what=f"{what} is missing",
        why="without it, no alert can be sent",
        fix=_set(key, "it"),
        about=(path,),
    )


def _unneeded(key: str, setting: str) -> Problem:
    return Problem(
        code="alert-secret-unneeded",
        path=(key,),
        what=f"this is set, but observability.alertmanager.{setting} is not",
        why="nothing is sent there, although a reader would think it is",
        fix=f"set {setting}, or run `pulumi config rm {NAMESPACE}:{key}`",
        about=((*_BASE, *setting.split(".")),),
    )


def _not_a_url(key: str, host: AlertHost) -> Problem:
    return Problem(
        code="alert-url-format",
        path=(key,),
        what="this is not a URL",
        why=f"Alertmanager sends requests to it, at {host.host}",
        fix=_set(key, f"a URL such as https://{host.host}/..."),
    )


def _set(key: str, what: str) -> str:
    return f"run `pulumi config set --secret {NAMESPACE}:{key}` and type {what}"


CHECKS = (_check_prometheus, _check_listed, _check_urls, _check_password)
