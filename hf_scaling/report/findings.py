"""`collect_findings`: everything that a report says, computed once, before anything is drawn or written."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from hf_scaling.boundary import Boundary, find_boundary
from hf_scaling.errors import InputError
from hf_scaling.fitting import FitOptions, LawFit, RowFilter
from hf_scaling.fitting.bootstrap import measured_compute
from hf_scaling.fitting.fit import fit_one
from hf_scaling.fitting.rows import Columns, as_table, choose_rows
from hf_scaling.fitting.selection import Ranking, fit_ranked, rank, run_backtest
from hf_scaling.laws import LAWS
from hf_scaling.planning import Plan, TransferGaps, plan, suggest_runs, transfer_gaps
from hf_scaling.report.parts import (
    MOST_PARTS,
    Arm,
    Asked,
    Part,
    Rows,
    check_money,
    facts_of_table,
    find_targets,
    keep,
    levels,
    split,
)
from hf_scaling.text import format_count


@dataclass(frozen=True)
class Crossing:
    """Where one way of teaching stops paying, or why it cannot be asked.

    Attributes:
        arm: The distilled runs.
        target: The column compared.
        boundary: At the geometric mean n_params and the smallest n_finetune; None where it could not be found.
        by_size: The same at each measured n_params, and n_finetune: (column, value, Boundary).
        compute: At equal FLOPs; None where the table has none, or where that view could not be had.
        compute_problem: Why it could not; "" otherwise.
        problem: Why there is no boundary; "" otherwise.
    """

    arm: Arm
    target: str
    boundary: Boundary | None = None
    by_size: tuple[tuple[str, float, Boundary], ...] = ()
    compute: Boundary | None = None
    compute_problem: str = ""
    problem: str = ""


def find_crossings(part: Part, target: str, asked: Asked) -> list[Crossing]:
    """One for each way of teaching in a part that has plain runs too."""
    plain = part.arm("plain")
    return [_find(plain[0], arm, target, asked) for arm in part.arm("distilled")] if plain else []


def _find(plain: Arm, taught: Arm, target: str, asked: Asked) -> Crossing:
    import pandas as pd

    rows = Rows(pd.concat([plain.rows.to_pandas(), taught.rows.to_pandas()]))
    settings = {"target": target, "bootstrap": asked.bootstrap, "level": asked.level, "seed": _seed(asked)}
    try:
        boundary = find_boundary(rows, **settings)
    except InputError as error:
        return Crossing(taught, target, problem=str(error))
    compute, why = _at_equal_compute(rows, settings)
    return Crossing(taught, target, boundary, tuple(_by_size(boundary, rows)), compute, why)


def _seed(asked: Asked) -> int:
    return asked.fitting.get("seed", 0)


def _by_size(boundary: Boundary, rows: Rows) -> list[tuple[str, float, Boundary]]:
    frame = rows.to_pandas()
    taught = frame[frame["arm"].astype(str) == "distilled"]
    return [
        (name, float(value), boundary.at(**{name: value})) for name in boundary.sizes for value in levels(taught, name)
    ]


def _at_equal_compute(rows: Rows, settings: dict) -> tuple[Boundary | None, str]:
    """The view along FLOPs, the teacher's counted, or why there is none; neither where the table has no FLOPs."""
    frame = rows.to_pandas()
    if not len(levels(frame, "train_flops")):
        return None, ""
    if frame["train_flops"].isna().any():
        return None, "some runs have no train_flops"
    try:
        return find_boundary(rows, **settings, x="train_flops"), ""
    except InputError as error:
        return None, str(error)


# Fewer amounts of data than this leave every law open (three fix a power law and a floor, a fourth tests it).
_ENOUGH = 4


@dataclass(frozen=True)
class Gap:
    """A question that the runs leave open.

    Attributes:
        code: For programs: no_distilled, no_plain, one_model_size, one_seed, few_sizes, few_labels, no_finetunes,
            few_checkpoints.
        question: The question.
        why: What is missing.
        runs: The runs that would answer it.
        place: The part of the table that lacks them.
    """

    code: str
    question: str
    why: str
    runs: str
    place: str = ""


def find_gaps(parts: list[Part]) -> list[Gap]:
    """The gaps of a table, those of the pre-training runs first; a gap of several parts is named once."""
    found: dict[str, Gap] = {}
    for part in parts:
        peers = [each for each in parts if each.stage == part.stage and each is not part]
        place = part.title if len(parts) > 1 else ""
        for gap in (gap for check in (_arms, _sizes, _models, _seeds) for gap in check(part)):
            # What another part of the stage answers is no gap of the study.
            if gap.code in ("no_distilled", "no_plain") and any(not _arms(peer) for peer in peers):
                continue
            found.setdefault(gap.code, replace(gap, place=place))
    found |= {gap.code: gap for gap in _stages(parts)}
    return list(found.values())


