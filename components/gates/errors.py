"""How a gate says no."""

from config.errors import paragraph


class GateError(Exception):
    """A gate that stays shut: what was measured, why that matters, what to do.

    Pulumi shows its text as the failed resource's error, without a traceback.
    """

    def __init__(self, what: str, *, why: str, fix: str) -> None:
        self.what, self.why, self.fix = what, why, fix
        lines = [what, *(paragraph(*line) for line in (("why", why), ("fix", fix)))]
        super().__init__("\n".join(lines))
