"""The error that a validator of one value raises."""


class Refused(ValueError):
    """A value that the stack file may not hold: what is wrong, why it matters, how to fix it.

    Pydantic passes it on to config.faults, which turns it into a Problem with a path.
    """

    def __init__(self, code: str, what: str, why: str, fix: str) -> None:
        super().__init__(what)
        self.code = code
        self.what = what
        self.why = why
        self.fix = fix
