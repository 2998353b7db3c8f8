"""`write_report`: findings to files."""

from pathlib import Path

from hf_scaling import files
from hf_scaling.errors import InputError
from hf_scaling.report.figures.canvas import LIGHT
from hf_scaling.report.findings import Findings, collect_findings
from hf_scaling.report.gallery import panels_of
from hf_scaling.report.markdown import render_markdown
from hf_scaling.report.page import render_page


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
