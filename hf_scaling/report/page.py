"""`write_report`: findings to files."""

import re
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from hf_scaling import __version__, files
from hf_scaling.boundary import Boundary
from hf_scaling.errors import InputError
from hf_scaling.fitting import LawFit
from hf_scaling.fitting.card import facts_of, formula_of
from hf_scaling.hub.cards import markdown_table, render_card
from hf_scaling.report.answers import VERDICTS, Answer, Statement, answers, by_place, say_why
from hf_scaling.report.figures import DARK, LIGHT, PAGE, Drawing
from hf_scaling.report.findings import (
    ArmLaw,
    Crossing,
    Findings,
    Following,
    PartFindings,
    Spending,
    Transfer,
    collect_findings,
)
from hf_scaling.report.gallery import Panels, panels_of
from hf_scaling.text import format_percent


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
    level = format_percent(fit.settings["level"])
    rows = [
        [name, f"{value:.4g}", *(f"{end:.4g}" for end in fit.intervals.get(name, ()))]
        for name, value in fit.params.items()
    ]
    heads = ["", "estimate", f"{level} from", "to"]
    share = f" ({format_percent(law.fit.weights[fit.law])} of the mean)" if law.fit.members else ""
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


def content_of(findings: Findings) -> dict[str, Any]:
    """Dicts, lists, numbers, text and None."""
    return _plain(
        {
            "title": findings.title,
            "n_rows": findings.n_rows,
            "answers": [
                {"code": answer.code, "question": answer.question, "statements": list(map(vars, answer.statements))}
                for answer in answers(findings)
            ],
            "gaps": list(map(vars, findings.gaps)),
            "parts": list(map(_part, findings.parts)),
            "left_out": findings.left_out,
            "facts": findings.facts,
        }
    )


def _part(found: PartFindings) -> dict:
    return {
        "title": found.part.title,
        "stage": found.part.stage,
        **found.part.choice,
        "n_rows": len(found.part.rows),
        "laws": list(map(_law, found.laws)),
        "boundaries": list(map(_crossing, found.crossings)),
        "transfer_gaps": list(map(_transfer, found.transfers)),
        "plans": list(map(_spending, found.spending)),
        "next_runs": None if found.following is None else _following(found.following),
    }


def _law(law: ArmLaw) -> dict:
    return {
        "target": law.target,
        "arm": law.arm.label,
        "best": law.best,
        "fit": None if law.fit is None else _fit(law.fit),
        "ranking": None if law.ranking is None else law.ranking.table.to_dict("records"),
        "forecasts": law.forecasts,
        "problem": law.problem or None,
    }


def _fit(fit: LawFit) -> dict:
    names = ("law", "status", "params", "intervals", "scores", "notes", "weights", "settings")
    return {name: getattr(fit, name) for name in names}


def _crossing(crossing: Crossing) -> dict:
    by_size = [{name: value, **_boundary(boundary)} for name, value, boundary in crossing.by_size]
    return {
        "target": crossing.target,
        "arm": crossing.arm.label,
        "boundary": _boundary(crossing.boundary),
        "by_size": by_size,
        "compute_matched": _boundary(crossing.compute),
        "problem": crossing.problem or None,
    }


def _boundary(boundary: Boundary | None) -> dict | None:
    if boundary is None:
        return None
    names = ("status", "n_pretrain", "low", "high", "crossings", "law_free", "sizes", "notes", "x", "level")
    found = {name: getattr(boundary, name) for name in names}
    return found | {"difference": boundary.difference.to_dict("records")}


def _transfer(transfer: Transfer) -> dict:
    gaps = transfer.gaps
    tables = {} if gaps is None else {name: getattr(gaps, name).to_dict("records") for name in ("table", "worth")}
    notes = [] if gaps is None else gaps.notes
    names = {"target": transfer.target, "arm": transfer.arm.label, "problem": transfer.problem or None}
    return names | tables | {"notes": notes}


