"""Errors that the user can correct, and runs or pushes that failed; commands print them as one line."""


class InputError(ValueError):
    """An argument, file or table cannot be used; commands exit with status 2.

    The message is one line: what is wrong, where (field, file or row), and what to do.
    """


class RunError(RuntimeError):
    """A run failed after it had begun (NaN loss, full disk); commands exit with status 2.

    What was measured before is kept.
    """


class PushError(RuntimeError):
    """Something did not arrive on the Hub (offline, or the Hub kept failing); commands exit with status 1.

    Nothing of it was written there, it is kept here, and the same command tries again.
    """
