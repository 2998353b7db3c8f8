"""The mistakes that a user can mend, told apart from our own."""


class InputError(ValueError):
    """Something given to us cannot be used: one line that names the field, the file or the row and what to do.

    Commands print the line alone and end with exit status 2.
    """


class RunError(RuntimeError):
    """A run that began could not be finished (NaN loss, full disk): one line; commands end with exit status 2.

    What was measured before it is kept.
    """


class PushError(RuntimeError):
    """Something could not be brought to the Hub (offline, or the Hub kept failing): one line; exit status 1.

    Nothing of it is there, everything of it is kept here, and the same command tries again.
    """
