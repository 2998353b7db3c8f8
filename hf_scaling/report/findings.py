"""`collect_findings`: everything that a report says, computed once, before anything is drawn or written."""

from dataclasses import dataclass

from hf_scaling.errors import InputError
from hf_scaling.fitting.fit import as_table
from hf_scaling.fitting.rows import Columns
from hf_scaling.report.asking import Asked, check_money, find_targets
from hf_scaling.report.crossing import Crossing, find_crossings
from hf_scaling.report.following import Following, find_following
from hf_scaling.report.gaps import Gap, find_gaps
from hf_scaling.report.laws import ArmLaw, find_law
from hf_scaling.report.parts import MOST_PARTS, Part, Rows, keep, split
from hf_scaling.report.provenance import facts_of_table
from hf_scaling.report.spending import Spending, find_spending
from hf_scaling.report.transfer import Transfer, find_transfers


@dataclass(frozen=True)
class PartFindings:
    """What one part of the table says.

    Attributes:
        part: Its rows.
        laws: One for each target and arm.
        crossings: One for each target and way of teaching.
        transfers: One for each target and arm of fine-tuned runs.
        spending: What a budget buys, one for each target.
        following: The runs to make next, for the first target; None where nothing is known of costs.
    """

    part: Part
    laws: tuple[ArmLaw, ...]
    crossings: tuple[Crossing, ...]
    transfers: tuple[Transfer, ...]
    spending: tuple[Spending, ...]
    following: Following | None

    def law(self, target: str) -> list[ArmLaw]:
        """The arms' laws of one target."""
        return [law for law in self.laws if law.target == target]

    def crossing(self, target: str) -> list[Crossing]:
        """The crossings of one target."""
        return [crossing for crossing in self.crossings if crossing.target == target]


@dataclass(frozen=True)
class Findings:
    """Everything that a report says.

    Attributes:
        title: Of the report.
        asked: What was asked.
        parts: What each part of the table says.
        gaps: What the table cannot answer, and which runs would.
        facts: How the numbers were collected: name to text.
        n_rows: Rows of the table.
        left_out: Titles of the parts beyond `MOST_PARTS`, which were not worked out.
    """

    title: str
    asked: Asked
    parts: tuple[PartFindings, ...]
    gaps: tuple[Gap, ...]
    facts: dict[str, str]
    n_rows: int
    left_out: tuple[str, ...] = ()

    def summary(self) -> str:
        """The answers as text for a terminal."""
        from hf_scaling.report.words import describe

        return describe(self)


def collect_findings(
    table,
    target: str | None = None,
    x: str | None = None,
    arm: str | None = None,
    upstream: str | None = None,
    downstream: str | None = None,
    stage: str | None = None,
    objective: str = "log_huber",
    delta: float | None = None,
    weights: str | None = None,
    bootstrap: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    budget: float | None = None,
    costs: dict[str, float] | None = None,
    title: str | None = None,
) -> Findings:
    """Ask a table everything that a report answers.

    Args:
        table: A ResultsTable, a DataFrame, a mapping of columns, or what `ResultsTable.load` takes.
        target: The column to report; by default loss and error, as far as the table has them.
        x: The column that curves are drawn against and laws of one variable are fitted to; by default each size that
            varies.
        arm: Keep the rows of this arm; likewise upstream, downstream and stage. Without them the report has one
            section for each data set, recipe and stage.
        upstream: See arm.
        downstream: See arm.
        stage: See arm.
        objective: As for `fit_law`, as are delta and weights (a column's name).
        delta: See objective.
        weights: See objective.
        bootstrap: Draws behind every interval, at least 100.
        level: Of the intervals.
        seed: Of the starts and draws; equal seeds give equal reports.
        budget: What there is to spend: asks for a plan.
        costs: As for `plan`.
        title: Of the report; by default the data sets' names.

    Returns:
        Findings. What cannot be answered is said in them; a question that fails is a sentence, not an error.

    Raises:
        InputError: The table is empty or has no such column, or an argument cannot be used.
    """
    if not isinstance(bootstrap, int) or bootstrap < 100:
        raise InputError(f"bootstrap is a number of draws, at least 100, not {bootstrap!r}")
    check_money(budget, costs)
    frame = _frame_of(as_table(table))
    frame = keep(frame, {"arm": arm, "upstream": upstream, "downstream": downstream, "stage": stage})
    fitting = {"objective": objective, "delta": delta, "weights": weights, "seed": seed}
    asked = Asked(find_targets(frame.columns, target), x, fitting, bootstrap, level, budget, costs)
    parts = split(frame)
    return Findings(
        title=title or _title(parts),
        asked=asked,
        parts=tuple(_find(part, Rows(frame), asked) for part in parts[:MOST_PARTS]),
        gaps=tuple(find_gaps(parts)),
        facts=facts_of_table(frame),
        n_rows=len(frame),
        left_out=tuple(part.title for part in parts[MOST_PARTS:]),
    )


def _frame_of(table):
    import pandas as pd

    columns = Columns.of(table)
    if not len(columns):
        raise InputError("the table holds no rows: there is nothing to report")
    return pd.DataFrame(columns.data, index=columns.labels)


def _find(part: Part, table: Rows, asked: Asked) -> PartFindings:
    laws = tuple(find_law(arm, target, part.stage, asked, table) for target in asked.targets for arm in part.arms)
    crossings = tuple(each for target in asked.targets for each in find_crossings(part, target, asked))
    transfers = tuple(each for target in asked.targets for each in find_transfers(part, target, asked))
    spending = tuple(find_spending(part, target, laws, table, asked) for target in asked.targets)
    following = find_following(part, asked.targets[0], laws, crossings, table)
    return PartFindings(part, laws, crossings, transfers, spending, following)


def _title(parts: list[Part]) -> str:
    names = [part.choice[name] for name in ("upstream", "downstream") for part in parts if name in part.choice]
    names = list(dict.fromkeys(names)) or [part.title for part in parts]
    return f"Scaling study: {'; '.join(names[:4])}{' and others' if len(names) > 4 else ''}"
