"""Numbers as people write them, and the units that stand beside them."""

import math

from hf_scaling.laws import COLUMNS

_SUFFIXES = ((1e12, "T"), (1e9, "B"), (1e6, "M"))
_TARGETS = {"loss": "cross-entropy, nats", "error": "top-1 error, per cent"}
_SHORT_UNITS = {
    "n_params": "parameters",
    "n_pretrain": "unique upstream images",
    "n_finetune": "labelled downstream images",
    "samples_seen": "images seen, repeats counted",
    "train_flops": "FLOPs",
    "teacher_flops": "FLOPs",
    "seconds": "seconds",
}


def count(value: float) -> str:
    """A size with three significant digits: 813, 12,800, 1.8M, 2.1e+18."""
    if not math.isfinite(value):
        return "infinitely many"
    if value == 0 or abs(value) < 100:
        return f"{value:.3g}"
    if abs(value) >= 1e15:
        return f"{value:.3g}"
    rounded = float(f"{value:.3g}")
    for size, suffix in _SUFFIXES:
        if rounded >= size:
            return f"{rounded / size:.3g}{suffix}"
    return f"{rounded:,.0f}"


def tick(value: float) -> str:
    """A size as an axis writes it: 250, 2k, 1M, 10⁹ beyond the suffixes."""
    if value >= 1e15:
        return f"{value:.0e}".replace("e+", "e")
    for size, suffix in (*_SUFFIXES, (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.3g}"


def measure(target: str, value: float) -> str:
    """A target's value: an error as per cent, anything else with three significant digits."""
    if not math.isfinite(value):
        return "–"
    return f"{100 * value:.3g} %" if target == "error" else f"{value:.3g}"


def per_cent(share: float) -> str:
    """A share as whole per cent, or as many digits as it was given with: 95 %, 99.9 %."""
    return f"{100 * share:.3g} %" if share > 0.9 else f"{100 * share:.0f} %"


def shown(target: str, values):
    """A target's values as figures draw them: errors in per cent."""
    return 100 * values if target == "error" else values


def interval(target: str, low: float, high: float) -> str:
    """An interval of a target: 3.8 to 10 %."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return "no interval"
    return f"{measure(target, low).removesuffix(' %')} to {measure(target, high)}"


def unit_of(column: str, noun: str = "images") -> str:
    """The unit of a column for an axis; `noun` is what the rows count: images, tokens."""
    if column in _TARGETS:
        return _TARGETS[column]
    if column in _SHORT_UNITS:
        return _SHORT_UNITS[column].replace("images", noun)
    return COLUMNS[column].unit if column in COLUMNS else "as the table has it"
