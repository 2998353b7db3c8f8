"""`collect_findings`: everything that a report states, computed once, before anything is drawn or written.

findings = collect_findings("studies/demo", target="loss", bootstrap=200)
findings.parts[0].boundaries[0].boundary.status
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hf_scaling.boundary import Boundary, find_boundary
from hf_scaling.errors import InputError
from hf_scaling.fitting import FitOptions, LawFit, RowFilter
from hf_scaling.fitting.columns import PROBE, Columns, as_table
from hf_scaling.fitting.fit import fit_rows, suited_to, with_compute
from hf_scaling.fitting.mixture import fit_ranked
from hf_scaling.fitting.rows import scale_of, select_rows
from hf_scaling.fitting.selection import Ranking, rank, run_backtest
from hf_scaling.laws import LAWS
from hf_scaling.planning import Plan, TransferGaps, plan, suggest_runs, transfer_gaps
from hf_scaling.planning.benefit import compare_benefits
from hf_scaling.planning.limits import study_of
from hf_scaling.report.gaps import Gap, find_gaps
from hf_scaling.report.parts import (
    MOST_PARTS,
    Arm,
    Part,
    Request,
    describe_table,
    filter_rows,
    find_targets,
    levels,
    numbers,
    split_table,
)
from hf_scaling.report.tuning import describe_tuning
from hf_scaling.text import format_count

# Factors beyond the largest measured scale at which the report predicts.
_FORECAST_FACTORS = (1, 2, 10)
# Share of the FLOPs of a part's runs that the suggested next runs may take.
_NEXT_RUNS_SHARE = 0.25


@dataclass(frozen=True)
class HeldOut:
    """Predictions of the largest scales by the best law, fitted to the smaller ones.

    Attributes:
        column: The size whose largest values were held out.
        factor: Ratio of the largest held-out size to the largest fitted one.
        measured: (N,) the held-out values.
        predicted: (N,) their predictions.
    """

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
        best: The best row: with the smallest target, or the highest of a score; None where no run has the target.
        ranking: The comparison of laws; None where there was none.
        fit: The best law, or the mean of several, with intervals; None where there is none.
        held_out: One for each size whose largest scales were held out.
        forecasts: With 1, 2 and 10 times the largest amount of data: sizes, value, low, high, beyond (the factor).
        problem: Why there is no fit; "" otherwise.
        rises: Whether more of the target is better.
    """

    arm: Arm
    target: str
    best: dict[str, Any] | None
    ranking: Ranking | None = None
    fit: LawFit | None = None
    held_out: tuple[HeldOut, ...] = ()
    forecasts: tuple[dict[str, Any], ...] = ()
    problem: str = ""
    rises: bool = False

    @property
    def measured(self) -> np.ndarray:
        """(N,) the target of the arm's runs."""
        return numbers(self.arm.rows, self.target)

    def predicted(self) -> np.ndarray:
        """(N,) the fit at the arm's own runs; NaN where it is undefined or there is none."""
        if self.fit is None:
            return np.full(len(self.arm.rows), np.nan)
        with np.errstate(all="ignore"):
            return self.fit.values({name: numbers(self.arm.rows, name) for name in set(self.fit.columns.values())})


@dataclass(frozen=True)
class ArmBoundary:
    """Where one way of distilling stops paying, or why that cannot be computed.

    Attributes:
        arm: The distilled runs.
        target: The column compared.
        boundary: At the geometric mean n_params and the smallest n_finetune; None where it could not be computed.
        by_size: The same at each measured n_params and n_finetune: (column, value, Boundary).
        compute: At equal FLOPs; None where the table has no FLOPs or this view could not be computed.
        compute_problem: Why there is no compute; "" otherwise.
        problem: Why there is no boundary; "" otherwise.
    """

    arm: Arm
    target: str
    boundary: Boundary | None = None
    by_size: tuple[tuple[str, float, Boundary], ...] = ()
    compute: Boundary | None = None
    compute_problem: str = ""
    problem: str = ""