def _spending(spending: Spending) -> dict:
    plan, names = (
        spending.plan,
        ("allocation", "predicted", "intervals", "verdict", "cost", "budget", "costs", "notes"),
    )
    found = {} if plan is None else {name: getattr(plan, name) for name in names}
    found |= {} if plan is None else {"frontier": plan.frontier.to_dict("records")}
    return {"target": spending.target, "asked": spending.asked, "problem": spending.problem or None, **found}


def _following(following: Following) -> dict:
    names = ("target", "quantity", "budget")
    runs = following.runs
    found = {name: getattr(following, name) for name in names} | {"problem": following.problem or None}
    return found | {"runs": None if runs is None else runs.to_dict("records")}


def _plain(value: Any) -> Any:
    """Numbers of numpy, dates and missing values as Python's own."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if value is None or isinstance(value, str | bool | int | float):
        return value
    return None if value != value or str(value) in ("<NA>", "NaT") else str(value)


# What Markdown, or the HTML that it may hold, would take for its own.
_SPECIAL = str.maketrans(
    {c: f"\\{c}" for c in "\\*[]#|"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;", "\n": " ", "\r": " "}
)


def render_markdown(findings: Findings, panels: Sequence[Sequence[Panels]], figures: str) -> str:
    """The card; `figures` is the folder of the figure files, as seen from it."""
    values = {
        "title": plain(findings.title),
        "answers": "\n\n".join(_answers(findings)),
        "gaps": "\n".join(
            f"- **{plain(g.question)}** {plain(say_why(g))} Would be answered by: {plain(g.runs)}"
            for g in findings.gaps
        )
        or "None.",
        "figures": "\n\n".join(_figures(findings, panels, figures)) or "None.",
        "laws": "\n\n".join(_laws(findings)) or "None could be fitted.",
        "notes": "\n".join(_note(*each) for each in notes_of(findings)) or "None.",
        "facts": markdown_table(["", ""], [[plain(n), plain(t)] for n, t in _facts(findings).items()]),
    }
    return render_card("report", values, {"library_name": "hf_scaling", "tags": ["hf_scaling", "scaling-law"]})


def plain(text: str) -> str:
    """Text that stands for itself in Markdown, whatever a user called a model."""
    return str(text).translate(_SPECIAL)


def _answers(findings: Findings) -> list[str]:
    blocks = []
    for answer in answers(findings):
        blocks.append(f"**{plain(answer.question)}**")
        for place, statements in by_place(answer).items():
            blocks += [f"*{plain(place)}*"] if len(findings.parts) > 1 else []
            for statement in statements:
                details = "".join(f"\n- {plain(each)}" for each in statement.details)
                blocks.append(f"{plain(statement.text)}{chr(10) if details else ''}{details}")
    return blocks


def _figures(findings: Findings, panels: Sequence[Sequence[Panels]], figures: str) -> list[str]:
    blocks = []
    for part, groups in zip(findings.parts, panels):
        for group in groups:
            blocks.append(f"### {plain(part.part.title)}: {plain(group.heading)}\n\n{plain(group.text)}")
            blocks += [
                f"![{plain(d.title)}]({figures}/{d.name}.svg)\n\n{plain(d.caption)}".strip() for d in group.drawings
            ]
    return blocks


def _laws(findings: Findings) -> list[str]:
    blocks = []
    for part in findings.parts:
        for law in law_tables(part):
            heading = f"### {plain(part.part.title)}: {plain(law.title)}"
            blocks.append(f"{heading}\n\n`{law.formula}`\n\n{_table(law.table)}\n\n{plain(law.verdict)}")
        for table in ranking_tables(part):
            heading = f"### {plain(part.part.title)}: laws compared, {plain(table.title)}"
            blocks.append(f"{heading}\n\n{_table(table)}")
    return blocks


def _table(table: Table) -> str:
    return markdown_table(table.heads, [[plain(cell) for cell in row] for row in table.rows])


def _note(where: str, note: dict) -> str:
    return f"- **{note['code']}** ({note['grade']}; {plain(where)}): {plain(note['text'])}"


def _facts(findings: Findings) -> dict[str, str]:
    return {**findings.facts, **{f"fit: {name}": text for name, text in facts_in_common(findings).items()}}


def render_page(findings: Findings, panels: Sequence[Sequence[Panels]]) -> str:
    """The page.

    Args:
        findings: What to say.
        panels: The figures of each part.
    """
    template = resources.files("hf_scaling.report").joinpath("templates/page.html").read_text(encoding="utf-8")
    level, draws = format_percent(findings.asked.level), f"{findings.asked.bootstrap:,}"
    values = {
        "title": escape(findings.title),
        "version": escape(__version__),
        "light": _variables(LIGHT),
        "dark": _variables(DARK),
        "lead": escape(_lead(findings)),
        "main": "\n".join(_sections(findings, panels)),
        "about": f"Intervals hold {level}, from {draws} bootstrap draws.",
    }
    return string.Template(template).substitute(values)


def _variables(colours: dict[str, str]) -> str:
    return " ".join(f"--{role}: {value};" for role, value in colours.items())


def _lead(findings: Findings) -> str:
    facts = findings.facts
    said = [facts[name] for name in ("runs", "models", "data", "measured") if name in facts]
    return " · ".join(said)


def _sections(findings: Findings, panels: Sequence[Sequence[Panels]]) -> Iterable[str]:
    yield _answers_page(findings)
    yield _gaps(findings)
    for part, groups in zip(findings.parts, panels):
        yield _part_page(part, groups, alone=len(findings.parts) == 1)
    yield _laws_page(findings)
    yield _notes(findings)
    yield _facts_page(findings)


def _answers_page(findings: Findings) -> str:
    alone = len(findings.parts) == 1
    rows = []
    for answer in answers(findings):
        rows += [
            f'<div class="question">{escape(answer.question)}</div>',
            f'<div class="answer">{_said(answer, alone)}</div>',
        ]
    left = f"<p>Not worked out: {escape('; '.join(findings.left_out))}.</p>" if findings.left_out else ""
    return f'<section class="answers">{"".join(rows)}</section>{left}'


def _said(answer: Answer, alone: bool) -> str:
    parts = []
    for place, statements in by_place(answer).items():
        parts += [] if alone or not place else [f'<p class="place">{escape(place)}</p>']
        for statement in statements:
            details = "".join(f"<li>{_code(each)}</li>" for each in statement.details)
            parts.append(f'<p class="say">{_keyed(statement)}</p>')
            parts += [f'<ul class="details">{details}</ul>'] if details else []
    return "".join(parts)


def _keyed(statement: Statement) -> str:
    text, key = _words(statement.text), _words(statement.key)
    return text.replace(key, f"<b>{key}</b>", 1) if key else text


def _gaps(findings: Findings) -> str:
    if not findings.gaps:
        return ""
    rows = [
        f'<div class="question">{escape(gap.question)}</div><div class="answer">{_code(say_why(gap))} '
        f'<span class="muted">Would be answered by: {_code(gap.runs)}</span></div>'
        for gap in findings.gaps
    ]
    return f'<section><h2>What these runs cannot say</h2><div class="answers">{"".join(rows)}</div></section>'


def _part_page(part: PartFindings, groups: Sequence[Panels], alone: bool) -> str:
    heading = "What was measured" if alone else f"What was measured: {part.part.title}"
    return f"<section><h2>{escape(heading)}</h2>{''.join(map(_panels, groups))}</section>"


def _panels(group: Panels) -> str:
    figures = "".join(map(_figure, group.drawings))
    # One, two or four stand better in twos.
    kind = "panels twos" if len(group.drawings) in (1, 2, 4) else "panels"
    head = f'<h3>{escape(group.heading)}</h3><p class="muted lead">{_code(group.text)}</p>'
    return f'{head}<div class="{kind}">{figures}</div>'


def _figure(drawing: Drawing) -> str:
    label = escape(f"{drawing.title}. {drawing.caption}".strip(), quote=True)
    svg = drawing.svg(PAGE).replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
    caption = f"<figcaption>{escape(drawing.caption)}</figcaption>" if drawing.caption else ""
    return f"<figure>{svg}{caption}</figure>"


def _laws_page(findings: Findings) -> str:
    body = []
    for part in findings.parts:
        laws, rankings = map(_law_page, law_tables(part)), list(map(_ranking, ranking_tables(part)))
        body += [f"<h3>{escape(part.part.title)}</h3>"] if len(findings.parts) > 1 else []
        body.append(f'<div class="laws">{"".join(laws) or "<p>None could be fitted.</p>"}</div>')
        if rankings:
            body.append("<h3>Laws compared: log RMSE on the held-out largest scales</h3>")
            body.append(f'<div class="laws">{"".join(rankings)}</div>')
    return f"<section><h2>The laws</h2>{''.join(body)}</section>"


def _ranking(table: Table) -> str:
    return f'<div class="law"><h4>{escape(table.title)}</h4>{_table_page(table)}</div>'


def _law_page(law: LawTable) -> str:
    return (
        f'<div class="law"><h4>{escape(law.title)}</h4><div class="formula">{_formula(law.formula)}</div>'
        f"{_table_page(law.table)}<p>{escape(law.verdict)}</p></div>"
    )


def _formula(text: str) -> str:
    """A formula with raised exponents; anything else stays as it is written."""
    raised = re.sub(r"\^(?:\(([^()]*)\)|(\w+))", lambda m: f"<sup>{m[1] or m[2]}</sup>", escape(text))
    return raised.replace("*", "·").replace("-", "−")


def _table_page(table: Table) -> str:
    heads = "".join(f"<th{_side(i)}>{escape(head)}</th>" for i, head in enumerate(table.heads))
    rows = "".join(
        f"<tr>{''.join(f'<td{_side(i)}>{escape(cell)}</td>' for i, cell in enumerate(row))}</tr>" for row in table.rows
    )
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'


def _side(column: int) -> str:
    return ' class="number"' if column else ""


def _notes(findings: Findings) -> str:
    rows = [
        f'<li><span class="grade {escape(note["grade"], quote=True)}">{escape(note["grade"])}</span> '
        f'{escape(note["code"])}: {escape(note["text"])} <span class="muted">({escape(where)})</span></li>'
        for where, note in notes_of(findings)
    ]
    return f'<section><h2>Notes</h2><ul class="notes">{"".join(rows)}</ul></section>' if rows else ""


def _facts_page(findings: Findings) -> str:
    shared = facts_in_common(findings)
    both = {**findings.facts, **{f"fit: {name}": text for name, text in shared.items()}}
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in both.items())
    return f'<section><h2>How it was measured and fitted</h2><dl class="facts">{rows}</dl></section>'


def _code(text: str) -> str:
    """Text whose words between backquotes are set as code."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", _words(text))


