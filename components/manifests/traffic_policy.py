"""How a service's pods are chosen and protected, for each of its ports."""

from components.manifests import Manifest
from components.manifests.handling import duration
from config import Section, Service
from config.services.ports import ServicePort
from config.services.resilience import ConnectionPool


def traffic_policy(service: Service, port: ServicePort) -> Manifest:
    policy: Manifest = {"loadBalancer": _load_balancer(service, port)}
    if service.connection_pool is not None:
        pool = _connection_pool(service.connection_pool, port)
        if pool:
            policy["connectionPool"] = pool
    if service.outlier_detection is not None:
        policy["outlierDetection"] = _in_istios_words(service.outlier_detection)
    return policy


def choice_of_pods(service: Service, port: ServicePort) -> Manifest:
    affinity = service.affinity
    if affinity is None or not (port.has_requests or affinity.source_ip):
        # Istio's default, explicitly.
        return {"simple": service.load_balancer or "LEAST_REQUEST"}
    if affinity.cookie is not None:
        cookie = {"name": affinity.cookie.name, "ttl": duration(affinity.cookie.ttl)}
        return {"consistentHash": {"httpCookie": cookie}}
    if affinity.header is not None:
        return {"consistentHash": {"httpHeaderName": affinity.header}}
    return {"consistentHash": {"useSourceIp": True}}


def _load_balancer(service: Service, port: ServicePort) -> Manifest:
    balancer = choice_of_pods(service, port)
    if service.locality is not None:
        settings = service.locality.model_dump(by_alias=True)
        balancer["localityLbSetting"] = {
            key: value for key, value in settings.items() if value or key == "enabled"
        }
    return balancer


def _connection_pool(pool: ConnectionPool, port: ServicePort) -> Manifest:
    parts = {"tcp": pool.tcp, "http": pool.http if port.has_requests else None}
    return {name: _in_istios_words(part) for name, part in parts.items() if part is not None}


_DURATIONS = ("connectTimeout", "idleTimeout", "interval", "baseEjectionTime")


def _in_istios_words(section: Section) -> Manifest:
    """A section whose keys are Istio's own."""
    settings = section.model_dump(by_alias=True, exclude_none=True)
    return {key: duration(value) if key in _DURATIONS else value for key, value in settings.items()}