@dataclass(frozen=True)
class ArmGap:
    """The transfer gap of one arm and target, or why there is none.

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


@dataclass(frozen=True)
class TargetPlan:
    """The plan for one target of a part, or why there is none.

    Attributes:
        target: The predicted column.
        plan: The plan; None where there is none.
        asked: Whether the budget is the user's; otherwise it is the FLOPs of the most expensive measured run of each
            stage, at one unit a FLOP, which gives the frontier.
        problem: Why there is no plan; "" otherwise.
    """

    target: str
    plan: Plan | None = None
    asked: bool = False
    problem: str = ""


@dataclass(frozen=True)
class NextRuns:
    """The runs suggested next for one target of a part, or why there are none.

    Attributes:
        target: The column that they are about.
        quantity: boundary or prediction.
        budget: FLOPs that they may take.
        runs: The result of `suggest_runs`; None where it fails.
        problem: Why it fails; "" otherwise.
    """

    target: str
    quantity: str
    budget: float
    runs: pd.DataFrame | None = None
    problem: str = ""


@dataclass(frozen=True)
class PartFindings:
    """The findings of one part of the table.

    Attributes:
        part: Its rows.
        laws: One for each target and arm.
        boundaries: One for each target and distilled arm.
        transfer_gaps: One for each target and arm of fine-tuned runs.
        plans: One for each target.
        next_runs: For the first target; None where the FLOPs of the runs are unknown or nothing was fitted.
    """

    part: Part
    laws: tuple[ArmLaw, ...]
    boundaries: tuple[ArmBoundary, ...]
    transfer_gaps: tuple[ArmGap, ...]
    plans: tuple[TargetPlan, ...]
    next_runs: NextRuns | None

    def laws_of(self, target: str) -> list[ArmLaw]:
        """The arms' laws of one target."""
        return [law for law in self.laws if law.target == target]

    def boundaries_of(self, target: str) -> list[ArmBoundary]:
        """The boundaries of one target."""
        return [boundary for boundary in self.boundaries if boundary.target == target]


@dataclass(frozen=True)
class Findings:
    """Everything that a report states.

    Attributes:
        title: Title of the report.
        request: The arguments.
        parts: The findings of each part of the table.
        gaps: Questions that the table cannot answer, and the runs that would.
        facts: How the numbers were collected: name -> text.
        n_rows: Rows of the table.
        left_out: Titles of the parts beyond `MOST_PARTS`, which were not analysed.
        rows: The rows of the table that are reported.
    """

    title: str
    request: Request
    parts: tuple[PartFindings, ...]
    gaps: tuple[Gap, ...]
    facts: dict[str, str]
    n_rows: int
    left_out: tuple[str, ...] = ()
    rows: pd.DataFrame = field(repr=False, default_factory=pd.DataFrame)

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
    direction: str | None = None,
    bounds: tuple[float | None, float | None] | None = None,
    budget: float | None = None,
    costs: Mapping[str, float] | None = None,
    title: str | None = None,
    cluster: str | None = None,
    study: str | Path | None = None,
) -> Findings:
    """Compute everything that a report states of a table.

    Args:
        table: A ResultsTable, a DataFrame, a mapping of columns, or what `ResultsTable.load` takes.
        target: Column to report; by default loss and error, as far as the table has them.
        x: Column that curves are drawn against and laws of one variable are fitted to; by default each size that
            varies.
        arm: Use only the rows of this arm; likewise upstream, downstream and stage. By default the report has one
            section for each pair of data sets, recipe and stage.
        upstream: Value of the column upstream.
        downstream: Value of the column downstream.
        stage: pretrain or finetune.
        objective: log_huber, log_mse or mse, as for `fit_law`.
        delta: Huber threshold on log residuals; by default it follows the data.
        weights: Column of the weights of the rows; by default as for `fit_law`.
        bootstrap: Number of bootstrap draws behind every interval, at least 100.
        level: Level of the intervals, between 0 and 1.
        seed: Seed of starts and draws; equal seeds give equal reports.
        direction: "up" where more of the target is better, "down" where less is; as for `fit_law`.
        bounds: Least and most that the target can be; as for `fit_law`.
        budget: Amount to plan for, in the unit of the costs.
        costs: Prices, as for `plan`.
        title: Title of the report; by default the names of the data sets.
        cluster: Column whose equal values name rows that share their luck; as for `fit_law`.
        study: Folder of the study whose sources.json says how many images and labels there are; by default `table`,
            where that is one.

    Returns:
        Findings. A question that cannot be answered is a sentence in them, not an error.

    Raises:
        InputError: The table is empty or lacks a column, or an argument is invalid.
    """
    if not isinstance(bootstrap, int) or bootstrap < 100:
        raise InputError(f"bootstrap is a number of draws, at least 100, not {bootstrap!r}")
    options = FitOptions(objective, delta, bootstrap, level=level, seed=seed)
    columns = Columns.of(as_table(table))
    if not len(columns):
        raise InputError("the table has no rows: there is nothing to report")
    frame = pd.DataFrame(columns.data, index=columns.labels)
    frame = filter_rows(frame, {"arm": arm, "upstream": upstream, "downstream": downstream, "stage": stage})
    probed = frame.pop(PROBE) if PROBE in frame else pd.Series(False, frame.index)
    # Linear probes are compared in a section of their own.
    whole = frame if probed.all() else frame[~probed.to_numpy()]
    targets = find_targets(frame, target)
    if cluster is not None:
        columns.require(cluster)
    request = Request(targets, x, weights, options, budget, costs, direction, bounds, study_of(study, table), cluster)
    parts = split_table(whole)
    names = [part.values[name] for name in ("upstream", "downstream") for part in parts if name in part.values]
    names = list(dict.fromkeys(names)) or [part.title for part in parts]
    facts = describe_table(frame) | describe_tuning(request.study)
    if n_probes := len(frame) - len(whole):
        facts["linear probes"] = f"{format_count(n_probes)} rows (train_part head), in no law, boundary or plan"
    return Findings(
        title=title or f"Scaling study: {'; '.join(names[:4])}{' and others' if len(names) > 4 else ''}",
        request=request,
        parts=tuple(_analyse(part, whole, request) for part in parts[:MOST_PARTS]),
        gaps=tuple(find_gaps(parts)),
        facts=facts,
        n_rows=len(frame),
        left_out=tuple(part.title for part in parts[MOST_PARTS:]),
        rows=frame,
    )


