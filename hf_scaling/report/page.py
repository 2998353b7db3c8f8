"""`write_report`: findings as an HTML page, a card, figure files and JSON.

findings = write_report("studies/demo", "report.html", target="loss")
print(findings.summary())
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup, escape

from hf_scaling import __version__, files
from hf_scaling.boundary import Boundary
from hf_scaling.errors import InputError
from hf_scaling.fitting import LawFit
from hf_scaling.fitting.card import facts_of, formula_of
from hf_scaling.fitting.law_fit import VERDICTS
from hf_scaling.fitting.selection import Ranking
from hf_scaling.hub.cards import escape_markdown, markdown_table, render_template, with_head
from hf_scaling.planning import Plan, TransferGaps
from hf_scaling.report.answers import Answer, Statement, answers, missing_from
from hf_scaling.report.budgets import budgets_of
from hf_scaling.report.figures import DARK, LIGHT, PAGE, Drawing
from hf_scaling.report.findings import (
    ArmBoundary,
    ArmGap,
    ArmLaw,
    Findings,
    NextRuns,
    PartFindings,
    TargetPlan,
    collect_findings,
)
from hf_scaling.report.gallery import Panels, panels_of
from hf_scaling.report.gaps import Gap
from hf_scaling.report.grouping import Group, groups_by_place
from hf_scaling.report.headlines import Headline, headlines
from hf_scaling.report.parts import Arm, texts
from hf_scaling.report.sections import Section, Table, sections_of
from hf_scaling.text import MISSING, format_parameters, format_percent, no_break_percent

_TEMPLATES = Path(__file__).parent / "templates"
# Facts of a fit that the page states once for all fits.
_SHARED_FACTS = ("fixed or tied", "objective", "algorithm", "intervals", "held out", "versions")


def write_report(table, path: str | Path = "report.html", **questions: Any) -> Findings:
    """Compute everything that a report states and write it as one HTML page that loads nothing from elsewhere.

    Beside NAME.html are written NAME.md, the same as a card for the Hub, and NAME_figures/, the figures as SVG files.

    Args:
        table: A ResultsTable, a DataFrame, a mapping of columns, or what `ResultsTable.load` takes.
        path: The HTML file.
        **questions: The arguments of `collect_findings`: target, x, arm, upstream, downstream, stage, objective,
            delta, weights, bootstrap, level, seed, direction, bounds, budget, costs, title, cluster, study.

    Returns:
        The findings; their `summary()` is the text of the answers.

    Raises:
        InputError: The table or an argument is invalid, or `path` is no .html file; nothing is written.

    Example:
        >>> write_report("studies/demo", "report.html", target="loss", bootstrap=200).summary()
    """
    path = check_path(path)
    findings = collect_findings(table, **questions)
    write_findings(findings, path)
    return findings


def check_path(path: str | Path) -> Path:
    """The path of a report.

    Raises:
        InputError: It does not end in .html.
    """
    if Path(path).suffix.lower() not in (".html", ".htm"):
        raise InputError(f"{path}: a report is an .html file; report.md and the figures are written beside it")
    return Path(path)


def write_findings(findings: Findings, path: Path) -> list[Path]:
    """Write the files of a report.

    Args:
        findings: The findings.
        path: The HTML file.

    Returns:
        Paths of the page, the card and the folder of figures.
    """
    sections = sections_of(findings)
    panels = [panels_of(part, number, findings.request) for number, part in enumerate(findings.parts, 1)]
    folder, card = path.with_name(f"{path.stem}_figures"), path.with_suffix(".md")
    drawings = [drawing for groups in panels for group in groups for drawing in group.drawings]
    drawings += [drawing for section in sections for drawing in section.drawings]
    for drawing in drawings:
        drawing.save_svg(folder / f"{drawing.name}.svg", LIGHT)
    # Figures of an earlier report of other rows: their names begin with the number of a part.
    for outdated in set(folder.glob("[0-9]*-*.svg")) - {folder / f"{drawing.name}.svg" for drawing in drawings}:
        outdated.unlink()
    values = {**page_values(findings, sections), "folder": folder.name}
    card_parts = [part | {"panels": groups} for part, groups in zip(values["parts"], panels)]
    body = render_template(_TEMPLATES / "card.md", {**values, "parts": card_parts}, {"table": as_markdown})
    files.write_text(card, with_head({"library_name": "hf_scaling", "tags": ["hf_scaling", "scaling-law"]}, body))
    first = first_figure(findings, panels)
    page_parts = [part | {"panels": without(groups, first)} for part, groups in zip(values["parts"], panels)]
    filters = {"code": as_code, "emphasised": as_emphasised, "formula": as_formula, "figure": as_figure}
    looks = {"light": LIGHT, "dark": DARK, "script": Markup((_TEMPLATES / "page.js").read_text(encoding="utf-8"))}
    page = render_template(
        _TEMPLATES / "page.html", {**values, **looks, "parts": page_parts, "first_figure": first}, filters
    )
    files.write_text(path, page)
    return [path, card, folder]


def page_values(findings: Findings, sections: Sequence[Section]) -> dict[str, Any]:
    """Everything that the page and the card show, but the figures of the parts."""
    facts = findings.facts | {f"fit: {name}": text for name, text in facts_of_fits(findings).items()}
    return {
        "title": findings.title,
        "lead": lead_of(findings),
        "headlines": headlines(findings),
        "answers": [
            {"code": answer.code, "question": answer.question, "places": groups_by_place(answer.statements)}
            for answer in answers(findings)
        ],
        "budgets": budgets_of(findings),
        "sections": sections,
        "alone": len(findings.parts) == 1,
        "left_out": findings.left_out,
        "gaps": [{"question": gap.question, "why": missing_from(gap), "runs": gap.runs} for gap in findings.gaps],
        "parts": [
            {"title": part.part.title, "laws": law_tables(part), "rankings": ranking_tables(part)}
            for part in findings.parts
        ],
        "notes": notes_of(findings),
        "facts": facts,
        "level": format_percent(findings.request.options.level),
        "draws": f"{findings.request.options.bootstrap:,}",
        "version": __version__,
    }


def lead_of(findings: Findings) -> str:
    """The line below the title: how many runs, of which sizes, and when."""
    sizes = sorted({float(size) for part in findings.parts for size in part.part.levels("n_params")})
    span = " to ".join(dict.fromkeys(map(format_parameters, (sizes[0], sizes[-1])))) if sizes else ""
    # One model has other sizes for other numbers of classes: the names say how many models there are.
    n_models = len(texts(findings.rows, "model")) or len(sizes)
    models = f"{n_models} model{'s' * (n_models > 1)}, {span} parameters" if sizes else ""
    rows = f"{findings.n_rows:,} run{'s' * (findings.n_rows > 1)}"
    return " · ".join(filter(None, (rows, models, findings.facts.get("measured", ""))))


def first_figure(findings: Findings, panels: Sequence[Sequence[Panels]]) -> Drawing | None:
    """The figure beside the first sentences: of the first boundary that was found, else the first of all."""
    for part, groups in zip(findings.parts, panels):
        compared = [one for one in part.boundaries if one.boundary is not None]
        for number, one in enumerate(compared, 1):
            if one.boundary.status == "crossing":
                name = f"-{number}-difference-{one.target}"
                return next(d for group in groups for d in group.drawings if d.name.endswith(name))
    return next((drawing for groups in panels for group in groups for drawing in group.drawings), None)


def without(groups: Sequence[Panels], drawing: Drawing | None) -> list[Panels]:
    """The figures but one that is shown elsewhere, since its ids must not be in the page twice."""
    kept = [replace(group, drawings=tuple(one for one in group.drawings if one is not drawing)) for group in groups]
    return [group for group in kept if group.drawings]


def as_code(text: str) -> Markup:
    """HTML in which words between backquotes are code, and a number and its per cent sign stay on one line."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(no_break_percent(text)))))


