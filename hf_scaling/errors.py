"""The mistakes that a user can mend, told apart from our own."""


class InputError(ValueError):
    """Something given to us cannot be used: one line that names the field, the file or the row and what to do.

    Commands print the line alone and end with exit status 2.
    """


class RunError(RuntimeError):
    """A run that began could not be finished (NaN loss, full disk): one line; commands end with exit status 2.

    What was measured before it is kept.
    """
