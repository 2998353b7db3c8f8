"""The answers, in sentences: the same ones on the page, in the card and in the terminal."""

import math
import textwrap
from dataclasses import dataclass

from hf_scaling.boundary import Boundary
from hf_scaling.report.findings import ArmLaw, Crossing, Findings, Following, Gap, PartFindings, Spending, Transfer
from hf_scaling.report.parts import Part
from hf_scaling.text import format_count, format_interval, format_percent, format_value

VERDICTS = {
    "ok": "these runs fix the law",
    "not_identifiable": "these runs leave the law's parameters open: trust it inside the measured range at most",
    "at_bound": "a parameter ended on its bound: read it as a limit",
    "poor_fit": "the law does not describe these runs well",
}
_SHORTLY = {
    "ok": "fixed by these runs",
    "not_identifiable": "its parameters left open",
    "at_bound": "a parameter at its bound",
    "poor_fit": "a poor fit",
}
_SIZES = {"n_params": "parameters", "n_pretrain": "upstream {}", "n_finetune": "labelled {}"}
_PLANS = {
    "clear": "The draws agree on these sizes.",
    "hardly_matters": "Other splits of the budget are as good.",
    "cannot_tell": "These runs do not fix where the budget should go.",
}
_VERDICTS_OF_GAPS = {
    "low": "pre-train more",
    "high": "label more",
    "cannot_tell": "cannot tell whether to pre-train or to label more",
}
_KEYS = {
    "distillation_always": "the teacher helps",
    "distillation_never": "the plain student is ahead",
    "not_resolved": "not resolved",
}
_WIDTH = 110


@dataclass(frozen=True)
class Statement:
    """One thing that is said.

    Attributes:
        text: The sentence.
        details: What stands below it, smaller.
        place: The part of the table it is said of.
        key: The words of the sentence that a hurried reader should see.
    """

    text: str
    details: tuple[str, ...] = ()
    place: str = ""
    key: str = ""


@dataclass(frozen=True)
class Answer:
    """A question and what the table says to it.

    Attributes:
        code: For programs: boundary, performance, transfer, plan, next.
        question: The question.
        statements: The answers, by part of the table and target.
    """

    code: str
    question: str
    statements: tuple[Statement, ...]


def answers(findings: Findings) -> list[Answer]:
    """Every question that the table can be asked, with its answers."""
    asked = {
        "boundary": ("Where does distillation stop paying?", _boundaries),
        "performance": ("How good does it get?", _performances),
        "transfer": ("What is pre-training worth?", _transfers),
        "plan": ("What should the next unit of budget buy?", _plans),
        "next": ("Which runs next?", _following),
    }
    found = []
    for code, (question, say) in asked.items():
        statements = tuple(each for part in findings.parts for each in say(part, findings))
        if statements:
            found.append(Answer(code, question, statements))
    return found


def describe(findings: Findings) -> str:
    """The answers and the gaps as text for a terminal."""
    lines = [f"{findings.title} ({findings.facts['runs']})"]
    for answer in answers(findings):
        lines += ["", answer.question]
        for place, statements in by_place(answer).items():
            lines += [f"  {place}:"] if place and len(findings.parts) > 1 else []
            for statement in statements:
                lines += _wrapped(statement.text, "  ")
                lines += [line for detail in statement.details for line in _wrapped(detail, "    ")]
    if findings.gaps:
        lines += ["", "What these runs cannot say"]
        lines += [line for gap in findings.gaps for line in _wrapped(say_gap(gap), "  ")]
    return "\n".join(lines)


def headlines(findings: Findings) -> list[str]:
    """Where distillation stops paying, a line each: what a study's last words are."""
    found = [answer for answer in answers(findings) if answer.code == "boundary"]
    several = len(findings.parts) > 1
    return [f"{each.place}: {each.text}" if several else each.text for answer in found for each in answer.statements]


def by_place(answer: Answer) -> dict[str, list[Statement]]:
    """The statements of an answer under the part that they are said of."""
    found: dict[str, list[Statement]] = {}
    for statement in answer.statements:
        found.setdefault(statement.place, []).append(statement)
    return found


def say_gap(gap: Gap) -> str:
    """A gap in one line."""
    return f"{gap.question} {say_why(gap)} Would be answered by: {gap.runs}"


def say_why(gap: Gap) -> str:
    """What is missing, and where."""
    return f"{gap.place}: {gap.why[:1].lower()}{gap.why[1:]}" if gap.place else gap.why


