"""`LawFit`: a fitted law that predicts with intervals, lists what is doubtful, and is stored as plain numbers."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hf_scaling import files, hub
from hf_scaling.errors import InputError
from hf_scaling.fitting.curves import CurveCoordinates, CurveFits
from hf_scaling.fitting.discrepancy import HeldOut, deviations
from hf_scaling.fitting.rows import curve_name
from hf_scaling.fitting.solver import Objective
from hf_scaling.fitting.target import AS_IT_IS, TargetScale, stored_scale
from hf_scaling.laws import Law
from hf_scaling.text import listing

if TYPE_CHECKING:
    import os

    import pandas as pd

#: What each status of a fit means.
VERDICTS = {
    "ok": "these runs determine the law",
    "not_identifiable": "these runs do not determine the law: trust it inside the measured range at most",
    "at_bound": "a parameter ended on its bound: read it as a limit",
    "poor_fit": "the law does not describe these runs",
    "extrapolates_badly": "fitted without their largest scales, the law misses them: do not trust it beyond the data",
}
# Rows times draws evaluated at once.
_LARGEST_BLOCK = 2_000_000


@dataclass(frozen=True)
class LawFit:
    """A law fitted to a table.

    Attributes:
        law: The law's name; "mixture" where several laws were combined.
        status: A key of `VERDICTS`.
        params: Parameter name to estimate; in a mixture the keys are "law.symbol".
        intervals: Parameter name to (low, high) at `settings["level"]`; empty without a bootstrap.
        scores: log_rmse, rmse, aicc, n_rows, n_configurations.
        notes: Findings, each with code, grade (info, warn, error) and text.
        settings: How it was fitted: target, objective, delta, columns, weights, n_starts, and the `FitOptions`.
        data: What it was fitted to: the range of each variable, the values of the naming columns, the mean of
            each configuration (`measured`), what the runs cost (`compute`) and the law's own error beyond the data
            (`discrepancy`, from `estimate_discrepancy`); laws stored by older versions lack the last three.
        definition: The law itself; None in a mixture.
        draws: (B, P) bootstrap draws of the parameters.
        noise: (N,) residuals on the objective's scale, corrected for the fitted parameters: the noise of a new run.
        members: The fits of a mixture.
        weights: Law name to weight in a mixture.
        held_out: The law refitted without its largest scales; None in a fit that was loaded.
        pooled: The curves of a fit with `pool=`, whose own `params` are the centre of the curves' distribution and
            whose `draws` are of a new curve; None elsewhere.
    """

    law: str
    status: str
    params: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    scores: dict[str, float]
    notes: list[dict]
    settings: dict[str, Any]
    data: dict[str, Any]
    definition: Law | None
    draws: np.ndarray = field(repr=False)
    noise: np.ndarray = field(repr=False)
    members: "tuple[LawFit, ...]" = ()
    weights: dict[str, float] = field(default_factory=dict)
    held_out: HeldOut | None = field(default=None, repr=False, compare=False)
    pooled: CurveFits | None = field(default=None, repr=False, compare=False)

    @property
    def columns(self) -> dict[str, str]:
        """The law's variable to the table's column; in a mixture those of all members."""
        if not self.members:
            return dict(self.settings["columns"])
        return {name: column for member in self.members for name, column in member.columns.items()}

    def predict(
        self, frame: "pd.DataFrame | Mapping[str, Any]", kind: str = "mean", level: float | None = None
    ) -> "pd.DataFrame":
        """Predict the target at given sizes.

        Args:
            frame: A DataFrame or a mapping of the law's columns to numbers or sequences; with `pool=` also its
                columns: each row is predicted by its curve, that of a new curve by the shared distribution.
            kind: "mean" for the expected value, "new_run" for one further run (its noise included).
            level: Level of the interval; by default the fit's own.

        Returns:
            A DataFrame on the frame's index: value, low, high (NaN without a bootstrap) and extrapolation, the largest
            natural-log distance of a variable outside the fitted range (0 inside). NaN where the law is undefined.

        Raises:
            InputError: A column is missing or does not hold numbers, kind is unknown, or level is not in 0..1.
        """
        import pandas as pd

        if kind not in ("mean", "new_run"):
            raise InputError(f"kind {kind!r} is unknown: choose mean or new_run")
        sizes, index = read_sizes(frame, set(self.columns.values()))
        if self.pool:
            return self._predict_curves(frame, sizes, index, kind, level)
        values = self.values(sizes)
        level, low, high = self._level(level), np.full(len(values), np.nan), np.full(len(values), np.nan)
        if self._n_draws:
            drawn = self.fitted_draws(sizes)
            low, high = quantiles(self.scale.from_fitted(drawn), level, values)
            if kind == "new_run":
                scale = Objective(self.settings["objective"])
                noise = np.random.default_rng(self.settings["seed"]).choice(self.noise, size=drawn.shape)
                noisy = self.scale.from_fitted(scale.unscale(scale.scale(drawn) + noise))
                run_low, run_high = quantiles(noisy, level, values)
                low, high = np.minimum(low, run_low), np.maximum(high, run_high)
        distance = np.zeros(len(values))
        for column, ends in self.data["ranges"].items():
            with np.errstate(divide="ignore", invalid="ignore"):
                logs = np.log(sizes[column])
                beyond = np.maximum(np.log(ends[0]) - logs, logs - np.log(ends[1]))
            distance = np.maximum(distance, np.where(np.isnan(beyond), 0.0, beyond))
        return pd.DataFrame({"value": values, "low": low, "high": high, "extrapolation": distance}, index=index)

    @property
    def pool(self) -> list[str]:
        """The columns that name the curves of a fit with `pool=`; empty elsewhere."""
        return list(self.settings.get("pool", ()))

    @property
    def curves(self) -> "pd.DataFrame":
        """The curves of a fit with `pool=`, a row each: the pool's columns, then status and, for each parameter, its
        value and the ends NAME_low and NAME_high of its interval (NaN without draws). Empty elsewhere."""
        import pandas as pd

        if not self.pool:
            return pd.DataFrame()
        rows = []
        for names in self._curve_names:
            curve = self.curve(**dict(zip(self.pool, names)))
            row: dict[str, Any] = {**dict(zip(self.pool, names)), "status": curve.status}
            for name, value in curve.params.items():
                low, high = curve.intervals.get(name, (math.nan, math.nan))
                row |= {name: value, f"{name}_low": low, f"{name}_high": high}
            rows.append(row)
        return pd.DataFrame(rows)

    @property
    def _curve_names(self) -> list[tuple[str, ...]]:
        pooled = self.pooled or next(member.pooled for member in self.members if member.pooled is not None)
        return pooled.names

    def curve(self, **names: Any) -> "LawFit":
        """The fit of one curve of a fit with `pool=`, to predict, invert and plan with.

        Args:
            **names: A value for each of the pool's columns. With values that no rows have it is a new curve: the
                shared distribution's, with the effects of the values that other curves have.

        Raises:
            InputError: A column is missing or unknown, or the fit has no curves.

        Example:
            `fit.curve(model="vit-200k", downstream="digits").invert(0.1, "n_finetune")`
        """
        if self.members and self.pool:
            members = tuple(member.curve(**names) for member in self.members)
            laws = {member.law: member for member in members}
            best = members[0]
            return replace(
                self,
                params={f"{m.law}.{name}": value for m in members for name, value in m.params.items()},
                intervals={f"{m.law}.{name}": ends for m in members for name, ends in m.intervals.items()},
                status="ok" if any(m.status == "ok" for m in laws.values()) else best.status,
                scores=best.scores,
                settings=_without_pool(self.settings),
                data={
                    **best.data,
                    "discrepancy": max(
                        (m.data["discrepancy"] for m in members), key=lambda one: float(one["per_log"])
                    ),
                },
                noise=best.noise,
                members=members,
            )
        if self.pooled is None:
            raise InputError("this fit is of one curve: only a fit with pool= has several")
        picked = self.pooled.pick(names)
        place = self.pooled.find(picked)
        settings = _without_pool(self.settings)
        if place is None:
            coordinates = CurveCoordinates.of(
                self._definition, self.pooled.reference, settings["fixed"], settings["tied"]
            )
            theta, draws = self.pooled.new_curve(picked, coordinates)
            record: dict[str, Any] = {"status": self.status, "scores": self.scores, "data": self.data}
            noise = self.noise
        else:
            theta, draws = self.pooled.theta[place], self.pooled.draws[place]
            record, noise = self.pooled.records[place], self.pooled.noise[place]
        intervals = {}
        if len(draws):
            low, high = quantiles(draws, settings["level"], theta)
            intervals = {name: (float(low[i]), float(high[i])) for i, name in enumerate(self._definition.names)}
        return replace(
            self,
            status=record["status"],
            params={name: float(value) for name, value in zip(self._definition.names, theta)},
            intervals=intervals,
            scores=record["scores"],
            settings=settings,
            data={**self.data, **record["data"]},
            draws=draws,
            noise=noise,
            pooled=None,
        )

    def _predict_curves(
        self,
        frame: "pd.DataFrame | Mapping[str, Any]",
        sizes: Mapping[str, np.ndarray],
        index: Any,
        kind: str,
        level: float | None,
    ) -> "pd.DataFrame":
        import pandas as pd

        count = len(next(iter(sizes.values())))
        names = []
        for column in self.pool:
            if column not in (frame.columns if hasattr(frame, "columns") else frame):
                known = listing([str(one[self.pool.index(column)]) for one in self._curve_names], 4)
                text = f"prediction needs the column {column!r}, which names the curve: {known}, or a new one"
                raise InputError(f"{text}; fit.curve({column}=...) is the fit of one")
            values = frame[column]
            single = isinstance(values, str | int | float | np.generic)
            texts = [curve_name(values)] if single else [curve_name(value) for value in values]
            if len(texts) not in (1, count):
                raise InputError(f"the column {column!r} has {len(texts)} values for {count} rows")
            names.append(texts * (count if len(texts) == 1 else 1))
        keys = list(zip(*names))
        parts = []
        for key in dict.fromkeys(keys):
            own = np.array([i for i, one in enumerate(keys) if one == key])
            at = {column: values[own] for column, values in sizes.items()}
            predicted = self.curve(**dict(zip(self.pool, key))).predict(at, kind, level)
            parts.append(predicted.set_axis(own, axis=0))
        return pd.concat(parts).sort_index().set_axis(index, axis=0)

    @property
    def scale(self) -> TargetScale:
        """How the target is fitted, and its range."""
        return stored_scale(self.settings, self.data["target_range"])

    def in_fitted_units(self) -> "LawFit":
        """The same fit as a law of what is fitted, where less is better: 1 - accuracy for an accuracy."""
        own = self.scale.is_identity
        return self if own else replace(self, settings={**self.settings, "scale": AS_IT_IS.to_dict()})

    def values(self, sizes: Mapping[str, np.ndarray]) -> np.ndarray:
        """(N,) predictions at sizes given by column, in the target's own units."""
        return self.scale.from_fitted(self.fitted_values(sizes))

    def draw_values(self, sizes: Mapping[str, np.ndarray], disagreement: float = 1.0) -> np.ndarray:
        """(B, N) predictions of every bootstrap draw at sizes given by column, in the target's own units.

        `disagreement` is as for `fitted_draws`.
        """
        return self.scale.from_fitted(self.fitted_draws(sizes, disagreement))

    def fitted_values(self, sizes: Mapping[str, np.ndarray]) -> np.ndarray:
        """(N,) predictions of what is fitted (`scale`), at sizes given by column."""
        if self.members:
            scale = Objective(self.settings["objective"])
            total = sum(self.weights[m.law] * scale.scale(m.fitted_values(sizes)) for m in self.members)
            return scale.unscale(total + self.settings["carried"])
        return self._evaluate(self.theta[None], sizes)[0]

    def fitted_draws(self, sizes: Mapping[str, np.ndarray], disagreement: float = 1.0) -> np.ndarray:
        """(B, N) predictions of what is fitted, by every bootstrap draw, at sizes given by column.

        In a mixture each draw comes from one member, in proportion to the weights, so that the band shows how far the
        laws disagree as well; with `disagreement` below 1 a draw is that share of the way from their mean to its
        member. Outside the data each draw deviates by the law's own error (docs/fitting.md).
        """
        drawn, discrepancy = self._refitted_values(sizes, disagreement), self.data.get("discrepancy")
        if not discrepancy or not discrepancy["per_log"] or not len(drawn):
            return drawn
        scale = Objective(self.settings["objective"])
        at = {column: np.asarray(sizes[column], dtype=float) for column in self.data["ranges"]}
        return scale.unscale(scale.scale(drawn) + deviations(discrepancy, at, len(drawn), self.settings["seed"]))

    def _refitted_values(self, sizes: Mapping[str, np.ndarray], disagreement: float = 1.0) -> np.ndarray:
        """(B, N) predictions of every bootstrap draw, as if the law were true."""
        if self.members:
            pools = [member._refitted_values(sizes) for member in self.members]
            n_draws = min(len(pool) for pool in pools)
            weights = [self.weights[member.law] for member in self.members]
            # The golden ratio's multiples spread each member's turns evenly over the draws.
            places = (np.arange(n_draws) * 0.6180339887498949) % 1.0
            turns = np.minimum(
                np.searchsorted(np.cumsum(weights) / np.sum(weights), places, side="right"), len(pools) - 1
            )
            drawn = np.stack([pools[m][b] for b, m in enumerate(turns)]) if n_draws else pools[0][:0]
            scale = Objective(self.settings["objective"])
            scaled = scale.scale(drawn)
            if disagreement < 1 and n_draws:
                mean = np.average([scale.scale(pool[:n_draws]) for pool in pools], axis=0, weights=weights)
                scaled = np.where(np.isfinite(mean), mean + disagreement * (scaled - mean), scaled)
            return scale.unscale(scaled + self.settings["carried"])
        count = len(next(iter(sizes.values())))
        block = max(1, _LARGEST_BLOCK // max(count, 1))
        parts = [self._evaluate(self.draws[i : i + block], sizes) for i in range(0, len(self.draws), block)]
        return np.concatenate(parts) if parts else np.empty((0, count))

    def interval(
        self, function: Callable[[dict, Callable], Any], level: float | None = None
    ) -> tuple[float, float, float]:
        """The value and interval of any function of parameters and predictions.

        Args:
            function: Takes `params` (name to an array of one value a draw) and `predict` (sizes to an array of draws
                by rows) and returns one value a draw.
            level: Level of the interval, between 0 and 1; by default the fit's own.

        Returns:
            value, low, high.

        Raises:
            InputError: The fit has no draws, or `level` is out of range.

        Example:
            The ratio of the losses at ten times the images and at the images:
            `fit.interval(lambda params, predict: predict({"n_pretrain": [1e6]}) / predict({"n_pretrain": [1e5]}))`
        """
        if not self._n_draws:
            raise InputError("this fit has no bootstrap draws: fit again with bootstrap=1000")
        needed = set(self.columns.values())
        names = list(self.params)
        draws = np.concatenate([m.draws for m in self.members], axis=1) if self.members else self.draws
        value = function(
            {n: np.array([self.params[n]]) for n in names}, lambda at: self.values(read_sizes(at, needed)[0])[None]
        )
        drawn = function(
            {n: draws[:, i] for i, n in enumerate(names)}, lambda at: self.draw_values(read_sizes(at, needed)[0])
        )
        low, high = quantiles(np.asarray(drawn, dtype=float).reshape(-1), self._level(level))
        return float(np.asarray(value).reshape(-1)[0]), float(low), float(high)

    def invert(self, target: float, solve_for: str, **sizes: float) -> tuple[float, float, float]:
        """The size at which the law reaches a target, such as the images for a loss.

        Args:
            target: The loss, error or score to reach, in the target's own units.
            solve_for: The column to solve for.
            **sizes: The other columns' values.

        Returns:
            value, low, high; inf where no amount reaches the target.

        Raises:
            InputError: The fit is a mixture, or a column is not one of the law's.
        """
        if self.definition is None:
            raise InputError("a mixture has no inverse: fit one law, or use combine=False")
        target = float(self.scale.to_fitted(np.asarray(target, dtype=float)))
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
        return np.array([self.params[name] for name in self._definition.names])

    @property
    def _definition(self) -> Law:
        if self.definition is None:
            raise InputError("a mixture has no parameter vector: use its members")
        return self.definition

    @property
    def _n_draws(self) -> int:
        return min((len(m.draws) for m in self.members), default=len(self.draws))

    @property
    def note_codes(self) -> list[str]:
        """The codes of the notes, in order."""
        return [n["code"] for n in self.notes]

    def save_pretrained(self, folder: "str | os.PathLike[str]") -> None:
        """Write law.json (plain numbers), the draws as safetensors and a card with its figure into a folder.

        Each file is replaced atomically, law.json last.

        Args:
            folder: The folder; it is created where it does not exist.
        """
        from hf_scaling.fitting.storage import LAW_FILE, fit_files

        content = fit_files(self, "PATH_OR_HUB_ID")
        for name in sorted(content, key=lambda name: name == LAW_FILE):
            with files.replacing(Path(folder) / name) as path:
                path.write_bytes(content[name])

    @classmethod
    def from_pretrained(cls, where: "str | os.PathLike[str]", revision: str | None = None) -> "LawFit":
        """Load a fit; predictions equal those of the saved fit to the last bit. Nothing in the files is executed.

        Args:
            where: A folder or a Hub id; `org/name@revision` names a branch, tag or commit.
            revision: A branch, tag or commit, instead of the part after the @.

        Raises:
            InputError: There is no law there, or its files are damaged, of a newer version, or not a law.
        """
        from hf_scaling.fitting.storage import DRAWS_FILE, LAW_FILE, read_fit

        repo_id, _, named = (str(where), "", "") if Path(where).exists() else str(where).partition("@")
        wanted = [LAW_FILE, DRAWS_FILE]
        folder = hub.local_folder(repo_id, revision=revision or named or None, allow_patterns=wanted)
        try:
            return read_fit(folder)
        except InputError as error:
            # The folder or Hub id that was given is more useful than the path in the cache.
            raise InputError(str(error).replace(str(folder), str(where))) from None

    def push_to_hub(
        self, repo_id: str, private: bool | None = None, dry_run: bool = False, dataset: str | None = None
    ) -> hub.Commit | hub.Planned:
        """Write what `save_pretrained` writes into a repository of the Hub, which is created where it is missing.

        Args:
            repo_id: `org/name`, a model repository of the law's own.
            private: Whether a created repository is private; None for the account's default.
            dry_run: Write nothing and return what would be written.
            dataset: The data set of the Hub that holds the rows; the card links it.

        Returns:
            What was written, or would be, and where.

        Raises:
            InputError: The repository holds a model, or this account may not write to it.
            PushError: Offline, or the Hub kept failing; nothing was written.
        """
        from hf_scaling.fitting.storage import CARD, fit_files

        content = fit_files(self, repo_id, dataset)

        def prepare(base: hub.RemoteFolder) -> list:
            from huggingface_hub import CommitOperationAdd

            from hf_scaling.hub.cards import renew_card

            if "config.json" in base.files:
                raise InputError(f"{repo_id} holds a model (config.json): push the law to a repository of its own")
            card = renew_card(base.readme(), content[CARD].decode(), repo_id)
            return [CommitOperationAdd(name, data) for name, data in {**content, CARD: card.encode()}.items()]

        return hub.commit(repo_id, "model", prepare, f"{self.law} for {self.settings['target']}", private, dry_run)

    def summary(self) -> str:
        """The fit as text for a terminal, with everything that (Mis)Fitting (2025) asks a report to state."""
        from hf_scaling.fitting.card import describe_fit

        return describe_fit(self)

    def _evaluate(self, theta: np.ndarray, sizes: Mapping[str, np.ndarray]) -> np.ndarray:
        variables = {v: np.asarray(sizes[c], dtype=float) for v, c in self.settings["columns"].items()}
        with np.errstate(all="ignore"):
            values = self._definition.evaluator(variables).value(np.atleast_2d(theta))
        return np.where(np.isfinite(values), values, np.nan)

    def _level(self, level: float | None) -> float:
        level = self.settings["level"] if level is None else level
        if not 0 < level < 1:
            raise InputError(f"level must be between 0 and 1, not {level}")
        return level


def _without_pool(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != "pool"}


def quantiles(
    drawn: np.ndarray, level: float, around: np.ndarray | float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The central interval of draws along the first axis; NaN where most draws are undefined.

    An end among infinite draws is infinite: no amount of data reaches the target there. Where the draws of a law that
    the rows do not determine all drift to one side of the estimate `around`, the interval is extended to it.
    """
    tail = (1 - level) / 2
    defined = ~np.isnan(drawn)
    filled = np.where(defined, drawn, np.inf)
    # Interpolation between infinities is undefined; the nearest draw is not.
    method: Literal["linear", "nearest"] = "linear" if np.isfinite(filled).all() else "nearest"
    low, high = (np.quantile(filled, p, axis=0, method=method) for p in (tail, 1 - tail))
    lost = defined.mean(axis=0) < 0.5
    if around is not None:
        low, high = np.minimum(low, around), np.maximum(high, around)
    return np.where(lost, np.nan, low), np.where(lost, np.nan, high)


def read_sizes(frame: "pd.DataFrame | Mapping[str, Any]", needed: set[str]) -> tuple[dict[str, np.ndarray], Any]:
    """The needed columns of a frame as equally long float arrays, and the frame's index.

    Raises:
        InputError: A column is missing, of another length, or holds what is not a number or is negative; the message
            names its place.
    """
    for name in sorted(needed):
        if name not in (frame.columns if hasattr(frame, "columns") else frame):
            has = f", it has {listing(frame)}" if len(frame) else ""
            raise InputError(f"the sizes to predict at lack the column {name!r}{has}")
    arrays = {}
    for name in needed:
        values = np.atleast_1d(np.asarray(frame[name]))
        is_number = values.dtype.kind in "fiub"
        sizes = values.astype(float) if is_number else np.full(len(values), np.nan)
        for row, value in enumerate(() if is_number else values):
            try:
                sizes[row] = float(value)
            except (TypeError, ValueError):
                raise InputError(f"{name}, row {row}: {str(value)!r} is not a number") from None
        for negative in np.flatnonzero(sizes < 0):
            raise InputError(f"{name}, row {negative}: {sizes[negative]:g} is negative; sizes are not")
        arrays[name] = sizes
    count = max(len(a) for a in arrays.values())
    if {len(a) for a in arrays.values()} - {1, count}:
        raise InputError(f"the columns {', '.join(sorted(needed))} have different lengths")
    arrays = {name: np.broadcast_to(a, (count,)) for name, a in arrays.items()}
    return arrays, getattr(frame, "index", range(count))
