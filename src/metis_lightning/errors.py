"""The one exception for mistakes that the user can mend, and that of a run that was told to stop."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A user's mistake: what is wrong, where, and what to do. The command line prints one line and returns status 2."""


class Stopped(SystemExit):
    """A signal of this number, None if another process says so, ended the work; `text` is still to be said."""

    def __init__(self, number: int | None, text: str = "") -> None:
        self.status = 0 if number is None else 128 + number
        super().__init__(self.status)
        self.text = text


def nearest(name: str, names: Iterable[str]) -> str:
    """Return a question for what was misspelt, empty if no name is near.

    >>> nearest("tes", ["tts", "tse"]), nearest("x", ["tts"])
    ("; did you mean 'tse'?", '')
    """
    # Letters that changed places are nearer than any others.
    known = list(names)
    exchanged = [each for each in known if sorted(each) == sorted(name)]
    guess = exchanged or get_close_matches(name, known, n=1)
    return f"; did you mean {guess[0]!r}?" if guess else ""