def as_emphasised(statement: Statement | Group | Headline) -> Markup:
    """The sentence of a statement with its key words in bold."""
    text, key = (escape(no_break_percent(words)) for words in (statement.text, statement.key))
    return text.replace(key, Markup(f"<b>{key}</b>"), 1) if key else text


def as_formula(text: str) -> Markup:
    """A formula with raised exponents."""
    raised = re.sub(r"\^(?:\(([^()]*)\)|(\w+))", lambda m: f"<sup>{m[1] or m[2]}</sup>", str(escape(text)))
    return Markup(raised.replace("*", "·").replace("-", "−"))


def as_figure(drawing: Drawing) -> Markup:
    """The <svg> element with a description for readers who do not see it."""
    label = escape(f"{drawing.title}. {drawing.caption}".strip())
    return Markup(drawing.svg(PAGE).replace("<svg", f'<svg role="img" aria-label="{label}"', 1))


def as_markdown(table: Table) -> str:
    """The table in Markdown, whatever its cells contain."""
    return markdown_table(table.heads, [[escape_markdown(cell) for cell in row] for row in table.rows])


def law_tables(findings: PartFindings) -> list[dict[str, str | Table]]:
    """For each fitted law and member of a mixture: title, formula, table of the parameters, and verdict.

    The formula is written as `hf-scaling laws` prints it.
    """
    tables = []
    for law in findings.laws:
        for fit in () if law.fit is None else law.fit.members or (law.fit,):
            share = f" ({format_percent(law.fit.weights[fit.law])} of the mean)" if law.fit.members else ""
            title = f"{law.target}, {law.arm.label}: {fit.law}{share}"
            heads = ["", "estimate", f"{format_percent(fit.settings['level'])} from", "to"]
            rows = [
                [name, f"{value:.4g}", *(f"{end:.4g}" for end in fit.intervals.get(name, ()))]
                for name, value in fit.params.items()
            ]
            scores = fit.scores
            verdict = (
                f"{fit.status}: {VERDICTS[fit.status]}. {scores['n_rows']} rows, "
                f"{scores['n_configurations']} sizes, log RMSE {scores['log_rmse']:.3g}."
            )
            table = Table(title, heads, rows)
            tables.append({"title": title, "formula": formula_of(fit), "table": table, "verdict": verdict})
    return tables


