"""Sections of a report beside its answers, figures and laws: one function each, listed in `SECTIONS`.

To add one, write a function of the findings that returns a `Section`, or None where the study has nothing for it, and
list it in `SECTIONS`; the page, the card, the contents list and the JSON then have it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hf_scaling.report.figures import Drawing
from hf_scaling.report.findings import Findings


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        title: Shown above it.
        heads: Heads of the columns; those after the first are numbers, aligned to the right.
        rows: The cells.
    """

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Section:
    """A section of the page.

    Attributes:
        code: Its id on the page, in lower-case letters and hyphens.
        title: Its heading, and its entry in the contents list.
        text: One or two sentences: the answer.
        tables: Shown below the text.
        drawings: Figures below the tables; each has a caption of what to see.
    """

    code: str
    title: str
    text: str
    tables: tuple[Table, ...] = ()
    drawings: tuple[Drawing, ...] = ()


#: The sections, in the order of the page: between the answers and the figures.
SECTIONS: list[Callable[[Findings], Section | None]] = []


def sections_of(findings: Findings) -> list[Section]:
    """The sections that a study has."""
    return [section for section in (make(findings) for make in SECTIONS) if section is not None]
