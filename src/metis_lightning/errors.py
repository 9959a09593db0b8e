"""The one exception for mistakes that the user can mend."""


class UserError(Exception):
    """A user's mistake; the message says what is wrong, where, and what to do.

    The command line prints it as one line and exits with status 2.
    """
