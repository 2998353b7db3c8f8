"""The answers of a report as sentences: the same in the page, the card and the terminal."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from hf_scaling.boundary import Boundary
from hf_scaling.report.findings import (
    ArmBoundary,
    ArmGap,
    ArmLaw,
    Findings,
    Gap,
    NextRuns,
    PartFindings,
    TargetPlan,
    best_arm,
)
from hf_scaling.report.parts import Part
from hf_scaling.text import (
    amount_name,
    format_amount,
    format_count,
    format_interval,
    format_number,
    format_percent,
    format_span,
    format_value,
    sentence,
    wrap,
)


@dataclass(frozen=True)
class Verdict:
    """The text of a status or verdict.

    Attributes:
        short: A few words, for lists and emphasis.
        text: A clause or sentence; in a boundary's, {span} is the measured range.
    """

    short: str
    text: str = ""


#: Kind of verdict -> its code -> text.
VERDICTS: dict[str, dict[str, Verdict]] = {
    "law": {
        "ok": Verdict("parameters identified", "these runs determine the law"),
        "not_identifiable": Verdict(
            "parameters not identified", "these runs do not determine the parameters: use it inside the measured range"
        ),
        "at_bound": Verdict("a parameter at its bound", "a parameter ended at its bound: read it as a limit"),
        "poor_fit": Verdict("a poor fit", "the law does not describe these runs well"),
        "extrapolates_badly": Verdict("not to extrapolate", "held out, its own largest runs are missed grossly"),
    },
    "boundary": {
        "distillation_always": Verdict("distillation helps", "distillation helps at every measured size, {span}"),
        "distillation_never": Verdict(
            "better without distillation", "better without distillation at every measured size, {span}"
        ),
        "not_resolved": Verdict("not resolved", "not resolved by runs at {span}"),
    },
    "gap": {
        "low": Verdict("pre-train more"),
        "high": Verdict("label more"),
        "cannot_tell": Verdict("cannot tell whether to pre-train or to label more"),
    },
    "plan": {
        "clear": Verdict("clear", "The bootstrap draws agree on these sizes."),
        "hardly_matters": Verdict("hardly matters", "Other splits of the budget are as good."),
        "cannot_tell": Verdict("cannot tell", "These runs do not determine where the budget should go."),
    },
}
_SIZES = ("n_params", "n_pretrain", "n_finetune")


@dataclass(frozen=True)
class Statement:
    """One sentence with its details.

    Attributes:
        text: The sentence.
        details: Sentences shown smaller below it.
        place: Title of the part of the table that it is about.
        key: The words of the sentence to emphasise.
    """

    text: str
    details: tuple[str, ...] = ()
    place: str = ""
    key: str = ""


@dataclass(frozen=True)
class Answer:
    """A question and its answers.

    Attributes:
        code: boundary, performance, transfer, plan or next.
        question: The question.
        statements: The answers, by part of the table and target.
    """

    code: str
    question: str
    statements: tuple[Statement, ...]

    def by_place(self) -> dict[str, list[Statement]]:
        """The statements under the title of the part that they are about."""
        places: dict[str, list[Statement]] = {}
        for statement in self.statements:
            places.setdefault(statement.place, []).append(statement)
        return places


def answers(findings: Findings) -> list[Answer]:
    """Every question that the table answers, with its answers."""
    questions: dict[str, tuple[str, Callable[[PartFindings, Findings], list[Statement]]]] = {
        "boundary": (
            "Where does distillation stop paying?",
            lambda found, _: [boundary_statement(each, found.part) for each in found.boundaries],
        ),
        "performance": ("How good does it get?", performance_statements),
        "transfer": (
            "What is pre-training worth?",
            lambda found, _: [gap_statement(each, found.part) for each in found.transfer_gaps],
        ),
        "plan": (
            "What should the next unit of budget buy?",
            lambda found, _: [plan_statement(each, found.part) for each in _shown_plans(found.plans)],
        ),
        "next": ("Which runs next?", lambda found, _: next_runs_statements(found.next_runs, found.part)),
    }
    found = [
        Answer(code, question, tuple(each for part in findings.parts for each in state(part, findings)))
        for code, (question, state) in questions.items()
    ]
    return [answer for answer in found if answer.statements]


def _shown_plans(plans: Sequence[TargetPlan]) -> Sequence[TargetPlan]:
    """The plans for the user's budget; without a budget, the first that there is."""
    return plans if plans[0].asked else [each for each in plans if each.plan is not None][:1]