def _arms(part: Part) -> list[Gap]:
    question = "Where does distillation stop paying?"
    sizes = _listed(part.levels("n_pretrain")) or "the same amounts of data"
    if not part.arm("plain") and not part.arm("distilled"):
        why = "The table has no column `arm`, so these runs count as one arm."
        runs = (
            f"The same runs with a teacher, at {sizes}; name the two arms `plain` and `distilled` in a column `arm`."
        )
        return [Gap("no_distilled", question, why, runs)]
    if part.arm("plain") and part.arm("distilled"):
        return []
    has = "plain" if part.arm("plain") else "distilled"
    lacks = "distilled" if has == "plain" else "plain"
    how = "`{teacher: vit-30k, alpha: 0.5}`" if lacks == "distilled" else "`plain`"
    why = f"All runs are {has}."
    runs = f"The {lacks} runs at {sizes}, same models and seeds: add {how} to `arms` in the grid."
    return [Gap(f"no_{lacks}", question, why, runs)]


def _sizes(part: Part) -> list[Gap]:
    column = "n_finetune" if part.stage == "finetune" else "n_pretrain"
    sizes = part.levels(column)
    if len(sizes) >= _ENOUGH:
        return []
    what = f"labelled {part.noun}" if column == "n_finetune" else "data"
    question = f"What {'do' if what != 'data' else 'does'} more {what} do?"
    if not len(sizes):
        return [Gap("few_sizes", question, f"No run states its `{column}`.", f"Add the column `{column}`.")]
    amounts = "amount" if len(sizes) == 1 else "amounts"
    why = f"Only {len(sizes)} {amounts} of {what} measured ({_listed(sizes)}): too few to fix a curve and its floor."
    runs = f"`{column}` at {_listed(_more(sizes))} as well, everything else equal."
    return [Gap("few_labels" if column == "n_finetune" else "few_sizes", question, why, runs)]


def _more(sizes: np.ndarray) -> np.ndarray:
    """Enough further sizes, four times apart, beyond the largest."""
    return np.round(sizes[-1] * 4.0 ** np.arange(1, _ENOUGH - len(sizes) + 1))


def _models(part: Part) -> list[Gap]:
    sizes, question = part.levels("n_params"), "What does a larger model do?"
    if len(sizes) > 1:
        return []
    if not len(sizes):
        return [Gap("one_model_size", question, "The table has no column `n_params`.", "Add it, and vary it.")]
    why = f"Only one model size measured ({format_count(sizes[0])} parameters)."
    others = f"{format_count(sizes[0] / 2)} and {format_count(2 * sizes[0])} parameters"
    runs = f"The same amounts of data with two further models, about {others}."
    return [Gap("one_model_size", question, why, runs)]


def _seeds(part: Part) -> list[Gap]:
    if len(part.levels("seed")) > 1 or _repeats(part) > 0:
        return []
    sizes = part.levels("n_pretrain")
    where = f"at {_listed(sizes[[0, len(sizes) // 2, -1]])}" if len(sizes) > 2 else "at each size"
    why = "Every configuration was run once: noise is judged by how the runs scatter about the laws."
    runs = f"Two more seeds {where}."
    return [Gap("one_seed", "How much of a difference is chance?", why, runs)]


def _repeats(part: Part) -> int:
    """Rows that repeat another row's arm and sizes."""
    frame = part.rows.to_pandas()
    names = [n for n in ("arm", "distillation", "model", *_SIZES) if n in frame.columns]
    return int(frame.duplicated(names).sum()) if names else 0


_SIZES = ("n_params", "n_pretrain", "n_finetune", "image_size")


def _stages(parts: list[Part]) -> list[Gap]:
    tuned = [part for part in parts if part.stage == "finetune" or len(part.levels("n_finetune"))]
    noun = parts[0].noun
    question = f"How many labelled {noun} are worth how much pre-training?"
    if any(len(part.levels("n_pretrain")) >= 3 for part in tuned):
        return []
    if tuned:
        why = "The fine-tuned runs start from fewer than three amounts of pre-training."
        runs = f"Fine-tune checkpoints of at least three amounts of pre-training, each on the same labelled {noun}."
        return [Gap("few_checkpoints", question, why, runs)]
    sizes = np.unique(np.concatenate([part.levels("n_pretrain") for part in parts]))
    largest = f" of {_listed(sizes[-3:])} {noun}" if len(sizes) else ""
    why = "Nothing was fine-tuned, so neither the transfer gap nor a plan over labels can be had."
    runs = (
        f"Fine-tune the checkpoints{largest} on four amounts of labelled {noun}, 20 to 2,500: "
        "`downstream` and `n_finetune` in the grid."
    )
    return [Gap("no_finetunes", question, why, runs)]


