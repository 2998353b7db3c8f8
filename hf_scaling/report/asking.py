"""What a report is asked: which targets, how to fit, what there is to spend."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from hf_scaling.errors import InputError
from hf_scaling.planning.costs import check_prices, is_positive

#: What is reported where no target is named.
TARGETS = ("loss", "error")


@dataclass(frozen=True)
class Asked:
    """The arguments of a report, checked.

    Attributes:
        targets: The columns that are reported on.
        x: The column of one-variable laws; None for the size that varies.
        fitting: objective, delta, weights, seed: the keyword arguments of `fit_law` and `compare_laws` alike.
        bootstrap: Draws behind every interval.
        level: Of the intervals.
        budget: What there is to spend; None asks for no plan.
        costs: As for `plan`.
    """

    targets: tuple[str, ...]
    x: str | None = None
    fitting: dict = field(default_factory=dict)
    bootstrap: int = 1000
    level: float = 0.95
    budget: float | None = None
    costs: Mapping[str, float] | None = None


def find_targets(columns, target: str | None) -> tuple[str, ...]:
    """The columns to report on: the one that is named, else loss and error as far as they are there.

    Raises:
        InputError: There is no such column, or neither loss nor error.
    """
    found = tuple(name for name in ((target,) if target else TARGETS) if name in columns)
    if found:
        return found
    has = ", ".join(map(str, columns))
    if target:
        raise InputError(f"the table has no column {target!r}: it has {has}")
    raise InputError(f"the table has neither loss nor error: name the column to report with target=; it has {has}")


def check_money(budget: float | None, costs: Mapping[str, float] | None) -> None:
    """Refuse a budget or prices that no plan could be made of.

    Raises:
        InputError: The budget is no positive number, a price cannot be used, or one was given without the other.
    """
    if budget is None:
        if costs:
            raise InputError("costs ask for a plan: give a budget as well")
        return
    if not is_positive(budget):
        raise InputError(f"budget is a positive number, in the unit of the costs, not {budget!r}")
    check_prices(costs or {})