def describe(findings: Findings) -> str:
    """The answers and the gaps as text for a terminal."""
    lines = [f"{findings.title} ({findings.facts['runs']})"]
    for answer in answers(findings):
        lines += ["", answer.question]
        for place, statements in answer.by_place().items():
            lines += [f"  {place}:"] if place and len(findings.parts) > 1 else []
            for statement in statements:
                lines += wrap(statement.text, "  ")
                lines += [line for detail in statement.details for line in wrap(detail, "    ")]
    if findings.gaps:
        lines += ["", "What these runs cannot answer"]
        lines += [line for gap in findings.gaps for line in wrap(describe_gap(gap), "  ")]
    return "\n".join(lines)


def headlines(findings: Findings) -> list[str]:
    """One line for each boundary: where distillation stops paying."""
    several = len(findings.parts) > 1
    return [
        f"{statement.place}: {statement.text}" if several else statement.text
        for answer in answers(findings)
        if answer.code == "boundary"
        for statement in answer.statements
    ]


def describe_gap(gap: Gap) -> str:
    """A gap in one line."""
    return f"{gap.question} {missing_from(gap)} Runs that would answer it: {gap.runs}"


def missing_from(gap: Gap) -> str:
    """What is missing, and in which part."""
    return f"{gap.place}: {gap.why[:1].lower()}{gap.why[1:]}" if gap.place else gap.why


def describe_boundary(boundary: Boundary, target: str, noun: str) -> str:
    """The verdict of a boundary in a sentence.

    Args:
        boundary: Along n_pretrain or train_flops.
        target: The column compared.
        noun: What n_pretrain counts.
    """
    return f"By {target}, {_boundary_clause(boundary, noun)}."


def _boundary_clause(boundary: Boundary, noun: str) -> str:
    unit, sizes = _unit(boundary, noun), boundary.difference[boundary.x]
    if boundary.status != "crossing":
        return VERDICTS["boundary"][boundary.status].text.format(
            span=f"{format_span(sizes.min(), sizes.max())} {unit}"
        )
    ends = f"{format_percent(boundary.level)} interval {format_span(boundary.low, boundary.high)}"
    return f"distillation stops paying at {format_count(boundary.n_pretrain)} {unit} ({ends})"


def _unit(boundary: Boundary, noun: str) -> str:
    return "FLOPs" if boundary.x == "train_flops" else noun


def boundary_statement(found: ArmBoundary, part: Part) -> Statement:
    """Where one way of distilling stops paying: by size, without laws, and at equal compute."""
    boundary, noun = found.boundary, part.noun
    place = f"{part.title}, {found.arm.label}" if len(part.arms_of("distilled")) > 1 else part.title
    if boundary is None:
        return Statement(f"By {found.target}, no answer: {found.problem}.", (), place)
    crossing = boundary.status == "crossing"
    details = [f"At {_amounts(boundary.sizes, noun)}."] if boundary.sizes and crossing else []
    details += [_boundary_by_size(found, noun)] if found.by_size else []
    free, law_free = boundary.law_free, "no crossing inside the measured sizes"
    if 0 < free["n_pretrain"] < math.inf:
        ends = f" ({format_span(free['low'], free['high'])})" if free["low"] == free["low"] else ""
        law_free = f"{format_count(free['n_pretrain'])}{ends} {_unit(boundary, noun)}"
    details.append(f"From the paired differences alone: {law_free}.")
    if found.compute is not None:
        details.append(f"At equal compute, including the teacher's: {_boundary_clause(found.compute, noun)}.")
    elif found.compute_problem:
        details.append(f"At equal compute, no answer: {found.compute_problem}.")
    key = f"{format_count(boundary.n_pretrain)} {noun}" if crossing else VERDICTS["boundary"][boundary.status].short
    text = describe_boundary(boundary, found.target, noun)
    return Statement(text, (*details, *_warnings(boundary.notes)), place, key)


def _boundary_by_size(found: ArmBoundary, noun: str) -> str:
    if {each.status for _, _, each in found.by_size} == {found.boundary.status} != {"crossing"}:
        names = dict.fromkeys(amount_name(column, noun) for column, _, _ in found.by_size)
        return f"The same at every measured number of {' and '.join(names)}."
    sizes = [
        f"{format_amount(column, value, noun)}: "
        + (
            f"{format_count(each.n_pretrain)} ({format_span(each.low, each.high)})"
            if each.status == "crossing"
            else VERDICTS["boundary"][each.status].short
        )
        for column, value, each in found.by_size
    ]
    return f"By size: {'; '.join(sizes)}."