def _listed(sizes: np.ndarray) -> str:
    texts = [format_count(size) for size in sizes]
    if len(texts) > 8:
        texts = [*texts[:3], "…", *texts[-2:]]
    return ", ".join(texts)


#: The sizes that laws are of, and that figures are drawn against.
SIZES = ("n_pretrain", "n_finetune", "n_params")
# How far beyond the largest measured scale the report predicts.
_BEYOND = (1, 2, 10)


@dataclass(frozen=True)
class HeldOut:
    """What the best law, fitted to the smaller scales, says of the largest.

    Attributes:
        law: The law.
        column: The size whose largest values were held out.
        factor: How far the farthest of them lies beyond the fitted ones.
        measured: (N,) the held-out values.
        predicted: (N,) what was predicted of them.
    """

    law: str
    column: str
    factor: float
    measured: np.ndarray
    predicted: np.ndarray


@dataclass(frozen=True)
class ArmLaw:
    """The law of one arm and target, or why there is none.

    Attributes:
        arm: The runs.
        target: The column.
        best: The best single run: its row as a dict; None where no run has the target.
        ranking: The comparison of laws; None where there was none.
        fit: The best law, or the mean of several, fitted with intervals; None where there is none.
        held_out: One for each size whose largest scales were held out.
        forecasts: At the largest sizes, and 2 and 10 times as much data: sizes, value, low, high, beyond (a factor).
        problem: Why there is no fit; "" otherwise.
    """

    arm: Arm
    target: str
    best: dict | None
    ranking: Ranking | None = None
    fit: LawFit | None = None
    held_out: tuple[HeldOut, ...] = ()
    forecasts: tuple[dict, ...] = field(default=())
    problem: str = ""

    @property
    def measured(self) -> np.ndarray:
        """(N,) the target of the arm's runs."""
        return _numbers(self.arm.rows.to_pandas(), self.target)

    def predicted(self) -> np.ndarray:
        """(N,) the fit at the arm's own runs; NaN where it is undefined or there is none."""
        frame = self.arm.rows.to_pandas()
        if self.fit is None:
            return np.full(len(frame), np.nan)
        sizes = {column: _numbers(frame, column) for column in set(self.fit.columns.values())}
        with np.errstate(all="ignore"):
            return self.fit.values(sizes)


def find_law(arm: Arm, target: str, stage: str | None, asked: Asked, table: Rows) -> ArmLaw:
    """Compare the laws that suit an arm's runs and fit the best; `table` has the runs of the other stage too.

    Where the largest scales can be held out, what predicts them best is fitted (`law="auto"`); where there are too few
    sizes for that, the law with the fewest parameters among the ranked ones, since nothing speaks for a larger one.
    """
    best = _best_run(arm, target)
    try:
        choice, options = _settings(target, stage, asked)
        ranking = rank(arm.rows, choice, options)
        fit = _with_compute(_fit(arm, ranking, choice, options), table)
    except InputError as error:
        return ArmLaw(arm, target, best, problem=str(error))
    held_out = tuple(_held_out(arm, ranking, choice, options))
    return ArmLaw(arm, target, best, ranking, fit, held_out, tuple(_forecasts(fit, asked.level)))


def _settings(target: str, stage: str | None, asked: Asked) -> tuple[RowFilter, FitOptions]:
    given = asked.fitting
    choice = RowFilter(target, asked.x, stage=stage, weights=given["weights"], zeros="leave_out")
    options = FitOptions(given["objective"], given["delta"], asked.bootstrap, level=asked.level, seed=given["seed"])
    return choice, options


def _fit(arm: Arm, ranking: Ranking, choice: RowFilter, options: FitOptions) -> LawFit:
    if ranking.backtest.folds:
        return fit_ranked(arm.rows, ranking, choice, options)
    smallest = min(ranking.fits, key=lambda name: (len(ranking.fits[name].params), name != ranking.best))
    return fit_one(arm.rows, LAWS[smallest], _with_column(choice, ranking.fits[smallest]), options)


