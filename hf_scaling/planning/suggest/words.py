"""Suggested runs in words."""

import math


def describe_runs(runs) -> str:
    """What is narrowed and by how much, the runs, and the notes."""
    aim, money = runs.aim, _unit(runs.aim)
    lines = [f"{aim.quantity}: {_number(aim.value)}, {aim.level:.0%} [{_number(aim.low)}, {_number(aim.high)}]"]
    if runs.empty:
        lines.append("no run is suggested")
    else:
        low, high = runs.after
        count = f"{len(runs)} {'pairs of runs' if 'arm' in runs and (runs['arm'] == 'both').all() else 'runs'}"
        lines.append(
            f"after these {count}: [{_number(low)}, {_number(high)}] expected, {runs['gain'].sum():.0%} narrower"
        )
        lines.append(f"cost {_number(runs['cost'].sum())} of {_number(aim.budget)} {money}")
        lines += ["", runs.to_string(index=False, formatters=_formatters(runs))]
    if aim.notes:
        lines += ["", *(f"[{n['grade']}] {n['code']}: {n['text']}" for n in aim.notes)]
    return "\n".join(lines)


def _unit(aim) -> str:
    if aim.costs is None:
        return ""
    return "(" + ", ".join(f"{name} {price:.4g}" for name, price in aim.costs.items()) + ")"


def _formatters(runs) -> dict:
    found = {name: _number for name in runs if runs[name].dtype.kind in "if" and name != "seed"}
    return {**found, "gain": "{:.1%}".format}


def _number(value) -> str:
    if value is None or math.isnan(value):
        return "unknown"
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) < 1e9 else f"{value:,.4g}"
