"""The `tune:` key of a grid: learning rates, and the least number of steps, by short runs before its first run.

Tuned on the plain arm and a validation part alone, at the smallest and the largest model and two n_pretrain, by
successive halving: every rate trains a share of the steps, the better half of the rates twice as many, and so on
(Jamieson and Talwalkar 2016). The rate of another size is on the line through both best rates, in logarithms. Then
the numbers of steps are compared at these rates and in full. The result is written into the study's tuning.json and
applied to its grid, from which run ids come.
"""

import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from hf_scaling import files
from hf_scaling.data.sampling import validation_size
from hf_scaling.errors import InputError, RunError
from hf_scaling.grid import Grid, PlannedRun, content_hash
from hf_scaling.runner.engines import Engine, open_engine
from hf_scaling.runner.study_folder import Study
from hf_scaling.text import listing

NAME = "tuning.json"
#: Rates that are tried where the grid writes `learning_rate: true`.
RATES = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3)
# Shares of the steps of the first halving, and numbers of rates: where the seconds do not allow the first, the next.
_PLANS = ((0.25, 5), (0.25, 3), (0.125, 3))
# Rates of other sizes change by at most this power of n_params.
_STEEPEST = 1.0
# Fewer steps are taken where more lower the mean loss by less than this share.
_WORTH = 0.01
_POLL = 1.0
_ATTEMPTS = 3  # of a trial whose worker dies

_log = logging.getLogger(__name__)

Trial = tuple[str, int, float | None, int | None, float]  # model, n_pretrain, rate, min_steps, share of the steps