def _with_compute(fit: LawFit, table: Rows) -> LawFit:
    """The same fit with what its runs cost kept in it, as `fit_law` keeps it: plans and suggestions ask for it."""
    return replace(fit, data={**fit.data, "compute": measured_compute(table, fit.data["study"])})


def _with_column(choice: RowFilter, fit: LawFit) -> RowFilter:
    """The same choice with the column that a law of one variable was ranked over."""
    return replace(choice, x=next(iter(fit.columns.values())) if len(fit.columns) == 1 else None)


def _best_run(arm: Arm, target: str) -> dict | None:
    frame = arm.rows.to_pandas()
    values = _numbers(frame, target)
    if not np.isfinite(values).any():
        return None
    return frame.iloc[int(np.nanargmin(values))].to_dict()


def _held_out(arm: Arm, ranking: Ranking, choice: RowFilter, options: FitOptions) -> list[HeldOut]:
    """For each size, the window that predicts farthest, by the best single law."""
    law = LAWS[ranking.best]
    rows = choose_rows(arm.rows, law, _with_column(choice, ranking.fits[law.name]))
    backtest = run_backtest({law.name: rows}, {law.name: law}, options.make_objective(), options.seed)
    found = {}
    for fold, missed in zip(backtest.folds, backtest.errors[law.name]):
        if missed is not None and fold.factor_out >= found.get(fold.column, (0,))[0]:
            found[fold.column] = (fold.factor_out, fold, missed)
    return [_scored(law.name, rows, options.make_objective(), *each[1:]) for each in found.values()]


def _scored(law: str, rows, objective, fold, missed) -> HeldOut:
    measured = rows.target[fold.test]
    predicted = objective.unscale(objective.scale(measured) + missed)
    return HeldOut(law, fold.column, fold.factor_out, measured, predicted)


def _forecasts(fit: LawFit, level: float) -> list[dict]:
    """At the largest measured sizes, then with 2 and 10 times the data: more labels where labels are a size."""
    largest = {column: high for column, (_, high) in fit.data["ranges"].items()}
    grown = (
        "n_finetune" if "n_finetune" in largest else "n_pretrain" if "n_pretrain" in largest else next(iter(largest))
    )
    found = []
    for factor in _BEYOND:
        sizes = {**largest, grown: factor * largest[grown]}
        row = fit.predict(sizes, level=level).iloc[0]
        found.append({"sizes": sizes, "value": row.value, "low": row.low, "high": row.high, "beyond": float(factor)})
    return found


def _numbers(frame, column: str) -> np.ndarray:
    import pandas as pd

    return pd.to_numeric(frame[column], errors="coerce").to_numpy(dtype=float, na_value=np.nan)


def varied_sizes(arm: Arm, asked: Asked) -> list[str]:
    """The columns that figures of an arm are drawn against: x where it is given, else the amounts that vary."""
    if asked.x is not None:
        return [asked.x]
    frame = arm.rows.to_pandas()
    found = [name for name in SIZES[:2] if len(levels(frame, name)) > 1]
    return found or [name for name in SIZES[2:] if len(levels(frame, name)) > 1]


@dataclass(frozen=True)
class Spending:
    """A plan for one target of a part, or why there is none.

    Attributes:
        target: What is predicted.
        plan: The plan; None where there is none.
        asked: Whether the budget is the user's; else it is the FLOPs of the dearest measured run, priced by the FLOP,
            for the frontier's sake.
        problem: Why there is no plan; "" otherwise.
    """

    target: str
    plan: Plan | None = None
    asked: bool = False
    problem: str = ""


def find_spending(part: Part, target: str, laws: Sequence[ArmLaw], table: Rows, asked: Asked) -> Spending:
    """Plan over the arms whose laws could be fitted; with several ways of teaching, each is an arm.

    Args:
        part: The runs.
        target: What to make small.
        laws: The part's.
        table: All rows, of every stage: a fine-tuned model's pre-training is in rows of its own.
        asked: What was asked.
    """
    fits = {law.arm.label: law.fit for law in laws if law.fit is not None and law.target == target}
    given = asked.budget is not None
    if not fits:
        return Spending(target, asked=given, problem="no law could be fitted")
    budget, costs = (asked.budget, asked.costs) if given else (_dearest(table), {"flop": 1.0})
    if budget is None:
        return Spending(target, problem="the table has no train_flops: give a budget and costs")
    try:
        chosen = next(iter(fits.values())) if len(fits) == 1 else fits
        found = plan(chosen, budget, costs or {}, n_params=_size(part, fits), level=asked.level)
    except InputError as error:
        return Spending(target, asked=given, problem=str(error))
    return Spending(target, found, given)


