"""The findings as `report.md`: the same answers and tables as the page, for a card on the Hub."""

from collections.abc import Sequence

from hf_scaling.cards import markdown_table, render_card
from hf_scaling.report.findings import Findings
from hf_scaling.report.gallery import Panels
from hf_scaling.report.tables import Table, facts_in_common, law_tables, notes_of, ranking_tables
from hf_scaling.report.words import answers, by_place, say_why

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
