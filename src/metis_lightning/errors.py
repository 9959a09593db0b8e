"""The one exception for mistakes that the user can mend, and that of a run that was told to stop."""


class UserError(Exception):
    """A user's mistake; the message says what is wrong, where, and what to do.

    The command line prints it as one line and exits with status 2.
    """


class Stopped(SystemExit):
    """A signal ended the work.

    Args:
        number: the signal, whose exit status of a shell is that of the program; None for a process that leaves the
            status to another.
        text: what is still to be said.
    """

    def __init__(self, number: int | None, text: str = "") -> None:
        self.status = 0 if number is None else 128 + number
        super().__init__(self.status)
        self.text = text