def say_boundary(boundary: Boundary, target: str, noun: str) -> str:
    """The verdict of a boundary in a sentence."""
    sizes, unit = boundary.difference[boundary.x], _unit(boundary, noun)
    span = f"{format_count(sizes.min())} to {format_count(sizes.max())} {unit}"
    if boundary.status == "crossing":
        ends = (
            f"{format_percent(boundary.level)} interval {format_count(boundary.low)} to {format_count(boundary.high)}"
        )
        return f"By {target}, distillation stops paying at {format_count(boundary.n_pretrain)} {unit} ({ends})."
    return {
        "distillation_always": f"By {target}, the teacher helps at every measured size, {span}.",
        "distillation_never": f"By {target}, the plain student is ahead at every measured size, {span}.",
        "not_resolved": f"By {target}, not resolved between {span.replace(' to ', ' and ')}.",
    }[boundary.status]


def say_law(law: ArmLaw) -> str:
    """Which law of an arm, how sure, and how far off it was."""
    who = f"{law.target}{f', {law.arm.label}' if law.arm.kind else ''}"
    if law.fit is None:
        return f"{who}: no law: {law.problem}."
    name = f"the mean of {len(law.fit.weights)} laws" if law.fit.members else law.fit.law
    return f"{who}: {name}, {_SHORTLY[law.fit.status]}; {_held_out(law)}"


def _held_out(law: ArmLaw) -> str:
    table = law.ranking.table.set_index("law")["holdout_log_rmse"]
    best, last = table[law.ranking.best], table["last_value"]
    if math.isnan(best):
        return "too few sizes to hold the largest out."
    factor = max((each.factor for each in law.held_out), default=law.ranking.table["factor_out"].iloc[0])
    who = f"{law.ranking.best}, fitted to the smaller scales, misses" if law.fit.members else None
    said = f"{who or 'fitted to the smaller scales it misses'} those up to {factor:.3g} times larger by"
    return f"{said} {_per_cent(best)} (the last value carried forward: {_per_cent(last)})."


def _per_cent(log_rmse: float) -> str:
    if not math.isfinite(log_rmse) or log_rmse >= 5:
        return "far"
    return f"{float(f'{100 * math.expm1(log_rmse):.2g}'):,g} %"


def _boundaries(found: PartFindings, findings: Findings) -> list[Statement]:
    return [_crossing(crossing, found.part) for crossing in found.crossings]


def _crossing(crossing: Crossing, part: Part) -> Statement:
    boundary, noun = crossing.boundary, part.noun
    ways = len(part.arm("distilled")) > 1
    place = f"{part.title}, {crossing.arm.label}" if ways else part.title
    if boundary is None:
        return Statement(f"By {crossing.target}, no answer: {crossing.problem}.", (), place)
    details = [_by_size(crossing, noun)] if crossing.by_size else []
    if boundary.sizes and boundary.status == "crossing":
        details.insert(0, f"Said of {_sizes(boundary.sizes, noun)}.")
    details.append(_law_free(boundary, noun))
    if crossing.compute is not None:
        counted = say_boundary(crossing.compute, crossing.target, noun).removeprefix(f"By {crossing.target}, ")
        details.append(f"At equal compute, the teacher's counted: {counted}")
    elif crossing.compute_problem:
        details.append(f"At equal compute: no answer: {crossing.compute_problem}.")
    details += _warnings(boundary.notes)
    key = f"{format_count(boundary.n_pretrain)} {noun}" if boundary.status == "crossing" else _KEYS[boundary.status]
    return Statement(say_boundary(boundary, crossing.target, noun), tuple(details), place, key)


def _by_size(crossing: Crossing, noun: str) -> str:
    if {each.status for _, _, each in crossing.by_size} == {crossing.boundary.status} != {"crossing"}:
        names = list(dict.fromkeys(_SIZES[name].format(noun) for name, _, _ in crossing.by_size))
        return f"The same at every measured number of {' and '.join(names)}."
    said = [
        f"{format_count(value)} {_SIZES[name].format(noun)}: {_shortly(boundary)}"
        for name, value, boundary in crossing.by_size
    ]
    return f"By size: {'; '.join(said)}."


def _shortly(boundary: Boundary) -> str:
    if boundary.status != "crossing":
        return boundary.status.replace("_", " ")
    return f"{format_count(boundary.n_pretrain)} ({format_count(boundary.low)} to {format_count(boundary.high)})"


