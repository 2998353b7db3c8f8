"""One arm's law: which predicts the largest scales best, what it says, and how far it was from them."""

from dataclasses import dataclass, field, replace

import numpy as np

from hf_scaling.errors import InputError
from hf_scaling.fitting import LawFit
from hf_scaling.fitting.backtest import run_backtest
from hf_scaling.fitting.choosing import Ranking, fit_ranked, rank
from hf_scaling.fitting.compute import measured_compute
from hf_scaling.fitting.fit import Options, fit_one
from hf_scaling.fitting.rows import Choice, choose_rows
from hf_scaling.laws import LAWS
from hf_scaling.report.asking import Asked
from hf_scaling.report.parts import Arm, Rows, levels

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


def _settings(target: str, stage: str | None, asked: Asked) -> tuple[Choice, Options]:
    given = asked.fitting
    choice = Choice(target, asked.x, stage=stage, weights=given["weights"])
    drawing = (asked.bootstrap, "wild", asked.level, given["seed"], {}, [])
    return choice, Options(given["objective"], given["delta"], *drawing)


def _fit(arm: Arm, ranking: Ranking, choice: Choice, options: Options) -> LawFit:
    if ranking.backtest.folds:
        return fit_ranked(arm.rows, ranking, choice, options)
    smallest = min(ranking.fits, key=lambda name: (len(ranking.fits[name].params), name != ranking.best))
    return fit_one(arm.rows, LAWS[smallest], _with_column(choice, ranking.fits[smallest]), options)


def _with_compute(fit: LawFit, table: Rows) -> LawFit:
    """The same fit with what its runs cost kept in it, as `fit_law` keeps it: plans and suggestions ask for it."""
    return replace(fit, data={**fit.data, "compute": measured_compute(table, fit.data["study"])})


def _with_column(choice: Choice, fit: LawFit) -> Choice:
    """The same choice with the column that a law of one variable was ranked over."""
    return replace(choice, x=next(iter(fit.columns.values())) if len(fit.columns) == 1 else None)


def _best_run(arm: Arm, target: str) -> dict | None:
    frame = arm.rows.to_pandas()
    values = _numbers(frame, target)
    if not np.isfinite(values).any():
        return None
    return frame.iloc[int(np.nanargmin(values))].to_dict()


def _held_out(arm: Arm, ranking: Ranking, choice: Choice, options: Options) -> list[HeldOut]:
    """For each size, the window that predicts farthest, by the best single law."""
    law = LAWS[ranking.best]
    rows = choose_rows(arm.rows, law, _with_column(choice, ranking.fits[law.name]))
    backtest = run_backtest({law.name: rows}, {law.name: law}, options.objective, options.seed)
    found = {}
    for fold, missed in zip(backtest.folds, backtest.errors[law.name]):
        if missed is not None and fold.factor_out >= found.get(fold.column, (0,))[0]:
            found[fold.column] = (fold.factor_out, fold, missed)
    return [_scored(law.name, rows, options.objective, *each[1:]) for each in found.values()]


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
