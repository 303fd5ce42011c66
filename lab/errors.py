"""The errors of the lab's commands."""

from __future__ import annotations

from config.errors import NordmeshError


class LabError(NordmeshError):
    """A command of the lab cannot go on.

    output: the end of what a failed program printed, shown as it is below the rest.
    """

    def __init__(
        self,
        what: str,
        *,
        code: str,
        why: str = "",
        fix: str = "",
        path: str = "",
        output: str = "",
    ) -> None:
        super().__init__(what, code=code, why=why, fix=fix, path=path)
        if output:
            self.args = (f"{self}\n{output}",)