def performance_statements(found: PartFindings, findings: Findings) -> list[Statement]:
    """For each target, the best run, the forecast of its arm's law, and every arm's law."""
    statements, part = [], found.part
    for target in findings.request.targets:
        laws = [law for law in found.laws_of(target) if law.best is not None]
        if laws:
            best = best_arm(laws, target)
            value = format_value(target, float(best.best[target]))
            run = _describe_run(best.best, best.arm.label if best.arm.kind else "", part.noun)
            text = f"{'Highest' if best.rises else 'Lowest'} {target} measured: {value}{f' ({run})' if run else ''}."
            details = (*_forecast(best, part), *(sentence(describe_law(law)) for law in found.laws_of(target)))
            statements.append(Statement(text, details, part.title, value))
    return statements


def _describe_run(row: Mapping[str, Any], arm: str, noun: str) -> str:
    """A run by model, arm and sizes; the model's name replaces its n_params."""
    model = str(row["model"]) if _is_given(row.get("model")) else ""
    names = [name for name in _SIZES if _is_given(row.get(name)) and not (model and name == "n_params")]
    sizes = {name: float(row[name]) for name in names if float(row[name]) > 0}
    return ", ".join(filter(None, [model, arm, _amounts(sizes, noun)]))


def _is_given(value: Any) -> bool:
    return value is not None and value == value and str(value) not in ("", "None", "<NA>")


def _amounts(sizes: Mapping[str, float], noun: str) -> str:
    return ", ".join(format_amount(name, value, noun) for name, value in sizes.items())


def _forecast(law: ArmLaw, part: Part) -> list[str]:
    """What the law of the best arm predicts for ten times the data."""
    if not law.forecasts:
        return []
    forecast = law.forecasts[-1]
    sizes = forecast["sizes"]
    grown = amount_name(next(name for name in ("n_finetune", "n_pretrain", *sizes) if name in sizes), part.noun)
    value = format_value(law.target, forecast["value"])
    ends = format_interval(law.target, forecast["low"], forecast["high"])
    doubt = "" if law.fit.status == "ok" else "; these runs do not support this extrapolation"
    return [f"With ten times the {grown} ({_amounts(sizes, part.noun)}) the law predicts {value} ({ends}){doubt}."]


def describe_law(law: ArmLaw) -> str:
    """The law of an arm, its status, and its error at the held-out largest scales."""
    subject = f"{law.target}, {law.arm.label}" if law.arm.kind else law.target
    if law.fit is None:
        return f"{subject}: no law: {law.problem}"
    name = f"the mean of {len(law.fit.weights)} laws" if law.fit.members else law.fit.law
    described = f"{subject}: {name}, {VERDICTS['law'][law.fit.status].short}"
    errors = law.ranking.table.set_index("law")["holdout_log_rmse"]
    best = errors[law.ranking.best]
    if math.isnan(best):
        return f"{described}; too few sizes to hold out the largest"
    factor = max((each.factor for each in law.held_out), default=law.ranking.table["factor_out"].iloc[0])
    who = law.ranking.best if law.fit.members else "it"
    unit = abs(law.fit.scale.factor)
    misses = [
        f"{format_number(miss / unit, 3)}" if law.fit.settings["objective"] == "mse" else _relative(miss)
        for miss in (best, errors["last_value"])
    ]
    return (
        f"{described}; fitted to the smaller scales, {who} misses those up to {factor:.3g} times larger by "
        f"{misses[0]} (the last value carried forward: {misses[1]})"
    )


def _relative(log_rmse: float) -> str:
    """A root mean square of log errors as a relative error."""
    return format_percent(math.expm1(log_rmse), 2) if math.isfinite(log_rmse) and log_rmse < 5 else "a large factor"


