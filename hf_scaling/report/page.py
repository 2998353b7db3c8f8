"""The findings as one HTML file that needs nothing else: no network, no script."""

import re
import string
from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources

from hf_scaling import __version__
from hf_scaling.report.figures.canvas import DARK, LIGHT, PAGE, Drawing
from hf_scaling.report.findings import Findings, PartFindings
from hf_scaling.report.gallery import Panels
from hf_scaling.report.numbers import per_cent
from hf_scaling.report.tables import LawTable, Table, facts_in_common, law_tables, notes_of, ranking_tables
from hf_scaling.report.words import Answer, Statement, answers, by_place, say_why


def render_page(findings: Findings, panels: Sequence[Sequence[Panels]]) -> str:
    """The page.

    Args:
        findings: What to say.
        panels: The figures of each part.
    """
    template = resources.files("hf_scaling.report").joinpath("page.html").read_text(encoding="utf-8")
    level, draws = per_cent(findings.asked.level), f"{findings.asked.bootstrap:,}"
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
    yield _answers(findings)
    yield _gaps(findings)
    for part, groups in zip(findings.parts, panels):
        yield _part(part, groups, alone=len(findings.parts) == 1)
    yield _laws(findings)
    yield _notes(findings)
    yield _facts(findings)


def _answers(findings: Findings) -> str:
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


def _part(part: PartFindings, groups: Sequence[Panels], alone: bool) -> str:
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


def _laws(findings: Findings) -> str:
    body = []
    for part in findings.parts:
        laws, rankings = map(_law, law_tables(part)), list(map(_ranking, ranking_tables(part)))
        body += [f"<h3>{escape(part.part.title)}</h3>"] if len(findings.parts) > 1 else []
        body.append(f'<div class="laws">{"".join(laws) or "<p>None could be fitted.</p>"}</div>')
        if rankings:
            body.append("<h3>Laws compared: log RMSE on the held-out largest scales</h3>")
            body.append(f'<div class="laws">{"".join(rankings)}</div>')
    return f"<section><h2>The laws</h2>{''.join(body)}</section>"


def _ranking(table: Table) -> str:
    return f'<div class="law"><h4>{escape(table.title)}</h4>{_table(table)}</div>'


def _law(law: LawTable) -> str:
    return (
        f'<div class="law"><h4>{escape(law.title)}</h4><div class="formula">{_formula(law.formula)}</div>'
        f"{_table(law.table)}<p>{escape(law.verdict)}</p></div>"
    )


def _formula(text: str) -> str:
    """A formula with raised exponents; anything else stays as it is written."""
    raised = re.sub(r"\^(?:\(([^()]*)\)|(\w+))", lambda m: f"<sup>{m[1] or m[2]}</sup>", escape(text))
    return raised.replace("*", "·").replace("-", "−")


def _table(table: Table) -> str:
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


def _facts(findings: Findings) -> str:
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
