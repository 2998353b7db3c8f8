"""`LawFit`: a fitted law that predicts with intervals, says what is doubtful, and is kept as plain numbers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from hf_scaling.errors import InputError
from hf_scaling.fitting.solver import Objective
from hf_scaling.laws import Law

if TYPE_CHECKING:
    from hf_scaling import hub


# Rows times draws evaluated at once.
_LARGEST_BLOCK = 2_000_000


@dataclass(frozen=True)
class LawFit:
    """A law fitted to a table.

    Attributes:
        law: The law's name; "mixture" where several laws were combined.
        status: ok, not_identifiable, at_bound or poor_fit.
        params: Parameter name to estimate; in a mixture the keys are "law.symbol".
        intervals: Parameter name to (low, high) at `settings["level"]`; empty without a bootstrap.
        scores: log_rmse, rmse, aicc, n_rows, n_configurations.
        notes: Findings, each with code, grade (info, warn, error) and text.
        settings: How it was fitted: target, objective, delta, columns, method, bootstrap, level, seed and the rest.
        data: What it was fitted to: the range of each variable, the values of the naming columns, the mean of
            each configuration (`measured`) and what the runs cost (`compute`), both absent from laws kept by older
            versions.
        definition: The law itself; None in a mixture.
        draws: (B, P) bootstrap draws of the parameters.
        noise: (N,) residuals on the objective's scale, corrected for the fitted parameters: what a new run adds.
        members: The fits of a mixture.
        weights: Law name to weight in a mixture.
    """

    law: str
    status: str
    params: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    scores: dict[str, float]
    notes: list[dict]
    settings: dict
    data: dict
    definition: Law | None
    draws: np.ndarray = field(repr=False)
    noise: np.ndarray = field(repr=False)
    members: "tuple[LawFit, ...]" = ()
    weights: dict[str, float] = field(default_factory=dict)

    @property
    def columns(self) -> dict[str, str]:
        """The law's variable to the table's column, over all members."""
        if not self.members:
            return dict(self.settings["columns"])
        return {name: column for member in self.members for name, column in member.columns.items()}

    def predict(self, frame, kind: str = "mean", level: float | None = None):
        """Predict the target at given sizes.

        Args:
            frame: A DataFrame or a mapping of the law's columns to numbers or sequences.
            kind: "mean" for the expected value, "new_run" for one further run (its noise included).
            level: Of the interval; the fit's own by default.

        Returns:
            A DataFrame on the frame's index: value, low, high (NaN without a bootstrap) and extrapolation, the largest
            natural-log distance of a variable outside the fitted range (0 inside). NaN where the law is undefined.

        Raises:
            InputError: A column is missing or holds something else than numbers, or kind or level is unknown.
        """
        import pandas as pd

        if kind not in ("mean", "new_run"):
            raise InputError(f"kind {kind!r} is unknown: choose mean or new_run")
        sizes, index = _sizes(frame, set(self.columns.values()))
        values = self.values(sizes)
        low, high = self._band(sizes, values, kind, self._level(level))
        return pd.DataFrame(
            {
                "value": values,
                "low": low,
                "high": high,
                "extrapolation": _extrapolation(sizes, self.data["ranges"]),
            },
            index=index,
        )

    def values(self, sizes: Mapping[str, np.ndarray]) -> np.ndarray:
        """(N,) predictions at sizes given by column."""
        if self.members:
            scale = Objective(self.settings["objective"])
            total = sum(self.weights[m.law] * scale.scale(m.values(sizes)) for m in self.members)
            return scale.unscale(total + self.settings["carried"])
        return self._evaluate(self.theta[None], sizes)[0]

    def draw_values(self, sizes: Mapping[str, np.ndarray]) -> np.ndarray:
        """(B, N) predictions of every bootstrap draw at sizes given by column.

        In a mixture each draw comes from one member, in proportion to the weights, so that the band shows how far the
        laws disagree as well.
        """
        if self.members:
            drawn = _share_draws(
                [m.draw_values(sizes) for m in self.members], [self.weights[m.law] for m in self.members]
            )
            scale = Objective(self.settings["objective"])
            return scale.unscale(scale.scale(drawn) + self.settings["carried"])
        count = len(next(iter(sizes.values())))
        block = max(1, _LARGEST_BLOCK // max(count, 1))
        parts = [self._evaluate(self.draws[i : i + block], sizes) for i in range(0, len(self.draws), block)]
        return np.concatenate(parts) if parts else np.empty((0, count))

    def interval(self, function: Callable, level: float | None = None) -> tuple[float, float, float]:
        """The value and interval of any function of parameters and predictions.

        Args:
            function: Takes `params` (name to an array of one value a draw) and `predict` (sizes to an array of draws
                by rows) and returns one value a draw; numpy broadcasting does the rest.
            level: Of the interval; the fit's own by default.

        Returns:
            value, low, high.

        Example:
            What ten times the images would do to the loss, as a ratio:
            `fit.interval(lambda params, predict: predict({"n_pretrain": [1e6]}) / predict({"n_pretrain": [1e5]}))`

        Raises:
            InputError: The fit holds no draws.
        """
        if not self._n_draws():
            raise InputError("this fit holds no bootstrap draws: fit again with bootstrap=1000")
        needed = set(self.columns.values())
        names = list(self.params)
        draws = self._parameter_draws()
        value = function(
            {n: np.array([self.params[n]]) for n in names}, lambda at: self.values(_sizes(at, needed)[0])[None]
        )
        drawn = function(
            {n: draws[:, i] for i, n in enumerate(names)}, lambda at: self.draw_values(_sizes(at, needed)[0])
        )
        low, high = quantiles(np.asarray(drawn, dtype=float).reshape(-1), self._level(level))
        return float(np.asarray(value).reshape(-1)[0]), float(low), float(high)

    def invert(self, target: float, solve_for: str, **sizes: float) -> tuple[float, float, float]:
        """The size that reaches a target: how many images for this loss?

        Args:
            target: The loss or error to reach.
            solve_for: The column to solve for.
            **sizes: The other columns' values.

        Returns:
            value, low, high; inf where the law never gets there.

        Raises:
            InputError: The fit is a mixture, or a column is not one of the law's.
        """
        if self.definition is None:
            raise InputError("a mixture has no one inverse: fit one law, or combine=False")
        names = {column: variable for variable, column in self.columns.items()}
        for column in [solve_for, *sizes]:
            if column not in names:
                raise InputError(f"{self.law} has no {column!r}: it has {', '.join(names)}")
        given = {names[c]: float(v) for c, v in sizes.items()}
        value = float(self.definition.invert(self.theta, target, names[solve_for], given))
        if not len(self.draws):
            return value, float("nan"), float("nan")
        drawn = self.definition.invert(self.draws, target, names[solve_for], given)
        low, high = quantiles(drawn, self._level(None))
        return value, float(low), float(high)

    @property
    def theta(self) -> np.ndarray:
        """(P,) the parameters in the law's order."""
        return np.array([self.params[p.name] for p in self.definition.parameters])

    @property
    def note_codes(self) -> list[str]:
        """The codes of the notes, in order."""
        return [n["code"] for n in self.notes]

    def save_pretrained(self, folder) -> None:
        """Write law.json (plain numbers), the draws as safetensors and a card with its figure into a folder."""
        from hf_scaling.fitting.storage import save

        save(self, folder)

    @classmethod
    def from_pretrained(cls, where, revision: str | None = None) -> "LawFit":
        """Load a fit; predictions are those of the saved fit to the last bit.

        Args:
            where: A folder or a Hub id; `org/name@revision` says which branch, tag or commit.
            revision: The same, apart.

        Raises:
            InputError: There is no law there, or the file is damaged, of a newer version or hostile.
        """
        from hf_scaling.fitting.storage import load

        return load(where, revision)

    def push_to_hub(
        self, repo_id: str, private: bool | None = None, dry_run: bool = False, dataset: str | None = None
    ) -> "hub.Commit | hub.Planned":
        """Write what `save_pretrained` writes into a repository of the Hub, which is made where it is not there yet.

        Args:
            repo_id: `org/name`, a model repository of the law's own.
            private: Whether a repository that is made now is private; the account's default when None.
            dry_run: Write nothing and say what would be written.
            dataset: The data set of the Hub that holds the rows; the card links it.

        Returns:
            What was written where, or would be.

        Raises:
            InputError: The repository holds a model, or no right to write to it.
            PushError: Offline, or the Hub kept failing; nothing was written.
        """
        from hf_scaling.fitting.storage import push

        return push(self, repo_id, private, dry_run, dataset)

    def summary(self) -> str:
        """The fit as text: everything (Mis)Fitting (2025) asks a report to state."""
        from hf_scaling.fitting.card import describe_fit

        return describe_fit(self)

    def _evaluate(self, theta: np.ndarray, sizes: Mapping[str, np.ndarray]) -> np.ndarray:
        variables = {v: np.asarray(sizes[c], dtype=float) for v, c in self.settings["columns"].items()}
        with np.errstate(all="ignore"):
            values = self.definition.evaluator(variables).value(np.atleast_2d(theta))
        return np.where(np.isfinite(values), values, np.nan)

    def _level(self, level: float | None) -> float:
        level = self.settings["level"] if level is None else level
        if not 0 < level < 1:
            raise InputError(f"level must lie between 0 and 1, not {level}")
        return level

    def _n_draws(self) -> int:
        return min((len(m.draws) for m in self.members), default=len(self.draws))

    def _parameter_draws(self) -> np.ndarray:
        return np.concatenate([m.draws for m in self.members], axis=1) if self.members else self.draws

    def _band(self, sizes, values: np.ndarray, kind: str, level: float) -> tuple[np.ndarray, np.ndarray]:
        if not self._n_draws():
            nothing = np.full(len(next(iter(sizes.values()))), np.nan)
            return nothing, nothing
        drawn = self.draw_values(sizes)
        if kind == "new_run":
            scale = Objective(self.settings["objective"])
            noise = np.random.default_rng(self.settings["seed"]).choice(self.noise, size=drawn.shape)
            drawn = scale.unscale(scale.scale(drawn) + noise)
        return quantiles(drawn, level, values)