def gap_statement(found: ArmGap, part: Part) -> Statement:
    """Whether to pre-train or to label more, and what pre-training was worth in labels."""
    subject = f"By {found.target}, {found.arm.label}" if found.arm.kind else f"By {found.target}"
    if found.gaps is None:
        return Statement(f"{subject}: no answer: {found.problem}.", (), part.title)
    row, worth = found.gaps.table.iloc[0], found.gaps.worth
    share = f"{format_percent(row['share'])} ({100 * row.share_low:.0f} to {format_percent(row.share_high)})"
    details = [
        f"Share of the {found.target} above the floor that more pre-training cannot remove: {share}. A verdict needs "
        "the whole interval on one side of half."
    ]
    details += ["A larger model removes part of it."] if row.larger_model_helps else []
    known = worth[worth["worth"].notna()]
    if len(known):
        most = known.iloc[-1]
        details.append(
            f"At {format_count(most.n_finetune)} labelled {part.noun}, the largest pre-training is worth "
            f"{format_count(most.worth)} labels more ({format_span(most.worth_low, most.worth_high)}) than "
            f"{format_count(most.against)} upstream {part.noun}."
        )
    key = VERDICTS["gap"][row.verdict].short
    return Statement(f"{subject}: {key}.", (*details, *_warnings(found.gaps.notes)), part.title, key)


def plan_statement(found: TargetPlan, part: Part) -> Statement:
    """The sizes that a budget buys, their predicted target and their costs."""
    plan, target = found.plan, found.target
    if plan is None:
        return Statement(f"For {target}, no plan: {found.problem}.", (), part.title)
    sizes = _amounts({name: value for name, value in plan.allocation.items() if name != "arm" and value}, part.noun)
    arm = f", {plan.allocation['arm']}" if plan.allocation["arm"] else ""
    value = format_value(target, plan.predicted["value"])
    ends = format_interval(target, plan.predicted["low"], plan.predicted["high"])
    budget = format_count(plan.budget)
    given = f"With {budget}" if found.asked else f"With the compute of the most expensive runs ({budget} FLOPs)"
    spent = [f"{name.replace('_', ' ')} {format_count(v)}" for name, v in plan.cost.items() if v and name != "total"]
    details = [VERDICTS["plan"][plan.verdict].text] if plan.verdict else []
    details += [f"Costs: {', '.join(spent)}{'' if found.asked else ' FLOPs'}."] if spent else []
    if not found.asked:
        details.append("No budget was given: `--budget 500 --cost label=0.5 --cost hour=2` plans for one.")
    text = f"{given}: {sizes}{arm}; predicted {target} {value} ({ends})."
    return Statement(text, (*details, *_warnings(plan.notes)), part.title, sizes)


def next_runs_statements(found: NextRuns | None, part: Part) -> list[Statement]:
    """The suggested runs, what they cost, and how far they narrow the interval."""
    if found is None:
        return []
    aim = f"the {found.quantity} by {found.target}"
    if found.runs is None or found.runs.empty:
        reason = found.problem or "no run within a quarter of the FLOPs spent so far narrows it"
        return [Statement(f"For {aim}, none: {reason}.", (), part.title)]
    runs = found.runs
    one, many = ("pair of runs", "pairs of runs") if found.quantity == "boundary" else ("run", "runs")
    key = f"{len(runs)} {one if len(runs) == 1 else many}"
    now, then = _interval(runs.aim.low, runs.aim.high), _interval(*runs.after)
    rows = f" --downstream {part.values['downstream']}" if "downstream" in part.values else ""
    names = [name for name in ("model", *_SIZES) if name in runs.columns and runs[name].notna().all()]
    seeds = runs.groupby(names, sort=False).size() if names else pd.Series(dtype=int)
    sizes = [dict(zip(names, key if isinstance(key, tuple) else (key,))) for key in seeds.index]
    details = [
        *(
            f"{_describe_run(row, '', part.noun)}{f': {count} seeds' if count > 1 else ''}."
            for row, count in zip(sizes, seeds)
        ),
        f"Interval now: {now}; expected after these runs: {f'still {then}' if then == now else then}.",
        f"`hf-scaling suggest RESULTS{rows} --target {found.target} --quantity {found.quantity} "
        f"--budget {found.budget:.3g} --out next.yaml` writes them as a grid.",
    ]
    text = f"To narrow {aim}: {key}, for {format_count(runs['cost'].sum())} FLOPs."
    return [Statement(text, tuple(details), part.title, key)]


def _interval(low: float, high: float) -> str:
    if math.isfinite(high):
        return format_span(low, high)
    return f"{format_count(low)} or more" if low > 0 else "unbounded"


def _warnings(notes: Sequence[Mapping[str, str]]) -> list[str]:
    return [sentence(note["text"]) for note in notes if note["grade"] != "info"]
