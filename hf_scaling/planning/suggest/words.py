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
        ends, share = f"[{_number(low)}, {_number(high)}]", f"{runs['gain'].sum():.0%}"
        lines.append(f"after {_counted(runs)}: {ends} expected, {share} narrower")
        lines.append(f"cost {_number(runs['cost'].sum())} of {_number(aim.budget)} {money}".rstrip())
        lines += ["", runs.to_string(index=False, formatters=_formatters(runs))]
    if aim.notes:
        lines += ["", *(f"[{n['grade']}] {n['code']}: {n['text']}" for n in aim.notes)]
    return "\n".join(lines)


def _counted(runs) -> str:
    pairs = "arm" in runs and (runs["arm"] == "both").all()
    if len(runs) == 1:
        return "this pair of runs" if pairs else "this run"
    return f"these {len(runs)} {'pairs of runs' if pairs else 'runs'}"


def _unit(aim) -> str:
    if aim.costs is None:
        return ""
    if aim.costs == {"flop": 1.0}:
        return "FLOPs"
    return "(" + ", ".join(f"{name} {price:.4g}" for name, price in aim.costs.items()) + ")"


def _formatters(runs) -> dict:
    found = {name: _number for name in runs if runs[name].dtype.kind in "if" and name != "seed"}
    return {**found, "gain": "{:.1%}".format}


def _number(value) -> str:
    if value is None or math.isnan(value):
        return "unknown"
    if abs(value) < 1e-12:
        # A draw that stopped at a bound.
        return "0"
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) < 1e9 else f"{value:,.4g}"
