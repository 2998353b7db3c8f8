"""Errors that the user can correct, and runs or pushes that failed; commands print them as one line."""

import re
import shlex
from collections.abc import Mapping, Sequence


class InputError(ValueError):
    """An argument, file or table cannot be used; commands exit with status 2.

    The message is one line: what is wrong, where (field, file or row), and what to do.
    """


class ColumnsError(InputError):
    """A table lacks a column or an arm that a call needs.

    Attributes:
        problem: What is missing, without what to do.
        remedy: Argument -> its values as the command line takes them, where the table seems to hold what is missing:
            {"map": ["n_params=params"], "arm_names": ["plain=baseline,distilled=KD"]}.
        wide: Whether the table has one column a size, and has to be imported first.
    """

    def __init__(self, problem: str, remedy: Mapping[str, Sequence[str]] | None = None, wide: bool = False):
        self.problem, self.wide = problem, wide
        self.remedy = {name: list(values) for name, values in (remedy or {}).items() if values}
        flags = shlex.join(self.flags())
        advice = f"; add {flags} (in Python: {self._keywords()})" if flags else ""
        super().__init__(problem + ("; use `hf-scaling import FILE`" if wide else advice))

    def flags(self) -> list[str]:
        """The remedy as words of a command line."""
        return [
            word
            for name, values in self.remedy.items()
            for value in values
            for word in (f"--{name.replace('_', '-')}", value)
        ]

    def _keywords(self) -> str:
        """The remedy as keywords of Python."""
        renamed = {"map": self.remedy.get("map", []), "arm_names": []}
        for value in self.remedy.get("arm_names", []):
            renamed["arm_names"] += re.split(r",(?=(?:plain|distilled)=)", value)
        of_table = [f"{name}={dict(pair.split('=', 1) for pair in pairs)}" for name, pairs in renamed.items() if pairs]
        of_call = [f"{name}={values[0]!r}" for name, values in self.remedy.items() if name not in renamed]
        load = [f"ResultsTable.load(..., {', '.join(of_table)})"] if of_table else []
        return ", ".join([*load, *of_call])


class RunError(RuntimeError):
    """A run failed after it had begun (NaN loss, full disk); commands exit with status 2.

    What was measured before is kept.
    """


class PushError(RuntimeError):
    """Something did not arrive on the Hub (offline, or the Hub kept failing); commands exit with status 1.

    Nothing of it was written there, it is kept here, and the same command tries again.
    """