def quantiles(drawn: np.ndarray, level: float, around: object = None) -> tuple[np.ndarray, np.ndarray]:
    """The central interval of draws along the first axis; NaN where most draws are undefined.

    An end among infinite draws is infinite: no amount of data reaches the target there. Draws of a loose law can all
    drift to one side of the estimate `around`; the interval then reaches back to it.
    """
    tail = (1 - level) / 2
    defined = ~np.isnan(drawn)
    filled = np.where(defined, drawn, np.inf)
    # Interpolation between infinities is undefined; the nearest draw is not.
    method = "linear" if np.isfinite(filled).all() else "nearest"
    low, high = (np.quantile(filled, p, axis=0, method=method) for p in (tail, 1 - tail))
    lost = defined.mean(axis=0) < 0.5
    if around is not None:
        low, high = np.minimum(low, around), np.maximum(high, around)
    return np.where(lost, np.nan, low), np.where(lost, np.nan, high)


def _share_draws(drawn: list[np.ndarray], weights: list[float]) -> np.ndarray:
    """Pool the members' draws: draw b is taken from the member whose share of the weights b falls in."""
    count = min(len(d) for d in drawn)
    edges = np.cumsum(weights) / np.sum(weights)
    # The golden ratio's multiples spread each member's turns evenly over the draws.
    turn = np.searchsorted(edges, (np.arange(count) * 0.6180339887498949) % 1.0, side="right")
    return np.stack([drawn[min(m, len(drawn) - 1)][b] for b, m in enumerate(turn)]) if count else drawn[0][:0]