def _analyse(part: Part, table: pd.DataFrame, request: Request) -> PartFindings:
    targets = request.targets
    laws = tuple(find_law(arm, target, part.stage, request, table) for target in targets for arm in part.arms)
    boundaries = tuple(compared for target in targets for compared in find_boundaries(part, target, request))
    return PartFindings(
        part,
        laws,
        boundaries,
        tuple(gap for target in targets for gap in find_transfer_gaps(part, target, request)),
        tuple(find_plan(part, target, laws, table, request) for target in targets),
        find_next_runs(part, targets[0], laws, boundaries, table, request.study),
    )


def find_law(arm: Arm, target: str, stage: str | None, request: Request, table: pd.DataFrame) -> ArmLaw:
    """Compare the laws that an arm's runs can take and fit the best.

    Where the largest scales can be held out, this is the law (or mean of laws) that predicts them best, as for
    `law="auto"`. With too few sizes for that it is the law with the fewest parameters, since no run supports more.

    Args:
        arm: The runs.
        target: The column to fit.
        stage: The stage of the runs.
        request: The arguments of the report.
        table: All rows: the fit stores what the runs of both stages cost.
    """
    values = numbers(arm.rows, target)
    row_filter = replace(request.row_filter, target=target, stage=stage)
    best, rises = None, False
    try:
        if np.isfinite(values).any():
            known = Columns.of(arm.rows[np.isfinite(values)])
            rises = scale_of(known, row_filter, [request.x] if request.x else []).rises
            place = np.nanargmax(values) if rises else np.nanargmin(values)
            best = arm.rows.iloc[int(place)].to_dict()
        ranking = rank(arm.rows, row_filter, request.options)
        if ranking.backtest.folds:
            fit = fit_ranked(arm.rows, ranking, row_filter, request.options)
        else:
            law = min(ranking.fits, key=lambda name: (len(ranking.fits[name].params), name != ranking.best))
            rows = select_rows(arm.rows, LAWS[law], _with_ranked_column(row_filter, ranking.fits[law]))
            fit = fit_rows(rows, LAWS[law], request.options)
        # As `fit_law` stores it: plans and suggestions read it.
        fit = with_compute(fit, table)
    except InputError as error:
        return ArmLaw(arm, target, best, problem=str(error), rises=rises)
    held_out = tuple(_held_out(arm, ranking, row_filter, request.options))
    largest = {column: high for column, (_, high) in fit.data["ranges"].items()}
    # More labels where labels are a size of the law.
    grown = next(name for name in ("n_finetune", "n_pretrain", *largest) if name in largest)
    forecasts = []
    for factor in _FORECAST_FACTORS:
        sizes = {**largest, grown: factor * largest[grown]}
        row = fit.predict(sizes, level=request.options.level).iloc[0]
        forecasts.append(
            {"sizes": sizes, "value": row.value, "low": row.low, "high": row.high, "beyond": float(factor)}
        )
    return ArmLaw(arm, target, best, ranking, fit, held_out, tuple(forecasts), rises=rises)


