"""The answers of a report as sentences: the same in the page, the card and the terminal."""

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hf_scaling.boundary import Boundary
from hf_scaling.planning.verdicts import GAP_VERDICTS, PLAN_VERDICTS, describe_stages
from hf_scaling.report.findings import (
    ArmBoundary,
    ArmGap,
    ArmLaw,
    Findings,
    NextRuns,
    PartFindings,
    TargetPlan,
    best_arm,
)
from hf_scaling.report.gaps import Gap
from hf_scaling.report.parts import Part
from hf_scaling.text import (
    amount_name,
    format_amount,
    format_count,
    format_flops,
    format_interval,
    format_number,
    format_percent,
    format_span,
    format_value,
    joined,
    sentence,
    wrap,
)

#: Status of a law -> its name in a sentence; `fitting.law_fit.VERDICTS` says what each means.
LAW_STATUSES = {
    "ok": "parameters identified",
    "not_identifiable": "parameters not identified",
    "at_bound": "a parameter at its bound",
    "poor_fit": "a poor fit",
    "extrapolates_badly": "not to extrapolate",
}
#: Status of a boundary that is not a crossing -> its name in a sentence.
BOUNDARY_STATUSES = {
    "distillation_always": "distillation helps",
    "distillation_never": "better without distillation",
    "no_difference": "distillation makes a difference of at most 2 %",
    "not_resolved": "not resolved",
}
_SIZES = ("n_params", "n_pretrain", "n_finetune")


@dataclass(frozen=True)
class Statement:
    """One sentence with its details.

    Attributes:
        clause: The sentence, without its subject where it has one.
        remarks: Sentences shown smaller below it.
        place: Title of the part of the table that it is about.
        key: The words of the sentence to emphasise.
        target: The column that it is about, where others may have the same answer; "" otherwise.
        arm: The arm that it is about, likewise.
        facts: Name and value of what differs between statements with the same answer.
    """

    clause: str
    remarks: tuple[str, ...] = ()
    place: str = ""
    key: str = ""
    target: str = ""
    arm: str = ""
    facts: tuple[tuple[str, str], ...] = ()

    @property
    def text(self) -> str:
        """The sentence."""
        if not self.target:
            return self.clause
        return f"By {self.target}{f', {self.arm}:' if self.arm else ','} {self.clause}"

    @property
    def details(self) -> tuple[str, ...]:
        """Everything that is shown smaller below the sentence."""
        return (*(f"{name}: {value}." for name, value in self.facts), *self.remarks)


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


def answers(findings: Findings) -> list[Answer]:
    """Every question that the table answers, with its answers."""
    questions: dict[str, tuple[str, Callable[[PartFindings, Findings], list[Statement]]]] = {
        "boundary": (
            "Where does distillation stop paying?",
            lambda part, _: [boundary_statement(boundary, part.part) for boundary in part.boundaries],
        ),
        "performance": ("How good does it get?", performance_statements),
        "transfer": (
            "What is pre-training worth?",
            lambda part, _: [gap_statement(gap, part.part) for gap in part.transfer_gaps],
        ),
        "plan": ("What should the next unit of budget buy?", plan_statements),
        "next": (
            "Which runs next?",
            lambda part, findings: next_runs_statements(part.next_runs, part.part, findings.request.study),
        ),
    }
    statements = {
        code: tuple(statement for part in findings.parts for statement in state(part, findings))
        for code, (_, state) in questions.items()
    }
    return [Answer(code, questions[code][0], stated) for code, stated in statements.items() if stated]


def describe(findings: Findings) -> str:
    """The answers and the gaps as text for a terminal."""
    from hf_scaling.report.grouping import groups_by_place

    lines = [f"{findings.title} ({findings.facts['runs']})"]
    for answer in answers(findings):
        lines += ["", answer.question]
        for place, groups in groups_by_place(answer.statements).items():
            lines += wrap(f"{place}:", "  ") if place and len(findings.parts) > 1 else []
            for group in groups:
                lines += wrap(group.text, "  ")
                lines += [line for detail in (*group.details, *group.each()) for line in wrap(detail, "    ")]
    if findings.gaps:
        lines += ["", "What these runs cannot answer"]
        lines += [line for gap in findings.gaps for line in wrap(describe_gap(gap), "  ")]
    return "\n".join(lines)


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
    sizes = boundary.difference[boundary.x]
    if boundary.status == "not_resolved":
        measured = f"not resolved by runs at {_span(boundary, sizes.min(), sizes.max(), noun)}"
        return f"{measured}; {describe_leads(boundary, noun) or 'neither arm is shown ahead at any of them'}"
    if boundary.status != "crossing":
        where = f"at every measured size, {_span(boundary, sizes.min(), sizes.max(), noun)}"
        return f"{BOUNDARY_STATUSES[boundary.status]} {where}"
    at = format_flops(boundary.n_pretrain) if boundary.x == "train_flops" else size_of(boundary, noun)
    ends = f"{format_percent(boundary.level)} interval {_span(boundary, boundary.low, boundary.high)}"
    return f"distillation stops paying at {at} ({ends})"


