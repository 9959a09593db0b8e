"""The one exception for mistakes that the user can mend, and that of a run that was told to stop."""


class UserError(Exception):
    """A user's mistake: what is wrong, where, and what to do. The command line prints one line and returns status 2."""


class Stopped(SystemExit):
    """A signal of this number, None if another process says so, ended the work; `text` is still to be said."""

    def __init__(self, number: int | None, text: str = "") -> None:
        self.status = 0 if number is None else 128 + number
        super().__init__(self.status)
        self.text = text