def _words(text: str) -> str:
    """Text in which a number and its per cent sign stay on one line."""
    return escape(text).replace(" %", "\u00a0%")


def write_report(table, path: str | Path = "report.html", **questions) -> Findings:
    """Ask a table everything and write the answers as one self-contained HTML file.

    Beside NAME.html stand NAME.md, the same for a card on the Hub, and NAME_figures/, the figures as SVG files.

    Args:
        table: A ResultsTable, a DataFrame, a mapping of columns, or what `ResultsTable.load` takes.
        path: The HTML file.
        **questions: As for `collect_findings`: target, x, arm, upstream, downstream, stage, objective, delta, weights,
            bootstrap, level, seed, budget, costs, title.

    Returns:
        What the report says, with `summary()`.

    Raises:
        InputError: The table or an argument cannot be used, or `path` is no .html file; nothing is written then.
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
    """Write a report's files; returns their paths, the page first."""
    panels = [panels_of(part, number, findings.asked) for number, part in enumerate(findings.parts, 1)]
    folder = path.with_name(f"{path.stem}_figures")
    card = path.with_suffix(".md")
    drawings = [drawing for part in panels for group in part for drawing in group.drawings]
    for drawing in drawings:
        drawing.save_svg(folder / f"{drawing.name}.svg", LIGHT)
    # What an earlier report of other rows drew: its names begin with a part's number, as all of these do.
    for old in set(folder.glob("[0-9]*-*.svg")) - {folder / f"{drawing.name}.svg" for drawing in drawings}:
        old.unlink()
    files.write_text(card, render_markdown(findings, panels, folder.name))
    files.write_text(path, render_page(findings, panels))
    return [path, card, folder]