def ranking_tables(findings: PartFindings) -> list[Table]:
    """The laws compared for each target and arm; none where nothing could be held out."""
    return [
        Table(
            f"{law.target}, {law.arm.label}",
            ["law", "held out", "AICc", "status"],
            [
                [
                    row.law,
                    MISSING if row.holdout_log_rmse != row.holdout_log_rmse else f"{row.holdout_log_rmse:.3g}",
                    MISSING if row.aicc != row.aicc else f"{row.aicc:.1f}",
                    row.status,
                ]
                for row in law.ranking.table.itertuples()
            ],
        )
        for law in findings.laws
        if law.ranking is not None and law.ranking.backtest.folds
    ]


def notes_of(findings: Findings) -> list[dict[str, str]]:
    """Every note once, with all that it is about, errors first: grade, code, text, where."""
    places: dict[tuple[str, str, str], dict[str, None]] = {}
    for part in findings.parts:
        sources = [(f"{law.target}, {law.arm.label}", law.fit) for law in part.laws]
        sources += [(f"boundary by {compared.target}", compared.boundary) for compared in part.boundaries]
        for about, source in sources:
            for note in () if source is None else source.notes:
                key = (note["grade"], note["code"], note["text"])
                places.setdefault(key, {})[f"{part.part.title}: {about}"] = None
    notes = [
        {"grade": grade, "code": code, "text": text, "where": "; ".join(where)}
        for (grade, code, text), where in places.items()
    ]
    order = ("error", "warn", "info")
    return sorted(notes, key=lambda note: order.index(note["grade"]) if note["grade"] in order else len(order))


def facts_of_fits(findings: Findings) -> dict[str, str]:
    """How the laws were fitted; where fits differ, each value once."""
    values: dict[str, dict[str, None]] = {}
    for fit in (law.fit for part in findings.parts for law in part.laws if law.fit is not None):
        for name, text in facts_of(fit).items():
            values.setdefault(name, {})[text] = None
    return {name: "; or ".join(values[name]) for name in _SHARED_FACTS if name in values}


def content_of(findings: Findings) -> dict[str, Any]:
    """The findings as dicts, lists, numbers, text and None, for JSON."""
    return _plain(
        {
            "title": findings.title,
            "n_rows": findings.n_rows,
            "headlines": headlines(findings),
            "answers": answers(findings),
            "sections": [
                {"code": section.code, "title": section.title, "text": section.text, "tables": section.tables}
                for section in sections_of(findings)
            ],
            "gaps": findings.gaps,
            "parts": [
                {
                    "title": part.part.title,
                    "stage": part.part.stage,
                    **part.part.values,
                    "n_rows": len(part.part.rows),
                    "laws": part.laws,
                    "boundaries": [
                        _fields(compared)
                        | {"by_size": [{name: value, **_fields(at)} for name, value, at in compared.by_size]}
                        | {"compute_matched": compared.compute}
                        for compared in part.boundaries
                    ],
                    "transfer_gaps": [{"notes": []} | _with_result(gap, gap.gaps) for gap in part.transfer_gaps],
                    "plans": [_with_result(plan, plan.plan) for plan in part.plans],
                    "next_runs": part.next_runs,
                }
                for part in findings.parts
            ],
            "left_out": findings.left_out,
            "facts": findings.facts,
        }
    )


# What JSON contains of each kind of object; an arm is its label, a ranking its table, a problem "" is null.
_FIELDS: dict[type, str] = {
    Answer: "code question statements",
    Statement: "text details place key",
    Headline: "code text key",
    Table: "title heads rows",
    Gap: "code question why runs place",
    ArmLaw: "target arm best fit ranking forecasts problem",
    LawFit: "law status params intervals scores notes weights settings",
    Boundary: "status n_pretrain low high crossings law_free sizes notes x level difference",
    ArmBoundary: "target arm boundary problem",
    ArmGap: "target arm problem",
    TransferGaps: "table worth notes",
    TargetPlan: "target asked problem",
    Plan: "allocation predicted intervals verdict cost budget costs notes frontier",
    NextRuns: "target quantity budget runs problem",
}


def _fields(value: Any) -> dict[str, Any]:
    fields = {name: getattr(value, name) for name in _FIELDS[type(value)].split()}
    return fields | {"problem": value.problem or None} if "problem" in fields else fields


def _with_result(of_arm: ArmGap | TargetPlan, result: TransferGaps | Plan | None) -> dict[str, Any]:
    return _fields(of_arm) | ({} if result is None else _fields(result))


def _plain(value: Any) -> Any:
    """Findings and tables as dicts and lists; numbers of numpy, dates and missing values as Python's own."""
    if type(value) in _FIELDS:
        return _plain(_fields(value))
    if isinstance(value, Arm):
        return value.label
    if isinstance(value, Ranking):
        return _plain(value.table)
    if isinstance(value, pd.DataFrame):
        return _plain(value.to_dict("records"))
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if value is None or isinstance(value, str | bool | int | float):
        return value
    return None if value != value or str(value) in ("<NA>", "NaT") else str(value)