def _law_free(boundary: Boundary, noun: str) -> str:
    free = boundary.law_free
    if not 0 < free["n_pretrain"] < math.inf:
        return "From the paired differences alone: no crossing inside the measured sizes."
    ends = f" ({format_count(free['low'])} to {format_count(free['high'])})" if free["low"] == free["low"] else ""
    return f"From the paired differences alone: {format_count(free['n_pretrain'])}{ends} {_unit(boundary, noun)}."


def _unit(boundary: Boundary, noun: str) -> str:
    return "FLOPs" if boundary.x == "train_flops" else noun


def _performances(found: PartFindings, findings: Findings) -> list[Statement]:
    statements = []
    for target in findings.asked.targets:
        laws = [law for law in found.law(target) if law.best is not None]
        if laws:
            best = min(laws, key=lambda law: law.best[target])
            details = (*_forecast(best, found.part), *(_sentence(say_law(law)) for law in found.law(target)))
            key = format_value(target, float(best.best[target]))
            statements.append(Statement(_best_run(best, target, found.part), details, found.part.title, key))
    return statements


def _best_run(law: ArmLaw, target: str, part: Part) -> str:
    row = law.best
    sizes = {name: float(row[name]) for name in _SIZES if _given(row.get(name)) and float(row[name]) > 0}
    who = [str(row["model"])] if _given(row.get("model")) else []
    if who:
        sizes.pop("n_params", None)
    who += [law.arm.label] if law.arm.kind else []
    said = ", ".join([*who, *([_sizes(sizes, part.noun)] if sizes else [])])
    return f"Lowest {target} measured: {format_value(target, float(row[target]))}{f' ({said})' if said else ''}."


def _given(value) -> bool:
    return value is not None and value == value and str(value) not in ("", "None", "<NA>")


def _forecast(law: ArmLaw, part: Part) -> list[str]:
    """What the best arm's law says of ten times the data."""
    if not law.forecasts:
        return []
    far = law.forecasts[-1]
    grown = next(name for name in ("n_finetune", "n_pretrain", *far["sizes"]) if name in far["sizes"])
    ends = format_interval(law.target, far["low"], far["high"])
    what = _SIZES.get(grown, grown).format(part.noun)
    doubt = "" if law.fit.status == "ok" else ": an extrapolation that these runs do not bear"
    value = format_value(law.target, far["value"])
    return [f"With ten times the {what} ({_sizes(far['sizes'], part.noun)}) the law expects {value} ({ends}){doubt}."]


def _sizes(sizes: dict[str, float], noun: str) -> str:
    return ", ".join(f"{format_count(value)} {_SIZES.get(name, name).format(noun)}" for name, value in sizes.items())


def _transfers(found: PartFindings, findings: Findings) -> list[Statement]:
    return [_transfer(each, found.part) for each in found.transfers]


def _transfer(transfer: Transfer, part: Part) -> Statement:
    who = f"By {transfer.target}{f', {transfer.arm.label}' if transfer.arm.kind else ''}"
    if transfer.gaps is None:
        return Statement(f"{who}: no answer: {transfer.problem}.", (), part.title)
    row = transfer.gaps.table.iloc[0]
    key = _VERDICTS_OF_GAPS[row.verdict]
    share = f"{format_percent(row['share'])} ({100 * row.share_low:.0f} to {format_percent(row.share_high)})"
    details = [
        f"Out of pre-training's reach: {share} of what stands above the floor. A verdict needs all of the interval on "
        "one side of half."
    ]
    details += ["A larger model closes part of it."] if row.larger_model_helps else []
    details += _worth(transfer.gaps.worth, part) + _warnings(transfer.gaps.notes)
    return Statement(f"{who}: {key}.", tuple(details), part.title, key)


def _worth(worth, part: Part) -> list[str]:
    """What pre-training was worth in labelled images, at the largest n_finetune that says so."""
    said = worth[worth["worth"].notna()]
    if said.empty:
        return []
    row = said.iloc[-1]
    ends = f"{format_count(row.worth_low)} to {format_count(row.worth_high)}"
    return [
        f"At {format_count(row.n_finetune)} labelled {part.noun}, the largest pre-training is worth "
        f"{format_count(row.worth)} labels more ({ends}) than {format_count(row.against)} upstream {part.noun}."
    ]


def _plans(found: PartFindings, findings: Findings) -> list[Statement]:
    """The plans for the user's budget; without one, for the compute of the dearest runs, by the first target alone."""
    spending = [each for each in found.spending if each.asked or each.plan is not None]
    return [_plan(each, found.part) for each in (spending if found.spending[0].asked else spending[:1])]