def describe_leads(boundary: Boundary, noun: str) -> str:
    """Where an arm is shown ahead, and where the arms are alike: "distilled models are ahead at 195 to 781 images, at
    3,125 to 12,500 images the difference is at most 2 %"; "" where neither is shown anywhere.
    """

    def places(spans: Sequence[tuple[float, float]]) -> str:
        named = joined(_span(boundary, low, high) for low, high in spans)
        return named if boundary.x == "train_flops" else f"{named} {noun}"

    phrases = [f"{arm} models are ahead at {places(spans)}" for arm, spans in boundary.leads.items()]
    if alike := boundary.alike:
        phrases.append(f"at {places(alike)} the difference is at most 2 %")
    return ", ".join(phrases)


def size_of(boundary: Boundary, noun: str) -> str:
    """The size of a crossing along n_pretrain: 1,410 images."""
    return f"{format_count(boundary.n_pretrain)} {noun}"


def _span(boundary: Boundary, low: float, high: float, noun: str = "") -> str:
    """A span of what a boundary is along: "250 to 32,000 images", "646 GFLOP to 15.6 TFLOP"."""
    if boundary.x == "train_flops":
        return " to ".join(dict.fromkeys(map(format_flops, (low, high))))
    return f"{format_span(low, high)} {noun}".rstrip()


def boundary_statement(compared: ArmBoundary, part: Part) -> Statement:
    """Where one way of distilling stops paying: by size, without laws, and at equal compute."""
    boundary, noun = compared.boundary, part.noun
    place = f"{part.title}, {compared.arm.label}" if len(part.arms_of("distilled")) > 1 else part.title
    if boundary is None:
        return Statement(f"no answer: {compared.problem}.", (), place, target=compared.target)
    crossing = boundary.status == "crossing"
    details = [f"At {amounts(boundary.sizes, noun)}."] if boundary.sizes and crossing else []
    if {at_size.status for _, _, at_size in compared.by_size} == {boundary.status} != {"crossing"}:
        names = dict.fromkeys(amount_name(column, noun) for column, _, _ in compared.by_size)
        details.append(f"The same at every measured number of {' and '.join(names)}.")
    elif compared.by_size:
        sizes = [
            f"{format_amount(column, value, noun)}: "
            + (
                f"{format_count(at_size.n_pretrain)} ({format_span(at_size.low, at_size.high)})"
                if at_size.status == "crossing"
                else BOUNDARY_STATUSES[at_size.status]
            )
            for column, value, at_size in compared.by_size
        ]
        details.append(f"By size: {'; '.join(sizes)}.")
    free, law_free = boundary.law_free, "no crossing inside the measured sizes"
    if 0 < free["n_pretrain"] < math.inf:
        ends = f" ({format_span(free['low'], free['high'])})" if free["low"] == free["low"] else ""
        law_free = f"{format_count(free['n_pretrain'])}{ends} {noun}"
    facts = [("From the paired differences alone", law_free)]
    if compared.compute is not None:
        facts.append(("At equal compute, including the teacher's", _boundary_clause(compared.compute, noun)))
    elif compared.compute_problem:
        facts.append(("At equal compute", f"no answer: {compared.compute_problem}"))
    return Statement(
        f"{_boundary_clause(boundary, noun)}.",
        (*details, *_warnings(boundary.notes)),
        place,
        size_of(boundary, noun) if crossing else BOUNDARY_STATUSES[boundary.status],
        target=compared.target,
        facts=tuple(facts),
    )


def performance_statements(of_part: PartFindings, findings: Findings) -> list[Statement]:
    """For each target, the best run, the forecast of its arm's law, and every arm's law."""
    statements, part = [], of_part.part
    for target in findings.request.targets:
        laws = [law for law in of_part.laws_of(target) if law.best is not None]
        if laws:
            best = best_arm(laws, target)
            value = format_value(target, float(best.best[target]))
            run = describe_run(best.best, best.arm.label if best.arm.kind else "", part.noun)
            text = f"{'Highest' if best.rises else 'Lowest'} {target} measured: {value}{f' ({run})' if run else ''}."
            details = [sentence(describe_law(law)) for law in of_part.laws_of(target)]
            if best.forecasts:
                forecast = best.forecasts[-1]
                sizes = forecast["sizes"]
                grown = next(name for name in ("n_finetune", "n_pretrain", *sizes) if name in sizes)
                ends = format_interval(target, forecast["low"], forecast["high"])
                doubt = "" if best.fit.status == "ok" else "; these runs do not support this extrapolation"
                details.insert(
                    0,
                    f"With ten times the {amount_name(grown, part.noun)} ({amounts(sizes, part.noun)}) the law "
                    f"predicts {format_value(target, forecast['value'])} ({ends}){doubt}.",
                )
            statements.append(Statement(text, tuple(details), part.title, value))
    return statements


