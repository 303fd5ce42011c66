"""The handling of requests on a route: timeouts, retries and faults."""

from decimal import Decimal
from typing import Any

from components.manifests import Manifest
from config import Service
from config.scalars.durations import seconds
from config.services.routes import FaultInjection, Retries


def handling(
    service: Service, *, timeout: str | None = None, retries: Retries | None = None
) -> Manifest:
    """The handling of requests on every route; Istio's default retries are explicit.

    timeout, retries: those of a path, instead of the service's.
    """
    retries = retries or service.retries or Retries()
    timeout = timeout or service.timeout
    settings: Manifest = {"retries": {"attempts": retries.attempts}}
    if retries.attempts:
        settings["retries"]["retryOn"] = retries.retry_on
        if retries.per_try_timeout is not None:
            settings["retries"]["perTryTimeout"] = duration(retries.per_try_timeout)
    if timeout is not None:
        settings["timeout"] = duration(timeout)
    if service.fault is not None:
        settings["fault"] = fault_of(service.fault)
    return settings


def fault_of(fault: FaultInjection) -> Manifest:
    settings: Manifest = {}
    if fault.delay is not None:
        settings["delay"] = {
            "percentage": percentage(fault.delay.percent),
            "fixedDelay": duration(fault.delay.fixed_delay),
        }
    if fault.abort is not None:
        settings["abort"] = {
            "percentage": percentage(fault.abort.percent),
            "httpStatus": fault.abort.http_status,
        }
    return settings


def percentage(percent: float) -> Manifest:
    # A whole number as the API server returns it, so that a second run has no changes.
    return {"value": int(percent) if percent.is_integer() else percent}


def duration(text: str) -> str:
    """A duration in seconds, the only form that all of Istio's parsers accept."""
    return f"{_plain(seconds(text))}s"


def _plain(number: Decimal) -> Any:
    return int(number) if number == number.to_integral_value() else number.normalize()
