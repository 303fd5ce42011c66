"""How a gate says no."""

import textwrap


class GateError(Exception):
    """A gate that stays shut: what was measured, why that matters, what to do.

    Pulumi shows its text as the failed resource's error, without a traceback.
    """

    def __init__(self, what: str, *, why: str, instead: str) -> None:
        self.what, self.why, self.instead = what, why, instead
        lines = [what, *(_paragraph(*line) for line in (("why", why), ("fix", instead)))]
        super().__init__("\n".join(lines))


def _paragraph(label: str, text: str) -> str:
    return textwrap.fill(
        text,
        width=92,
        initial_indent=f"    {label:<6}",
        subsequent_indent=" " * 10,
        break_long_words=False,
        break_on_hyphens=False,
    )
