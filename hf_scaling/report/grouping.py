"""`groups_by_place`: statements with the same answer are one, with a table of what differs between them.

for place, groups in groups_by_place(answer.statements).items():
    print(place, [group.text for group in groups])
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hf_scaling.report.answers import Statement
from hf_scaling.text import joined


@dataclass(frozen=True)
class Group:
    """Statements with the same answer.

    Attributes:
        statements: The statements, one or several.
    """

    statements: tuple[Statement, ...]

    @property
    def key(self) -> str:
        """The words to emphasise."""
        return self.statements[0].key

    @property
    def text(self) -> str:
        """The sentence, with all that it is about: "By loss and error, plain and distilled: not resolved"."""
        first = self.statements[0]
        if not first.target:
            return first.text
        targets, arms = (list(dict.fromkeys(getattr(one, name) for one in self.statements)) for name in _ABOUT)
        about = {(one.target, one.arm) for one in self.statements}
        if len(about) == len(targets) * len(arms):
            arm = f", {joined(arms)}:" if arms != [""] else ","
            return f"By {joined(targets)}{arm} {first.clause}"
        names = joined(dict.fromkeys(", ".join(filter(None, (one.target, one.arm))) for one in self.statements))
        return f"By {names}: {first.clause}"

    @property
    def details(self) -> tuple[str, ...]:
        """What all statements say below their sentence."""
        first, *others = self.statements
        return tuple(line for line in first.details if all(line in other.details for other in others))

    @property
    def heads(self) -> list[str]:
        """Heads of the table of what differs: data, target and arm as far as they differ, then facts."""
        return [*self._about, *self._facts]

    @property
    def rows(self) -> list[list[str]]:
        """A row of the table for each statement; none where nothing differs."""
        if not self._facts:
            return []
        return [
            [*(getattr(one, _HEADS[head]) for head in self._about), *(dict(one.facts).get(n, "") for n in self._facts)]
            for one in self.statements
        ]

    @property
    def differing(self) -> tuple[str, ...]:
        """Remarks of some of the statements, each with what it is about."""
        shared = set(self.details)
        about: dict[str, list[str]] = {}
        for one in self.statements:
            name = ", ".join(filter(None, (getattr(one, _HEADS[head]) for head in self._about)))
            for line in one.remarks:
                if line not in shared:
                    about.setdefault(line, []).append(name)
        return tuple(f"{_joined(names)}: {line}" for line, names in about.items())

    def each(self) -> list[str]:
        """The table and the differing remarks as lines for a terminal or a card; equal rows are one line."""
        n_about, alike = len(self._about), dict[tuple[str, ...], list[str]]()
        for row in self.rows:
            alike.setdefault(tuple(row[n_about:]), []).append(", ".join(filter(None, row[:n_about])))
        lines = []
        for facts, names in alike.items():
            known = [(name, value) for name, value in zip(self._facts, facts) if value]
            values = "; ".join(f"{name[:1].lower()}{name[1:]}: {value}" for name, value in known)
            lines += [f"{_joined(names)}: {values}."] if values else []
        return [*lines, *self.differing]

    @property
    def _about(self) -> list[str]:
        return [h for h, name in _HEADS.items() if len({getattr(one, name) for one in self.statements}) > 1]

    @property
    def _facts(self) -> list[str]:
        if len(self.statements) == 1:
            return []
        names = dict.fromkeys(name for one in self.statements for name, _ in one.facts)
        return [name for name in names if len({dict(one.facts).get(name) for one in self.statements}) > 1]


def _joined(names: Sequence[str]) -> str:
    """Names in a row; those with commas in them are kept apart by semicolons."""
    return "; ".join(names) if any(", " in name for name in names) else joined(names, most=12)


_ABOUT = ("target", "arm")
_HEADS = {"data": "place", "target": "target", "arm": "arm"}


def groups_by_place(statements: Sequence[Statement]) -> dict[str, list[Group]]:
    """Statements under the parts that they are about; parts with the same answers are named together.

    Args:
        statements: The answers to one question.

    Returns:
        Title of a part, or of several, to its answers; each answer is given once.
    """
    of_place: dict[str, dict[str, list[Statement]]] = {}
    for one in statements:
        # A sentence without a subject is one of its own.
        answer = one.clause if one.target else f"{len(of_place.get(one.place, {}))} {one.text}"
        of_place.setdefault(one.place, {}).setdefault(answer, []).append(one)
    # Parts that have the same answers, for the same targets and arms.
    alike: dict[tuple, list[str]] = {}
    for place, by_answer in of_place.items():
        same = all(one.target for found in by_answer.values() for one in found)
        answer = tuple((text, tuple((o.target, o.arm) for o in found)) for text, found in by_answer.items())
        alike.setdefault((answer,) if same else (place,), []).append(place)
    return {
        join_titles(places): [
            Group(tuple(one for place in places for one in of_place[place][answer])) for answer in of_place[places[0]]
        ]
        for places in alike.values()
    }


def join_titles(titles: Sequence[str]) -> str:
    """Titles of parts as one: "glyphs, then photos, signs and sketches"; "glyphs; glyphs, then photos"."""
    if len(titles) < 2:
        return titles[0] if titles else ""
    start = ", then ".join(titles[0].split(", then ")[:-1])
    prefix = f"{start}, then "
    if start and all(title.startswith(prefix) for title in titles):
        return prefix + joined((title.removeprefix(prefix) for title in titles), most=12)
    return _joined(titles)