def describe_run(row: Mapping[str, Any], arm: str, noun: str) -> str:
    """A run by model, arm and sizes; the model's name replaces its n_params."""
    model = str(row["model"]) if _is_given(row.get("model")) else ""
    names = [name for name in _SIZES if _is_given(row.get(name)) and not (model and name == "n_params")]
    sizes = {name: float(row[name]) for name in names if float(row[name]) > 0}
    return ", ".join(filter(None, [model, arm, amounts(sizes, noun)]))


def _is_given(value: Any) -> bool:
    return value is not None and value == value and str(value) not in ("", "None", "<NA>")


def amounts(sizes: Mapping[str, float], noun: str) -> str:
    """Sizes with their names: "464k parameters, 32,000 upstream images"."""
    return ", ".join(format_amount(name, value, noun) for name, value in sizes.items())


def describe_law(law: ArmLaw) -> str:
    """The law of an arm, its status, and its error at the held-out largest scales."""
    subject = f"{law.target}, {law.arm.label}" if law.arm.kind else law.target
    if law.fit is None:
        return f"{subject}: no law: {law.problem}"
    name = f"the mean of {len(law.fit.weights)} laws" if law.fit.members else law.fit.law
    described = f"{subject}: {name}, {LAW_STATUSES[law.fit.status]}"
    errors = law.ranking.table.set_index("law")["holdout_log_rmse"]
    best = errors[law.ranking.best]
    if math.isnan(best):
        return f"{described}; too few sizes to hold out the largest"
    factor = max((fold.factor for fold in law.held_out), default=law.ranking.table["factor_out"].iloc[0])
    who = law.ranking.best if law.fit.members else "it"
    unit = abs(law.fit.scale.factor)
    misses = []
    for miss in (best, errors["last_value"]):
        if law.fit.settings["objective"] == "mse":
            misses.append(format_number(miss / unit, 3))
        elif math.isfinite(miss) and miss < 5:
            # A root mean square of log errors, as a relative error.
            misses.append(format_percent(math.expm1(miss), 2))
        else:
            misses.append("a large factor")
    return (
        f"{described}; fitted to the smaller scales, {who} misses those up to {factor:.2g} times larger by "
        f"{misses[0]} (the last value carried forward: {misses[1]})"
    )


def gap_statement(arm_gap: ArmGap, part: Part) -> Statement:
    """Whether to pre-train or to label more, and what pre-training was worth in labels."""
    about = {"place": part.title, "target": arm_gap.target, "arm": arm_gap.arm.label if arm_gap.arm.kind else ""}
    if arm_gap.gaps is None:
        return Statement(f"no answer: {arm_gap.problem}.", **about)
    row, worth = arm_gap.gaps.table.iloc[0], arm_gap.gaps.worth
    share = f"{format_percent(row['share'])} ({100 * row.share_low:.0f} to {format_percent(row.share_high)})"
    facts = [("Share above the floor that more pre-training cannot remove", share)]
    known = worth[worth["worth"].notna()]
    if len(known):
        most = known.iloc[-1]
        facts.append(
            (
                f"Labels that the largest pre-training is worth, at {format_count(most.n_finetune)} labelled "
                f"{part.noun} and against {format_count(most.against)} upstream {part.noun}",
                f"{format_count(whole(most.worth))} ({format_span(whole(most.worth_low), whole(most.worth_high))})",
            )
        )
    remarks = ["A verdict needs the whole interval of the share on one side of half."]
    if stages := describe_stages(row.to_dict(), arm_gap.target, part.noun):
        remarks.append(f"{stages[:1].upper()}{stages[1:]}.")
    remarks += ["A larger model removes part of it."] if row.larger_model_helps else []
    # The notes begin with the name of the set, which the statement names already.
    prefix = f"{part.values.get('downstream', '')}: "
    notes = [{**note, "text": note["text"].removeprefix(prefix)} for note in arm_gap.gaps.notes]
    key = GAP_VERDICTS[row.verdict]
    return Statement(f"{key}.", (*remarks, *_warnings(notes)), key=key, facts=tuple(facts), **about)


