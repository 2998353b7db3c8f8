"""The findings as tables of text, for the page and the card alike."""

from collections.abc import Sequence
from dataclasses import dataclass

from hf_scaling.fitting import LawFit
from hf_scaling.fitting.summary import facts_of, formula_of
from hf_scaling.report.findings import Findings, PartFindings
from hf_scaling.report.laws import ArmLaw
from hf_scaling.report.numbers import per_cent
from hf_scaling.report.words import VERDICTS


@dataclass(frozen=True)
class Table:
    """Cells of text.

    Attributes:
        title: Over it.
        heads: Of the columns.
        rows: The cells.
    """

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class LawTable:
    """One fitted law.

    Attributes:
        title: Target, arm and law.
        formula: As `hf-scaling laws` prints it.
        table: Its parameters with intervals.
        verdict: The status in words, and the facts in which it differs from the report's other laws.
    """

    title: str
    formula: str
    table: Table
    verdict: str


def law_tables(part: PartFindings) -> list[LawTable]:
    """One for each law fitted; a mixture's members each have their own."""
    return [_law_table(law, fit) for law in part.laws if law.fit is not None for fit in law.fit.members or (law.fit,)]


def _law_table(law: ArmLaw, fit: LawFit) -> LawTable:
    level = per_cent(fit.settings["level"])
    rows = [
        [name, f"{value:.4g}", *(f"{end:.4g}" for end in fit.intervals.get(name, ()))]
        for name, value in fit.params.items()
    ]
    heads = ["", "estimate", f"{level} from", "to"]
    share = f" ({per_cent(law.fit.weights[fit.law])} of the mean)" if law.fit.members else ""
    scores = fit.scores
    facts = f"{scores['n_rows']} rows, {scores['n_configurations']} sizes, log RMSE {scores['log_rmse']:.3g}"
    title = f"{law.target}, {law.arm.label}: {fit.law}{share}"
    return LawTable(
        title, formula_of(fit), Table(title, heads, rows), f"{fit.status}: {VERDICTS[fit.status]}. {facts}."
    )


def ranking_tables(part: PartFindings) -> list[Table]:
    """The laws compared for each target and arm; none where nothing could be held out."""
    return [_ranking_table(law) for law in part.laws if law.ranking is not None and law.ranking.backtest.folds]


def _ranking_table(law: ArmLaw) -> Table:
    rows = [
        [row.law, _number(row.holdout_log_rmse, ".3g"), _number(row.aicc, ".1f"), row.status]
        for row in law.ranking.table.itertuples()
    ]
    return Table(f"{law.target}, {law.arm.label}", ["law", "held out", "AICc", "status"], rows)


def _number(value: float, form: str) -> str:
    return "–" if value != value else f"{value:{form}}"


def notes_of(findings: Findings) -> list[tuple[str, dict]]:
    """Every note with what it is said of; one that holds for several laws stands once."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for part in findings.parts:
        for law in part.laws:
            for note in law.fit.notes if law.fit is not None else ():
                key = (note["grade"], note["code"], note["text"])
                found.setdefault(key, []).append(f"{part.part.title}: {law.target}, {law.arm.label}")
        for crossing in part.crossings:
            for note in crossing.boundary.notes if crossing.boundary is not None else ():
                key = (note["grade"], note["code"], note["text"])
                found.setdefault(key, []).append(f"{part.part.title}: boundary by {crossing.target}")
    order = {"error": 0, "warn": 1, "info": 2}
    listed = [
        ("; ".join(dict.fromkeys(where)), dict(zip(("grade", "code", "text"), key))) for key, where in found.items()
    ]
    return sorted(listed, key=lambda each: order.get(each[1]["grade"], 3))


def facts_in_common(findings: Findings) -> dict[str, str]:
    """What all fits share of how they were made; where they differ, each value once."""
    found: dict[str, dict[str, None]] = {}
    for part in findings.parts:
        for law in part.laws:
            for name, text in facts_of(law.fit).items() if law.fit is not None else ():
                found.setdefault(name, {})[text] = None
    names = ("fixed or tied", "objective", "algorithm", "intervals", "held out", "versions")
    return {name: "; or ".join(found[name]) for name in names if name in found}
