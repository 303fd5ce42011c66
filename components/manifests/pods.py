"""Which pods the objects of a service are for."""

from stacks.config import Service


def selector(name: str, service: Service) -> dict[str, str]:
    """The labels of a service's pods: those of the stack file, or `app: <name>`."""
    return service.selector or {"app": name}