def _with_ranked_column(row_filter: RowFilter, fit: LawFit) -> RowFilter:
    """The same filter with the column that a law of one variable was ranked over."""
    return replace(row_filter, x=next(iter(fit.columns.values())) if len(fit.columns) == 1 else None)


def _held_out(arm: Arm, ranking: Ranking, row_filter: RowFilter, options: FitOptions) -> list[HeldOut]:
    """For each size, the fold that predicts farthest, by the best single law."""
    rows = select_rows(arm.rows, LAWS[ranking.best], _with_ranked_column(row_filter, ranking.fits[ranking.best]))
    law, options, _ = suited_to(rows, LAWS[ranking.best], options)
    objective = options.make_objective()
    backtest = run_backtest({law.name: rows}, {law.name: law}, objective, options.seed)
    farthest: dict[str, HeldOut] = {}
    for fold, errors in zip(backtest.folds, backtest.errors[law.name]):
        if errors is None or (fold.column in farthest and fold.factor_out < farthest[fold.column].factor):
            continue
        measured = rows.target[fold.test]
        predicted = objective.unscale(objective.scale(measured) + errors)
        own = (rows.scale.from_fitted(values) for values in (measured, predicted))
        farthest[fold.column] = HeldOut(fold.column, fold.factor_out, *own)
    return list(farthest.values())


def find_boundaries(part: Part, target: str, request: Request) -> list[ArmBoundary]:
    """One for each distilled arm of a part that has runs without distillation too."""
    options = request.options
    settings: dict[str, Any] = {"target": target, "direction": request.direction, "bounds": request.bounds}
    settings |= {name: getattr(options, name) for name in ("bootstrap", "level", "seed")}
    boundaries = []
    for plain in part.arms_of("plain"):
        for arm in part.arms_of("distilled"):
            rows = pd.concat([plain.rows, arm.rows])
            try:
                boundary = find_boundary(rows, **settings)
            except InputError as error:
                boundaries.append(ArmBoundary(arm, target, problem=str(error)))
                continue
            by_size = tuple(
                (name, float(value), boundary.at(**{name: value}))
                for name in boundary.sizes
                for value in levels(arm.rows, name)
            )
            compute, problem = None, ""
            if len(levels(rows, "train_flops")):
                try:
                    if rows["train_flops"].isna().any():
                        raise InputError("some runs have no train_flops")
                    compute = find_boundary(rows, **settings, x="train_flops")
                except InputError as error:
                    problem = str(error)
            boundaries.append(ArmBoundary(arm, target, boundary, by_size, compute, problem))
    return boundaries


def find_transfer_gaps(part: Part, target: str, request: Request) -> list[ArmGap]:
    """One for each arm whose runs vary both n_pretrain and n_finetune."""
    options = request.options
    settings = {name: getattr(options, name) for name in ("objective", "delta", "bootstrap", "level", "seed")}
    settings |= {name: getattr(request, name) for name in ("weights", "direction", "bounds", "cluster")}
    gaps = []
    for arm in part.arms:
        if min(len(levels(arm.rows, name)) for name in ("n_pretrain", "n_finetune")) < 2:
            continue
        law = "transfer_gap_joint" if len(levels(arm.rows, "n_params")) > 1 else "transfer_gap"
        try:
            found = transfer_gaps(arm.rows, target, law, study=request.study, stage=part.stage, **settings)
            gaps.append(ArmGap(arm, target, found))
        except InputError as error:
            gaps.append(ArmGap(arm, target, problem=str(error)))
    return gaps


