"""`headlines`: what a study says in at most six plain sentences, for the first screen of a page and the end of a run.

for line in headlines(findings):
    print(line.text)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hf_scaling.report.answers import amounts, describe_run, size_of
from hf_scaling.report.findings import ArmBoundary, ArmLaw, Findings, PartFindings, best_arm
from hf_scaling.report.grouping import join_titles
from hf_scaling.report.parts import Part
from hf_scaling.text import (
    format_count,
    format_flops,
    format_interval,
    format_percent,
    format_span,
    format_value,
    joined,
)

#: Most sentences of a first screen.
MOST = 6
# More results than this are given as a range.
_MOST_NAMED = 4
_STATUSES = {
    "distillation_always": "distillation helps at every measured size",
    "distillation_never": "models are better without distillation at every measured size",
    "not_resolved": "the runs do not settle where distillation stops paying",
    "no_difference": "distillation makes no difference",
}
_GAPS = {
    "low": "pre-train more rather than label more",
    "high": "label more rather than pre-train more",
    "cannot_tell": "the runs do not settle whether to pre-train or to label more",
}
_PLANS = {
    "clear": "",
    "hardly_matters": "; other splits are as good",
    "cannot_tell": ", but the runs do not settle where a budget should go",
}


@dataclass(frozen=True)
class Headline:
    """A plain sentence.

    Attributes:
        code: boundary, performance, forecast, transfer, plan or next.
        text: The sentence.
        key: The words to emphasise.
    """

    code: str
    text: str
    key: str = ""


def headlines(findings: Findings) -> list[Headline]:
    """The answers of a study in at most `MOST` sentences, the same answer once, the most useful first."""
    makers: tuple[Callable[[Findings], list[Headline]], ...] = (
        _boundary_lines,
        _performance_lines,
        _transfer_lines,
        _plan_lines,
        _next_lines,
    )
    lines = [line for make in makers for line in make(findings)]
    # A forecast gives way to the other answers.
    while len(lines) > MOST:
        lines.remove(next((line for line in lines if line.code == "forecast"), lines[-1]))
    return lines


def short_title(part: Part, findings: Findings) -> str:
    """Name of a part in a sentence: its downstream set where that tells it apart; "" where there is one part."""
    if len(findings.parts) == 1:
        return ""
    name = part.values.get("downstream") or part.title
    return name if sum(peer.part.values.get("downstream") == name for peer in findings.parts) == 1 else part.title


def _boundary_lines(findings: Findings) -> list[Headline]:
    compared = [(part, one) for part in findings.parts for one in part.boundaries if one.boundary is not None]
    crossings = [(part, one) for part, one in compared if one.boundary.status == "crossing"]
    lines = [_crossing_line(crossings, findings)] if crossings else []
    others: dict[str, list[tuple[PartFindings, ArmBoundary]]] = {}
    for part, one in compared:
        if one.boundary.status != "crossing":
            others.setdefault(one.boundary.status, []).append((part, one))
    # Several targets and parts of one status are one clause.
    clauses = [f"{_about(of_status, findings)}{_STATUSES[status]}" for status, of_status in others.items()]
    if clauses:
        text = "; ".join(clauses)
        key = _STATUSES[next(iter(others))] if not crossings else ""
        lines.append(Headline("boundary", f"{text[:1].upper()}{text[1:]}.", key))
    return lines


def _crossing_line(crossings: Sequence[tuple[PartFindings, ArmBoundary]], findings: Findings) -> Headline:
    part, first = crossings[0]
    boundary, noun = first.boundary, part.part.noun
    key = size_of(boundary, noun)
    if len(crossings) > _MOST_NAMED:
        sizes = sorted(one.boundary.n_pretrain for _, one in crossings)
        n_all = sum(one.boundary is not None for of_part in findings.parts for one in of_part.boundaries)
        key = f"{format_span(sizes[0], sizes[-1])} {noun}"
        return Headline(
            "boundary", f"Distillation stops paying at {key}, in {len(crossings)} of {n_all} comparisons.", key
        )
    titles = list(dict.fromkeys(short_title(of.part, findings) for of, _ in crossings))
    # One place is named once, at the start.
    start = f"In {titles[0]}, distillation" if titles != [""] and len(titles) == 1 else "Distillation"
    helps = []
    for of, one in crossings:
        where = f" in {short_title(of.part, findings)}" if len(titles) > 1 else ""
        setting = f" ({one.arm.label})" if len(of.part.arms_of("distilled")) > 1 else ""
        helps.append(f"{size_of(one.boundary, of.part.noun)}{where} by {one.target}{setting} ({_ends(one)})")
    return Headline("boundary", f"{start} helps up to about {joined(helps)}.", key)


def _ends(one: ArmBoundary) -> str:
    return f"{format_percent(one.boundary.level)}: {format_span(one.boundary.low, one.boundary.high)}"


def _about(of_status: Sequence[tuple[PartFindings, ArmBoundary]], findings: Findings) -> str:
    """ "by loss and error, in photos and signs, "; "" where it is everything."""
    targets = list(dict.fromkeys(one.target for _, one in of_status))
    titles = list(dict.fromkeys(short_title(part.part, findings) for part, _ in of_status))
    every = len(of_status) == sum(len(part.boundaries) for part in findings.parts)
    words = [] if every or set(targets) == set(findings.request.targets) else [f"by {joined(targets)}"]
    words += [f"in {join_titles(titles)}"] if titles != [""] and not every else []
    return f"{', '.join(words)}, " if words else ""


def _performance_lines(findings: Findings) -> list[Headline]:
    """The best run and the forecast, by error where there is one."""
    target = "error" if "error" in findings.request.targets else findings.request.targets[0]
    best: dict[str, tuple[ArmLaw, Part]] = {}
    for part in findings.parts:
        laws = [law for law in part.laws_of(target) if law.best is not None]
        if laws:
            best[short_title(part.part, findings)] = (best_arm(laws, target), part.part)
    if not best:
        return []
    extreme = "Highest" if next(iter(best.values()))[0].rises else "Lowest"
    values = {title: float(law.best[target]) for title, (law, _) in best.items()}
    if len(best) == 1:
        law, part = next(iter(best.values()))
        value = format_value(target, values[next(iter(best))])
        run = describe_run(law.best, law.arm.label if law.arm.kind else "", part.noun)
        return [
            Headline("performance", f"{extreme} {target} measured: {value}{f' ({run})' if run else ''}.", value),
            _forecast_line(law, part, target),
        ]
    named = [f"{format_value(target, value)} in {title}" for title, value in values.items()]
    key = format_interval(target, min(values.values()), max(values.values()))
    if len(named) > _MOST_NAMED + 1:
        return [Headline("performance", f"{extreme} {target} measured: {key}, in {len(best)} settings.", key)]
    return [Headline("performance", f"{extreme} {target} measured: {joined(named)}.")]


def _forecast_line(law: ArmLaw, part: Part, target: str) -> Headline:
    grown = "data"
    if law.fit is not None:
        columns = law.fit.columns.values()
        grown = (
            f"labelled {part.noun}" if "n_finetune" in columns else part.noun if "n_pretrain" in columns else "size"
        )
    if law.fit is None or law.fit.status != "ok" or not law.forecasts:
        return Headline("forecast", f"The runs do not support a forecast for ten times the {grown}.")
    forecast = law.forecasts[-1]
    value = format_value(target, forecast["value"])
    ends = format_interval(target, forecast["low"], forecast["high"])
    text = f"With ten times the {grown} the law predicts {value} ({ends})."
    return Headline("forecast", text, value)


def _transfer_lines(findings: Findings) -> list[Headline]:
    verdicts: dict[str, dict[str, None]] = {}
    for part in findings.parts:
        for gap in part.transfer_gaps:
            if gap.gaps is not None:
                title = short_title(part.part, findings)
                verdicts.setdefault(gap.gaps.table.iloc[0]["verdict"], {})[title] = None
    if not verdicts:
        return []
    if len(verdicts) == 1:
        verdict = _GAPS[next(iter(verdicts))]
        return [
            Headline("transfer", f"{verdict[:1].upper()}{verdict[1:]}.", verdict if "settle" not in verdict else "")
        ]
    clauses = [f"in {join_titles(list(titles))}, {_GAPS[verdict]}" for verdict, titles in verdicts.items()]
    text = "; ".join(clauses)
    return [Headline("transfer", f"{text[:1].upper()}{text[1:]} (by target and arm).")]


def _plan_lines(findings: Findings) -> list[Headline]:
    plans = [(part, one) for part in findings.parts for one in part.plans if one.plan is not None]
    if not plans:
        return []
    settled = [(part, one) for part, one in plans if one.plan.verdict != "cannot_tell"]
    if not settled and len(findings.parts) > 1:
        return [Headline("plan", "The runs do not settle where a budget should go.")]
    part, one = (settled or plans)[0]
    plan, noun = one.plan, part.part.noun
    bought = {name: value for name, value in plan.allocation.items() if name != "arm" and value}
    sizes = amounts(bought, noun) + (f", {plan.allocation['arm']}" if plan.allocation["arm"] else "")
    budget = format_count(plan.budget) if one.asked else format_flops(plan.budget)
    title = short_title(part.part, findings)
    value = f"{one.target} {format_value(one.target, plan.predicted['value'])}"
    text = f"A budget of {budget} buys most with {sizes}{f' (in {title})' if title else ''}: predicted {value}"
    return [Headline("plan", f"{text}{_PLANS.get(plan.verdict, '')}.", sizes if plan.verdict != "cannot_tell" else "")]


def _next_lines(findings: Findings) -> list[Headline]:
    for part in findings.parts:
        suggested = part.next_runs
        if suggested is None or suggested.runs is None or suggested.runs.empty:
            continue
        n, pairs = len(suggested.runs), suggested.quantity == "boundary"
        key = f"{n} {'pair' if pairs else 'run'}{'s' * (n > 1)}{' of runs' if pairs else ''}"
        title = short_title(part.part, findings)
        where = f" in {title}" if title else ""
        cost = format_flops(float(suggested.runs["cost"].sum()))
        return [
            Headline(
                "next",
                f"Next, train {key} ({cost}) to narrow the {suggested.quantity} by {suggested.target}{where}.",
                key,
            )
        ]
    return []
