"""`headlines`: what a study says in at most six plain sentences, for the first screen of a page and the end of a run.

for line in headlines(findings):
    print(line.text)
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd

from hf_scaling.boundary import Boundary
from hf_scaling.planning.verdicts import describe_contrast, describe_stages
from hf_scaling.report.answers import aim_of, amounts, describe_leads, describe_run, size_of, whole
from hf_scaling.report.findings import ArmBoundary, ArmGap, ArmLaw, Findings, PartFindings, best_arm, find_contrasts
from hf_scaling.report.parts import Part
from hf_scaling.text import (
    format_count,
    format_flops,
    format_interval,
    format_parameters,
    format_percent,
    format_span,
    format_value,
    joined,
)

#: Most sentences of a first screen.
MOST = 6
# These give way to the other answers, the first of them first.
_DROPPED = ("forecast", "law", "worth", "next")
# More results than this are given as a range.
_MOST_NAMED = 4
_STATUSES = {
    "distillation_always": "distilled models are better",
    "distillation_never": "distilled models are worse",
    "no_difference": "distillation makes a difference of at most 2 %",
}
_GAPS = {"low": "pre-train more rather than label more", "high": "label more rather than pre-train more"}
#: What an answer is about: the part of the table, the target, and the arm ("" where that is clear).
_About = tuple[Part, str, str]


@dataclass(frozen=True)
class Headline:
    """A plain sentence.

    Attributes:
        code: boundary, lead (which arm is ahead where no boundary is resolved), performance, forecast, worth, law,
            transfer, plan, next, or open: what the runs do not settle.
        text: The sentence.
        key: The words to emphasise.
    """

    code: str
    text: str
    key: str = ""


def headlines(findings: Findings) -> list[Headline]:
    """The answers of a study in at most `MOST` sentences, the same answer once, the most useful first.

    What the runs do not settle is one sentence at the end; at the start where nothing about distillation is settled.
    """
    makers: tuple[Callable[[Findings], list[Headline]], ...] = (
        _boundary_lines,
        _performance_lines,
        _worth_lines,
        _transfer_lines,
        _law_lines,
        _plan_lines,
        _next_lines,
    )
    lines = [line for make in makers for line in make(findings)]
    if questions := _open_questions(findings):
        items = questions if len(questions) < 2 else [", ".join(questions[:-1]), questions[-1]]
        text = f"These runs do not settle {', or '.join(items)}."
        is_first = any(_boundaries(findings)) and not any(line.code in ("boundary", "lead") for line in lines)
        lines.insert(0 if is_first else len(lines), Headline("open", text))
    while len(lines) > MOST:
        settled = [line for line in lines if line.code != "open"]
        lines.remove(next((line for code in _DROPPED for line in settled if line.code == code), settled[-1]))
    return lines


def place_of(part: Part, findings: Findings) -> tuple[str, str]:
    """Where in a study a part is, as words before a name and a name: ("after fine-tuning on", "photos").

    Both are "" where the table has one part.
    """
    if len(findings.parts) == 1:
        return "", ""
    column = "downstream" if part.stage == "finetune" else "upstream"
    alike = [
        peer.part
        for peer in findings.parts
        if (peer.part.stage, "upstream" in peer.part.values) == (part.stage, "upstream" in part.values)
        and peer.part.values.get(column) == part.values.get(column)
    ]
    if column not in part.values or len(alike) > 1:
        return "in", f"“{part.title}”"
    if part.stage != "finetune":
        return "on", part.values[column]
    return "after fine-tuning on" if "upstream" in part.values else "without pre-training on", part.values[column]


def _where(about: Sequence[_About], every: Sequence[_About], findings: Findings, start: str = "") -> str:
    """The places of some answers, with their targets and arms as far as others of the same place differ.

    Args:
        about: What the answers are about.
        every: What all answers to the question are about.
        findings: The study.
        start: Word before the names in place of those of `place_of`.

    Returns:
        " on glyphs (by loss) and after fine-tuning on photos and signs"; "" where it is all.
    """
    if len(about) == len(every):
        return ""
    scopes: dict[str, dict[str, list[str]]] = {}
    for part in {part.title: part for part, _, _ in about}.values():
        own = [(target, arm) for other, target, arm in about if other.title == part.title]
        whole = sum(other.title == part.title for other, _, _ in every)
        words, name = place_of(part, findings)
        targets, arms = (list(dict.fromkeys(names)) for names in zip(*own))
        if len(own) >= whole:
            scope = ""
        elif len(set(own)) == len(targets) * len(arms):
            # "loss and error", "loss, plain and distilled".
            scope = f"by {', '.join(filter(None, (joined(targets), joined(arms))))}"
        else:
            # "loss (plain) and error (distilled)".
            scope = f"by {joined(f'{target} ({arm})' for target, arm in own)}"
        scopes.setdefault(scope, {}).setdefault(start or words, []).append(name)
    phrases = []
    for scope, places in scopes.items():
        place = joined(f"{words} {joined(names, most=12)}" for words, names in places.items()).strip()
        phrases.append(f"{place} ({scope})" if place and scope else place or scope)
    return f" {joined(phrases)}"


def _boundaries(findings: Findings) -> list[tuple[PartFindings, ArmBoundary, Boundary]]:
    """Every boundary that could be computed."""
    return [(p, one, one.boundary) for p in findings.parts for one in p.boundaries if one.boundary is not None]


def _about_boundary(part: PartFindings, one: ArmBoundary) -> _About:
    return part.part, one.target, one.arm.label if len(part.part.arms_of("distilled")) > 1 else ""


def _boundary_lines(findings: Findings) -> list[Headline]:
    compared = _boundaries(findings)
    every = [_about_boundary(part, one) for part, one, _ in compared]
    crossings = [(part, one) for part, one, boundary in compared if boundary.status == "crossing"]
    lines = [_crossing_line(crossings, findings)] if crossings else []
    for status, words in _STATUSES.items():
        alike = [(part, one, boundary) for part, one, boundary in compared if boundary.status == status]
        if not alike:
            continue
        where = _where([_about_boundary(part, one) for part, one, _ in alike], every, findings)
        measured = pd.concat([boundary.difference["n_pretrain"] for _, _, boundary in alike])
        amounts_of_data = f"{format_span(measured.min(), measured.max())} {alike[0][0].part.noun}"
        text = f"{words[:1].upper()}{words[1:]}{where} at every measured amount of data, {amounts_of_data}"
        of_part, one, boundary = alike[0]
        if len(alike) == 1 and status != "no_difference":
            # Two digits: a difference is known less well than what it is of.
            low, high = (float(f"{end:.2g}") for end in boundary.difference["difference"].abs().agg(["min", "max"]))
            rises = any(law.rises for law in of_part.laws_of(one.target))
            change = "lower" if (status == "distillation_always") != rises else "higher"
            text += f", where their {one.target} is {format_interval(one.target, low, high)} {change}"
        lines.append(Headline("boundary", f"{text}.", f"{words[:1].upper()}{words[1:]}"))
    if any(boundary.status not in ("not_resolved", "no_difference") for _, _, boundary in compared):
        return lines
    # No arm wins anywhere: the amounts at which one is shown ahead, of the first open comparison with any.
    for of_part, one, boundary in compared:
        leads = describe_leads(boundary, of_part.part.noun)
        if not leads or boundary.status != "not_resolved":
            continue
        where = _where([_about_boundary(of_part, one)], every, findings).strip()
        text = f"{where}, {leads}" if where else leads
        spans = [*boundary.alike, *(span for spans in boundary.leads.values() for span in spans)]
        sizes = boundary.difference[boundary.x]
        if not all(any(low <= size <= high for low, high in spans) for size in sizes):
            text += "; at the other amounts neither is shown ahead"
        return [Headline("lead", f"{text[:1].upper()}{text[1:]}.", leads), *lines]
    return lines


def _crossing_line(crossings: Sequence[tuple[PartFindings, ArmBoundary]], findings: Findings) -> Headline:
    part, first = crossings[0]
    boundary, noun = first.boundary, part.part.noun
    key = size_of(boundary, noun)
    if len(crossings) > _MOST_NAMED:
        sizes = sorted(one.boundary.n_pretrain for _, one in crossings)
        key = f"{format_span(sizes[0], sizes[-1])} {noun}"
        of = f"{len(crossings)} of {len(_boundaries(findings))} comparisons"
        return Headline("boundary", f"Distillation stops paying at {key}, in {of}.", key)
    helps = []
    for of_part, one in crossings:
        words, name = place_of(of_part.part, findings)
        place = f" {words} {name}" if name else ""
        _, target, arm = _about_boundary(of_part, one)
        ends = f"{format_percent(one.boundary.level)}: {format_span(one.boundary.low, one.boundary.high)}"
        setting, by_model = f" ({arm})" if arm else "", ""
        if _depends_on_size(one):
            models = [(value, at_size) for column, value, at_size in one.by_size if column == "n_params"]
            smallest, largest = (
                f"{format_count(at.n_pretrain)} for {format_parameters(value)} parameters"
                for value, at in (models[0], models[-1])
            )
            by_model = f", from {smallest} to {largest},"
        helps.append(f"{size_of(one.boundary, of_part.part.noun)}{place} by {target}{setting} ({ends}){by_model}")
    return Headline("boundary", f"Distillation helps up to about {joined(helps)}.", key)


def _depends_on_size(one: ArmBoundary) -> bool | None:
    """Whether a settled boundary differs between model sizes; None where the runs do not settle that.

    Crossings differ where the intervals of the smallest and the largest model do not overlap.
    """
    sizes = [at_size for column, _, at_size in one.by_size if column == "n_params"]
    if len(sizes) < 2 or {at_size.status for at_size in sizes} == {one.boundary.status} != {"crossing"}:
        return False
    ends = sizes[0], sizes[-1]
    if any(at_size.status != "crossing" for at_size in ends):
        return None
    return True if ends[0].high < ends[1].low or ends[1].high < ends[0].low else None


def _main_target(findings: Findings) -> str:
    """The error where it is reported: people compare models by it."""
    return "error" if "error" in findings.request.targets else findings.request.targets[0]


def _performance_lines(findings: Findings) -> list[Headline]:
    """The best run of each place and the forecast, by error where there is one."""
    target = _main_target(findings)
    best: list[tuple[Part, ArmLaw]] = []
    for part in findings.parts:
        laws = [law for law in part.laws_of(target) if law.best is not None]
        best += [(part.part, best_arm(laws, target))] if laws else []
    if not best:
        return []
    start = f"{'Highest' if best[0][1].rises else 'Lowest'} {target} measured:"
    values = [float(law.best[target]) for _, law in best]
    if len(best) == 1:
        (part, law), value = best[0], format_value(target, values[0])
        run = describe_run(law.best, law.arm.label if law.arm.kind else "", part.noun)
        line = Headline("performance", f"{start} {value}{f' ({run})' if run else ''}.", value)
        return [line, *_forecast_lines(law, part, target)]
    # What as many labels give without pre-training is put behind what they give with it.
    alone = {_labels_of(part, law): law for part, law in best if _is_from_scratch(part)}
    named, shown = [], set()
    for part, law in best:
        if _is_from_scratch(part):
            continue
        text = " ".join(filter(None, (format_value(target, float(law.best[target])), *place_of(part, findings))))
        if twin := alone.get(_labels_of(part, law)):
            text += f" ({format_value(target, float(twin.best[target]))} without pre-training)"
            shown.add(_labels_of(part, law))
        named.append(text)
    for part, law in best:
        if _is_from_scratch(part) and _labels_of(part, law) not in shown:
            named.append(" ".join((format_value(target, float(law.best[target])), *place_of(part, findings))))
    if len(named) > _MOST_NAMED + 1:
        key = format_interval(target, min(values), max(values))
        return [Headline("performance", f"{start} {key}, in {len(best)} settings.", key)]
    return [Headline("performance", f"{start} {joined(named)}.", named[0].split(" on ")[0])]


def _is_from_scratch(part: Part) -> bool:
    return part.stage == "finetune" and "upstream" not in part.values


def _labels_of(part: Part, law: ArmLaw) -> tuple[str | None, float]:
    """The downstream set and the labels of the best run."""
    return part.values.get("downstream"), float((law.best or {}).get("n_finetune") or 0)


def _forecast_lines(law: ArmLaw, part: Part, target: str) -> list[Headline]:
    if law.fit is None or law.fit.status != "ok" or not law.forecasts:
        return []
    forecast = law.forecasts[-1]
    value = format_value(target, forecast["value"])
    ends = format_interval(target, forecast["low"], forecast["high"])
    text = f"With ten times the {_grown(law, part)} the law predicts {value} ({ends})."
    return [Headline("forecast", text, value)]


def _grown(law: ArmLaw, part: Part) -> str:
    """What a forecast takes ten times as much of."""
    columns = law.fit.columns.values() if law.fit is not None else ()
    return f"labelled {part.noun}" if "n_finetune" in columns else part.noun if "n_pretrain" in columns else "data"


def _law_lines(findings: Findings) -> list[Headline]:
    """The law that predicts the held-out largest runs best, of fine-tuned runs where there are any with both sizes."""
    joint = [p for p in findings.parts if p.part.stage == "finetune" and len(p.part.levels("n_pretrain")) > 1]
    parts = joint or [p for p in findings.parts if not _is_from_scratch(p.part)]
    tables = [
        law.ranking.table.set_index("law")["holdout_log_rmse"]
        for part in parts
        for law in part.laws
        if law.ranking is not None and law.fit is not None and law.fit.settings["objective"] != "mse"
    ]
    # A law is compared with the others only where it was fitted to every one of these tables.
    misses = pd.concat(tables, axis=1).dropna() if tables else pd.DataFrame()
    if "last_value" not in misses.index or len(misses) < 2:
        return []
    means = misses.mean(axis=1)
    best = str(means.drop("last_value").idxmin())
    own, carried = (
        format_interval("error", *(float(f"{math.expm1(end):.2g}") for end in (row.min(), row.max())))
        for row in (misses.loc[best], misses.loc["last_value"])
    )
    text = f"Fitted without the largest runs, {best} predicts them best: it misses by {own}"
    return [Headline("law", f"{text}, the last value carried forward by {carried}.", best)]


def _transfers(findings: Findings) -> list[tuple[_About, ArmGap]]:
    """Every transfer gap that could be computed, with what it is about."""
    return [
        ((part.part, gap.target, gap.arm.label if gap.arm.kind else ""), gap)
        for part in findings.parts
        for gap in part.transfer_gaps
        if gap.gaps is not None
    ]


def _worth_lines(findings: Findings) -> list[Headline]:
    """What the largest pre-training is worth in labels on each set, by one target and arm."""
    target = _main_target(findings)
    named: dict[str, str] = {}
    beyond, sizes, labels = False, set(), ""
    for (part, of_target, arm), gap in _transfers(findings):
        rows = gap.gaps.worth if gap.gaps is not None else pd.DataFrame()
        if of_target != target or part.title in named or arm not in ("", "plain") or rows.empty:
            continue
        row, (fit,) = rows.iloc[-1], gap.gaps.fits.values()
        if not (row.worth_low > 0 and math.isfinite(row.worth_high)):
            continue
        name = part.values.get("downstream", "") if len(findings.parts) > 1 else ""
        ends = format_span(whole(row.worth_low), whole(row.worth_high))
        labels = "labelled tokens" if part.noun == "tokens" else "labels"
        named[part.title] = f"{format_count(whole(row.worth))} {labels}{f' of {name}' if name else ''} ({ends})"
        beyond |= row.n_finetune + row.worth > fit.data["ranges"]["n_finetune"][1]
        sizes.add((fit.data["ranges"]["n_pretrain"][1], row.against, row.n_finetune, part.noun))
    # Sets that were measured at other sizes cannot be said in one sentence.
    if len(sizes) != 1:
        return []
    most, least, n_finetune, noun = sizes.pop()
    text = (
        f"By {target} with {format_count(n_finetune)} {labels}, pre-training on {format_count(most)} {noun} instead "
    )
    text += f"of {format_count(least)} saves {joined(named.values(), _MOST_NAMED)}"
    return [Headline("worth", f"{text}{f', if the law holds beyond the measured {labels}' if beyond else ''}.")]


def _transfer_lines(findings: Findings) -> list[Headline]:
    every = _transfers(findings)
    lines = []
    for verdict, words in _GAPS.items():
        about = [each for each, gap in every if gap.gaps.table.iloc[0]["verdict"] == verdict]
        if about:
            where = _where(about, [each for each, _ in every], findings, start="for")
            lines.append(
                Headline("transfer", f"{words[:1].upper()}{words[1:]}{where}.", f"{words[:1].upper()}{words[1:]}")
            )
    # Where the gaps themselves are open, what doubling has bought may not be.
    asked = [
        (about, gap.gaps.table.iloc[0].to_dict())
        for about, gap in every
        if about[1] == _main_target(findings) and about[2] in ("", "plain")
    ]
    if asked and not lines:
        lines += _stages_lines(asked, findings)
    for target in dict.fromkeys([_main_target(findings), *findings.request.targets]):
        largest = [
            (part, contrasts.iloc[0].to_dict())
            for part, contrasts in find_contrasts(findings.parts, target, findings.request.options.level)
            if contrasts["verdict"].iloc[0] == "differ"
        ]
        for part, row in largest:
            key = f"helps {row['more']} more than {row['less']}"
            lines.append(Headline("transfer", f"{describe_contrast(row, target, part.noun)}.", key))
        # One target is enough for a first screen; the section has them all.
        if largest:
            break
    return lines


def _stages_lines(asked: Sequence[tuple[_About, dict]], findings: Findings) -> list[Headline]:
    """Which data helped more when doubled: one set with its numbers, several by name."""
    winners = {kind: [about for about, row in asked if row["helps_more"] == kind] for kind in ("labels", "images")}
    winner, about = max(winners.items(), key=lambda item: len(item[1]))
    if not about:
        return []
    (part, target, _), row = asked[0]
    if len(asked) == 1:
        name = place_of(part, findings)[1]
        text = f"{f'on {name}, ' if name else ''}{describe_stages(row, target, part.noun)}"
        return [Headline("transfer", f"{text[:1].upper()}{text[1:]}.")]
    first, second = (f"twice the {data} {part.noun}" for data in ("labelled", "upstream"))
    if winner == "images":
        first, second = second, first
    key = f"{first} helped more than {second}"
    half = "the upper half of " if all(row["over"] == "upper_half" for _, row in asked) else ""
    where = _where(about, [place for place, _ in asked], findings, start="on") or " on all sets"
    return [Headline("transfer", f"By {target}, over {half}the measured sizes, {key}{where}.", key)]


def _plan_lines(findings: Findings) -> list[Headline]:
    """The first plan that the runs determine."""
    for of_part in _planned(findings):
        part = of_part.part
        for one in of_part.plans:
            plan = one.plan
            if plan is None or plan.verdict == "cannot_tell":
                continue
            bought = {name: value for name, value in plan.allocation.items() if name != "arm" and value}
            sizes = amounts(bought, part.noun) + (f", {plan.allocation['arm']}" if plan.allocation["arm"] else "")
            budget = format_count(plan.budget) if one.asked else format_flops(plan.budget)
            words, name = place_of(part, findings)
            value = (
                f"{one.target} {format_value(one.target, plan.predicted['value'])}{f' {words} {name}' if name else ''}"
            )
            others = "; other splits are as good" if plan.verdict == "hardly_matters" else ""
            return [
                Headline("plan", f"A budget of {budget} buys most with {sizes}: predicted {value}{others}.", sizes)
            ]
    return []


def _planned(findings: Findings) -> list[PartFindings]:
    """The parts whose plans answer where a budget should go.

    Runs without pre-training on a set that pre-trained models were fine-tuned on are a comparison: their plan buys
    labels alone, and may be worse than what the same budget buys with pre-training.
    """
    tuned = {p.part.values.get("downstream") for p in findings.parts if "upstream" in p.part.values}
    return [
        p
        for p in findings.parts
        if not (_is_from_scratch(p.part) and p.part.values.get("downstream") in tuned - {None})
    ]


def _next_lines(findings: Findings) -> list[Headline]:
    for part in findings.parts:
        suggested = part.next_runs
        if suggested is None or suggested.runs is None or suggested.runs.empty:
            continue
        n, pairs = len(suggested.runs), suggested.quantity == "boundary"
        key = f"{n} {'pair' if pairs else 'run'}{'s' * (n > 1)}{' of runs' if pairs else ''}"
        cost = format_flops(float(suggested.runs["cost"].sum()))
        words, name = place_of(part.part, findings)
        aim = f"{aim_of(suggested)}{f' {words} {name}' if name else ''}"
        return [Headline("next", f"Next, train {key} ({cost}) to narrow {aim}.", key)]
    return []


def _open_questions(findings: Findings) -> list[str]:
    """What the runs do not settle, each the rest of a sentence."""
    questions = []
    compared = [(_about_boundary(part, one), one) for part, one, _ in _boundaries(findings)]
    every = [about for about, _ in compared]
    unresolved = [about for about, one in compared if one.boundary.status == "not_resolved"]
    if unresolved:
        questions.append(f"where distillation stops paying{_where(unresolved, every, findings)}")
    if any(one.boundary.status != "not_resolved" and _depends_on_size(one) is None for _, one in compared):
        questions.append("whether what distillation does depends on model size")
    gaps = _transfers(findings)
    unclear = [(about, gap.gaps.table.iloc[0].to_dict()) for about, gap in gaps]
    unclear = [(about, row) for about, row in unclear if row["verdict"] == "cannot_tell"]
    # Which data helped more when doubled may be known all the same.
    for question, is_open in (
        ("whether to pre-train or to label more", True),
        ("how far pre-training alone can get", False),
    ):
        if own := [about for about, row in unclear if (row["helps_more"] == "cannot_tell") == is_open]:
            where = _where(own, [about for about, _ in gaps], findings, start="for")
            questions.append(f"{question}{where}")
    verdicts = {one.plan.verdict for part in _planned(findings) for one in part.plans if one.plan is not None}
    if verdicts == {"cannot_tell"}:
        questions.append("where a budget should go")
    if len(findings.parts) == 1:
        part = findings.parts[0]
        target = _main_target(findings)
        laws = [law for law in part.laws_of(target) if law.best is not None]
        if laws and not _forecast_lines(best := best_arm(laws, target), part.part, target):
            questions.append(f"what ten times the {_grown(best, part.part)} would give")
    return questions
