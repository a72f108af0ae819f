"""What keeps a command from doing its work, said to a person."""


class Problem(Exception):
    """Something a person must change first.

    :param what: one sentence that names what is wrong.
    :param next_step: the one command or action that comes next.
    """

    def __init__(self, what: str, next_step: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.next_step = next_step

    def __str__(self) -> str:
        if self.next_step:
            return f"{self.what}\n  Next: {self.next_step}"
        return self.what