def plan_statements(part: PartFindings, findings: Findings) -> list[Statement]:
    """The plans for the user's budget; without a budget, the first that there is."""
    is_asked = findings.request.budget is not None
    plans = part.plans if is_asked else [plan for plan in part.plans if plan.plan is not None][:1]
    return [plan_statement(plan, part.part) for plan in plans]


def plan_statement(target_plan: TargetPlan, part: Part) -> Statement:
    """The sizes that a budget buys, their predicted target and their costs."""
    plan, target = target_plan.plan, target_plan.target
    if plan is None:
        return Statement(f"For {target}, no plan: {target_plan.problem}.", (), part.title)
    sizes = amounts({name: value for name, value in plan.allocation.items() if name != "arm" and value}, part.noun)
    arm = f", {plan.allocation['arm']}" if plan.allocation["arm"] else ""
    value = format_value(target, plan.predicted["value"])
    ends = format_interval(target, plan.predicted["low"], plan.predicted["high"])
    amount = format_count if target_plan.asked else format_flops
    budget = amount(plan.budget)
    given = f"With {budget}" if target_plan.asked else f"With the compute of the most expensive runs ({budget})"
    spent = [f"{name.replace('_', ' ')} {amount(v)}" for name, v in plan.cost.items() if v and name != "total"]
    details = [sentence(PLAN_VERDICTS[plan.verdict])] if plan.verdict else []
    details += [f"Costs: {', '.join(spent)}."] if spent else []
    if not target_plan.asked:
        details.append("No budget was given: `--budget 500 --cost label=0.5 --cost hour=2` plans for one.")
    text = f"{given}: {sizes}{arm}; predicted {target} {value} ({ends})."
    return Statement(text, (*details, *_warnings(plan.notes)), part.title, sizes)


def next_runs_statements(next_runs: NextRuns | None, part: Part, study: Path | None = None) -> list[Statement]:
    """The suggested runs, what they cost, how far they narrow the interval, and the command that writes them."""
    if next_runs is None:
        return []
    aim = aim_of(next_runs)
    if next_runs.runs is None or next_runs.runs.empty:
        reason = next_runs.problem or "no run within a quarter of the compute spent so far narrows it"
        return [Statement(f"For {aim}, none: {reason}.", (), part.title)]
    runs = next_runs.runs
    one, many = ("pair of runs", "pairs of runs") if next_runs.quantity == "boundary" else ("run", "runs")
    key = f"{len(runs)} {one if len(runs) == 1 else many}"
    now, then = _interval(runs.aim.low, runs.aim.high), _interval(*runs.after)
    rows = f" --downstream {part.values['downstream']}" if "downstream" in part.values else ""
    # As a person below whose folder the study lies types it; a page that travels names no folder of this machine.
    is_below = study is not None and study.resolve().is_relative_to(Path.cwd())
    results = shlex.quote(str(study.resolve().relative_to(Path.cwd()))) if is_below else "RESULTS"
    names = [name for name in ("model", *_SIZES) if name in runs.columns and runs[name].notna().all()]
    seeds = runs.groupby(names, sort=False).size() if names else pd.Series(dtype=int)
    sizes = [dict(zip(names, key if isinstance(key, tuple) else (key,))) for key in seeds.index]
    details = [
        *(
            f"{describe_run(row, '', part.noun)}{f': {count} seeds' if count > 1 else ''}."
            for row, count in zip(sizes, seeds)
        ),
        f"Interval now: {now}; expected after these runs: {f'still {then}' if then == now else then}.",
        f"`hf-scaling suggest {results}{rows} --target {next_runs.target} --quantity {next_runs.quantity} "
        f"--budget {next_runs.budget:.3g} --out next.yaml` writes them as a grid.",
    ]
    text = f"To narrow {aim}: {key}, for {format_flops(runs['cost'].sum())}."
    return [Statement(text, tuple(details), part.title, key)]


def aim_of(next_runs: NextRuns) -> str:
    """What suggested runs narrow: "the boundary by loss", "the prediction of loss"."""
    return f"the {next_runs.quantity} {'by' if next_runs.quantity == 'boundary' else 'of'} {next_runs.target}"


def whole(labels: float) -> float:
    """An estimated number of labels: three digits, and no part of a label; infinity stays."""
    return float(f"{np.round(labels):.3g}")


def _interval(low: float, high: float) -> str:
    if math.isfinite(high):
        return format_span(low, high)
    return f"{format_count(low)} or more" if low > 0 else "unbounded"


def _warnings(notes: Sequence[Mapping[str, str]]) -> list[str]:
    return [sentence(note["text"]) for note in notes if note["grade"] != "info"]
