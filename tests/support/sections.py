"""Parts of stack files that several tests use."""

from typing import Any


def checkout() -> dict[str, Any]:
    """A service with a canary that gets 10 % of the requests."""
    return {
        "namespace": "shop",
        "port": 8080,
        "stable": "v1",
        "canary": {"subset": "v2", "weight": 10},
    }


def partner() -> dict[str, Any]:
    """A host outside the cluster that is on the list."""
    return {
        "host": "api.partner.example",
        "owner": "team-payments",
        "purpose": "settle card payments",
        "legalBasis": "GDPR art. 6(1)(b)",
        "country": "NO",
        "namespaces": ["shop"],
    }


def alertmanager() -> dict[str, Any]:
    """Alertmanager, which sends alerts to a webhook and by mail."""
    return {
        "enabled": True,
        "webhook": {"host": "alerts.example.no"},
        "email": {
            "to": ["on-call@example.no"],
            "sender": "nordmesh@example.no",
            "host": "smtp.example.no",
            "username": "nordmesh",
        },
    }