def _sizes(frame, needed: set[str]) -> tuple[dict[str, np.ndarray], object]:
    """The needed columns of a frame as equally long float arrays, and the frame's index."""
    has = frame.columns if hasattr(frame, "columns") else frame
    for name in sorted(needed):
        if name not in has:
            raise InputError(f"prediction needs the column {name!r}: give {', '.join(sorted(needed))}")
    try:
        arrays = {name: np.atleast_1d(np.asarray(frame[name], dtype=float)) for name in needed}
    except (TypeError, ValueError):
        raise InputError(f"prediction needs numbers in {', '.join(sorted(needed))}") from None
    count = max(len(a) for a in arrays.values())
    if {len(a) for a in arrays.values()} - {1, count}:
        raise InputError(f"the columns {', '.join(sorted(needed))} have different lengths")
    arrays = {name: np.broadcast_to(a, (count,)) for name, a in arrays.items()}
    return arrays, getattr(frame, "index", range(count))


def _extrapolation(sizes: Mapping[str, np.ndarray], ranges: Mapping[str, tuple[float, float]]) -> np.ndarray:
    distance = np.zeros(len(next(iter(sizes.values()))))
    for column, (low, high) in ranges.items():
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.log(sizes[column])
            beyond = np.maximum(np.log(low) - logs, logs - np.log(high))
        distance = np.maximum(distance, np.where(np.isnan(beyond), 0.0, beyond))
    return distance