def _size(part: Part, fits: dict) -> float | None:
    """The largest measured model where a law does not know the models' size; None lets the plan choose."""
    sizes = part.levels("n_params")
    knows = all("n_params" in fit.columns.values() for fit in fits.values())
    return None if knows or not len(sizes) else float(sizes[-1])


def _dearest(table: Rows) -> float | None:
    """FLOPs of the dearest run of each stage together, None where the table has none."""
    frame = table.to_pandas()
    stages = [frame] if "stage" not in frame.columns else [rows for _, rows in frame.groupby("stage")]
    flops = [levels(rows, "train_flops") for rows in stages]
    return sum(float(each[-1]) for each in flops if len(each)) or None


@dataclass(frozen=True)
class Transfer:
    """The gap of one arm and target, or why there is none.

    Attributes:
        arm: The runs.
        target: The column.
        gaps: The gap and what pre-training was worth; None where no law could be fitted.
        problem: Why there is none; "" otherwise.
    """

    arm: Arm
    target: str
    gaps: TransferGaps | None = None
    problem: str = ""


def find_transfers(part: Part, target: str, asked: Asked) -> list[Transfer]:
    """One for each arm of a part whose runs vary n_pretrain and n_finetune."""
    return [_find_transfer(arm, target, part.stage, asked) for arm in part.arms if _has_both(arm)]


def _has_both(arm: Arm) -> bool:
    frame = arm.rows.to_pandas()
    return len(levels(frame, "n_pretrain")) > 1 and len(levels(frame, "n_finetune")) > 1


def _find_transfer(arm: Arm, target: str, stage: str | None, asked: Asked) -> Transfer:
    law = "transfer_gap_joint" if len(levels(arm.rows.to_pandas(), "n_params")) > 1 else "transfer_gap"
    settings = {name: value for name, value in asked.fitting.items() if name != "weights" or value is not None}
    try:
        gaps = transfer_gaps(arm.rows, target, law, asked.level, stage=stage, bootstrap=asked.bootstrap, **settings)
    except InputError as error:
        return Transfer(arm, target, problem=str(error))
    return Transfer(arm, target, gaps)


# Of the FLOPs that the part's runs took: enough for a few more, and less than doing it again.
_SHARE = 0.25


@dataclass(frozen=True)
class Following:
    """The runs suggested next for one target of a part, or why there are none.

    Attributes:
        target: What they are about.
        quantity: boundary or prediction.
        budget: FLOPs that they may take.
        runs: As `suggest_runs` gives them; None where it cannot.
        problem: Why it cannot; "" otherwise.
    """

    target: str
    quantity: str
    budget: float
    runs: object = None
    problem: str = ""


def find_following(
    part: Part, target: str, laws: Sequence[ArmLaw], crossings: Sequence[Crossing], table: Rows
) -> Following | None:
    """Aim at the boundary where it was looked for and is not settled, else at the best arm's prediction.

    Args:
        part: The runs.
        target: What to aim at.
        laws: The part's, of every target.
        crossings: Likewise.
        table: All rows, of every stage: which checkpoints there are, and what they took.

    Returns:
        None where the runs' FLOPs are not known or nothing was fitted.
    """
    budget = _SHARE * _taken(part)
    aims = [("boundary", c.boundary) for c in crossings if c.target == target and _open(c)]
    fitted = [law for law in laws if law.target == target and law.fit is not None]
    best = min(fitted, key=lambda law: law.best[target], default=None)
    aims += [("prediction", best.fit)] if best else []
    if not aims or not budget > 0:
        return None
    quantity, aim = aims[0]
    try:
        return Following(target, quantity, budget, suggest_runs(aim, budget=budget, quantity=quantity, table=table))
    except InputError as error:
        return Following(target, quantity, budget, problem=str(error))


def _open(crossing: Crossing) -> bool:
    return crossing.boundary is not None and crossing.boundary.status in ("crossing", "not_resolved")


def _taken(part: Part) -> float:
    frame = part.rows.to_pandas()
    columns = [name for name in ("train_flops", "teacher_flops") if name in frame.columns]
    return float(np.nansum(frame[columns].to_numpy(dtype=float, na_value=np.nan))) if columns else 0.0


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
        from hf_scaling.report.answers import describe

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
        parts=tuple(_find_findings(part, Rows(frame), asked) for part in parts[:MOST_PARTS]),
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


def _find_findings(part: Part, table: Rows, asked: Asked) -> PartFindings:
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