@dataclass
class Tuning:
    """How the tuning of one grid is done: its models, sizes and values.

    Attributes:
        runs: (model, n_pretrain) to the plain run whose fields a trial takes.
        n_params: Every model of the grid, teachers included, to its parameters.
        models: The smallest and the largest model; one where there is one.
        levels: The n_pretrain, one or two.
        rates: Learning rates that are tried; empty where they are not tuned.
        steps: Values of min_steps; empty where they are not tuned.
        shares: Shares of the steps of the halvings of the rates.
        remarks: What was left out, and why.
    """

    runs: Mapping[tuple[str, int], PlannedRun]
    n_params: Mapping[str, int]
    models: Sequence[str]
    levels: Sequence[int]
    rates: list[float]
    steps: list[int]
    shares: Sequence[float] = (0.25, 0.5, 1.0)
    remarks: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, grid: Grid, plan: Sequence[PlannedRun]) -> "Tuning":
        """The tuning of a grid with the key `tune`, from its planned runs.

        Raises:
            InputError: No run without a teacher is pretrained, or no n_pretrain leaves a validation part.
        """
        key = grid.content["tune"]
        plain = [run for run in plan if run.spec.stage == "pretrain" and run.spec.teacher is None]
        runs = {(run.model, run.spec.n_pretrain): run for run in reversed(plain)}
        named = grid.content["models"]
        named = [named] if isinstance(named, str) else list(named)
        n_params = {run.model: run.n_params or 1 for run in plain}
        models = sorted({model for model in named if model in n_params}, key=n_params.__getitem__)
        if not models:
            raise InputError("tune: no model of the grid has a run of the plain arm to tune on: add plain to arms")
        levels = set()
        for run in plain:
            most = None if run.source_parts is None else run.source_parts["train"]
            leaves_validation = most is None or (run.spec.n_pretrain or 0) <= most - validation_size(most)
            if run.model in models and leaves_validation:
                levels.add(run.spec.n_pretrain)
        levels = sorted(levels)
        if not levels:
            raise InputError("tune: every n_pretrain is the whole source, which leaves no validation part: add fewer")
        ends = [models[0]] if len(models) == 1 else [models[0], models[-1]]
        levels = [levels[len(levels) // 3], levels[2 * len(levels) // 3]]
        rates = key.get("learning_rate", [])
        steps = sorted(key.get("min_steps", []))
        # From the middle outwards: what is not reached in time is at the ends.
        rates = sorted(RATES if rates is True else rates)
        middle = rates[len(rates) // 2] if rates else 1.0
        rates.sort(key=lambda rate: abs(math.log(rate / middle)))
        return cls(runs, n_params, ends, sorted(set(levels)), rates, steps)

    def fit(self, seconds: float, seconds_of: Callable[[PlannedRun], float]) -> None:
        """Leave out rates and steps until the trials take these seconds of one worker at most."""
        written, tried = [*self.rates], [*self.steps]
        full = sum(seconds_of(run) for key, run in self._tried())
        for first, n_rates in _PLANS if self.rates else ():
            self.rates = written[:n_rates]
            self.shares = [share for share in (first, 2 * first, 4 * first) if share <= 1]
            if full * self._halvings() <= seconds:
                break
        else:
            if written:
                self.rates = []
                self.remarks.append("the hours are too few to tune learning rates: they are as written")
        left = seconds - (full * self._halvings() if self.rates else 0.0)
        if tried and full * len(tried) > left:
            self.steps = []
            self.remarks.append("the hours are too few to compare numbers of steps: min_steps is as written")

    def cost(self, seconds_of: Callable[[PlannedRun], float]) -> tuple[int, float]:
        """Number of trials, and seconds of one worker that they take."""
        runs = [seconds_of(run) for _, run in self._tried()]
        n, left = 0, len(self.rates)
        for _ in self.shares:
            if left < 2:
                break
            n, left = n + left, left // 2
        n += len(self.steps) if len(self.steps) > 1 else 0
        return n * len(runs), sum(runs) * (self._halvings() + (len(self.steps) if len(self.steps) > 1 else 0))

    def _tried(self) -> list[tuple[tuple[str, int], PlannedRun]]:
        return [((model, n), self.runs[model, n]) for model in self.models for n in self.levels]

    def _halvings(self) -> float:
        """Full runs' worth of steps that the halvings take, for each model and n_pretrain."""
        total, left = 0.0, len(self.rates)
        for share in self.shares:
            if left < 2:
                break
            total, left = total + left * share, left // 2
        return total

    def fields(self, trial: Trial) -> dict[str, Any]:
        """Fields of the run of a trial: it holds a validation part out and evaluates once, at the end."""
        model, n, rate, steps, share = trial
        fields = dict(self.runs[model, n].fields)
        if rate is not None:
            fields |= {"learning_rate": rate, "learning_rates": None}
        if steps is not None:
            fields["min_steps"] = steps
        fields["num_train_epochs"] = float(fields.get("num_train_epochs", 3.0)) * share
        fields["min_steps"] = max(1, round(int(fields.get("min_steps", 0)) * share))
        if int(fields.get("max_steps", -1)) > 0:
            fields["max_steps"] = max(1, round(int(fields["max_steps"]) * share))
        quiet = {"disable_tqdm": True, "report_to": "none", "logging_strategy": "no", "save_strategy": "no"}
        return {**fields, **quiet, "eval_strategy": "epoch"}

    def search(self, losses_of: Callable[[list[Trial]], list[float | None]]) -> dict[str, Any]:
        """Try and choose.

        Args:
            losses_of: Trials to their losses on the validation part; None where the time has ended before.

        Returns:
            rates (model to rate), min_steps (None where it is as written), best, tried and remarks.
        """
        tried: list[dict[str, Any]] = []

        def measure(trials: list[Trial]) -> dict[Trial, float | None]:
            losses = dict(zip(trials, losses_of(trials)))
            for (model, n, rate, steps, share), loss in losses.items():
                if loss is not None:
                    given = {} if steps is None else {"min_steps": steps}
                    tried.append(
                        {"model": model, "n_pretrain": n, "rate": rate, **given, "steps": share, "loss": loss}
                    )
            return losses

        best: dict[str, float] = {}
        left = {model: [*self.rates] for model in self.models}
        for share in self.shares if len(self.rates) > 1 else ():
            asked = {model: rates for model, rates in left.items() if len(rates) > 1 or model not in best}
            # A rate at both sizes and levels before the next one, so that time that ends cuts all alike.
            most = max((len(rates) for rates in asked.values()), default=0)
            trials = [
                (model, n, rates[place], None, share)
                for place in range(most)
                for model, rates in asked.items()
                if place < len(rates)
                for n in self.levels
            ]
            losses = measure(trials)
            for model, rates in asked.items():
                means = {
                    rate: self._mean(losses, [(model, n, rate, None, share) for n in self.levels]) for rate in rates
                }
                known = {rate: mean for rate, mean in means.items() if mean is not None}
                if known:
                    ranked = sorted(known, key=known.__getitem__)
                    best[model], left[model] = ranked[0], ranked[: max(1, len(ranked) // 2)]
        if len(self.rates) == 1:
            best = dict.fromkeys(self.models, self.rates[0])
        untried = [model for model in self.models if self.rates and model not in best]
        if untried:
            self.remarks.append(f"the time for tuning ended before a rate was tried for {listing(untried)}")
        rates = self._on_the_line(best) if best else {}
        chosen = self._steps(measure, rates)
        return {"rates": rates, "min_steps": chosen, "best": best, "tried": tried, "remarks": self.remarks}

    def _steps(
        self, measure: Callable[[list[Trial]], dict[Trial, float | None]], rates: Mapping[str, float]
    ) -> int | None:
        """The least min_steps whose mean loss is within a hundredth of the best."""
        if len(self.steps) < 2:
            return self.steps[0] if self.steps else None
        trials: dict[int, list[Trial]] = {
            steps: [(model, n, rates.get(model), steps, 1.0) for model in self.models for n in self.levels]
            for steps in self.steps
        }
        losses = measure([trial for of_steps in trials.values() for trial in of_steps])
        means = {steps: self._mean(losses, of_steps) for steps, of_steps in trials.items()}
        known = {steps: mean for steps, mean in means.items() if mean is not None and math.isfinite(mean)}
        if len(known) < len(means):
            self.remarks.append("the time for tuning ended before all numbers of steps were compared")
        if not known:
            return self.steps[0]
        return min(steps for steps, mean in known.items() if mean <= min(known.values()) * (1 + _WORTH))

    @staticmethod
    def _mean(losses: Mapping[Trial, float | None], trials: Sequence[Trial]) -> float | None:
        values = [losses[trial] for trial in trials]
        return None if any(value is None for value in values) else float(np.mean([value or 0.0 for value in values]))

    def _on_the_line(self, best: Mapping[str, float]) -> dict[str, float]:
        """The rate of every model; beyond the sizes that were tried the line is not trusted."""
        ends = [model for model in self.models if model in best]
        small, large = ends[0], ends[-1]
        low, high = math.log(self.n_params[small]), math.log(self.n_params[large])
        slope = math.log(best[large] / best[small]) / (high - low) if high > low else 0.0
        slope = float(np.clip(slope, -_STEEPEST, _STEEPEST))
        centre = (math.log(best[small]) + math.log(best[large])) / 2
        rates = {}
        for name, n in self.n_params.items():
            size = min(max(math.log(n), low), high)
            rates[name] = float(f"{math.exp(centre + slope * (size - (low + high) / 2)):.2g}")
        return rates


def tuned(
    grid: Grid,
    folder: str | Path,
    workers: int = 1,
    engine: str = "local",
    seconds: float | None = None,
    seconds_of: Callable[[PlannedRun], float] | None = None,
    loss_of: Callable[[Mapping[str, Any]], float] | None = None,
) -> Grid:
    """A grid with what its key `tune` asks for in the place of the key; a grid without it as it is.

    Any number of runners may call this at once: one tunes, the others wait. A killed one has kept what it tried.

    Args:
        grid: The grid.
        folder: The study's folder; its tuning.json is used, where it is of this grid, else written.
        workers: Trials trained at once.
        engine: "local" or "ray".
        seconds: The most that it may take; None for as long as it needs.
        seconds_of: Seconds of a run on one worker; with `seconds`, fewer values are tried where they would not fit.
        loss_of: Fields of a trial to its loss, in place of training it.

    Raises:
        InputError: The grid cannot be tuned or run as written.
        RunError: No worker starts.
    """
    if "tune" not in grid.content:
        return grid
    study = Study(folder)
    record = tuning_record(study.path, grid)
    if record is None:
        tuning = Tuning.of(grid, grid.plan(fill=True))
        for name in ("claims", "logs"):
            (study.path / name).mkdir(parents=True, exist_ok=True)
        with FileLock(study.path / "claims" / ".tune.lock"):
            record = tuning_record(study.path, grid)
            if record is None:
                if seconds is not None and seconds_of is not None:
                    tuning.fit(seconds * workers, seconds_of)
                with _Trials(study, tuning, workers, engine, seconds, loss_of) as trials:
                    record = {"of": identity(grid), **tuning.search(trials.losses)}
                files.write_text(study.path / NAME, json.dumps(record, indent=1) + "\n")
                trials.forget()
    return applied(grid, record)


def applied(grid: Grid, record: Mapping[str, Any]) -> Grid:
    """The grid with the rates and the least number of steps of a tuning.json."""
    content = {name: value for name, value in grid.content.items() if name != "tune"}
    content["pretrain"] = {**content.get("pretrain", {})}
    if record["rates"]:
        content["pretrain"]["learning_rates"] = dict(record["rates"])
    if record["min_steps"] is not None:
        content["pretrain"]["min_steps"] = record["min_steps"]
    return Grid.from_dict(content, grid.name)


def describe(folder: Path, models: Sequence[str] | None = None) -> str:
    """What was chosen, as a line: vit-50k 0.002, vit-400k 0.001."""
    record = json.loads((folder / NAME).read_text(encoding="utf-8"))
    parts = []
    if record["rates"]:
        names = [name for name in models or record["rates"] if name in record["rates"]]
        parts.append("learning rates " + ", ".join(f"{name} {record['rates'][name]:g}" for name in names))
    if record.get("min_steps") is not None:
        parts.append(f"min_steps {record['min_steps']:,}")
    chosen = "; ".join(parts) or "nothing was chosen"
    remarks = "".join(f"; {remark}" for remark in record.get("remarks", ()))
    return f"{chosen}, by {len(record['tried'])} short runs of the plain arm on a validation part{remarks}"


def identity(grid: Grid) -> str:
    """What a tuning is of: how the grid pretrains and what it tries; sizes that are added later share it."""
    pretrain = {name: str(value) for name, value in grid.content.get("pretrain", {}).items()}
    keys = {name: str(grid.content.get(name)) for name in ("task", "source", "tune")}
    return content_hash({"pretrain": pretrain, **keys})


def tuning_record(folder: Path, grid: Grid) -> dict[str, Any] | None:
    """The tuning.json of a study where it is of this grid, else None.

    Raises:
        InputError: The file is damaged.
    """
    of, path = identity(grid), folder / NAME
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return record if record["of"] == of else None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: damaged ({error!r}): remove it to tune anew") from None


class _Trials:
    """Trains trials on an engine's workers, each once, also after a kill.

    Args:
        study: Its workers' logs and the trials so far are in its folder.
        tuning: Gives a trial's fields.
        workers, engine, seconds, loss_of: As in `tuned`.
    """

    def __init__(
        self,
        study: Study,
        tuning: Tuning,
        workers: int,
        engine: str,
        seconds: float | None,
        loss_of: Callable[[Mapping[str, Any]], float] | None,
    ) -> None:
        self._study, self._tuning, self._workers, self._name = study, tuning, workers, engine
        self._ends = math.inf if seconds is None else time.monotonic() + seconds
        self._loss_of = loss_of
        self._engine: Engine | None = None
        self._begun = study.path / f".{NAME}.begun"
        self._known = json.loads(self._begun.read_text(encoding="utf-8")) if self._begun.is_file() else {}

    def __enter__(self) -> "_Trials":
        return self

    def __exit__(self, *_: object) -> None:
        if self._engine is not None:
            self._engine.close()

    def forget(self) -> None:
        """Remove what a killed call would have resumed from: the result is written."""
        self._begun.unlink(missing_ok=True)

    def losses(self, trials: list[Trial]) -> list[float | None]:
        """The loss of each trial; infinite where training fails, None where the time ended before it began."""
        keys = [json.dumps(self._tuning.fields(trial), sort_keys=True, default=str) for trial in trials]
        waiting = {key: self._tuning.fields(trial) for key, trial in zip(keys, trials) if key not in self._known}
        if waiting and self._loss_of is not None:
            for key, fields in waiting.items():
                if time.monotonic() < self._ends:
                    self._keep(key, self._loss_of(fields))
        elif waiting and time.monotonic() < self._ends:
            self._train(waiting)
        return [self._known.get(key) for key in keys]

    def _train(self, waiting: dict[str, dict[str, Any]]) -> None:
        self._engine = engine = self._engine or open_engine(self._name, self._study.path, self._workers)
        running: dict[int, str] = {}
        deaths = dict.fromkeys(waiting, 0)
        order = list(waiting)
        while order or running:
            for slot in engine.free() if time.monotonic() < self._ends else ():
                if order:
                    running[slot] = order.pop(0)
                    engine.submit(slot, {"fields": waiting[running[slot]], "processes": 1}, "validate")
            if not running and time.monotonic() >= self._ends:
                return
            for slot, outcome in engine.wait(_POLL):
                key = running.pop(slot)
                if outcome["status"] == "disk":
                    raise RunError(outcome["error"])
                if outcome["status"] == "lost" and deaths[key] < _ATTEMPTS:
                    deaths[key] += 1
                    order.insert(0, key)
                    continue
                if outcome["status"] != "done":
                    _log.warning("a run of the tuning failed: %s", outcome.get("error", "its worker died"))
                self._keep(key, float(outcome["loss"]) if outcome["status"] == "done" else math.inf)

    def _keep(self, key: str, loss: float) -> None:
        self._known[key] = loss if math.isfinite(loss) else math.inf
        files.write_text(self._begun, json.dumps(self._known))
