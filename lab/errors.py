"""The errors of the lab's commands."""

from config.errors import NordmeshError


class LabError(NordmeshError):
    """A command of the lab cannot continue."""