def find_contrasts(parts: Sequence[PartFindings], target: str, level: float) -> list[tuple[Part, pd.DataFrame]]:
    """Which of the downstream sets of an upstream set pre-training helped more, by the runs that are not distilled.

    Returns:
        For each group of parts that differ in the downstream set alone, its first part and `compare_benefits` of them;
        none without a pair.
    """
    groups: dict[tuple, list[Part]] = {}
    for of_part in parts:
        part = of_part.part
        fits = [gap.gaps.fits for gap in of_part.transfer_gaps if gap.target == target and gap.gaps is not None]
        if fits and not any(fit.scale.rises for of_arm in fits for fit in of_arm.values()):
            rest = tuple((name, value) for name, value in sorted(part.values.items()) if name != "downstream")
            groups.setdefault(rest, []).append(part)
    compared = []
    for group in groups.values():
        rows = {
            part.values.get("downstream", part.title): arm.rows.assign(value=arm.rows[target])
            for part in group
            for arm in part.arms
            if arm.kind != "distilled"
        }
        contrasts = compare_benefits(rows, level)
        if len(contrasts):
            compared.append((group[0], contrasts))
    return compared


def find_plan(part: Part, target: str, laws: Sequence[ArmLaw], table: pd.DataFrame, request: Request) -> TargetPlan:
    """Plan over the arms of a part whose laws could be fitted.

    Args:
        part: The runs.
        target: The column to minimise.
        laws: The part's laws.
        table: All rows, of every stage: the pre-training of a fine-tuned model is in rows of its own.
        request: The arguments of the report.
    """
    fits = {law.arm.label: law.fit for law in laws if law.fit is not None and law.target == target}
    asked = request.budget is not None
    if not fits:
        return TargetPlan(target, asked=asked, problem="no law could be fitted")
    budget, costs = request.budget, request.costs
    if not asked:
        stages = [table] if "stage" not in table.columns else [rows for _, rows in table.groupby("stage")]
        most_expensive = [levels(rows, "train_flops")[-1:].sum() for rows in stages]
        budget, costs = float(sum(most_expensive)), {"flop": 1.0}
    if budget == 0:
        return TargetPlan(target, problem="the table has no train_flops: give a budget and costs")
    sizes = part.levels("n_params")
    # Where a law does not depend on the model's size, the plan is for the largest measured model.
    in_laws = all("n_params" in fit.columns.values() for fit in fits.values())
    n_params = None if in_laws or not len(sizes) else float(sizes[-1])
    laws_or_law = next(iter(fits.values())) if len(fits) == 1 else fits
    try:
        level, study = request.options.level, request.study
        best = plan(laws_or_law, budget, costs or {}, n_params=n_params, level=level, study=study)
        return TargetPlan(target, best, asked)
    except InputError as error:
        return TargetPlan(target, asked=asked, problem=str(error))


def find_next_runs(
    part: Part,
    target: str,
    laws: Sequence[ArmLaw],
    boundaries: Sequence[ArmBoundary],
    table: pd.DataFrame,
    study: Path | None = None,
) -> NextRuns | None:
    """Suggest runs that narrow the boundary where it is not settled, else the prediction of the best arm's law."""
    spent = sum(float(np.nansum(numbers(part.rows, name))) for name in ("train_flops", "teacher_flops"))
    budget = _NEXT_RUNS_SHARE * spent
    aims: list[tuple[str, Boundary | LawFit]] = [
        ("boundary", compared.boundary)
        for compared in boundaries
        if compared.target == target
        and compared.boundary is not None
        and compared.boundary.status in ("crossing", "not_resolved")
    ]
    fitted = [law for law in laws if law.target == target and law.fit is not None]
    if fitted:
        aims.append(("prediction", best_arm(fitted, target).fit))
    if not aims or not budget > 0:
        return None
    quantity, aim = aims[0]
    try:
        runs = suggest_runs(aim, budget=budget, quantity=quantity, table=table, study=study)
    except InputError as error:
        return NextRuns(target, quantity, budget, problem=str(error))
    return NextRuns(target, quantity, budget, runs)


def best_arm(laws: Sequence[ArmLaw], target: str) -> ArmLaw:
    """The law of the arm with the best measured run: the smallest target, or the highest of a score that rises."""
    return min(laws, key=lambda law: law.best[target] * (-1 if law.rises else 1))


def varied_sizes(arm: Arm, x: str | None) -> list[str]:
    """The columns that figures of an arm are drawn against: x where it is given, else the amounts that vary."""
    if x is not None:
        return [x]
    varied = [name for name in ("n_pretrain", "n_finetune", "n_params") if len(levels(arm.rows, name)) > 1]
    return [name for name in varied if name != "n_params"] or varied
