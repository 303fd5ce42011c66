"""Image references: a registry, a repository below it, and a tag or a digest."""

DOCKER_HUB = "docker.io"
_SERVERS = {DOCKER_HUB: "registry-1.docker.io"}


def registry(reference: str) -> str:
    """The registry of an image, with its port; without a host it is Docker Hub."""
    first, slash, _ = reference.partition("/")
    is_host = slash and ("." in first or ":" in first or first == "localhost")
    return first if is_host else DOCKER_HUB


def server(registry: str) -> str:
    """The host, with its port, that serves the images of a registry."""
    return _SERVERS.get(registry, registry)


def split(reference: str) -> tuple[str, str]:
    """Split a reference into its repository, with the registry, and its tag, "" without one."""
    folder, slash, name = reference.partition("@")[0].rpartition("/")
    name, _, tag = name.partition(":")
    return f"{folder}{slash}{name}", tag
