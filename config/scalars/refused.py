"""How a value of the stack file is refused."""


class Refused(ValueError):
    """A value that the stack file may not hold: what is wrong, why it matters, what to write.

    Pydantic carries it to config.faults, which makes a problem with a path of it.
    """

    def __init__(self, what: str, why: str, fix: str) -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.fix = fix