def _plan(spending: Spending, part: Part) -> Statement:
    plan, target = spending.plan, spending.target
    if plan is None:
        return Statement(f"For {target}, no plan: {spending.problem}.", (), part.title)
    sizes = {name: value for name, value in plan.allocation.items() if name != "arm" and value}
    arm = f", {plan.allocation['arm']}" if plan.allocation["arm"] else ""
    value = format_value(target, plan.predicted["value"])
    ends = format_interval(target, plan.predicted["low"], plan.predicted["high"])
    budget = (
        f"For {format_count(plan.budget)}"
        if spending.asked
        else f"For the compute of the dearest runs ({format_count(plan.budget)} FLOPs)"
    )
    text = f"{budget}: {_sizes(sizes, part.noun)}{arm}; {target} expected {value} ({ends})."
    paid = ", ".join(
        f"{name.replace('_', ' ')} {format_count(v)}" for name, v in plan.cost.items() if v and name != "total"
    )
    details = [_PLANS[plan.verdict]] if plan.verdict else []
    details += [f"Spent: {paid}{'' if spending.asked else ' FLOPs'}."] if paid else []
    details += (
        []
        if spending.asked
        else ["No budget was given: `--budget 500 --cost label=0.5 --cost hour=2` asks for a plan."]
    )
    return Statement(text, (*details, *_warnings(plan.notes)), part.title, _sizes(sizes, part.noun))


def _following(found: PartFindings, findings: Findings) -> list[Statement]:
    following, title = found.following, found.part.title
    if following is None:
        return []
    aim = "the boundary" if following.quantity == "boundary" else "the prediction"
    if following.runs is None or following.runs.empty:
        reason = following.problem or "no run within a quarter of what these took narrows it"
        return [Statement(f"For {aim} by {following.target}, none: {reason}.", (), title)]
    runs = following.runs
    many, one = ("pairs of runs", "pair of runs") if following.quantity == "boundary" else ("runs", "run")
    key = f"{len(runs)} {many if len(runs) > 1 else one}"
    text = f"To narrow {aim} by {following.target}: {key}, for {format_count(runs['cost'].sum())} FLOPs."
    today, then = _ends(runs.aim.low, runs.aim.high), _ends(*runs.after)
    details = [f"{_run(row, found.part.noun)}." for row in _grouped(runs)]
    details += [
        f"The interval today: {today}; expected after them: {then if then != today else 'still ' + then}.",
        f"`{_suggest(following, found.part)}` writes them.",
    ]
    return [Statement(text, tuple(details), title, key)]


def _suggest(following: Following, part: Part) -> str:
    downstream = part.choice.get("downstream")
    rows = f" --downstream {downstream}" if downstream else ""
    aim = f"--target {following.target} --quantity {following.quantity} --budget {following.budget:.3g}"
    return f"hf-scaling suggest RESULTS{rows} {aim} --out next.yaml"


def _ends(low: float, high: float) -> str:
    if math.isfinite(high):
        return f"{format_count(low)} to {format_count(high)}"
    return f"{format_count(low)} or more" if low > 0 else "anywhere"


def _grouped(runs) -> list[tuple[dict, int]]:
    """The distinct sizes among suggested runs, each with how many seeds of it."""
    names = [name for name in ("model", *_SIZES) if name in runs.columns and runs[name].notna().all()]
    counts = runs.groupby(names, sort=False).size() if names else {}
    keys = [key if isinstance(key, tuple) else (key,) for key in getattr(counts, "index", ())]
    return [(dict(zip(names, key)), int(number)) for key, number in zip(keys, counts)]


def _run(row: tuple[dict, int], noun: str) -> str:
    sizes, number = row
    who = [str(sizes["model"])] if "model" in sizes else []
    at = {name: float(v) for name, v in sizes.items() if name in _SIZES and v > 0 and not (who and name == "n_params")}
    return f"{', '.join([*who, _sizes(at, noun)])}{f': {number} seeds' if number > 1 else ''}"


def _warnings(notes: list[dict]) -> list[str]:
    return [_sentence(note["text"]) for note in notes if note["grade"] != "info"]


def _sentence(text: str) -> str:
    # A column's name stays as it is written.
    text = text if "_" in text.split(" ")[0] else text[:1].upper() + text[1:]
    return text if text.endswith(".") else f"{text}."


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
